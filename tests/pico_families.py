# ruff: noqa: S105 (the "passwords" are tokens of a tokenizer)
"""What a pico model of each family is made of: one row each, for the real config and processor classes.

A row of TEXT_FAMILIES or VLM_FAMILIES (`evovlm/recipes/families.py`) needs a row here: TEXT_PICOS for a language model,
VLM_PICOS for a VLM. All have hidden size 32, 4 heads of size 8 and 2 key-value heads; pictures are 32x32.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    AutoConfig,
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

HIDDEN = 32
HEAD = 8
PICTURE_SIZE = 32
PATCH_SIZE = 8
IMAGE_TOKEN = "<image>"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

_GRID = [[PICTURE_SIZE, PICTURE_SIZE], [PICTURE_SIZE, 2 * PICTURE_SIZE]]
_SQUARE = {"height": PICTURE_SIZE, "width": PICTURE_SIZE}
_MROPE = {"mrope_section": [1, 1, 2]}

# What a text config needs beyond `text_config`; `rope` is what its rope_parameters hold beside the type and theta.
TEXT_PICOS: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": HEAD},
    "gemma": {"head_dim": HEAD},
    "gemma2": {"head_dim": HEAD},
    "gemma3_text": {"head_dim": HEAD, "sliding_window_pattern": 2},
    "qwen2_vl_text": {"rope": _MROPE},
    "qwen2_5_vl_text": {"rope": _MROPE},
    "qwen3_vl_text": {"head_dim": HEAD, "rope": _MROPE | {"mrope_interleaved": True}},
}


def text_config(
    model_type: str, *, vocab_rows: int, n_blocks: int, tie: bool, rope_theta: float, sliding_window: int | None
) -> PreTrainedConfig:
    """Return the config of a language model of that type with hidden size 32, 4 heads and 2 key-value heads."""
    row = dict(TEXT_PICOS[model_type])
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": rope_theta, **row.pop("rope", {})}
    if model_type == "gemma3_text":
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    if sliding_window is not None or model_type == "mistral":
        row["sliding_window"] = sliding_window
    return AutoConfig.for_model(
        model_type,
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
        rope_parameters=rope,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        **row,
    )


@dataclass(frozen=True, kw_only=True)
class VlmPico:
    """A pico VLM: its usual language model, its vision config, its other settings, its tokens and its processor.

    `token_rows` maps a key of the config to the tokenizer attribute of the token whose row it holds, `tokens` those
    attributes to the tokens, in the order in which the tokenizer takes them on.
    """

    text: str
    vision: Mapping[str, Any]
    tokens: Mapping[str, str]
    token_rows: Mapping[str, str]
    processor: Callable[[PreTrainedTokenizerFast], ProcessorMixin]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self, family: str, text: PreTrainedConfig, *, first_row: int) -> PreTrainedConfig:
        """Return the VLM's config; its tokens take the rows from `first_row` on."""
        rows = {name: first_row + place for place, name in enumerate(self.tokens)}
        return AutoConfig.for_model(
            family,
            text_config=text.to_dict(),
            vision_config=dict(self.vision),
            tie_word_embeddings=text.tie_word_embeddings,
            **{key: rows[name] for key, name in self.token_rows.items()},
            **self.settings,
        )


_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": PICTURE_SIZE,
    "patch_size": PATCH_SIZE,
}
_CLIP = {"model_type": "clip_vision_model", **_TOWER, "projection_dim": 16}
_SIGLIP = {"model_type": "siglip_vision_model", **_TOWER, "vision_use_head": False}
_QWEN_TOWER = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}

_LLAVA_TOKENS = {"tokens": {"image_token": IMAGE_TOKEN}, "token_rows": {"image_token_index": "image_token"}}
QWEN_TOKENS = {
    "tokens": {
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
    },
    "token_rows": {
        "vision_start_token_id": "vision_start_token",
        "vision_end_token_id": "vision_end_token",
        "image_token_id": "image_token",
        "video_token_id": "video_token",
    },
}


def _llava(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": PICTURE_SIZE}, crop_size=_SQUARE),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=TEMPLATE,
    )


def _llava_next(tokenizer: PreTrainedTokenizerFast) -> LlavaNextProcessor:
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": PICTURE_SIZE}, crop_size=_SQUARE, image_grid_pinpoints=_GRID
    )
    return LlavaNextProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def _llava_onevision(tokenizer: PreTrainedTokenizerFast) -> LlavaOnevisionProcessor:
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=_SQUARE, image_grid_pinpoints=_GRID),
        video_processor=LlavaOnevisionVideoProcessor(size=_SQUARE),
        tokenizer=tokenizer,
        num_image_tokens=(PICTURE_SIZE // PATCH_SIZE) ** 2,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )


def _internvl(tokenizer: PreTrainedTokenizerFast) -> InternVLProcessor:
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=_SQUARE),
        video_processor=InternVLVideoProcessor(size=_SQUARE),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=TEMPLATE,
    )


