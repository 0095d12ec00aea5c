"""Models of real sizes whose weights take no disk: config, tokenizer, and a header in front of a hole of zeros."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.pico import pico_tokenizer

# As the models' config.json on the hub say.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "Qwen2.5-1.5B": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "Mistral-7B-v0.1": {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
    "Qwen2.5-14B": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "Qwen2.5-32B": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
    "Qwen3-30B-A3B": {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
}
_LENGTH_BYTES = 8
_BFLOAT16_BYTES = 2


def sparse_model(folder: Path, config: Mapping[str, Any]) -> Path:
    """Make a folder of a model in bfloat16 with all its tensors, which are zeros that take no disk."""
    folder.mkdir(parents=True)
    own = {"dtype": "bfloat16", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps({**own, "bos_token_id": 1, "eos_token_id": 2, **config}))
    pico_tokenizer().save_pretrained(folder)
    header, end = {}, 0
    for name, shape in shapes(config):
        start, end = end, end + _BFLOAT16_BYTES * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
    os.truncate(folder / "model.safetensors", _LENGTH_BYTES + len(text) + end)
    return folder


def shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of each tensor of a Mistral, Qwen2 or Qwen3-MoE."""
    hidden, head = (
        config["hidden_size"],
        config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
    )
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)
    for number in range(config["num_hidden_layers"]):
        block = f"model.layers.{number}"
        yield f"{block}.input_layernorm.weight", (hidden,)
        yield f"{block}.post_attention_layernorm.weight", (hidden,)
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{block}.self_attn.{name}_proj.weight", (rows, hidden)
            if config["model_type"] == "qwen2":
                yield f"{block}.self_attn.{name}_proj.bias", (rows,)
        yield f"{block}.self_attn.o_proj.weight", (hidden, queries)
        if config["model_type"] == "qwen3_moe":
            yield f"{block}.self_attn.q_norm.weight", (head,)
            yield f"{block}.self_attn.k_norm.weight", (head,)
            yield f"{block}.mlp.gate.weight", (config["num_experts"], hidden)
            for expert in range(config["num_experts"]):
                yield from _feed_forward(f"{block}.mlp.experts.{expert}", hidden, config["moe_intermediate_size"])
        else:
            yield from _feed_forward(f"{block}.mlp", hidden, config["intermediate_size"])


def _feed_forward(start: str, hidden: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{start}.gate_proj.weight", (width, hidden)
    yield f"{start}.up_proj.weight", (width, hidden)
    yield f"{start}.down_proj.weight", (hidden, width)


def count_weights(config: Mapping[str, Any], *, active: bool = False) -> int:
    """Return the number of weights, with `active` those that one token uses: of the experts, the chosen ones."""
    total = sum(math.prod(shape) for _, shape in shapes(config))
    if not active or "num_experts" not in config:
        return total
    unused = config["num_experts"] - config["num_experts_per_tok"]
    each = sum(
        math.prod(shape) for _, shape in _feed_forward("", config["hidden_size"], config["moe_intermediate_size"])
    )
    return total - config["num_hidden_layers"] * unused * each
