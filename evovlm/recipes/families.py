"""What a checkpoint does not say of itself: one row for each model type, of text models and of vision-language models.

Defaults, namings and ties are those of transformers 5.23: `models/*/configuration_*.py`, `conversion_mapping.py` (names
on disk against names in memory), `_tied_weights_keys` and `tie_word_embeddings` of `models/*/modeling_*.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

FULL_ATTENTION, SLIDING_ATTENTION = "full_attention", "sliding_attention"
"""What a block attends to, in the words of `layer_types` and of a rope for each kind of layer."""

MEANING_OF_SHAPES = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
"""Settings that give equal shapes another meaning: how many heads of which size."""

_PROJECTIONS = (
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
)
_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
_BIASES = tuple(f"self_attn.{name}_proj.bias" for name in "qkvo")
_HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
_POST_NORMS = ("pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight")

ANY_BLOCK = (*_PROJECTIONS, *_NORMS, *_BIASES, *_HEAD_NORMS, *_POST_NORMS)
"""Every tensor that a block of some text family has, by its name in the block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFamily:
    """One model type of a text config: whose weights it has, its defaults, and the tensors of its blocks.

    `architecture` is the model type of the text model whose tensors mean the same. `positions` is the default of
    max_position_embeddings. `local_rope_theta` is the rope of sliding layers that have another than the full ones. A
    window that is `switched` counts only under `use_sliding_window`, and from block `max_window_layers` on; of every
    `pattern` blocks, all but the last have a sliding window. A norm's factor is its weight, or its weight plus 1
    (`norm_adds_one`); with `post_norms` the output of each branch is normed, too. `biases` and `head_norms` say that
    the attention has biases, or norms of queries and keys.
    """

    architecture: str
    positions: int
    tied: bool = False
    rope_theta: float = 10000.0
    local_rope_theta: float | None = None
    window: int | None = None
    switched: bool = False
    rms_norm_eps: float = 1e-6
    activation: str = "silu"
    activation_key: str = "hidden_act"
    max_window_layers: int | None = None
    pattern: int | None = None
    norm_adds_one: bool = False
    post_norms: bool = False
    biases: bool = False
    head_norms: bool = False

    @property
    def block_tensors(self) -> tuple[str, ...]:
        """The tensors of a block, by their names in it."""
        optional = ((self.biases, _BIASES), (self.post_norms, _POST_NORMS), (self.head_norms, _HEAD_NORMS))
        return (*_PROJECTIONS, *_NORMS, *(name for has, names in optional if has for name in names))

    @property
    def has_attention_kinds(self) -> bool:
        """Whether its config can say of each block whether it has a sliding window."""
        return self.pattern is not None or self.max_window_layers is not None


_QWEN2 = TextFamily(
    architecture="qwen2", positions=32768, window=4096, switched=True, max_window_layers=28, biases=True
)
_QWEN2_VL = replace(_QWEN2, rope_theta=1e6, rms_norm_eps=1e-5, max_window_layers=80)
_QWEN3 = TextFamily(
    architecture="qwen3", positions=32768, window=4096, switched=True, max_window_layers=28, head_norms=True
)
_GEMMA = TextFamily(architecture="gemma", positions=8192, tied=True, activation="gelu_pytorch_tanh", norm_adds_one=True)
_GEMMA2 = replace(
    _GEMMA, architecture="gemma2", window=4096, activation_key="hidden_activation", pattern=2, post_norms=True
)

