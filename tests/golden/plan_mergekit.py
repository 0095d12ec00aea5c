"""Ask mergekit 0.1.5 what the files of `mergekit_yaml/` mean; run by hand, in an environment of its own.

    peer/bin/python tests/golden/plan_mergekit.py

For every file under `by_hand` and `exported`, mergekit itself reads it, plans the merge of small checkpoints and runs
it; what its planner resolved for every tensor goes to `mergekit_yaml/resolved.json`.
"""

import contextlib
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.options import MergeOptions
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedTokenizerFast, Qwen3Config

FOLDER = Path(__file__).parent / "mergekit_yaml"
SIZES = {
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "tie_word_embeddings": False,
}
MODELS = {
    ("base", "a", "b", "c"): MistralConfig(num_hidden_layers=5, **SIZES),
    ("deep-base", "deep-a"): MistralConfig(num_hidden_layers=24, **SIZES),
    ("normed-base", "normed-a"): Qwen3Config(num_hidden_layers=2, **SIZES),
}


def make_models(folder: Path) -> None:
    """Write the checkpoints that the files name."""
    words = Tokenizer(WordLevel({f"w{row}": row for row in range(8)}, unk_token="w0"))  # noqa: S106
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    for names, config in MODELS.items():
        for name in names:
            AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)


@contextlib.contextmanager
def recorded(into: dict[str, Any]) -> Any:
    """Write down what is resolved for every tensor while a merge runs."""
    execute = ExecuteMergeMethodTask.execute

    def wrapper(self: Any, tensors: Any, **rest: Any) -> Any:
        sources = {str(model): dict(sorted(row.items())) for model, row in self.input_parameters.items() if row}
        into[self.output_weight.name] = {"shared": dict(sorted(self.parameters.items())), "sources": sources}
        return execute(self, tensors, **rest)

    ExecuteMergeMethodTask.execute = wrapper
    try:
        yield
    finally:
        ExecuteMergeMethodTask.execute = execute


def main() -> None:
    """Make the file again."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        for path in sorted(FOLDER.glob("*/*.yaml")):
            if path.parent.name == "recipes":
                continue
            name = f"{path.parent.name}/{path.stem}"
            LoaderCache().loaders.clear()
            found[name] = {}
            text = path.read_text(encoding="utf-8")
            with tempfile.TemporaryDirectory() as out, contextlib.chdir(folder), recorded(found[name]):
                config = MergeConfiguration.model_validate(yaml.safe_load(text))
                run_merge(config, out, MergeOptions(random_seed=1, quiet=True, write_model_card=False))
            print(name, len(found[name]))
    versions = {name: version(name) for name in ("mergekit", "torch", "transformers")}
    head = json.dumps({"python": sys.version.split()[0], **versions})
    cases = [
        f' "{name}": [\n' + ",\n".join(f"  {row}" for row in grouped(rows)) + "\n ]" for name, rows in found.items()
    ]
    text = ",\n".join([f' "versions": {head}', *cases])
    (FOLDER / "resolved.json").write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


def grouped(rows: dict[str, Any]) -> list[str]:
    """Return what was resolved as JSON, once for all tensors with the same."""
    groups: dict[str, list[str]] = {}
    for tensor, row in sorted(rows.items()):
        groups.setdefault(json.dumps(row, sort_keys=True), []).append(tensor)
    return [json.dumps({"tensors": tensors, **json.loads(row)}) for row, tensors in groups.items()]


if __name__ == "__main__":
    main()
