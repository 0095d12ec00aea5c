# ruff: noqa: S105, S106 (the "passwords" are tokens of a tokenizer)
"""Pico checkpoints: real transformers architectures with real tokenizers, a few thousand weights, saved to a folder.

base = pico_llm(tmp_path / "base")
math = pico_llm(tmp_path / "math", like=base, seed=1)      # a "fine-tune" of base
vlm = pico_vlm(tmp_path / "vlm", like=base, seed=2)        # its backbone is a "fine-tune" of base, with more rows
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

HIDDEN = 32
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
ASCII = "".join(chr(code) for code in range(0x21, 0x7F))
KANA = "".join(chr(code) for code in (*range(0x3041, 0x3094), *range(0x30A1, 0x30F7)))
JAPANESE = KANA + "。、ー一二三四五六七八九十百円個人時分何答問題合計残"
IMAGE_TOKEN = "<image>"
PICTURE_SIZE = 32
PATCH_SIZE = 8


def pico_tokenizer() -> PreTrainedTokenizerFast:
    """Return a character tokenizer with byte fallback that can encode and decode any text; it adds <s> in front."""
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
    )


def pico_text_config(
    *,
    vocab_rows: int,
    n_blocks: int = 2,
    tie: bool = False,
    rope_theta: float = 10000.0,
    sliding_window: int | None = None,
) -> MistralConfig:
    """Return the config of a Mistral with hidden size 32, 4 heads and 2 key-value heads."""
    return MistralConfig(
        vocab_size=vocab_rows,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=n_blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        initializer_range=0.1,
        tie_word_embeddings=tie,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        sliding_window=sliding_window,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )


def pico_llm(
    folder: Path,
    *,
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
    """Save a pico Mistral LLM with its tokenizer into `folder` and return the folder.

    `like` names another pico LLM folder: its weights plus normal noise of standard deviation `drift` (drawn from
    `seed`) are saved, and rows that it lacks are drawn anew. `vocab_rows` is the number of embedding rows; without
    it, the tokenizer's length.
    """
    tokenizer = pico_tokenizer()
    config = pico_text_config(
        vocab_rows=vocab_rows or len(tokenizer),
        n_blocks=n_blocks,
        tie=tie,
        rope_theta=rope_theta,
        sliding_window=sliding_window,
    )
    model = _with_seed(MistralForCausalLM, config, seed)
    if like is not None:
        ancestor = AutoModelForCausalLM.from_pretrained(like, dtype=torch.float32)
        _take_weights(model, ancestor.state_dict(), drift=drift, seed=seed)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    return folder


def pico_vlm(
    folder: Path,
    *,
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
) -> Path:
    """Save a pico LLaVA (CLIP tower, 32x32 pictures, patch 8, Mistral backbone) with its processor; return the folder.

    Its tokenizer is `pico_tokenizer` plus "<image>"; its embedding has `extra_rows` rows more than that of `pico_llm`.
    `like` names a pico LLM (the backbone is its weights plus noise, see `pico_llm`) or a pico VLM (all weights are).
    """
    tokenizer = pico_tokenizer()
    llm_rows = len(tokenizer)
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    text_config = pico_text_config(
        vocab_rows=llm_rows + extra_rows,
        n_blocks=n_blocks,
        tie=tie,
        rope_theta=rope_theta,
        sliding_window=sliding_window,
    )
    model = _with_seed(LlavaForConditionalGeneration, _llava_config(text_config, llm_rows), seed)
    if like is not None:
        _take_weights(model, _weights_for_vlm(like), drift=drift, seed=seed)
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    _pico_processor(tokenizer).save_pretrained(folder)
    return folder


def _llava_config(text_config: MistralConfig, image_token_row: int) -> LlavaConfig:
    vision_config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PICTURE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=16,
    )
    return LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=image_token_row,
        image_seq_length=(PICTURE_SIZE // PATCH_SIZE) ** 2,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )


def _pico_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    pictures = CLIPImageProcessor(
        size={"shortest_edge": PICTURE_SIZE}, crop_size={"height": PICTURE_SIZE, "width": PICTURE_SIZE}
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )


def _with_seed(kind: type[PreTrainedModel], config: MistralConfig | LlavaConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).eval()


def _weights_for_vlm(like: Path) -> Mapping[str, torch.Tensor]:
    if "LlavaForConditionalGeneration" in (like / "config.json").read_text():
        return LlavaForConditionalGeneration.from_pretrained(like, dtype=torch.float32).state_dict()
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
