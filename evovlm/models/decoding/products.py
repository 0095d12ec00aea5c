"""Products of a pass with weights that oneDNN has packed once, in the order in which a CPU reads them.

torch's own product packs a part of the weights again in each pass, which takes as long as the product of some 16 rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from evovlm.models.answer_memory import packs_weights
from evovlm.models.backbone import Backbone

_LEAST_NUMBERS = 2**18
"""Smaller matrices stay in a core's cache, where packing them saves less time than it takes."""


@contextmanager
def packed_products(backbone: Backbone) -> Iterator[None]:
    """Let the decoder's and the head's large linear layers compute with packed copies of the weights they have now.

    On a CPU, in float32, where the copies do not take too much memory (see `packs_weights`); elsewhere nothing changes.
    """
    layers = _packable(backbone)
    numbers = sum(layer.weight.numel() for layer in layers)
    if not packs_weights(numbers * torch.float32.itemsize):
        layers = []
    try:
        for layer in layers:
            layer.forward = _product(layer)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _packable(backbone: Backbone) -> list[nn.Linear]:
    """Return the large linear layers whose forward pass is torch's own."""
    if not torch._C._has_mkldnn or "AVX" not in torch.backends.cpu.get_cpu_capability():
        # On other CPUs it was not tried.
        return []
    found = {id(module): module for module in (*backbone.decoder.modules(), backbone.head)}
    return [
        module
        for module in found.values()
        if type(module) is nn.Linear and "forward" not in module.__dict__ and _is_large(module.weight)
    ]


def _is_large(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= _LEAST_NUMBERS


def _product(layer: nn.Linear) -> Callable[..., Tensor]:
    with torch.inference_mode():
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight)
    bias, multiply = layer.bias, torch.ops.mkldnn._linear_pointwise

    def forward(states: Tensor) -> Tensor:
        product: Tensor = multiply(states, packed, bias, "none", [], "")
        return product

    return forward
