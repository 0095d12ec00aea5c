"""The blocks of Llama and of models built like it, computed to the same bits as by transformers, in fewer steps.

In a small model on a CPU, the calls of transformers' modules and the copies of states between them take a fifth of the
time. Here a block works in place, and the last block leaves out all but the keys and values of tokens whose states are
not asked for. (With widths that are not multiples of 32, torch's activations round the last numbers of a pass in
another way, which may differ between the two.)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evovlm.models.backbone import Backbone
from evovlm.models.decoding.packed import Pass, attend
from evovlm.models.decoding.row_attention import rotate
from evovlm.models.decoding.slots import Rule

_DECODER = {"embed_tokens", "layers", "norm", "rotary_emb"}
_PARTS = {
    "": {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"},
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}
_WINDOWS = ("sliding_window", "attention_chunk_size")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlainBlocks:
    """The blocks of a decoder that has the parts of Llama's, and its last norm."""

    decoder: Any

    @classmethod
    def of(cls, backbone: Backbone) -> "PlainBlocks | None":
        """Return the blocks; None for a decoder with other parts, hooks, windows, or not in float32 on a CPU.

        Whether blocks with these parts compute what Llama's do is for a trial to find out.
        """
        decoder, weight = backbone.decoder, backbone.embedding.weight
        fits = (
            weight.device.type == "cpu"
            and weight.dtype == torch.float32
            and _has_parts(decoder, _DECODER)
            and all(getattr(decoder.config, name, None) is None for name in _WINDOWS)
            and all(
                _has_parts(block.get_submodule(at), names) for block in decoder.layers for at, names in _PARTS.items()
            )
            and not any(each._forward_hooks or each._forward_pre_hooks for each in decoder.modules())
        )
        return cls(decoder=decoder) if fits else None

    def states(self, embeddings: Tensor, positions: Tensor, *, this: Pass, ends: Tensor) -> Tensor:
        """Return the last hidden states of the tokens numbered `ends`, (ends, hidden), as `forward` computes them.

        `embeddings`, (tokens, hidden), are overwritten.
        """
        states, blocks = embeddings, self.decoder.layers
        cosines, sines = (each[0].numpy() for each in self.decoder.rotary_emb(states, positions[None]))
        for block in blocks:
            attention, mlp = block.self_attn, block.mlp
            normed = block.input_layernorm.forward(states)
            queries, keys, values = (
                each.forward(normed).view(len(normed), -1, attention.head_dim)
                for each in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            rotate(queries.numpy(), keys.numpy(), cosines, sines)
            rule = Rule(scale=attention.scaling)
            found = attend(this, attention.layer_idx, queries, keys, values, rule=rule).flatten(1)
            if block is blocks[-1]:
                states, found = states[ends], found[ends]
            states += attention.o_proj.forward(found)
            normed = block.post_attention_layernorm.forward(states)
            gated = mlp.act_fn.forward(mlp.gate_proj.forward(normed))
            gated *= mlp.up_proj.forward(normed)
            states += mlp.down_proj.forward(gated)
        last: Tensor = self.decoder.norm.forward(states)
        return last


def _has_parts(module: nn.Module, names: set[str]) -> bool:
    return module._modules.keys() == names
