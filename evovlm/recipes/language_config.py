"""What a config.json says of a model's language model: where that part is, how many blocks it has, what steers it."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from evovlm.recipes.families import FIXED_SETTINGS, FULL_ATTENTION, SLIDING_ATTENTION, VLM_FAMILIES, text_family

DEFAULTS_FILE = Path(__file__).with_name("config_defaults.json")
_PARTS = ("text_config", "llm_config", "llm_cfg", "language_config", "language_model_config", "thinker_config")
_BLOCK_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_SIGHT = ("vision_config", "vision_cfg", "vision_tower_cfg", "mm_vision_tower", "vq_config", "visual", "img_processor")

ROPE_KEYS = ("rope_parameters", "rope_theta", "rope_scaling", "rope_local_base_freq")
WINDOW_KEYS = (
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "sliding_window_pattern",
    "_sliding_window_pattern",
)
MROPE_KEYS = ("mrope_section", "mrope_interleaved")
"""How image positions are divided over a head's size: text without pictures has equal positions in all dimensions."""

_SHAPES = frozenset(
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "num_hidden_layers",
        "n_embd",
        "n_layer",
        "n_head",
        "n_inner",
        "d_model",
        "n_heads",
        "n_layers",
        "num_layers",
        "num_heads",
        "ffn_dim",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "n_shared_experts",
        "max_position_embeddings",
        "n_positions",
        "n_ctx",
        "max_sequence_length",
        "seq_length",
        "model_max_length",
        "vocab_size_per_layer_input",
        "tie_word_embeddings",
    ]
)
"""Settings that the tensors themselves show, and the number of positions, which is reported elsewhere."""

_WITHOUT_EFFECT = frozenset(
    [
        "model_type",
        "architectures",
        "auto_map",
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "use_cache",
        "initializer_range",
        "initializer_factor",
        "init_std",
        "init_method_std",
        "embedding_initializer_range",
        "rescale_layer",
        "pretraining_tp",
        "gradient_checkpointing",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "use_return_dict",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "is_decoder",
        "add_cross_attention",
        "cross_attention_hidden_size",
        "problem_type",
        "id2label",
        "label2id",
        "num_labels",
        "finetuning_task",
        "task_specific_params",
        "prefix",
        "tokenizer_class",
        "torchscript",
        "use_bfloat16",
        "tf_legacy_loss",
        "pruned_heads",
        "tie_encoder_decoder",
        "return_dict_in_generate",
        "output_scores",
        "remove_invalid_values",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "router_z_loss_coef",
        "aux_loss_alpha",
        "seq_aux",
        "use_mup",
        "unsloth_version",
        "unsloth_fixed",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_flash_attn_2_enabled",
        "use_flash_attn",
        "use_liger_kernel",
        "quantization_config",
        "compression_config",
        "cache_implementation",
        "num_nextn_predict_layers",
        "mtp_num_hidden_layers",
        "mtp_use_dedicated_embeddings",
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "exponential_decay_length_penalty",
        "suppress_tokens",
        "begin_suppress_tokens",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "kernel_config",
        "layer_types",
        "is_causal",
        "language_model_only",
    ]
)
_TRAINING = ("dropout", "pdrop", "drop_rate", "droprate", "_token_id", "_token_index", "_token_ids", "_loss_coef")
_OF_PICTURES = ("vision", "image", "video", "audio", "mm_", "projector", "visual")


