"""Pico models of any model type that transformers has: its own classes, with every size made small.

Sizes are set under all the names that configs use for them; SETTINGS holds what single types need beside that.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AyaVisionProcessor,
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
    Glm4vImageProcessor,
    Glm4vProcessor,
    GotOcr2ImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.models.glm4v.video_processing_glm4v import Glm4vVideoProcessor

from tests.pico import pico_tokenizer
from tests.pico_families import QWEN_TOKENS, TEMPLATE, VLM_PICOS, qwen_vl_processor

TEXT_TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VLM_TYPES = tuple(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
MOST_PARAMETERS = 6_000_000
ROWS = 640
_HIDDEN, _BLOCKS, _HEADS = 32, 4, 4
_FIRST_TOKEN = 620


def _all(value: object, names: str) -> dict[str, object]:
    return dict.fromkeys(names.split(), value)


_SIZES: Mapping[str, object] = {
    **_all(ROWS, "vocab_size vocab_size_per_layer_input"),
    **_all(_HIDDEN, "hidden_size n_embd d_model dim embed_dim word_embed_proj_dim conv_dim"),
    **_all(48, "intermediate_size ffn_dim ffn_hidden_size intermediate_size_mlp"),
    **_all(_BLOCKS, "num_hidden_layers n_layer n_layers num_layers num_attention_heads n_head n_heads"),
    **_all(4, "encoder_attention_heads decoder_attention_heads"),
    **_all(2, "encoder_layers decoder_layers"),
    **_all(48, "encoder_ffn_dim decoder_ffn_dim"),
    **_all(2, "num_key_value_heads num_experts_per_tok num_experts_per_token moe_topk moe_k"),
    **_all(8, "head_dim global_head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim rotary_dim block_multiple_of"),
    **_all(8, "linear_key_head_dim linear_value_head_dim hidden_size_per_layer_input"),
    **_all(512, "max_position_embeddings n_positions"),
    **_all(4, "num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads"),
    **_all(4, "linear_conv_kernel_dim mamba_n_heads mamba_num_heads time_step_rank"),
    **_all(
        16, "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size q_lora_rank kv_lora_rank"
    ),
    **_all(16, "qk_head_dim sliding_window mamba_d_head mamba_head_dim"),
    **_all(1, "n_group topk_group num_expert_groups n_shared_experts moe_num_shared_experts num_shared_experts"),
    **_all(1, "first_k_dense_replace num_dense_layers moe_layer_start_index mamba_n_groups n_groups"),
    **_all(8, "mamba_d_state state_size ssm_state_size"),
    **_all(
        2, "linear_num_key_heads full_attention_interval mamba_expand interleave_moe_layer_step num_kv_shared_layers"
    ),
    **_all(0, "num_nextn_predict_layers zero_expert_num"),
    **_all(0.1, "initializer_range init_method_std"),
    **_all(None, "layer_types block_types no_rope_layers moe_layers mlp_layer_types"),
    "n_inner": 64,
    "moe_layer_end_index": 3,
    "attention_chunk_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
_VISION_SIZES: Mapping[str, object] = {
    **_all(16, "hidden_size projection_dim embed_dim d_model projector_input_dim window_size"),
    **_all(32, "intermediate_size image_size out_hidden_size mlp_dim vision_output_dim projector_output_dim"),
    **_all(2, "num_hidden_layers num_attention_heads num_heads depth mlp_ratio num_key_value_heads spatial_merge_size"),
    **_all(2, "max_num_tiles temporal_patch_size"),
    **_all(8, "patch_size head_dim"),
    "num_position_embeddings": 64,
    "position_embedding_size": 64,
    "vision_use_head": False,
    "num_global_layers": 1,
    "initializer_range": 0.1,
    "deepstack_visual_indexes": [0],
    "fullatt_block_indexes": [1],
    "default_output_length": 4,
}
_KINDS = ["sliding_attention", "full_attention"] * 2
_GEMMA4 = {"layer_types": _KINDS}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_LINEAR = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0, "mrope_section": [1, 1, 2]}

SETTINGS: Mapping[str, Mapping[str, object]] = {
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "bailing_hybrid": {"layer_group_size": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "mamba2": {"expand": 2, "num_heads": 8, "head_dim": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "zaya": {"num_experts_per_tok": 1},
    "reformer": {"is_decoder": True},
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "glm4v_text": {"rope_parameters": _MROPE | {"partial_rotary_factor": 1.0}},
    "glm4v_moe_text": {"rope_parameters": _MROPE | {"partial_rotary_factor": 1.0}},
    "qwen2_vl_text": {"rope_parameters": _MROPE},
    "qwen2_5_vl_text": {"rope_parameters": _MROPE},
    "qwen3_5_text": {"rope_parameters": _LINEAR},
    "qwen3_5_moe_text": {"rope_parameters": _LINEAR},
    # Its cache takes the window, its mask does not: real configs have none.
    "qwen3_vl_moe_text": {"rope_parameters": _MROPE | {"mrope_interleaved": True}, "sliding_window": None},
    "qwen2_vl": {"vision_config": {"patch_size": 4, "hidden_size": _HIDDEN}},
    "qwen2_5_vl": {"vision_config": {"patch_size": 4}},
    "qwen3_5": {"vision_config": {"patch_size": 4}},
    "qwen3_5_moe": {"vision_config": {"patch_size": 4}},
    "qwen3_vl_moe": {"vision_config": {"patch_size": 4}},
    "glm4v": {"vision_config": {"patch_size": 4}},
    "gemma4": {"vision_config": {"patch_size": 4}},
}


def _small(config: PreTrainedConfig, sizes: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings of a config that `sizes` has, under the name that the class itself uses for each."""
    own = config.to_dict()
    other_names = set(getattr(type(config), "attribute_map", {}))
    found = {name: _like(value, own[name]) for name, value in sizes.items() if name in own and name not in other_names}
    if "kv_lora_rank" in own:
        # Latent attention has one key for each query head.
        found["num_key_value_heads"] = _HEADS
    return {**found, **SETTINGS.get(config.model_type, {})}


