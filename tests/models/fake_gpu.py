"""A GPU without a GPU: tensors on `cuda` have shapes and a device but no numbers, and those on the CPU are real.

An operation between the two devices raises, and so does whatever would wait for the GPU to read a number. Only numbers
that are known beforehand can be read: whole numbers that were made from other whole numbers, such as the sizes of
pictures. How often that happens is counted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 1)
"""Not the current device, which is 0: what is put there by mistake does not fit."""

_MOST_KNOWN = 4096
_WHOLE = (torch.int64, torch.int32, torch.bool)


class FakeGpu(FakeTensorMode):
    """The fake tensors of torch's compiler, on a GPU only, with whole numbers that are known."""

    n_read = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = (args, dict(kwargs or {}))
        leaves = tree_leaves(given)
        to_gpu = any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves)
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not to_gpu and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return func(*args, **given[1])
        if not all(_is_known(tensor) or (to_gpu and _is_small(tensor)) for tensor in tensors):
            return super().__torch_dispatch__(func, types, args, given[1])
        args, kwargs = tree_map(_real, given)
        found = func(*args, **kwargs)
        self.n_read += _reads(func, tensors[1:])
        return tree_map(self._on_gpu, found)

    def _on_gpu(self, found: Any) -> Any:
        if not isinstance(found, torch.Tensor):
            return found
        shaped = torch.empty_strided(found.shape, found.stride(), dtype=found.dtype, device="meta")
        fake = FakeTensor(self, shaped, GPU)
        if _is_small(found):
            fake.known = found  # type: ignore[attr-defined]
        return fake


def _reads(func: Any, indices: Sequence[torch.Tensor]) -> bool:
    """Return whether the host must read numbers of the GPU for an operation; `indices` are its other tensors."""
    if "index" in func.__name__:
        return any(index.dtype == torch.bool for index in indices)
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


def _is_known(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and hasattr(tensor, "known")


def _is_small(tensor: torch.Tensor) -> bool:
    is_real = not isinstance(tensor, FakeTensor)
    return is_real and tensor.dtype in _WHOLE and tensor.numel() <= _MOST_KNOWN


def _real(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.known if isinstance(leaf, FakeTensor) else leaf  # type: ignore[attr-defined]


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Let tensors on `cuda` be fake. Inference mode must be off: it would look for the driver."""
    with FakeGpu(allow_non_fake_inputs=True) as mode, torch.no_grad():
        yield mode
