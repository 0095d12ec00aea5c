"""Slow twin of a path through layers: loops over tokens and heads in float64, written from the sources.

`stream` is arXiv 2403.13187, section 3.2: what flows into a block is scaled as a whole. `pending` is the deferred
residual form of the released EvoLLM-JP-v1-10B (its modelling file on the Hub, and the fork of vLLM that serves it): a
block is handed what the one before has not yet added to the residual stream, and the scale multiplies that alone.
The blocks are those of Llama, Mistral, Qwen2, Qwen3 and Gemma 1 to 3, told apart by what their weights and config hold.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]


def path_logits(
    host: Weights,
    sources: Mapping[str, Weights],
    config: Any,
    path: Sequence[tuple[str, int, float]],
    target: str,
    *,
    kinds: Sequence[str],
    tokens: Sequence[int],
) -> Array:
    """Return the logits (tokens, rows) of a path; weights by their names in a text LLM, `kinds` by hop."""
    embedding = host["model.embed_tokens.weight"]
    factor = math.sqrt(config.hidden_size) if config.model_type.startswith("gemma") else 1.0
    pending = np.stack([embedding[token] * factor for token in tokens])
    residual = np.zeros_like(pending)
    for (name, layer, scale), kind in zip(path, kinds, strict=True):
        block = _Block(sources[name], f"model.layers.{layer}.", config, kind)
        if target == "pending":
            residual, pending = block.run(residual + scale * pending)
        else:
            residual, pending = block.run(scale * (residual + pending))
    states = np.stack([_norm(row, host["model.norm.weight"], config) for row in residual + pending])
    logits = states @ host.get("lm_head.weight", embedding).T
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * np.tanh(logits / cap) if cap else logits


def _norm(row: Array, weight: Array, config: Any) -> Array:
    factor = 1.0 + weight if config.model_type.startswith("gemma") else weight
    return row / math.sqrt(float((row * row).mean()) + config.rms_norm_eps) * factor


class _Block:
    def __init__(self, weights: Weights, prefix: str, config: Any, kind: str) -> None:
        self.weights, self.prefix, self.config = weights, prefix, config
        self.is_sliding = kind == "sliding_attention"

    def run(self, stream: Array) -> tuple[Array, Array]:
        """Return the stream after the attention, and what the MLP would add to it."""
        has_post_norms = self._has("pre_feedforward_layernorm.weight")
        attended = self._attention(self._normed(stream, "input_layernorm"))
        if has_post_norms:
            attended = self._normed(attended, "post_attention_layernorm")
        stream = stream + attended
        before = "pre_feedforward_layernorm" if has_post_norms else "post_attention_layernorm"
        added = self._mlp(self._normed(stream, before))
        return stream, self._normed(added, "post_feedforward_layernorm") if has_post_norms else added

    def _has(self, name: str) -> bool:
        return self.prefix + name in self.weights

    def _get(self, name: str) -> Array:
        return self.weights[self.prefix + name]

    def _normed(self, rows: Array, name: str) -> Array:
        return np.stack([_norm(row, self._get(f"{name}.weight"), self.config) for row in rows])

    def _linear(self, rows: Array, name: str) -> Array:
        found = rows @ self._get(f"{name}.weight").T
        return found + self._get(f"{name}.bias") if self._has(f"{name}.bias") else found

    def _mlp(self, rows: Array) -> Array:
        gate = self._linear(rows, "mlp.gate_proj")
        if self.config.model_type.startswith("gemma"):
            gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        return self._linear(gate * self._linear(rows, "mlp.up_proj"), "mlp.down_proj")

    def _attention(self, rows: Array) -> Array:
        config = self.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        queries = self._heads(rows, "q", heads, size)
        keys, values = self._heads(rows, "k", groups, size), self._heads(rows, "v", groups, size)
        scale = (getattr(config, "query_pre_attn_scalar", None) or size) ** -0.5
        cap = getattr(config, "attn_logit_softcapping", None)
        window = config.sliding_window if self.is_sliding else None
        out = np.zeros((len(rows), heads, size))
        for place in range(len(rows)):
            first = 0 if window is None else max(0, place - window + 1)
            for head in range(heads):
                group = head * groups // heads
                scores = np.array([queries[place, head] @ keys[past, group] for past in range(first, place + 1)])
                scores = cap * np.tanh(scores * scale / cap) if cap else scores * scale
                shares = np.exp(scores - scores.max())
                out[place, head] = shares @ values[first : place + 1, group] / shares.sum()
        return self._linear(out.reshape(len(rows), -1), "self_attn.o_proj")

    def _heads(self, rows: Array, kind: str, count: int, size: int) -> Array:
        found = self._linear(rows, f"self_attn.{kind}_proj").reshape(len(rows), count, size)
        norm = f"self_attn.{kind}_norm.weight"
        for place in range(len(rows)):
            for head in range(count):
                if self._has(norm):
                    found[place, head] = _norm(found[place, head], self._get(norm), self.config)
                if kind != "v":
                    found[place, head] = self._turned(found[place, head], place)
        return found

    def _turned(self, vector: Array, place: int) -> Array:
        rope = self.config.rope_parameters
        rope = rope.get("sliding_attention" if self.is_sliding else "full_attention", rope)
        half = len(vector) // 2
        turned = vector.copy()
        for pair in range(half):
            angle = place / rope["rope_theta"] ** (pair / half)
            left, right = vector[pair], vector[pair + half]
            turned[pair] = left * math.cos(angle) - right * math.sin(angle)
            turned[pair + half] = right * math.cos(angle) + left * math.sin(angle)
        return turned
