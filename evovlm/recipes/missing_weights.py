"""Explains a folder or repository without the weights of a model: what it holds instead, and what to do."""

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from evovlm.errors import BrokenCheckpoint, ModelError, PickledWeights
from evovlm.recipes.checkpoint_files import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    ADAPTER_PICKLE,
    CONFIG_FILE,
    INDEX_FILE,
    SINGLE_FILE,
)

# In this order; `{names}` are files of the folder, `{where}` is the folder or the model on the hub.
_KINDS: Sequence[tuple[Sequence[str], str]] = (
    (
        ("model_index.json",),
        "is a pipeline of the diffusers library, which makes pictures; evovlm merges language models and "
        "vision-language models.\n    Name such a model.",
    ),
    (
        ("*.gguf",),
        "holds GGUF files ({names}), the quantised format of llama.cpp.\n"
        "    Name the model that they were made from, with safetensors weights; its card often says which.",
    ),
    (
        ("consolidated*.safetensors", "consolidated*.pth", "params.json"),
        "holds weights in their authors' own format ({names}), whose tensors have other names.\n"
        f"    Name the model in Hugging Face's format, with {SINGLE_FILE} or {INDEX_FILE}.",
    ),
    (
        ("model.*.safetensors", "model.*.safetensors.index.json", f"{SINGLE_FILE}.*"),
        f"holds a variant of the weights ({{names}}), but neither {SINGLE_FILE} nor {INDEX_FILE}.\n"
        f"    Rename a single file to {SINGLE_FILE}, or fetch the model without a variant.",
    ),
    (
        ("model-*-of-*.safetensors",),
        f"holds shards ({{names}}), but not {INDEX_FILE}, which lists their tensors: it is only a part of the model.\n"
        "    Fetch the model again: hf download MODEL.",
    ),
    (
        ("*.h5", "*.msgpack", "*.onnx", "*.npz", "*.mlpackage", "*.tflite"),
        "holds weights for another library ({names}).\n    Name the model with safetensors weights.",
    ),
)
_MODEL_PICKLES = ("pytorch_model*.bin", "*.bin.index.json", "model*.bin")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OF_TRAINING = ("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "scaler.*", ADAPTER_PICKLE)
_STEP = re.compile(r"checkpoint-(?P<step>\d{1,12})")
_SHOWN = 3


def missing_weights(folder: Path) -> ModelError:
    """Return the error for a model or adapter folder whose weights are not safetensors, or not complete."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    steps = sorted(
        (int(match["step"]), path.name)
        for path in folder.iterdir()
        if (match := _STEP.fullmatch(path.name))
        and ((path / CONFIG_FILE).is_file() or (path / ADAPTER_CONFIG_FILE).is_file())
    )
    return explain_weights(str(folder), names, to_convert=str(folder), steps=[name for _, name in steps])


def explain_weights(where: str, names: Collection[str], *, to_convert: str, steps: Sequence[str] = ()) -> ModelError:
    """Return the error for files of these names; `steps` are the folders of a training's checkpoints, in order.

    `to_convert` is how `evovlm convert` names the model.
    """
    if steps and not _matching(names, _MODEL_PICKLES):
        return BrokenCheckpoint(
            f"{where}: is the folder of a training, with {len(steps)} checkpoints ({_some(steps)}) and without a model "
            f"of its own.\n    Name one of them, for example {where}/{steps[-1]}."
        )
    if ADAPTER_CONFIG_FILE in names and ADAPTER_PICKLE in names:
        return PickledWeights(
            f"{where}: the weights of the adapter are a pickle ({ADAPTER_PICKLE}), which can run code when read; "
            "evovlm reads only safetensors.\n    Load the adapter with peft where you trust it, and save it again "
            "(save_pretrained writes safetensors)."
        )
    if ADAPTER_CONFIG_FILE in names:
        return BrokenCheckpoint(f"{where}: the adapter's weights, {ADAPTER_FILE}, are missing.\n    Fetch them again.")
    pickles = _matching(names, _MODEL_PICKLES)
    if not pickles:
        for patterns, reason in _KINDS:
            if found := _matching(names, patterns):
                return BrokenCheckpoint(f"{where}: {reason.format(names=_some(found), where=where)}")
        training = _matching(names, _OF_TRAINING)
        pickles = [name for name in _matching(names, _PICKLES) if name not in training]
    if pickles:
        return PickledWeights(
            f"{where}: its weights are pickles ({_some(pickles)}), which can run code when read; evovlm merges only "
            f"safetensors.\n    `evovlm convert {to_convert} --out DIR` reads nothing but tensors from them; "
            "name DIR instead."
        )
    others = [name for name in _matching(names, ("*.safetensors",)) if name != SINGLE_FILE]
    instead = f"; it has {_some(others)}" if others else ""
    return BrokenCheckpoint(
        f"{where}: has neither {SINGLE_FILE} nor {INDEX_FILE}{instead}.\n"
        "    Name a model with safetensors weights, or fetch it again if only a part of it was fetched."
    )


def _matching(names: Collection[str], patterns: Collection[str]) -> list[str]:
    return sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