def _like(value: object, usual: object) -> object:
    """Return a size in the form of the usual one: a float, or a list of as many sizes."""
    if isinstance(value, int) and isinstance(usual, (list, tuple)) and usual and isinstance(usual[0], int):
        return [value] * len(usual)
    return float(value) if isinstance(value, int) and isinstance(usual, float) else value


def small_config(
    model_type: str, *, text: str | None = None, sizes: Mapping[str, object] | None = None
) -> PreTrainedConfig:
    """Return a small config of a model type; `text` is the model type of its language model, if not the usual one.

    `sizes` replace those of the language model.
    """
    kind = CONFIG_MAPPING[model_type]
    usual = kind()
    parts: dict[str, Any] = {}
    for name in getattr(kind, "sub_configs", {}) or {}:
        part = getattr(usual, name, None)
        if part is None and name == "vision_config":
            part = kind.sub_configs[name]()
        if part is None:
            continue
        if text is not None and name == "text_config":
            part = CONFIG_MAPPING[text]()
        is_vision = "vis" in name
        settings = _small(part, _VISION_SIZES if is_vision else {**_SIZES, **(sizes or {})})
        settings |= dict(SETTINGS.get(model_type, {}).get(name, {})) if is_vision else {}  # type: ignore[call-overload]
        parts[name] = {"model_type": part.model_type, **settings}
    if not parts:
        return kind(**_small(usual, {**_SIZES, **(sizes or {})}))
    own = usual.to_dict()
    tokens = [
        name
        for name in own
        if name.endswith(("_token_id", "_token_index")) and name[:4] not in ("bos_", "eos_", "pad_")
    ]
    rows = {name: _FIRST_TOKEN + place for place, name in enumerate(sorted(tokens))}
    further = {"mm_tokens_per_image": 4, "image_seq_length": 16, "projection_dim": _HIDDEN, "hidden_size": _HIDDEN}
    return kind(**parts, **rows, **{name: value for name, value in further.items() if name in own})