def has_vision(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is that of a vision-language model."""
    part: Mapping[str, Any] = config.get("thinker_config") or config
    return any(isinstance(part.get(key), (dict, str)) for key in _SIGHT)


def language_path(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that lead to the part of a config.json that describes the language model: () is all of it."""
    for key in _PARTS:
        part = config.get(key)
        if isinstance(part, dict):
            return (key, *language_path(part))
    return ()


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json that describes the language model: of a text model, all of it."""
    family = VLM_FAMILIES.get(str(config.get("model_type")))
    path = language_path(config)
    if not path and family is not None and not family.flat_once:
        return {}
    part = config
    for key in path:
        part = part[key]
    return part


def language_model_type(config: Mapping[str, Any]) -> str:
    """Return the model type of the language model in a config.json."""
    family = VLM_FAMILIES.get(str(config.get("model_type")))
    part = language_config(config)
    if family is None:
        return str(part.get("model_type") or config.get("model_type"))
    named = family.text_model_type if family.text_is_fixed else part.get("model_type")
    return str(named or family.text_model_type)


def stated_blocks(language: Mapping[str, Any]) -> int | None:
    """Return how many decoder blocks the language model's config states, under any of the usual keys."""
    for key in _BLOCK_COUNTS:
        number = language.get(key)
        if isinstance(number, int) and not isinstance(number, bool) and number > 0:
            return number
    return None


def stated_width(language: Mapping[str, Any]) -> int | None:
    """Return the size of an embedding row that the language model's config states, under any of the usual keys."""
    return next((language[key] for key in _WIDTHS if isinstance(language.get(key), int)), None)


def block_count_key(language: Mapping[str, Any]) -> str:
    """Return the key under which a language model's config states its number of blocks."""
    return next((key for key in _BLOCK_COUNTS if key in language), _BLOCK_COUNTS[0])


def n_deepstack_blocks(config: Mapping[str, Any]) -> int:
    """Return after how many blocks the vision encoder of this config.json adds features to the stream."""
    vision: Mapping[str, Any] = config.get("vision_config") or {}
    return len(vision.get("deepstack_visual_indexes") or ())


def backbone_settings(language: Mapping[str, Any], text_model_type: str) -> Mapping[str, Any]:
    """Return the settings that steer a language model beside its weights, with defaults where they are known.

    Rope, window, norm and activation have the same keys for every model; of the others, all that may have an effect are
    included, under their names in the config. Shapes, tokens, and what only training or generation reads are left out.
    """
    family, defaults = text_family(text_model_type), default_settings(text_model_type) or {}
    # transformers 5 keeps everything about rope in rope_parameters, earlier ones in rope_theta and rope_scaling.
    rope: Mapping[str, Any] = language.get("rope_scaling") or language.get("rope_parameters") or {}
    # If sliding layers have another rope, rope_parameters holds one entry for each kind of layer.
    local: Mapping[str, Any] = rope.get(SLIDING_ATTENTION) or {}
    rope = rope.get(FULL_ATTENTION) or rope
    local_theta = local.get("rope_theta") or language.get("rope_local_base_freq") or family.local_rope_theta
    theta = rope.get("rope_theta") or language.get("rope_theta") or family.rope_theta or defaults.get("rope_theta")
    window = language.get("sliding_window", family.window)
    if (family.switched or "use_sliding_window" in language) and not language.get("use_sliding_window", False):
        window = None
    named = {
        "model_type": family.architecture,
        "rope_theta": None if theta is None else float(theta),
        "rope_theta of sliding layers": local_theta,
        "rope scaling": _rope_scaling(rope),
        "sliding_window": window,
        "rms_norm_eps": language.get("rms_norm_eps", family.rms_norm_eps or defaults.get("rms_norm_eps")),
        "hidden_act": language.get(family.activation_key) or family.activation or defaults.get("hidden_act"),
    }
    skipped = {*named, family.activation_key}
    stated = sorted({**defaults, **language}.items())
    return {**named, **{key: value for key, value in stated if key not in skipped and is_setting(key, value)}}


def is_setting(key: str, value: object) -> bool:
    """Return whether a key of a language model's config may have an effect; rope and window are compared otherwise."""
    is_known = key in ROPE_KEYS or key in WINDOW_KEYS or key in _SHAPES or key in _WITHOUT_EFFECT
    return not (is_known or key.endswith(_TRAINING) or key.startswith(_OF_PICTURES) or isinstance(value, dict))


def default_settings(text_model_type: str) -> Mapping[str, Any] | None:
    """Return what a config means where it states nothing, by setting; None for a type that transformers lacks."""
    found = _every_default().get(text_model_type)
    return None if found is None else {**found, **FIXED_SETTINGS.get(text_model_type, {})}


@cache
def _every_default() -> Mapping[str, Mapping[str, Any]]:
    """Return the defaults of transformers 5.23, which `python -m tests.config_defaults` wrote."""
    found: Mapping[str, Mapping[str, Any]] = json.loads(Path(DEFAULTS_FILE).read_text(encoding="utf-8"))
    return found


def rope_kind(rope: Mapping[str, Any]) -> str:
    """Return the rope type of a config's `rope_scaling` or `rope_parameters`."""
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    # Older Qwen-VL configs name a rope type for what transformers now reads off `mrope_section`.
    return "default" if kind == "mrope" else kind


def _rope_scaling(rope: Mapping[str, Any]) -> str:
    ignored = ("rope_theta", "rope_type", "type", FULL_ATTENTION, SLIDING_ATTENTION, *MROPE_KEYS)
    scaling = {key: value for key, value in sorted(rope.items()) if key not in ignored}
    return f"{rope_kind(rope)} {scaling}" if scaling else rope_kind(rope)
