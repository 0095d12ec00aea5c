"""Where a model's language backbone lies: on disk, in memory, and under the text-LLM names that merging works with.

Backbone names are those of a text LLM on disk: `model.embed_tokens.weight`, `model.layers.{i}.*`,
`model.norm.weight`, `lm_head.weight`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from evovlm.errors import BrokenCheckpoint, UnknownArchitecture

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
VOCABULARY_TENSORS = (EMBEDDING, HEAD)

_BODY = "model."
_HEAD = "lm_head."
_AFTER_BLOCKS = 1_000_000
# Old Llama checkpoints carry the rotary frequencies, which are no weights; they travel as unmerged tensors.
_BACKBONE_NAME = re.compile(
    r"model\.embed_tokens\.\w+|model\.layers\.(?P<block>\d+)\.(?!.*rotary_emb\.inv_freq$).+|model\.norm\.\w+|lm_head\.\w+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefixes:
    """What stands for `model.` and for `lm_head.` in some naming."""

    body: str
    head: str

    def place(self, backbone_name: str) -> str:
        """Return the name that a backbone tensor has in this naming."""
        if backbone_name.startswith(_HEAD):
            return self.head + backbone_name.removeprefix(_HEAD)
        return self.body + backbone_name.removeprefix(_BODY)

    def backbone_name(self, name: str) -> str | None:
        """Return the backbone name of the tensor `name`, None when it is no part of the backbone."""
        for prefix, own in ((self.head, _HEAD), (self.body, _BODY)):
            if name.startswith(prefix):
                found = own + name.removeprefix(prefix)
                return found if _BACKBONE_NAME.fullmatch(found) else None
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One model type of config.json: where its text config lies, its namings on disk (tried in order) and in memory.

    `default_window` is the sliding window that transformers assumes when the config names none.
    """

    text_config_key: str | None
    disk: tuple[Prefixes, ...]
    memory: Prefixes
    default_window: int | None = None


_TEXT = Prefixes(body=_BODY, head=_HEAD)
_LLAVA_HUB = Prefixes(body="language_model.model.", head="language_model.lm_head.")
_LLAVA_MODULES = Prefixes(body="model.language_model.", head=_HEAD)
_PLAIN = Family(text_config_key=None, disk=(_TEXT,), memory=_TEXT)
_LLAVA = Family(text_config_key="text_config", disk=(_LLAVA_HUB, _LLAVA_MODULES), memory=_LLAVA_MODULES)

FAMILIES: Mapping[str, Family] = {
    "llama": _PLAIN,
    "mistral": Family(text_config_key=None, disk=(_TEXT,), memory=_TEXT, default_window=4096),
    "qwen2": _PLAIN,
    "qwen3": _PLAIN,
    "llava": _LLAVA,
    "llava_next": _LLAVA,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneLayout:
    """The naming of one checkpoint's backbone.

    `text_config` is the part of its config.json that describes the backbone, `text_family` that part's family;
    `tied` says that the head is the embedding and has no tensor of its own.
    """

    model_type: str
    text_config: Mapping[str, Any]
    text_model_type: str
    disk: Prefixes
    memory: Prefixes
    n_blocks: int
    tied: bool

    @staticmethod
    def from_config(config: Mapping[str, Any], tensor_names: Collection[str] = ()) -> "BackboneLayout":
        """Return the layout of a checkpoint with this config.json and these tensors on disk.

        Without `tensor_names` the naming is the family's first, and the number of blocks is the config's.
        Raises UnknownArchitecture when no family describes the model, BrokenCheckpoint when tensors are missing.
        """
        model_type = str(config.get("model_type"))
        family = _family(model_type)
        text_config = config.get(family.text_config_key, {}) if family.text_config_key else config
        # transformers takes a text config without a model type for a Llama.
        text_model_type = str(text_config.get("model_type", "llama"))
        if text_model_type not in _text_model_types():
            known = ", ".join(_text_model_types())
            raise UnknownArchitecture(f"text_config.model_type is '{text_model_type}'; evovlm knows: {known}.")
        disk = _naming_on_disk(family, model_type, tensor_names) if tensor_names else family.disk[0]
        return BackboneLayout(
            model_type=model_type,
            text_config=text_config,
            text_model_type=text_model_type,
            disk=disk,
            memory=family.memory,
            n_blocks=_count_blocks(disk, tensor_names) or int(text_config.get("num_hidden_layers", 32)),
            tied=bool(config.get("tie_word_embeddings")) or bool(text_config.get("tie_word_embeddings")),
        )

    @property
    def is_vlm(self) -> bool:
        """Whether the checkpoint holds more than its backbone."""
        return FAMILIES[self.model_type].text_config_key is not None

    def disk_name(self, backbone_name: str) -> str:
        """Return what a backbone tensor is called in the checkpoint's files."""
        return self.disk.place(backbone_name)

    def memory_name(self, backbone_name: str) -> str:
        """Return what a backbone tensor is called among the parameters of the transformers model."""
        return self.memory.place(backbone_name)

    def backbone_name_from_disk(self, disk_name: str) -> str | None:
        """Return the backbone name of a tensor in the files, None when it is no part of the backbone."""
        return self.disk.backbone_name(disk_name)


def unit_index(backbone_name: str, n_blocks: int) -> int:
    """Return the unit a tensor belongs to: 0 the embedding, 1..L the blocks, L + 1 the head with the final norm.

    Raises ValueError for a name that is no backbone name.
    """
    match = _BACKBONE_NAME.fullmatch(backbone_name)
    if match is None:
        raise ValueError(f"'{backbone_name}' is not a backbone tensor name")
    if match["block"] is not None:
        return int(match["block"]) + 1
    return 0 if backbone_name.startswith("model.embed_tokens.") else n_blocks + 1


def natural_order(backbone_name: str) -> tuple[int, str]:
    """A sort key: embedding, blocks by number, norm, head."""
    match = _BACKBONE_NAME.fullmatch(backbone_name)
    if match is not None and match["block"] is not None:
        return int(match["block"]), backbone_name
    if backbone_name.startswith("model.embed_tokens."):
        return -1, backbone_name
    return (_AFTER_BLOCKS if backbone_name.startswith(_BODY) else _AFTER_BLOCKS + 1), backbone_name


def _family(model_type: str) -> Family:
    if model_type not in FAMILIES:
        raise UnknownArchitecture(
            f"config.json says model_type '{model_type}'; evovlm knows where the language model lies in: "
            f"{', '.join(sorted(FAMILIES))}."
        )
    return FAMILIES[model_type]


def _text_model_types() -> list[str]:
    return sorted(name for name, family in FAMILIES.items() if family.text_config_key is None)


def _naming_on_disk(family: Family, model_type: str, tensor_names: Collection[str]) -> Prefixes:
    for prefixes in family.disk:
        if prefixes.place(EMBEDDING) in tensor_names:
            return prefixes
    tried = " or ".join(prefixes.place(EMBEDDING) for prefixes in family.disk)
    raise BrokenCheckpoint(f"a {model_type} checkpoint should hold {tried}, but this one does not.")


def _count_blocks(disk: Prefixes, tensor_names: Collection[str]) -> int:
    blocks = [-1]
    for name in tensor_names:
        match = _BACKBONE_NAME.fullmatch(disk.backbone_name(name) or "")
        if match is not None and match["block"] is not None:
            blocks.append(int(match["block"]))
    return max(blocks) + 1
