"""Real adapters of pico models, made with peft."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def pico_adapter(folder: Path, base: Path, *, sees: bool = False, seed: int = 0, **settings: Any) -> Path:
    """Save an adapter of a model with random trained numbers into `folder`; return the folder."""
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": list(PROJECTIONS), **settings})
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft warns of tied weights and of embeddings that it saves whole.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(auto.from_pretrained(base, dtype=torch.float32), config)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
            elif parameter.requires_grad:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        model.save_pretrained(folder)
    return folder


def adapted_by_peft(base: Path, adapter: Path, *, sees: bool = False) -> Any:
    """Return the base with its adapter, as peft loads it, in float32."""
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(auto.from_pretrained(base, dtype=torch.float32), adapter).eval()


def merged_by_peft(base: Path, adapter: Path, *, sees: bool = False) -> Any:
    """Return the base with its adapter merged into the weights by peft, in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return adapted_by_peft(base, adapter, sees=sees).merge_and_unload()
