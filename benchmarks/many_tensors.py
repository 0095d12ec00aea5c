"""The time of a merge per tensor: a mixture of experts whose experts lie one by one on disk, against few large tensors.

    python benchmarks/many_tensors.py [--experts 128] [--blocks 12] [--method dare_ties] [--rescale l1]

Writes checkpoints of random numbers (no published weights) to a temporary folder: one of many small tensors and one
with about the same bytes in few. Both are merged twice with each number of threads; the second time counts.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from evovlm.merging.writer import write_checkpoint
from evovlm.recipes.model_ref import ModelRef
from evovlm.recipes.recipe import MergeSettings, ParameterMerge, Rescale
from evovlm.recipes.source_values import SourceParameters

HIDDEN, INNER, ROWS = 64, 32, 512


def shapes(n_blocks: int, n_experts: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Qwen3-MoE with experts one by one; of a Qwen3 with as many bytes for 0 experts."""
    inner = INNER * 128 if not n_experts else INNER
    block: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
        "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "self_attn.q_norm": (16,),
        "self_attn.k_norm": (16,),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    places = [f"mlp.experts.{expert}" for expert in range(n_experts)] or ["mlp"]
    for place in places:
        block |= {f"{place}.gate_proj": (inner, HIDDEN), f"{place}.up_proj": (inner, HIDDEN)}
        block[f"{place}.down_proj"] = (HIDDEN, inner)
    if n_experts:
        block["mlp.gate"] = (n_experts, HIDDEN)
    found = {f"model.layers.{n}.{name}.weight": shape for n in range(n_blocks) for name, shape in block.items()}
    return {
        "model.embed_tokens.weight": (ROWS, HIDDEN),
        **found,
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (ROWS, HIDDEN),
    }


def write_model(folder: Path, *, n_blocks: int, n_experts: int, seed: int) -> Path:
    """Write a checkpoint of random bfloat16 numbers."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=generator).mul_(0.02).bfloat16()
        for name, shape in shapes(n_blocks, n_experts).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    experts: Mapping[str, object] = {
        "num_experts": n_experts,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": INNER,
        "decoder_sparse_step": 1,
    }
    config = {
        "model_type": "qwen3_moe" if n_experts else "qwen3",
        "architectures": ["Qwen3MoeForCausalLM" if n_experts else "Qwen3ForCausalLM"],
        "num_hidden_layers": n_blocks,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER * 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": ROWS,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        **(experts if n_experts else {}),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def recipe_of(folder: Path, method: str, rescale: Rescale) -> ParameterMerge:
    """Return a merge of two sources over a base."""
    dropping = method.startswith(("dare", "della"))
    return ParameterMerge(
        host=ModelRef(text=str(folder / "base")),
        base=ModelRef(text=str(folder / "base")),
        sources={name: ModelRef(text=str(folder / name)) for name in ("a", "b")},
        method=method,
        settings=MergeSettings(rescale=rescale) if dropping else MergeSettings(),
        parameters={name: SourceParameters(weight=0.5, density=0.5 if dropping else 1.0) for name in ("a", "b")},
    )


def seconds(recipe: ParameterMerge, out: Path) -> float:
    """Return the time of the second of two merges."""
    for _ in range(2):
        began = time.perf_counter()
        write_checkpoint(recipe, out, overwrite=out.exists())
        last = time.perf_counter() - began
    return last


def main() -> None:
    """Print a line for each form of the checkpoint and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--method", default="dare_ties")
    parser.add_argument("--rescale", default="density")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for n_experts in (options.experts, 0):
            folder = Path(temporary) / str(n_experts)
            for seed, name in enumerate(("base", "a", "b")):
                write_model(folder / name, n_blocks=options.blocks, n_experts=n_experts, seed=seed)
            names = shapes(options.blocks, n_experts)
            size = sum(2 * int(np.prod(shape)) for shape in names.values())
            for threads in (1, os.cpu_count() or 1):
                os.environ["OMP_NUM_THREADS"] = str(threads)
                took = seconds(recipe_of(folder, options.method, options.rescale), folder / "out")
                print(
                    f"{len(names)} tensors, {size / 1e6:.0f} MB, {threads} threads: {took:.2f} s, "
                    f"{1000 * took / len(names):.3f} ms a tensor"
                )


if __name__ == "__main__":
    main()
