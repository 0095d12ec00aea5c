"""Whether the models of a merge have one ancestor, measured on a sample of their weights.

A fine-tune stays near its base: the cosine of their weights is near 1, and the task vector is short beside them. The
weights of an unrelated model are random beside the base's: the cosine is near 0, and the task vector is about 1.4
times as long as they are. Averages of such weights make a model that does neither's work.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from evovlm.merging.checkpoint.safetensors_file import ITEM_BITS, TensorPlace
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.merging.models.tensor_names import VOCABULARY_TENSORS

LEAST_COSINE = 0.5
_N_TENSORS = 8
_N_ENTRIES = 1 << 16
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def ancestry_warnings(
    *, base: NamedCheckpoint | None, host: NamedCheckpoint, sources: Sequence[NamedCheckpoint]
) -> Iterator[str]:
    """Yield a warning for each model whose weights do not resemble those of the base (the host, without one).

    Models whose weights are not on this machine, or are not plain floats, are not compared.
    """
    first = base or host
    seen = {first.checkpoint.folder}
    for model in (*sources, host):
        if model.checkpoint.folder in seen:
            continue
        seen.add(model.checkpoint.folder)
        measured = resemblance(first, model)
        if measured is not None and measured[0] < LEAST_COSINE:
            cosine, length = measured
            yield (
                f"{model} does not look like a fine-tune of the same ancestor as {first}: the cosine of their weights "
                f"is {cosine:.2f} (a fine-tune's is near 1), and the task vector is {length:.2f} times as long as "
                f"{first.name}'s weights. Merged, such models usually work worse than either; name another base or "
                "leave it out."
            )


def resemblance(first: NamedCheckpoint, other: NamedCheckpoint) -> tuple[float, float] | None:
    """Return the cosine of two models' weights, and the length of their difference over that of the `first` ones.

    Both are over a sample of the blocks' matrices; None where nothing can be compared.
    """
    inner = ours = theirs = apart = 0.0
    for name in _sampled(first, other):
        left, right = _entries(first.checkpoint.place(name)), _entries(other.checkpoint.place(name))
        # Not left @ right: after a product of this length, a thread of OpenBLAS waits busily beside the whole merge.
        inner += float((left * right).sum())
        ours += float(np.square(left).sum())
        theirs += float(np.square(right).sum())
        apart += float(np.square(right - left).sum())
    if not (ours > 0 and theirs > 0 and math.isfinite(inner) and math.isfinite(apart)):
        return None
    return inner / math.sqrt(ours * theirs), math.sqrt(apart / ours)


def _sampled(first: NamedCheckpoint, other: NamedCheckpoint) -> list[str]:
    """Return the names of matrices of the same shape in both models, evenly over their blocks."""
    names = [
        name
        for name in first.checkpoint.backbone_names()
        if name not in VOCABULARY_TENSORS and other.checkpoint.has(name) and _comparable(first, other, name)
    ]
    step = max(1, len(names) // _N_TENSORS)
    return names[::step]


def _comparable(first: NamedCheckpoint, other: NamedCheckpoint, name: str) -> bool:
    places = [model.checkpoint.place(name) for model in (first, other)]
    # Only these read their bytes from a file of this machine as they are.
    plain = all(type(place) is TensorPlace and place.dtype_code in _NUMPY for place in places)
    return plain and places[0].shape == places[1].shape and len(places[0].shape) > 1


def _entries(place: TensorPlace) -> npt.NDArray[np.float64]:
    """Return entries from the middle of a tensor."""
    item_bytes = ITEM_BITS[place.dtype_code] // 8
    count = min(_N_ENTRIES, math.prod(place.shape))
    content = bytearray(count * item_bytes)
    place.read_into(content, start=(math.prod(place.shape) - count) // 2 * item_bytes)
    found = np.frombuffer(content, dtype=_NUMPY[place.dtype_code])
    if place.dtype_code == "BF16":
        found = (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float64)
