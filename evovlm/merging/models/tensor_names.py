"""Names of a model's language backbone: on disk, in memory, and the text-LLM names that merging works with.

Backbone names are those of a text LLM on disk: `model.embed_tokens.weight`, `model.layers.{i}.*`,
`model.norm.weight`, `lm_head.weight`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evovlm.errors import BrokenCheckpoint, UnknownArchitecture
from evovlm.recipes.families import MODEL_TYPES, TEXT_FAMILIES, TEXT_NAMES, VLM_FAMILIES, Prefixes, VlmFamily
from evovlm.recipes.recipe import Component

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
VOCABULARY_TENSORS = (EMBEDDING, HEAD)

_AFTER_BLOCKS = 1_000_000
_TIE = "tie_word_embeddings"
# Old Llama checkpoints contain the rotary frequencies, which are not weights; they are copied as unmerged tensors.
_BACKBONE_NAME = re.compile(
    r"model\.embed_tokens\.\w+|model\.layers\.(?P<block>\d+)\.(?!.*rotary_emb\.inv_freq$).+|model\.norm\.\w+|lm_head\.\w+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneLayout:
    """The naming of one checkpoint's backbone.

    `text_config` is the part of its config.json that describes the backbone, `text_model_type` that part's row in
    TEXT_FAMILIES; `tied` says that the head is the embedding and has no separate tensor.
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
        if model_type not in MODEL_TYPES:
            raise UnknownArchitecture(
                f"config.json: evovlm cannot merge models of model_type '{model_type}'.\n"
                f"    Merge models of these: {', '.join(sorted(MODEL_TYPES))}. CONTRIBUTING.md says how to add one."
            )
        family = VLM_FAMILIES.get(model_type)
        text_config = config if family is None else _text_config(family, config)
        text_model_type = model_type if family is None else _text_model_type(family, text_config)
        namings = (TEXT_NAMES,) if family is None else family.disk
        disk = _naming_on_disk(namings, model_type, tensor_names) if tensor_names else namings[0]
        return BackboneLayout(
            model_type=model_type,
            text_config=text_config,
            text_model_type=text_model_type,
            disk=disk,
            memory=TEXT_NAMES if family is None else family.memory,
            n_blocks=_count_blocks(disk, tensor_names) or int(text_config.get("num_hidden_layers", 32)),
            tied=_is_tied(family, config, text_config.get(_TIE, TEXT_FAMILIES[text_model_type].tied)),
        )

    @property
    def is_vlm(self) -> bool:
        """Whether the checkpoint holds more than its backbone."""
        return self.model_type in VLM_FAMILIES

    def disk_name(self, backbone_name: str) -> str:
        """Return the name of a backbone tensor in the checkpoint's files."""
        return _renamed(backbone_name, self.disk)

    def memory_name(self, backbone_name: str) -> str:
        """Return the name of a backbone tensor among the parameters of the transformers model."""
        return _renamed(backbone_name, self.memory)

    def backbone_name_from_disk(self, disk_name: str) -> str | None:
        """Return the backbone name of a tensor in the files, None for a tensor outside the backbone."""
        return _backbone_name(disk_name, self.disk)


def unit_index(backbone_name: str, n_blocks: int) -> int:
    """Return the unit a tensor belongs to: 0 the embedding, 1..L the blocks, L + 1 the head with the final norm.

    Raises ValueError for a name that is not a backbone name.
    """
    match = _BACKBONE_NAME.fullmatch(backbone_name)
    if match is None:
        raise ValueError(f"'{backbone_name}' is not a backbone tensor name")
    if match["block"] is not None:
        return int(match["block"]) + 1
    return 0 if backbone_name.startswith("model.embed_tokens.") else n_blocks + 1


def component_of(backbone_name: str) -> Component:
    """Return the component that a tensor is part of; a norm inside the attention counts as a norm."""
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
    return (_AFTER_BLOCKS if backbone_name.startswith(TEXT_NAMES.body) else _AFTER_BLOCKS + 1), backbone_name


def _renamed(backbone_name: str, naming: Prefixes) -> str:
    for plain, prefix in ((TEXT_NAMES.head, naming.head), (TEXT_NAMES.body, naming.body)):
        if backbone_name.startswith(plain):
            return prefix + backbone_name.removeprefix(plain)
    raise ValueError(f"'{backbone_name}' is not a backbone tensor name")


def _backbone_name(name: str, naming: Prefixes) -> str | None:
    for plain, prefix in ((TEXT_NAMES.head, naming.head), (TEXT_NAMES.body, naming.body)):
        if name.startswith(prefix):
            found = plain + name.removeprefix(prefix)
            return found if _BACKBONE_NAME.fullmatch(found) else None
    return None


def _text_config(family: VlmFamily, config: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] | None = config.get("text_config")
    return (config if family.flat_once else {}) if found is None else found


def _text_model_type(family: VlmFamily, text_config: Mapping[str, Any]) -> str:
    named = family.text_model_type if family.text_is_fixed else text_config.get("model_type")
    found = str(named or family.text_model_type)
    if found not in TEXT_FAMILIES:
        raise UnknownArchitecture(
            f"config.json: evovlm cannot merge language models of text_config.model_type '{found}'.\n"
            f"    Merge models of these: {', '.join(sorted(TEXT_FAMILIES))}."
        )
    return found


def _is_tied(family: VlmFamily | None, config: Mapping[str, Any], text_is_tied: object) -> bool:
    if family is None:
        return bool(text_is_tied)
    return bool(config.get(_TIE, family.tied)) or (family.tied_with_text and bool(text_is_tied))


def _naming_on_disk(namings: Sequence[Prefixes], model_type: str, tensor_names: Collection[str]) -> Prefixes:
    for naming in namings:
        if _renamed(EMBEDDING, naming) in tensor_names:
            return naming
    tried = " or ".join(_renamed(EMBEDDING, naming) for naming in namings)
    raise BrokenCheckpoint(f"a {model_type} checkpoint should hold {tried}, but this one does not.")


def _count_blocks(disk: Prefixes, tensor_names: Collection[str]) -> int:
    blocks = [-1]
    for name in tensor_names:
        match = _BACKBONE_NAME.fullmatch(_backbone_name(name, disk) or "")
        if match is not None and match["block"] is not None:
            blocks.append(int(match["block"]))
    return max(blocks) + 1
