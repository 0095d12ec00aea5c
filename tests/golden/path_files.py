"""Paths through layers, what they are exported to, and what mergekit 0.1.5 wrote from that (`mergekit_path/`).

    python -m tests.golden.path_files MODELS      makes the models, and exports the recipes into MODELS again
    peer/bin/python tests/golden/run_mergekit_yaml.py MODELS MODELS/out --no-copy-tokenizer

The second command's results.json is the committed one. The models are arithmetic, the same on any machine.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from evovlm.merging.paths.mergekit import path_to_mergekit
from evovlm.recipes.documents import load_recipe
from evovlm.recipes.layer_path import LayerPathMerge

FOLDER = Path(__file__).parent / "mergekit_path"
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 10,
    "rms_norm_eps": 1e-6,
}
_BLOCK = {
    "input_layernorm": (8,),
    "post_attention_layernorm": (8,),
    "self_attn.q_proj": (8, 8),
    "self_attn.k_proj": (4, 8),
    "self_attn.v_proj": (4, 8),
    "self_attn.o_proj": (8, 8),
    "mlp.gate_proj": (12, 8),
    "mlp.up_proj": (12, 8),
    "mlp.down_proj": (8, 12),
}


def make_models(folder: Path) -> Path:
    """Write the models that the recipes name; return the folder."""
    for number, (name, n_blocks, tied, dtype) in enumerate(
        (("a", 2, False, "float32"), ("b", 3, False, "float32"), ("a16", 2, False, "bfloat16"),
         ("b16", 3, False, "bfloat16"), ("tied", 2, True, "float32"))
    ):  # fmt: skip
        (folder / name).mkdir(parents=True)
        config = _CONFIG | {"num_hidden_layers": n_blocks, "tie_word_embeddings": tied, "dtype": dtype}
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save_file(_weights(number, n_blocks, tied, dtype), folder / name / "model.safetensors", {"format": "pt"})
    return folder


def _weights(salt: int, n_blocks: int, tied: bool, dtype: str) -> dict[str, torch.Tensor]:
    shapes = {f"model.layers.{n}.{part}.weight": shape for n in range(n_blocks) for part, shape in _BLOCK.items()}
    shapes |= {"model.embed_tokens.weight": (10, 8), "model.norm.weight": (8,)}
    shapes |= {} if tied else {"lm_head.weight": (10, 8)}
    found = {}
    for place, (name, shape) in enumerate(sorted(shapes.items())):
        count = torch.Size(shape).numel()
        steps = (torch.arange(count, dtype=torch.int64) * 7919 + 104729 * place + 1299709 * salt) % 2003 - 1001
        found[name] = (steps.double() / 977).to(getattr(torch, dtype)).reshape(shape)
    return found


def place(name: str, folder: Path) -> LayerPathMerge:
    """Return a recipe of `mergekit_path/recipes`, read beside the models."""
    recipe = load_recipe(Path(shutil.copy(FOLDER / "recipes" / name, folder / f"recipe-{name}")))
    if not isinstance(recipe, LayerPathMerge):
        raise TypeError(name)
    return recipe


def exported(recipe: LayerPathMerge, folder: Path) -> str:
    """Return the export, with the models as they stand beside it; without its id, which depends on the folder."""
    text = re.sub(r" recipe [0-9a-f]{12}", " a recipe", path_to_mergekit(recipe))
    return text.replace(f"{folder.resolve().as_posix()}/", "")


def results() -> dict[str, dict[str, dict[str, Any]]]:
    """Return what mergekit wrote: by file, dtype, shape and sha256 of each tensor."""
    found = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    return {name: row["tensors"] for name, row in found.items()}


if __name__ == "__main__":
    models = make_models(Path(sys.argv[1]).resolve())
    for file in sorted((FOLDER / "recipes").glob("*.yaml")):
        text = exported(place(file.name, models), models)
        (models / f"recipe-{file.name}").unlink()
        for target in (FOLDER / "exported" / file.name, models / file.name):
            target.write_text(text, encoding="utf-8")