TEXT_FAMILIES: Mapping[str, TextFamily] = {
    "llama": TextFamily(architecture="llama", positions=2048),
    "mistral": TextFamily(architecture="mistral", positions=131072, window=4096),
    "qwen2": _QWEN2,
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen3": _QWEN3,
    "qwen3_vl_text": replace(_QWEN3, positions=128000, rope_theta=5e5, window=None, max_window_layers=None),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": replace(
        _GEMMA2,
        architecture="gemma3_text",
        positions=131072,
        rope_theta=1e6,
        local_rope_theta=10000.0,
        pattern=6,
        head_norms=True,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefixes:
    """What takes the place of `model.` and of `lm_head.` in a naming of tensors."""

    body: str
    head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VlmFamily:
    """One model type of a vision-language model: its text config, its namings, and how it takes pictures.

    `disk` holds the namings in files, tried in order, `memory` that of the transformers model. `text_model_type` is the
    model type of a text config that names none, or of any if `text_is_fixed`; the text config of a family that is
    `flat_once` may be config.json itself. `tied` says whether the head is the embedding where config.json does not say;
    under `tied_with_text` the text config can say so too.

    `tiles_one_picture`: a picture is cut into tiles only if it is the only one of its question. `takes_encoded`: its
    `generate` takes what the image part returns, not embeddings in a row. `kinds_input` is the input that says which
    tokens are a picture's (Gemma 3 lets those attend to each other). `deepstack`: the vision encoder adds features
    after several blocks.
    """

    text_model_type: str
    disk: tuple[Prefixes, ...]
    memory: Prefixes
    text_is_fixed: bool = False
    flat_once: bool = False
    tied: bool = False
    tied_with_text: bool = False
    tiles_one_picture: bool = False
    takes_encoded: bool = False
    kinds_input: str | None = None
    deepstack: bool = False


TEXT_NAMES = Prefixes(body="model.", head="lm_head.")
"""The naming of text models, on disk and in memory: the backbone names that merging works with."""

# The hub's naming of the LLaVA family is what `save_pretrained` writes, the modules' what it writes under
# `save_original_format=False`; some versions between wrote the latter always.
_LLAVA_HUB = Prefixes(body="language_model.model.", head="language_model.lm_head.")
_MODULES = Prefixes(body="model.language_model.", head="lm_head.")
_LLAVA = VlmFamily(text_model_type="llama", disk=(_LLAVA_HUB, _MODULES), memory=_MODULES)
_QWEN_VL = VlmFamily(
    text_model_type="qwen2_vl_text",
    disk=(TEXT_NAMES, _MODULES),
    memory=_MODULES,
    text_is_fixed=True,
    flat_once=True,
    tied_with_text=True,
)

VLM_FAMILIES: Mapping[str, VlmFamily] = {
    "llava": replace(_LLAVA, tied_with_text=True),
    "llava_next": _LLAVA,
    "llava_onevision": replace(_LLAVA, text_model_type="qwen2", tied_with_text=True, tiles_one_picture=True),
    "vipllava": _LLAVA,
    "internvl": replace(_LLAVA, text_model_type="qwen2", tied=True),
    "mistral3": replace(_LLAVA, text_model_type="mistral", tied=True),
    "gemma3": replace(
        _LLAVA,
        text_model_type="gemma3_text",
        text_is_fixed=True,
        tied=True,
        takes_encoded=True,
        kinds_input="token_type_ids",
    ),
    "qwen2_vl": _QWEN_VL,
    "qwen2_5_vl": replace(_QWEN_VL, text_model_type="qwen2_5_vl_text"),
    "qwen3_vl": VlmFamily(
        text_model_type="qwen3_vl_text",
        disk=(_MODULES,),
        memory=_MODULES,
        text_is_fixed=True,
        takes_encoded=True,
        deepstack=True,
    ),
}

MODEL_TYPES = (*(name for name, family in TEXT_FAMILIES.items() if family.architecture == name), *VLM_FAMILIES)
"""Every model type of a config.json that can be merged; the others of TEXT_FAMILIES are parts of a VLM."""


def has_vision(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is that of a vision-language model."""
    return "vision_config" in config


def n_deepstack_blocks(config: Mapping[str, Any]) -> int:
    """Return after how many blocks the vision encoder of this config.json adds features to the stream."""
    family = VLM_FAMILIES.get(str(config.get("model_type")))
    if family is None or not family.deepstack:
        return 0
    vision: Mapping[str, Any] = config.get("vision_config") or {}
    return len(vision.get("deepstack_visual_indexes") or ())


def backbone_settings(text_config: Mapping[str, Any], text_model_type: str) -> Mapping[str, Any]:
    """Return the settings that steer a language model beside its weights, under transformers' defaults.

    The keys are the same for every model; `text_model_type` is a key of TEXT_FAMILIES.
    """
    family = TEXT_FAMILIES[text_model_type]
    # transformers 5 keeps everything about rope in rope_parameters, earlier ones in rope_theta and rope_scaling.
    rope: Mapping[str, Any] = text_config.get("rope_scaling") or text_config.get("rope_parameters") or {}
    # If sliding layers have another rope, rope_parameters holds one entry for each kind of layer.
    local: Mapping[str, Any] = rope.get(SLIDING_ATTENTION) or {}
    rope = rope.get(FULL_ATTENTION) or rope
    local_theta = local.get("rope_theta") or text_config.get("rope_local_base_freq") or family.local_rope_theta
    window = text_config.get("sliding_window", family.window)
    if family.switched and not text_config.get("use_sliding_window", False):
        window = None
    return {
        "model_type": family.architecture,
        "rope_theta": float(rope.get("rope_theta") or text_config.get("rope_theta") or family.rope_theta),
        "rope_theta of sliding layers": local_theta,
        "rope scaling": _rope_scaling(rope),
        "sliding_window": window,
        "rms_norm_eps": text_config.get("rms_norm_eps", family.rms_norm_eps),
        "hidden_act": text_config.get(family.activation_key) or family.activation,
    }


def rope_kind(rope: Mapping[str, Any]) -> str:
    """Return the rope type of a config's `rope_scaling` or `rope_parameters`."""
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    # Older Qwen-VL configs name a rope type for what transformers now reads off `mrope_section`.
    return "default" if kind == "mrope" else kind


def _rope_scaling(rope: Mapping[str, Any]) -> str:
    ignored = ("rope_theta", "rope_type", "type", FULL_ATTENTION, SLIDING_ATTENTION)
    scaling = {key: value for key, value in sorted(rope.items()) if key not in ignored}
    return f"{rope_kind(rope)} {scaling}" if scaling else rope_kind(rope)
