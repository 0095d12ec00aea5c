"""Says how the language model of a checkpoint was found, where it is, and what is not merged."""

from collections import Counter

from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.structure import EMBEDDING, HEAD
from evovlm.recipes.families import TEXT_FAMILIES, VLM_FAMILIES

_SHOWN = 4


def describe_layout(checkpoint: Checkpoint, *, is_host: bool) -> str:
    """Return "family llava: 32 blocks under language_model.model.layers., ...; 391 tensors stay the host's (...)"."""
    layout = checkpoint.layout
    how = "read by structure"
    if checkpoint.declared is not None:
        how = "read as `backbone` says"
    elif layout.model_type in VLM_FAMILIES or layout.model_type in TEXT_FAMILIES:
        how = f"family {layout.model_type}"
    head = "the embedding is the head" if layout.tied else f"head {layout.names[HEAD].removesuffix('.weight')}"
    embedding = layout.names[EMBEDDING].removesuffix(".weight")
    found = f"{how}: {layout.n_blocks} blocks under {layout.blocks_prefix}, embedding {embedding}, {head}"
    others = Counter(name.split(".")[0] for name in checkpoint.other_names())
    if not others:
        return found
    listed = ", ".join(f"{module}: {count}" for module, count in others.most_common(_SHOWN))
    what = "stay the host's" if is_host else "are not merged"
    return f"{found}; {others.total()} tensors {what} ({listed}{', ...' if len(others) > _SHOWN else ''})"
