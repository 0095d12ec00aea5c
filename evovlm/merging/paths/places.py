"""Whether the blocks of a model may change their places: what a block computes must not depend on its number."""

from collections.abc import Iterator, Mapping
from typing import Any

from evovlm.errors import IncompatibleModels
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.merging.models.structure import BLOCKS
from evovlm.recipes.families import text_family

_KINDS = "layer_types"
_PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")
_BY_NUMBER: Mapping[str, str] = {
    "no_rope_layers": "some blocks have no positions (no_rope_layers)",
    "num_kv_shared_layers": "the last blocks use keys and values of earlier ones (num_kv_shared_layers)",
    "hidden_size_per_layer_input": "each block has another input from the embedding (hidden_size_per_layer_input)",
    "scale_attn_by_inverse_layer_idx": "the block's number scales its attention (scale_attn_by_inverse_layer_idx)",
    "alibi": "attention depends on distances that are computed once for the model (alibi)",
    "global_attn_every_n_layers": "every few blocks attend globally (global_attn_every_n_layers)",
    "attn_layer_indices": "some blocks have attention (attn_layer_indices)",
    "full_attention_interval": "every few blocks have full attention (full_attention_interval)",
    "cross_attention_layers": "some blocks attend to pictures (cross_attention_layers)",
    "mlp_only_layers": "some blocks have no experts (mlp_only_layers)",
}
"""Settings, with the reason why they tie a block to its place. Off (absent, 0, an empty list), they do not."""


def place_problems(model: NamedCheckpoint) -> Iterator[IncompatibleModels]:
    """Yield the reasons why a path cannot lead through a model's blocks: none for the families of the table."""
    layout = model.checkpoint.layout
    if text_family(layout.text_model_type).is_known:
        return
    if _KINDS not in layout.text_config and any(layout.text_config.get(key) for key in _PATTERNS):
        reason = f"config.json does not list which blocks have a sliding window ({_KINDS})"
        yield IncompatibleModels(f"{model}: {reason}, which a path has to rearrange.\n    Add {_KINDS} to config.json.")
        return
    reasons = [why for key, why in _BY_NUMBER.items() if _is_on(layout.text_config.get(key), key=key)]
    reasons += [
        f"its blocks differ by their number ({key})"
        for key, value in sorted(layout.text_config.items())
        if key not in (*_BY_NUMBER, _KINDS) and _differs_by_block(value, layout.n_blocks)
    ]
    if not reasons and (tensor := _differing_tensor(model.checkpoint)) is not None:
        reasons = [f"not all of its blocks have {tensor} in one shape"]
    if reasons:
        yield IncompatibleModels(
            f"{model}: a path needs blocks that compute the same in any place, but {'; '.join(reasons)}.\n"
            "    Merge such models in parameter space."
        )


def _is_on(value: object, *, key: str) -> bool:
    if key == "no_rope_layers" and isinstance(value, list):
        # 1 for each block with positions.
        return len(set(value)) > 1
    return value not in (None, False, 0, [])


def _differs_by_block(value: object, n_blocks: int) -> bool:
    return isinstance(value, list) and len(value) == n_blocks > 1 and any(each != value[0] for each in value)


def _differing_tensor(checkpoint: Checkpoint) -> str | None:
    """Return the name of a tensor that not all blocks have in one shape."""
    blocks: list[dict[str, Any]] = [{} for _ in range(checkpoint.layout.n_blocks)]
    for name in checkpoint.layout.names:
        if name.startswith(BLOCKS):
            number, _, tensor = name.removeprefix(BLOCKS).partition(".")
            blocks[int(number)][tensor] = checkpoint.shape(name)
    first = blocks[0]
    for block in blocks[1:]:
        for tensor in sorted({*first, *block}):
            if first.get(tensor) != block.get(tensor):
                return tensor
    return None
