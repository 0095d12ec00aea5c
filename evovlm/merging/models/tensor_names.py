"""Names of a model's language backbone: on disk, and the text-LLM names that merging works with.

Backbone names are those of a text LLM on disk: `model.embed_tokens.weight`, `model.layers.{i}.*`,
`model.norm.weight`, `lm_head.weight`, and `model.*` for what else the language model has.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from evovlm.merging.models.structure import BLOCKS, EMBEDDING, HEAD, Stored, find_structure, has_sight
from evovlm.recipes.families import VLM_FAMILIES, BackbonePrefixes, text_family
from evovlm.recipes.language_config import has_vision, language_config, language_model_type, stated_blocks
from evovlm.recipes.source_values import BASE_COMPONENTS, Component

VOCABULARY_TENSORS = (EMBEDDING, HEAD)

_AFTER_BLOCKS = 1_000_000
_DEFAULT_BLOCKS = 32
# Names are resolved once for a checkpoint: the largest have tens of thousands of tensors.
_MOST_NAMES = 1 << 17
_TIE = "tie_word_embeddings"
# In the blocks of all architectures, under the usual names. What is none of these is the feed-forward part.
_PARTS: tuple[tuple[Component, re.Pattern[str]], ...] = (
    ("cross_attention", re.compile(r"\.(?:cross_attn\w*|cross_attention|crossattention|encoder_attn)\.")),
    ("linear_attention", re.compile(r"\.(?:linear_attn|mamba|mixer|ssm|conv|temporal_block|time_mixer)\.")),
    ("attention", re.compile(r"\.(?:\w*attn\w*|\w*attention)\.")),
    ("experts", re.compile(r"\.experts\.")),
    ("router", re.compile(r"\.(?:gate|router|shared_expert_gate)\.|\.\w*correction_bias$")),
)
_BLOCK_NAME = re.compile(rf"{re.escape(BLOCKS)}(?P<block>\d+)\.(?P<tensor>.+)")


@dataclass(frozen=True, kw_only=True)
class BackboneLayout:
    """The naming of one checkpoint's backbone.

    `text_config` is the part of its config.json that describes the backbone, `text_model_type` that part's model type;
    `names` maps backbone names to names on disk, of which `core` are those that every model of the architecture has;
    `tied` says that the head is the embedding and has no separate tensor; `is_vlm` that the checkpoint holds more than
    its backbone.
    """

    model_type: str
    text_config: Mapping[str, Any]
    text_model_type: str
    n_blocks: int
    tied: bool
    is_vlm: bool
    names: Mapping[str, str] = field(default_factory=dict)
    core: frozenset[str] = frozenset()

    @staticmethod
    def from_config(
        config: Mapping[str, Any],
        tensors: Mapping[str, Stored] | None = None,
        *,
        declared: BackbonePrefixes | None = None,
    ) -> "BackboneLayout":
        """Return the layout of a checkpoint with this config.json and these tensors on disk.

        Without `tensors` it has no names, and the number of blocks is the config's. `declared` are the prefixes that a
        recipe states. Raises UnknownArchitecture when the tensors do not show where the language model is.
        """
        text_config = language_config(config)
        layout = BackboneLayout(
            model_type=str(config.get("model_type")),
            text_config=text_config,
            text_model_type=language_model_type(config),
            n_blocks=stated_blocks(text_config) or _DEFAULT_BLOCKS,
            tied=True,
            is_vlm=text_config is not config or has_vision(config),
        )
        if tensors is None:
            return replace(layout, tied=_is_tied(config, text_config, layout.text_model_type, has_head=True))
        found = find_structure(tensors, config=config, text_config=text_config, sees=layout.is_vlm, declared=declared)
        tied = _is_tied(config, text_config, layout.text_model_type, has_head=HEAD in found.names)
        is_vlm = layout.is_vlm or has_sight(tensors.keys() - found.names.values())
        return replace(layout, n_blocks=found.n_blocks, tied=tied, is_vlm=is_vlm, names=found.names, core=found.core)

    @cached_property
    def _backbone_names(self) -> Mapping[str, str]:
        return {disk: backbone for backbone, disk in self.names.items()}

    def disk_name(self, backbone_name: str) -> str:
        """Return the name of a backbone tensor in the checkpoint's files.

        A block beyond the last, and a head that the checkpoint lacks, are named like the others. Raises KeyError for
        another name.
        """
        if backbone_name in self.names:
            return self.names[backbone_name]
        if backbone_name == HEAD:
            return self._missing_head()
        match = _BLOCK_NAME.fullmatch(backbone_name)
        if match is None:
            raise KeyError(backbone_name)
        return f"{self.blocks_prefix}{match['block']}.{match['tensor']}"

    @property
    def blocks_prefix(self) -> str:
        """What precedes the number of a block in the names on disk."""
        own, disk = next((name, disk) for name, disk in self.names.items() if name.startswith(f"{BLOCKS}0."))
        return disk.removesuffix(own.removeprefix(BLOCKS))

    def _missing_head(self) -> str:
        # Where the head of such a checkpoint would be: LLaVA's is beside the language model's `model`.
        body = self.names[EMBEDDING].removesuffix("embed_tokens.weight")
        return f"{body.removesuffix('model.')}{HEAD}" if body.endswith(".model.") else HEAD

    def backbone_name_from_disk(self, disk_name: str) -> str | None:
        """Return the backbone name of a tensor in the files, None for a tensor outside the backbone."""
        return self._backbone_names.get(disk_name)

    def without(self, backbone_names: Collection[str]) -> "BackboneLayout":
        """Return the layout without some tensors, which then stay the host's."""
        kept = {name: disk for name, disk in self.names.items() if name not in backbone_names}
        return replace(self, names=kept)