def save_pair(
    folder: Path, model_type: str, *, text: str | None = None, sizes: Mapping[str, object] | None = None
) -> tuple[Path, Path]:
    """Save a small model of a type as `folder`/base, and a fine-tune of it as `folder`/tuned; return both.

    Raises ValueError for a type whose model stays large whatever its sizes are.
    """
    auto = AutoModelForImageTextToText if model_type in VLM_TYPES else AutoModelForCausalLM
    config = small_config(model_type, text=text, sizes=sizes)
    tokens = FURTHER_TOKENS.get(model_type, {})
    tokenizer = pico_tokenizer(tokens["tokens"] if tokens else None)
    for key, name in tokens.get("token_rows", {}).items():
        setattr(config, key, tokenizer.convert_tokens_to_ids(tokens["tokens"][name]))
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in auto.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"the smallest {model_type} has {size} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = auto.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "tuned"):
        model.save_pretrained(folder / name)
        if model_type in PROCESSORS:
            PROCESSORS[model_type](tokenizer).save_pretrained(folder / name)
        else:
            tokenizer.save_pretrained(folder / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return folder / "base", folder / "tuned"


_GLM_TOKENS = {
    "tokens": {
        "image_token": "<|image|>",
        "video_token": "<|video|>",
        "image_start_token": "<|begin_of_image|>",
        "image_end_token": "<|end_of_image|>",
        "video_start_token": "<|begin_of_video|>",
        "video_end_token": "<|end_of_video|>",
    },
    "token_rows": {
        "image_token_id": "image_token",
        "video_token_id": "video_token",
        "image_start_token_id": "image_start_token",
        "image_end_token_id": "image_end_token",
        "video_start_token_id": "video_start_token",
        "video_end_token_id": "video_end_token",
    },
}


def _glm4v(tokenizer: Any) -> Glm4vProcessor:
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    return Glm4vProcessor(
        image_processor=Glm4vImageProcessor(size=size, **sizes),
        video_processor=Glm4vVideoProcessor(size=size, **sizes),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )


def _aya_vision(tokenizer: Any) -> AyaVisionProcessor:
    square = {"height": 32, "width": 32}
    return AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessor(size=square, min_patches=1, max_patches=2),
        tokenizer=tokenizer,
        patch_size=8,
        img_size=32,
        downsample_factor=2,
        chat_template=TEMPLATE,
    )


def _gemma4(tokenizer: Any) -> Gemma4Processor:
    sizes = {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    return Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(**sizes),
        video_processor=Gemma4VideoProcessor(**sizes),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    )


_QWEN3_VL = qwen_vl_processor(Qwen3VLProcessor, Qwen3VLVideoProcessor)
PROCESSORS: Mapping[str, Any] = {
    "qwen3_5": _QWEN3_VL,
    "qwen3_5_moe": _QWEN3_VL,
    "qwen3_vl_moe": _QWEN3_VL,
    "glm4v": _glm4v,
    "aya_vision": _aya_vision,
    "gemma4": _gemma4,
    **{name: pico.processor for name, pico in VLM_PICOS.items()},
}
"""How the processors of VLMs that are answered here are built; the models of other VLMs are saved without one."""

FURTHER_TOKENS: Mapping[str, Any] = {
    "qwen3_5": QWEN_TOKENS,
    "qwen3_5_moe": QWEN_TOKENS,
    "qwen3_vl_moe": QWEN_TOKENS,
    "glm4v": _GLM_TOKENS,
    "aya_vision": {
        "tokens": {
            "place_token": "<image>",
            "patch_token": "<|IMG_PATCH|>",
            "start_token": "<|START_OF_IMG|>",
            "end_token": "<|END_OF_IMG|>",
            "whole_token": "TILE_GLOBAL",
            "first_token": "TILE_1",
            "second_token": "TILE_2",
        },
        "token_rows": {"image_token_index": "patch_token"},
    },
    "gemma4": {
        "tokens": {
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
        "token_rows": {
            "image_token_id": "image_token",
            "boi_token_id": "boi_token",
            "eoi_token_id": "eoi_token",
            "audio_token_id": "audio_token",
            "boa_token_id": "boa_token",
        },
    },
    **{name: {"tokens": pico.tokens, "token_rows": pico.token_rows} for name, pico in VLM_PICOS.items()},
}
