"""The files that a published checkpoint consists of, by name: on the hub and in a folder they are the same."""

import json
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from evovlm.errors import BrokenCheckpoint

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SINGLE_PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"

# Config, tokenizer, processor, chat templates, card and licence; no code, no weights, no traces of a training run.
_SUPPORT = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "README.md")
_NO_SUPPORT = ("*.index.json", "trainer_state.json", "adapter_config.json", "all_results.json", "train_results.json")
_TEMPLATES = "additional_chat_templates"


def is_support_file(name: str) -> bool:
    """Whether the file (its path inside the checkpoint) is config, tokenizer, processor, template, card or licence."""
    path = PurePosixPath(name)
    if path.parent.name:
        return path.parent.as_posix() == _TEMPLATES and path.suffix == ".jinja"
    return _matches(name, _SUPPORT) and not _matches(name, _NO_SUPPORT)


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def read_weight_map(index: Path) -> Mapping[str, str]:
    """Return which shard holds each tensor, as the index file says.

    Raises BrokenCheckpoint when the file cannot be read or names a shard outside its own folder.
    """
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {str(name): str(shard) for name, shard in weight_map.items()}
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{index}: cannot be read as JSON ({error}).") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BrokenCheckpoint(f"{index}: has no weight_map.") from error
    for shard in shards.values():
        path = PurePosixPath(shard)
        # An index is a stranger's text: it must not lead out of the checkpoint.
        if path.is_absolute() or ".." in path.parts or "\\" in shard or not path.name:
            raise BrokenCheckpoint(f"{index}: names the shard '{shard}', which lies outside the checkpoint.")
    return shards
