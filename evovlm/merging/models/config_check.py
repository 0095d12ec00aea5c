"""Compares a config.json with the tensors of its checkpoint: where they contradict each other, no result would load."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from evovlm.errors import BrokenCheckpoint
from evovlm.merging.checkpoint.safetensors_file import TensorPlace
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.structure import EMBEDDING
from evovlm.merging.models.tensor_names import BackboneLayout
from evovlm.recipes.checkpoint_files import CONFIG_FILE
from evovlm.recipes.families import text_family
from evovlm.recipes.language_config import block_count_key, language_path, stated_blocks

_BLOCK = "model.layers.0."
# Architectures whose heads have hidden_size / num_attention_heads entries where config.json does not say.
_DIVIDED_HEADS = ("llama", "mistral", "qwen2", "qwen2_vl_text", "qwen2_5_vl_text")


class _Contradiction(NamedTuple):
    key: str
    stated: object
    found: str


def check_config(checkpoint: Checkpoint) -> None:
    """Raise BrokenCheckpoint, with both values of each setting, when config.json contradicts the tensors.

    Settings that config.json leaves out are not compared.
    """
    layout = checkpoint.layout
    found = list(_contradictions(layout, checkpoint.places))
    if not found:
        return
    part = "".join(f"{key}." for key in language_path(checkpoint.config))
    listed = "; ".join(f"{part}{each.key} is {each.stated}, but {each.found}" for each in found)
    raise BrokenCheckpoint(
        f"{checkpoint.folder / CONFIG_FILE}: contradicts the weights beside it: {listed}.\n"
        "    Correct config.json, or fetch the model again."
    )


def _contradictions(layout: BackboneLayout, places: Mapping[str, TensorPlace]) -> Iterator[_Contradiction]:
    stated: Mapping[str, Any] = layout.text_config

    def shape(name: str) -> tuple[int, ...]:
        place = places.get(layout.names.get(name, ""))
        return place.shape if place is not None and len(place.shape) == 2 else ()

    def differs(key: str, name: str, dimension: int, needed: int | None = None) -> Iterator[_Contradiction]:
        """Compare a setting (or the size that follows from it) with one dimension of a tensor."""
        size = stated.get(key) if needed is None else needed
        sizes = shape(name)
        if sizes and type(size) is int and sizes[dimension] != size:
            follows = "" if needed is None else f" (which needs {needed})"
            what = f"{layout.names[name]} has {sizes[dimension]} {'rows' if dimension == 0 else 'columns'}{follows}"
            yield _Contradiction(key, stated.get(key), what)

    n_blocks = stated_blocks(stated)
    if n_blocks is not None and n_blocks != layout.n_blocks:
        yield _Contradiction(block_count_key(stated), n_blocks, f"the weights have {layout.n_blocks} blocks")
    yield from differs("vocab_size", EMBEDDING, 0)
    if not text_family(layout.text_model_type).is_known:
        # How the sizes of other tensors follow from their settings is known only to their code.
        return
    yield from differs("hidden_size", EMBEDDING, 1)
    yield from differs("intermediate_size", f"{_BLOCK}mlp.gate_proj.weight", 0)
    heads, head_size = stated.get("num_attention_heads"), _head_size(layout)
    if heads is not None and head_size is not None:
        yield from differs("num_attention_heads", f"{_BLOCK}self_attn.q_proj.weight", 0, heads * head_size)
        groups = stated.get("num_key_value_heads")
        key = "num_attention_heads" if groups is None else "num_key_value_heads"
        yield from differs(key, f"{_BLOCK}self_attn.k_proj.weight", 0, (groups or heads) * head_size)


def _head_size(layout: BackboneLayout) -> int | None:
    """Return the number of entries of a head, None where only the family's code knows it."""
    stated: Mapping[str, Any] = layout.text_config
    size: int | None = stated.get("head_dim")
    if size is not None or layout.text_model_type not in _DIVIDED_HEADS:
        return size
    hidden, heads = stated.get("hidden_size"), stated.get("num_attention_heads")
    return hidden // heads if hidden is not None and heads is not None else None
