"""A path through the blocks of several models, run as one transformers model without copying a weight.

Every hop is a block of the host's own class and settings with another block's parameters and its own entry in the
key/value cache. So it computes what the path's checkpoint will, and everything that takes the host's model (greedy
decoding, `generate` with beams, left padding, sliding windows, pictures) takes the path.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evovlm.errors import ConfigError, IncompatibleModels
from evovlm.models.backbone import Backbone
from evovlm.models.loading import LoadedModel
from evovlm.recipes.families import FULL_ATTENTION, MEANING_OF_SHAPES, SLIDING_ATTENTION
from evovlm.recipes.language_config import n_deepstack_blocks
from evovlm.recipes.layer_path import LayerPath, LayerStep, ScaleTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """One block of a source: its parameters by name (shared by all hops through it), and what it attends to."""

    parameters: Mapping[str, nn.Parameter]
    attends: str


class LayerStack:
    """A host whose blocks are those of a path: `take` a path, then use `loaded` as any model.

    Only the blocks of the sources are kept, in the host's dtype and on its device; they are first rounded to `stored`,
    the dtype of the host's checkpoint, as their copies in a checkpoint would be.
    Raises IncompatibleModels when a source's blocks do not have the host's tensors and heads.
    """

    def __init__(
        self, host: LoadedModel, sources: Mapping[str, LoadedModel], *, stored: torch.dtype | None = None
    ) -> None:
        self.loaded = host
        self._decoder = Backbone.of(host).decoder
        self._block_class = type(self._decoder.layers[0])
        self._shapes = {name: tensor.shape for name, tensor in self._decoder.layers[0].named_parameters()}
        self._rounding = stored
        done: dict[int, tuple[_Block, ...]] = {}
        for name, source in sources.items():
            if id(source) not in done:
                done[id(source)] = self._blocks_of(name, source)
        self._blocks = {name: done[id(source)] for name, source in sources.items()}

    def count_blocks(self, source: str) -> int:
        """Return how many blocks a source has."""
        return len(self._blocks[source])

    @torch.no_grad()
    def take(self, path: LayerPath, scale_target: ScaleTarget) -> None:
        """Make the path's blocks the model's blocks, and apply its scales; no weights are moved.

        What a vision encoder adds after certain blocks (Qwen3-VL) it adds after as many hops. Raises ConfigError when
        the path names a source or a block that does not exist, or has fewer hops than that.
        """
        self._check(path)
        self._set_config([self._blocks[step.source][step.layer].attends for step in path.steps])
        hops = [self._hop(number, step) for number, step in enumerate(path.steps)]
        _add_scales(hops, path, scale_target)
        self._decoder.layers = nn.ModuleList(hops)

    def _check(self, path: LayerPath) -> None:
        path.check_sources(self._blocks)
        for number, step in enumerate(path.steps):
            if step.layer >= self.count_blocks(step.source):
                raise ConfigError(
                    f"path[{number}]: '{step.source}' has {self.count_blocks(step.source)} blocks and no block "
                    f"{step.layer}."
                )
        n_added = n_deepstack_blocks(self.loaded.model.config.to_dict())
        if len(path) < n_added:
            raise ConfigError(
                f"path: {len(path)} hops, but the host's vision encoder adds to the stream after the first {n_added}."
            )

    def _hop(self, number: int, step: LayerStep) -> nn.Module:
        # Built without memory by the host's own class, so that everything that depends on the block's number is right.
        with torch.device("meta"):
            hop: nn.Module = self._block_class(self._decoder.config, number)
        hop.load_state_dict(self._blocks[step.source][step.layer].parameters, assign=True)
        return hop.eval()

    def _set_config(self, attends: list[str]) -> None:
        config, decoder = self._decoder.config, self._decoder
        config.num_hidden_layers = len(attends)
        if getattr(config, "layer_types", None) is None:
            return
        config.layer_types = attends
        if hasattr(decoder, "has_sliding_layers"):
            decoder.has_sliding_layers = SLIDING_ATTENTION in attends

    def _blocks_of(self, name: str, source: LoadedModel) -> tuple[_Block, ...]:
        decoder = Backbone.of(source).decoder
        self._check_heads(name, source, decoder)
        types = [self._attends(decoder.config, layer) for layer in range(len(decoder.layers))]
        blocks = []
        for layer, block in enumerate(decoder.layers):
            self._check_shapes(name, source, layer, block)
            parameters = dict(block.named_parameters())
            if source is not self.loaded:
                parameters = {name: self._rounded(parameter) for name, parameter in parameters.items()}
            blocks.append(_Block(parameters=parameters, attends=types[layer]))
        rotary = getattr(self._decoder, "rotary_emb", None)
        if unknown := set(types) - set(getattr(rotary, "layer_types", types)):
            raise IncompatibleModels(
                f"sources.{name} ('{source.folder}') has blocks of {', '.join(sorted(unknown))}, and the host "
                f"'{self.loaded.folder}' does not; it cannot compute their positions."
            )
        return tuple(blocks)

    def _attends(self, config: Any, layer: int) -> str:
        """Return what a block attends to in the host: as in its own model, if the host has a window."""
        if getattr(self._decoder.config, "sliding_window", None) is None:
            return FULL_ATTENTION
        types = getattr(config, "layer_types", None)
        if types is not None:
            return str(types[layer])
        return FULL_ATTENTION if getattr(config, "sliding_window", None) is None else SLIDING_ATTENTION

    def _check_heads(self, name: str, source: LoadedModel, decoder: Any) -> None:
        for key in MEANING_OF_SHAPES:
            theirs, ours = getattr(decoder.config, key, None), getattr(self._decoder.config, key, None)
            if theirs is not None and ours is not None and theirs != ours:
                raise IncompatibleModels(
                    f"{key} is {theirs} in sources.{name} ('{source.folder}') and {ours} in the host "
                    f"'{self.loaded.folder}'; a path needs blocks of one shape."
                )

    def _check_shapes(self, name: str, source: LoadedModel, layer: int, block: nn.Module) -> None:
        shapes = {each: tensor.shape for each, tensor in block.named_parameters()}
        for tensor in sorted({*shapes, *self._shapes}):
            theirs, ours = shapes.get(tensor), self._shapes.get(tensor)
            if theirs != ours:
                raise IncompatibleModels(
                    f"{tensor} of block {layer} {_shown(theirs)} in sources.{name} ('{source.folder}') and "
                    f"{_shown(ours)} in the host '{self.loaded.folder}'; a path needs blocks of one shape."
                )

    def _rounded(self, parameter: nn.Parameter) -> nn.Parameter:
        """Return another model's parameter in the host's dtype and on its device; unchanged if nothing differs."""
        like = Backbone.of(self.loaded).embedding.weight
        stored = parameter.detach() if self._rounding is None else parameter.detach().to(self._rounding)
        return nn.Parameter(stored.to(device=like.device, dtype=like.dtype), requires_grad=False)


def _add_scales(hops: list[nn.Module], path: LayerPath, scale_target: ScaleTarget) -> None:
    for number, step in enumerate(path.steps):
        if step.scale == 1.0:
            continue
        if scale_target == "stream" or number == 0:
            # Before the first block, the pending output is the embedding, which is the whole stream.
            hops[number].register_forward_pre_hook(_scale_input(step.scale))
        else:
            _mlp_branch(hops[number - 1]).register_forward_hook(_scale_output(step.scale))


def _mlp_branch(hop: nn.Module) -> nn.Module:
    """Return the module whose output a block adds to the stream at its end."""
    branch: nn.Module = getattr(hop, "post_feedforward_layernorm", None) or hop.get_submodule("mlp")
    return branch


def _scale_input(scale: float) -> Any:
    def scaled(_module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (given[0] * scale, *given[1:])

    return scaled


def _scale_output(scale: float) -> Any:
    def scaled(_module: nn.Module, _given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * scale

    return scaled


def _shown(shape: torch.Size | None) -> str:
    return "is missing" if shape is None else f"is {' x '.join(map(str, shape))}"