@lru_cache(maxsize=_MOST_NAMES)
def unit_index(backbone_name: str, n_blocks: int) -> int:
    """Return the unit a tensor belongs to: 0 the embedding, 1..L the blocks, L + 1 the head with the final norm.

    What else the language model has belongs to the embedding if it stands beside the blocks, else to the head.
    """
    match = _BLOCK_NAME.fullmatch(backbone_name)
    if match is not None:
        return int(match["block"]) + 1
    is_input = backbone_name.startswith("model.") and not backbone_name.startswith("model.norm.")
    return 0 if is_input else n_blocks + 1


@lru_cache(maxsize=_MOST_NAMES)
def component_of(backbone_name: str) -> Component:
    """Return the component that a tensor is part of; a norm inside the attention counts as a norm."""
    module = backbone_name.rsplit(".", 2)[-2]
    if "norm" in module or module.startswith("ln_"):
        return "norms"
    if _BLOCK_NAME.fullmatch(backbone_name) is None:
        return "rest"
    return next((part for part, pattern in _PARTS if pattern.search(backbone_name)), "mlp")


def further_components(backbone_names: Iterable[str]) -> tuple[Component, ...]:
    """Return the components among these tensors that only some architectures have, in the order of BASE_COMPONENTS."""
    found = {component_of(name) for name in backbone_names}
    return tuple(component for component in BASE_COMPONENTS if component in found)


@lru_cache(maxsize=_MOST_NAMES)
def natural_order(backbone_name: str) -> tuple[int, str]:
    """A sort key: embedding, blocks by number, norm, head."""
    match = _BLOCK_NAME.fullmatch(backbone_name)
    if match is not None:
        return int(match["block"]), backbone_name
    if backbone_name.startswith("model.norm."):
        return _AFTER_BLOCKS, backbone_name
    return (-1 if backbone_name.startswith("model.") else _AFTER_BLOCKS + 1), backbone_name


def _is_tied(
    config: Mapping[str, Any], text_config: Mapping[str, Any], text_model_type: str, *, has_head: bool
) -> bool:
    """Return whether the head is the embedding: as config.json says, or as is the default of a known family.

    Of an unknown family, a head that is not in the files is the embedding.
    """
    vlm, row = VLM_FAMILIES.get(str(config.get("model_type"))), text_family(text_model_type)
    if vlm is not None:
        return bool(config.get(_TIE, vlm.tied)) or (vlm.tied_with_text and bool(text_config.get(_TIE, row.tied)))
    stated = config.get(_TIE, text_config.get(_TIE, row.tied))
    return not has_head if stated is None else bool(stated)
