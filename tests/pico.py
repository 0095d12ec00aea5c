# ruff: noqa: S106 (the "passwords" are tokens of a tokenizer)
"""Pico checkpoints: real transformers architectures with real tokenizers, a few thousand weights, saved to a folder.

base = pico_llm(tmp_path / "base")
math = pico_llm(tmp_path / "math", like=base, seed=1)      # a "fine-tune" of base
vlm = pico_vlm(tmp_path / "vlm", like=base, seed=2)        # its backbone is a "fine-tune" of base, with more rows
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.pico_families import HIDDEN, IMAGE_TOKEN, PATCH_SIZE, PICTURE_SIZE, VLM_PICOS, text_config

__all__ = [
    "HIDDEN",
    "IMAGE_TOKEN",
    "PATCH_SIZE",
    "PICTURE_SIZE",
    "pico_llm",
    "pico_text_config",
    "pico_tokenizer",
    "pico_vlm",
]

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
ASCII = "".join(chr(code) for code in range(0x21, 0x7F))
KANA = "".join(chr(code) for code in (*range(0x3041, 0x3094), *range(0x30A1, 0x30F7)))
JAPANESE = KANA + "。、ー一二三四五六七八九十百円個人時分何答問題合計残"


def pico_tokenizer(further: Mapping[str, str] | None = None) -> PreTrainedTokenizerFast:
    """Return a character tokenizer with byte fallback that can encode and decode any text; it adds <s> in front.

    `further` maps attributes of the tokenizer to special tokens that it takes on, in this order.
    """
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "\n", *ASCII, *JAPANESE]
    vocabulary = {token: row for row, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=dict(further or {}),
    )


def pico_text_config(
    *,
    vocab_rows: int,
    n_blocks: int = 2,
    tie: bool = False,
    rope_theta: float = 10000.0,
    sliding_window: int | None = None,
    family: str = "mistral",
) -> PreTrainedConfig:
    """Return the config of a language model with hidden size 32, 4 heads and 2 key-value heads."""
    return text_config(
        family,
        vocab_rows=vocab_rows,
        n_blocks=n_blocks,
        tie=tie,
        rope_theta=rope_theta,
        sliding_window=sliding_window,
    )


def pico_llm(
    folder: Path,
    *,
    family: str = "mistral",
    seed: int = 0,
    n_blocks: int = 2,
    vocab_rows: int | None = None,
    like: Path | None = None,
    drift: float = 0.02,
    tie: bool = False,
    dtype: torch.dtype = torch.float32,
    rope_theta: float = 10000.0,
    sliding_window: int | None = None,
    max_shard_size: str = "5GB",
) -> Path:
    """Save a pico LLM (a Mistral, or another row of TEXT_PICOS) with its tokenizer into `folder`; return the folder.

    `like` names another pico LLM folder: its weights plus normal noise of standard deviation `drift` (drawn from
    `seed`) are saved, and rows that it lacks are drawn anew. `vocab_rows` is the number of embedding rows; without
    it, the tokenizer's length.
    """
    tokenizer = pico_tokenizer()
    config = pico_text_config(
        family=family,
        vocab_rows=vocab_rows or len(tokenizer),
        n_blocks=n_blocks,
        tie=tie,
        rope_theta=rope_theta,
        sliding_window=sliding_window,
    )
    model = _with_seed(AutoModelForCausalLM, config, seed)
    if like is not None:
        ancestor = AutoModelForCausalLM.from_pretrained(like, dtype=torch.float32)
        _take_weights(model, ancestor.state_dict(), drift=drift, seed=seed)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    return folder


def pico_vlm(
    folder: Path,
    *,
    family: str = "llava",
    text: str | None = None,
    seed: int = 0,
    n_blocks: int = 2,
    extra_rows: int = 5,
    like: Path | None = None,
    drift: float = 0.02,
    tie: bool = False,
    dtype: torch.dtype = torch.float32,
    rope_theta: float = 10000.0,
    sliding_window: int | None = None,
    max_shard_size: str = "5GB",
    hub_naming: bool = True,
) -> Path:
    """Save a pico VLM (a LLaVA on a Mistral, or another row of VLM_PICOS) with its processor; return the folder.

    Its tokenizer is `pico_tokenizer` plus the family's tokens; its embedding has `extra_rows` rows more than that of
    `pico_llm`. `text` is its language model's row of TEXT_PICOS, if not the usual one. `like` names a pico LLM (the
    backbone is its weights plus noise, see `pico_llm`) or a pico VLM (all weights are). Tensors are named as on the
    hub, or as in memory.
    """
    row = VLM_PICOS[family]
    tokenizer = pico_tokenizer()
    llm_rows = len(tokenizer)
    config = pico_text_config(
        family=text or row.text,
        vocab_rows=llm_rows + extra_rows,
        n_blocks=n_blocks,
        tie=tie,
        rope_theta=rope_theta,
        sliding_window=sliding_window,
    )
    model = _with_seed(AutoModelForImageTextToText, row.config(family, config, first_row=llm_rows), seed)
    if like is not None:
        _take_weights(model, _weights_for_vlm(like), drift=drift, seed=seed)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size, save_original_format=hub_naming)
    row.processor(pico_tokenizer(row.tokens)).save_pretrained(folder)
    return folder


def _with_seed(auto: type, config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto.from_config(config).eval()


def _weights_for_vlm(like: Path) -> Mapping[str, torch.Tensor]:
    if "vision_config" in (like / "config.json").read_text():
        return AutoModelForImageTextToText.from_pretrained(like, dtype=torch.float32).state_dict()
    weights = AutoModelForCausalLM.from_pretrained(like, dtype=torch.float32).state_dict()
    return {
        "model.language_model." + name.removeprefix("model.") if name.startswith("model.") else name: tensor
        for name, tensor in weights.items()
    }


def _take_weights(model: PreTrainedModel, weights: Mapping[str, torch.Tensor], *, drift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if name in weights:
                rows = min(len(parameter), len(weights[name]))
                noise = torch.randn(weights[name][:rows].shape, generator=generator)
                parameter[:rows].copy_(weights[name][:rows] + drift * noise)
