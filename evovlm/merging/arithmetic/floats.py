"""Numbers as a checkpoint stores them, and as float32 to calculate with."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from evovlm.merging.arithmetic import kernels

Raw = npt.NDArray[np.uint16] | npt.NDArray[np.float16] | npt.NDArray[np.float32] | npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32]

STORED: Mapping[str, np.dtype[np.generic]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
"""How numpy holds the plain floats of safetensors; bfloat16, which it does not have, as its 16 bits."""


def widen(raw: Raw, out: Vector) -> None:
    """Write stored numbers into `out` as float32 (float64 is rounded)."""
    if raw.dtype == np.uint16:
        kernels.widen_bfloat16(raw, out)
    else:
        np.copyto(out, raw, casting="same_kind")


def narrow(vector: Vector, out: Raw) -> None:
    """Write float32 numbers into `out` as it stores them, rounded to the nearest, ties to even; may become infinite."""
    if out.dtype == np.uint16:
        kernels.narrow_bfloat16(vector, out)
    else:
        np.copyto(out, vector, casting="same_kind")
