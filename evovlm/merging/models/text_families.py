"""The language models that merging knows, and the settings that transformers assumes where config.json is silent.

The defaults are those of the config classes of transformers 5.23 (`models/*/configuration_*.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFamily:
    """One model type of a text config: whose weights it has, and its defaults.

    `architecture` is the model type of the plain language model whose tensors mean the same. `local_rope_theta` is for
    sliding layers that turn at a rate of their own. A window that is `switched` counts only under `use_sliding_window`,
    and from block `max_window_layers` on; of every `pattern` blocks, all but the last have a sliding window. A norm's
    factor is its weight, or that and 1 (`norm_adds_one`); with `post_norms` what a branch adds is normed, too.
    """

    architecture: str
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


_QWEN2 = TextFamily(architecture="qwen2", window=4096, switched=True, max_window_layers=28)
_QWEN3 = TextFamily(architecture="qwen3", window=4096, switched=True, max_window_layers=28)
_QWEN2_VL = replace(_QWEN2, rope_theta=1e6, rms_norm_eps=1e-5, max_window_layers=80)
_GEMMA = TextFamily(architecture="gemma", tied=True, activation="gelu_pytorch_tanh", norm_adds_one=True)
_GEMMA2 = replace(
    _GEMMA, architecture="gemma2", window=4096, activation_key="hidden_activation", pattern=2, post_norms=True
)

TEXT_FAMILIES: Mapping[str, TextFamily] = {
    "llama": TextFamily(architecture="llama"),
    "mistral": TextFamily(architecture="mistral", window=4096),
    "qwen2": _QWEN2,
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen3": _QWEN3,
    "qwen3_vl_text": replace(_QWEN3, rope_theta=5e5, window=None, max_window_layers=None),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": replace(_GEMMA2, architecture="gemma3_text", rope_theta=1e6, local_rope_theta=10000.0, pattern=6),
}


def backbone_settings(text_config: Mapping[str, Any], text_model_type: str) -> Mapping[str, Any]:
    """Return the settings that steer a backbone beside its weights, under transformers' defaults.

    The keys are the same for every model; `text_model_type` is a key of TEXT_FAMILIES.
    """
    family = TEXT_FAMILIES[text_model_type]
    # transformers 5 keeps everything about rope in rope_parameters, earlier ones in rope_theta and rope_scaling.
    rope: Mapping[str, Any] = text_config.get("rope_scaling") or text_config.get("rope_parameters") or {}
    # Where sliding layers turn at another rate, rope_parameters holds one entry for each kind of layer.
    local: Mapping[str, Any] = rope.get("sliding_attention") or {}
    rope = rope.get("full_attention") or rope
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


def _rope_scaling(rope: Mapping[str, Any]) -> str:
    ignored = ("rope_theta", "rope_type", "type", "full_attention", "sliding_attention")
    scaling = {key: value for key, value in sorted(rope.items()) if key not in ignored}
    kind = rope.get("rope_type", rope.get("type", "default"))
    # Older Qwen-VL configs name a rope type for what transformers now reads off `mrope_section`.
    kind = "default" if kind == "mrope" else kind
    return f"{kind} {scaling}" if scaling else str(kind)
