"""The files of `mergekit_yaml/`: mergekit files by hand, recipes and what they are exported to, and what mergekit
made of both (`resolved.json`, by `plan_mergekit.py`).

    python -m tests.golden.mergekit_files     exports the recipes again; plan_mergekit.py is next
"""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from evovlm.recipes.documents import load_recipe
from evovlm.recipes.mergekit.writing import recipe_to_mergekit

FOLDER = Path(__file__).parent / "mergekit_yaml"
N_BLOCKS = {"base": 5, "a": 5, "b": 5, "c": 5, "deep-base": 24, "deep-a": 24, "normed-base": 2, "normed-a": 2}


def make_configs(folder: Path) -> Path:
    """Write the models that the files name, of which nothing but config.json matters here; return the folder."""
    for name, n_blocks in N_BLOCKS.items():
        (folder / name).mkdir(parents=True)
        config = {
            "model_type": "qwen3" if name.startswith("normed") else "mistral",
            "num_hidden_layers": n_blocks,
            "dtype": "float32",
        }
        (folder / name / "config.json").write_text(json.dumps(config))
    return folder


def place(file: str, folder: Path) -> Path:
    """Copy a file beside the models."""
    return Path(shutil.copy(FOLDER / file, folder / "file.yaml"))


def exported(path: Path) -> str:
    """Return the export of the recipe in `path`, with the models as they stand there; without its id, which depends
    on the folder.
    """
    recipe = load_recipe(path)
    text = recipe_to_mergekit(recipe, n_blocks=N_BLOCKS[recipe.host.text.rpartition("/")[2]])
    return re.sub(r" recipe [0-9a-f]{12}", " a recipe", text).replace(f"{path.parent.resolve().as_posix()}/", "")


def resolved() -> dict[str, dict[str, Any]]:
    """Return what mergekit resolved: by file ("by_hand/ties") and tensor, the "shared" and those of the "sources"."""
    found = json.loads((FOLDER / "resolved.json").read_text(encoding="utf-8"))
    return {
        name: {tensor: row for row in rows for tensor in row["tensors"]}
        for name, rows in found.items()
        if name != "versions"
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        models = make_configs(Path(temporary).resolve())
        for recipe_file in sorted((FOLDER / "recipes").glob("*.yaml")):
            text = exported(place(f"recipes/{recipe_file.name}", models))
            (FOLDER / "exported" / recipe_file.name).write_text(text, encoding="utf-8")
