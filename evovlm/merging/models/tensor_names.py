"""Where a model's language backbone lies: on disk, in memory, and under the text-LLM names that merging works with.

Backbone names are those of a text LLM on disk: `model.embed_tokens.weight`, `model.layers.{i}.*`,
`model.norm.weight`, `lm_head.weight`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evovlm.errors import BrokenCheckpoint, UnknownArchitecture
from evovlm.merging.models.text_families import TEXT_FAMILIES
from evovlm.recipes.recipe import Component

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
VOCABULARY_TENSORS = (EMBEDDING, HEAD)

_BODY = "model."
_HEAD = "lm_head."
_AFTER_BLOCKS = 1_000_000
_TIE = "tie_word_embeddings"
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

    `text_model_type` is the model type of a text config that names none, or of any if `text_is_fixed`; the text config
    of a family that is `flat_once` may lie in config.json itself. `tied` says whether the head is the embedding where
    config.json does not tell; under `tied_with_text` the text config can say so too.
    """

    text_config_key: str | None
    disk: tuple[Prefixes, ...]
    memory: Prefixes
    text_model_type: str
    text_is_fixed: bool = False
    flat_once: bool = False
    tied: bool = False
    tied_with_text: bool = False


_TEXT = Prefixes(body=_BODY, head=_HEAD)
# The hub's naming of the LLaVA family is what `save_pretrained` writes, the modules' what it writes under
# `save_original_format=False`; some versions between wrote the latter always.
_LLAVA_HUB = Prefixes(body="language_model.model.", head="language_model.lm_head.")
_MODULES = Prefixes(body="model.language_model.", head=_HEAD)
_LLAVA = Family(text_config_key="text_config", disk=(_LLAVA_HUB, _MODULES), memory=_MODULES, text_model_type="llama")
_QWEN_VL = Family(
    text_config_key="text_config",
    disk=(_TEXT, _MODULES),
    memory=_MODULES,
    text_model_type="qwen2_vl_text",
    text_is_fixed=True,
    flat_once=True,
    tied_with_text=True,
)


def _plain(model_type: str) -> Family:
    return Family(
        text_config_key=None,
        disk=(_TEXT,),
        memory=_TEXT,
        text_model_type=model_type,
        text_is_fixed=True,
        tied=TEXT_FAMILIES[model_type].tied,
    )


# Where each row comes from: transformers 5.23, conversion_mapping.py (disk against memory), `_tied_weights_keys` and
# `tie_word_embeddings` of models/*/{modeling,configuration}_*.py.
FAMILIES: Mapping[str, Family] = {
    "llama": _plain("llama"),
    "mistral": _plain("mistral"),
    "qwen2": _plain("qwen2"),
    "qwen3": _plain("qwen3"),
    "gemma": _plain("gemma"),
    "gemma2": _plain("gemma2"),
    "gemma3_text": _plain("gemma3_text"),
    "llava": replace(_LLAVA, tied_with_text=True),
    "llava_next": _LLAVA,
    "llava_onevision": replace(_LLAVA, text_model_type="qwen2", tied_with_text=True),
    "vipllava": _LLAVA,
    "internvl": replace(_LLAVA, text_model_type="qwen2", tied=True),
    "mistral3": replace(_LLAVA, text_model_type="mistral", tied=True),
    "gemma3": replace(_LLAVA, text_model_type="gemma3_text", text_is_fixed=True, tied=True),
    "qwen2_vl": _QWEN_VL,
    "qwen2_5_vl": replace(_QWEN_VL, text_model_type="qwen2_5_vl_text"),
    "qwen3_vl": replace(
        _QWEN_VL, disk=(_MODULES,), text_model_type="qwen3_vl_text", flat_once=False, tied_with_text=False
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneLayout:
    """The naming of one checkpoint's backbone.

    `text_config` is the part of its config.json that describes the backbone, `text_model_type` that part's row in
    TEXT_FAMILIES; `tied` says that the head is the embedding and has no tensor of its own.
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
        text_config = _text_config(family, config)
        named = family.text_model_type if family.text_is_fixed else text_config.get("model_type")
        text_model_type = str(named or family.text_model_type)
        if text_model_type not in TEXT_FAMILIES:
            known = ", ".join(sorted(TEXT_FAMILIES))
            raise UnknownArchitecture(
                f"config.json: text_config.model_type '{text_model_type}' is no language model that evovlm can merge.\n"
                f"    Merge models of these: {known}."
            )
        disk = _naming_on_disk(family, model_type, tensor_names) if tensor_names else family.disk[0]
        return BackboneLayout(
            model_type=model_type,
            text_config=text_config,
            text_model_type=text_model_type,
            disk=disk,
            memory=family.memory,
            n_blocks=_count_blocks(disk, tensor_names) or int(text_config.get("num_hidden_layers", 32)),
            tied=_is_tied(family, config, text_config.get(_TIE, TEXT_FAMILIES[text_model_type].tied)),
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


def component_of(backbone_name: str) -> Component:
    """Return what a tensor is part of; a norm inside the attention counts as a norm."""
    module = backbone_name.rsplit(".", 2)[-2]
    if "norm" in module:
        return "norms"
    if ".self_attn." in backbone_name:
        return "attention"
    return "mlp" if ".mlp." in backbone_name else "rest"


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
            f"config.json: model_type '{model_type}' is of no family that evovlm can merge.\n"
            f"    Merge models of these: {', '.join(sorted(FAMILIES))}. CONTRIBUTING.md says how a family is added."
        )
    return FAMILIES[model_type]


def _text_config(family: Family, config: Mapping[str, Any]) -> Mapping[str, Any]:
    if family.text_config_key is None:
        return config
    found: Mapping[str, Any] | None = config.get(family.text_config_key)
    return (config if family.flat_once else {}) if found is None else found


def _is_tied(family: Family, config: Mapping[str, Any], text_is_tied: object) -> bool:
    return bool(config.get(_TIE, family.tied)) or (family.tied_with_text and bool(text_is_tied))


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
