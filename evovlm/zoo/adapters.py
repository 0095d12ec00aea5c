"""Extract LoRA adapters (Hu et al. 2022) from the embedded fine-tunes, in peft's format.

For each linear layer of the blocks, the difference of the fine-tune's weight and the ancestor's is replaced by the
nearest matrix of a low rank (Eckart and Young 1936): the first singular vectors, each factor with the root of the
singular values. Embedding, head and norms stay the ancestor's, as in most adapters.
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evovlm.recipes.checkpoint_files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, SINGLE_FILE

RANK = 16
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_WEIGHT = re.compile(rf"(?P<module>.+\.({'|'.join(_TARGETS)}))\.weight")


def extract_adapter(fine_tune: Path, folder: Path, *, base: Path, base_name: str) -> None:
    """Write the adapter of `base` (called `base_name` in its settings) that comes nearest to a fine-tune of it.

    `folder` may exist. The factors are stored in bfloat16.
    """
    before, after = load_file(base / SINGLE_FILE), load_file(fine_tune / SINGLE_FILE)
    tensors: dict[str, Tensor] = {}
    for name, weight in sorted(after.items()):
        match = _WEIGHT.fullmatch(name)
        if match is not None:
            first, second = _factors(weight.double() - before[name].double())
            prefix = f"base_model.model.{match['module']}"
            tensors |= {f"{prefix}.lora_A.weight": first, f"{prefix}.lora_B.weight": second}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    settings = {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": RANK,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": list(_TARGETS),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _factors(change: Tensor) -> tuple[Tensor, Tensor]:
    """Return A (rank, in) and B (out, rank), whose product B A is the nearest to `change` (out, in; float64)."""
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    # The signs of singular vectors are arbitrary: the largest entry of each left one is made positive.
    largest = left.abs().argmax(dim=0)
    signs = torch.sign(left.gather(0, largest[None]))
    roots = values[:RANK].sqrt()
    first = (signs[0, :RANK] * roots)[:, None] * right[:RANK]
    second = left[:, :RANK] * signs[:, :RANK] * roots
    return first.to(torch.bfloat16).contiguous(), second.to(torch.bfloat16).contiguous()