def _pixtral(tokenizer: PreTrainedTokenizerFast) -> PixtralProcessor:
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": PICTURE_SIZE}, patch_size=PATCH_SIZE),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        spatial_merge_size=2,
        chat_template=TEMPLATE,
    )


def _gemma3(tokenizer: PreTrainedTokenizerFast) -> Gemma3Processor:
    return Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size=_SQUARE),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=TEMPLATE,
    )


def qwen_vl_processor(
    kind: type[ProcessorMixin], videos: type[Any]
) -> Callable[[PreTrainedTokenizerFast], ProcessorMixin]:
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 8 * 8, "longest_edge": PICTURE_SIZE * PICTURE_SIZE}

    def build(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
        return kind(
            image_processor=Qwen2VLImageProcessor(size=size, **sizes),
            video_processor=videos(size=size, **sizes),
            tokenizer=tokenizer,
            chat_template=TEMPLATE,
        )

    return build


VLM_PICOS: Mapping[str, VlmPico] = {
    "llava": VlmPico(
        text="mistral",
        vision=_CLIP,
        settings={"image_seq_length": (PICTURE_SIZE // PATCH_SIZE) ** 2},
        processor=_llava,
        **_LLAVA_TOKENS,
    ),
    "llava_next": VlmPico(
        text="mistral",
        vision=_CLIP,
        settings={"image_grid_pinpoints": _GRID},
        processor=_llava_next,
        **_LLAVA_TOKENS,
    ),
    "llava_onevision": VlmPico(
        text="qwen2",
        vision=_SIGLIP,
        settings={"image_grid_pinpoints": _GRID},
        tokens={"image_token": IMAGE_TOKEN, "video_token": "<video>"},
        token_rows={"image_token_index": "image_token", "video_token_index": "video_token"},
        processor=_llava_onevision,
    ),
    "vipllava": VlmPico(
        text="llama",
        vision=_CLIP,
        settings={"vision_feature_layers": [-1, -2], "image_seq_length": (PICTURE_SIZE // PATCH_SIZE) ** 2},
        processor=_llava,
        **_LLAVA_TOKENS,
    ),
    "internvl": VlmPico(
        text="qwen2",
        vision={"model_type": "internvl_vision", **_TOWER},
        settings={"image_seq_length": 4},
        tokens={
            "context_image_token": "<IMG_CONTEXT>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "video_token": "<video>",
        },
        token_rows={"image_token_id": "context_image_token"},
        processor=_internvl,
    ),
    "mistral3": VlmPico(
        text="mistral",
        vision={"model_type": "pixtral", **_TOWER, "head_dim": HEAD},
        tokens={"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"},
        token_rows={"image_token_index": "image_token"},
        processor=_pixtral,
    ),
    "gemma3": VlmPico(
        text="gemma3_text",
        vision=_SIGLIP,
        settings={"mm_tokens_per_image": 4},
        tokens={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        token_rows={
            "image_token_index": "image_token",
            "boi_token_index": "boi_token",
            "eoi_token_index": "eoi_token",
        },
        processor=_gemma3,
    ),
    "qwen2_vl": VlmPico(
        text="qwen2_vl_text",
        vision=_QWEN_TOWER | {"embed_dim": 16, "hidden_size": HIDDEN, "mlp_ratio": 2},
        processor=qwen_vl_processor(Qwen2VLProcessor, Qwen2VLVideoProcessor),
        **QWEN_TOKENS,
    ),
    "qwen2_5_vl": VlmPico(
        text="qwen2_5_vl_text",
        vision=_QWEN_TOWER
        | {
            "hidden_size": 16,
            "intermediate_size": 32,
            "out_hidden_size": HIDDEN,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        processor=qwen_vl_processor(Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
        **QWEN_TOKENS,
    ),
    "qwen3_vl": VlmPico(
        text="qwen3_vl_text",
        vision=_QWEN_TOWER
        | {
            "hidden_size": 16,
            "intermediate_size": 32,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        processor=qwen_vl_processor(Qwen3VLProcessor, Qwen3VLVideoProcessor),
        **QWEN_TOKENS,
    ),
}

# Those that differ most come first: quick tests take the first few.
_MOST_DIFFERENT = ("gemma3", "llava_next", "qwen3_vl", "qwen2_5_vl")
PICTURE_FAMILIES = [*_MOST_DIFFERENT, *sorted(VLM_PICOS.keys() - set(_MOST_DIFFERENT))]
