"""The tensors of a loaded model under the names that they have in its files, as views of the model's own memory.

transformers renames tensors while it loads them, and joins the experts of a mixture into one tensor. Its own way back,
which `save_pretrained` takes, is applied to the parameters without copying them: writing into a view changes the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from evovlm.errors import UnknownArchitecture


class _View(Tensor):
    """A tensor that stays a view where transformers would make its parts contiguous, and so copy them."""

    def contiguous(self, *_args: Any, **_options: Any) -> "_View":
        return self


def stored_views(model: Any) -> Mapping[str, Tensor]:
    """Return every parameter and buffer of a model that is stored, by its name in the model's files.

    A tensor whose numbers transformers rearranges in a way that no view can follow is left out.
    """
    own = {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}
    memory = {tensor.untyped_storage().data_ptr() for tensor in own.values()}
    with torch.no_grad():
        stored = revert_weight_conversion(model, {name: tensor.as_subclass(_View) for name, tensor in own.items()})
    views = {name: tensor.as_subclass(Tensor) for name, tensor in stored.items()}
    return {name: view for name, view in views.items() if view.untyped_storage().data_ptr() in memory}


def find_parameters(
    model: Any, names: Mapping[str, str], *, shapes: Mapping[str, Sequence[int]]
) -> Mapping[str, Tensor]:
    """Return a view of the model's memory for each of `names`, which maps any key to a name in the model's files.

    Files may also have the names that the parameters have in memory, or in the model without its head. `shapes` are
    those in the files, by the same keys; only the number of rows may differ. Raises UnknownArchitecture for a tensor
    that the model does not have, or not as a view of the same form.
    """
    views = {**model.state_dict(keep_vars=True), **stored_views(model)}
    head = _own_head(model)
    found = {}
    for key, name in names.items():
        inside = views.get(f"{model.base_model_prefix}.{name}", head if name.endswith("lm_head.weight") else None)
        view = _as_stored(views.get(name, inside), shapes[key])
        if view is None:
            raise UnknownArchitecture(
                f"{type(model).__name__} does not keep {name} in memory as it is stored, so that nothing can be merged "
                "into it there.\n    `evovlm merge` writes such models; `evovlm score` then takes the result."
            )
        found[key] = view.detach()
    return found


def _as_stored(view: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """Return a view in the form of the file, None where it has another one.

    transformers exchanges the last two dimensions of experts (Qwen3-VL-MoE) only where their sizes say so.
    """
    if view is None:
        return None
    if view.shape[1:] != tuple(shape[1:]) and view.dim() == 3 and view.mT.shape == tuple(shape):
        view = view.mT
    return view if view.shape[1:] == tuple(shape[1:]) and (view.is_contiguous() or view.dim() in (2, 3)) else None


def _own_head(model: Any) -> Tensor | None:
    head = model.get_output_embeddings()
    return None if head is None else head.weight
