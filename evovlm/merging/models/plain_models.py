"""Models whose config.json and tensors alone show that stock transformers loads them, without trying.

Importing torch and transformers takes longer than a small merge. The tables hold what loading these architectures
depends on in transformers 5.23 (`models/*/configuration_*.py`, `modeling_*.py`), and no more: every model that they do
not describe is loaded to find out.
"""

from collections.abc import Callable, Mapping
from typing import Any

from evovlm.merging.checkpoint.safetensors_file import PLAIN_FLOATS
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.structure import EMBEDDING, HEAD
from evovlm.merging.models.tensor_names import BackboneLayout
from evovlm.recipes.families import FULL_ATTENTION, SLIDING_ATTENTION

_Test = Callable[[Any], bool]
_Shapes = Mapping[str, tuple[int, ...]]

# The second is how the hub's LLaVAs name it; transformers reads both.
_VISION = ("vision_tower.", "vision_tower.vision_model.")
_PROJECTOR = "multi_modal_projector."


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _is_row(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_positive(value: object) -> bool:
    return type(value) is float and 0 < value < 1e9


def _is_share(value: object) -> bool:
    return type(value) is float and 0 <= value < 1


def _is_theta(value: object) -> bool:
    return type(value) in (int, float) and 1 <= value < 1e12  # type: ignore[operator]


def _is_plain_rope(value: object) -> bool:
    return value is None or (
        isinstance(value, dict)
        and set(value) <= {"rope_type", "rope_theta"}
        and value.get("rope_type", "default") == "default"
        and _is_theta(value.get("rope_theta", 1))
    )


def _one_of(*values: object) -> _Test:
    return lambda value: any(type(value) is type(each) and value == each for each in values)


def _or_null(test: _Test) -> _Test:
    return lambda value: value is None or test(value)


_ANY_MODEL: Mapping[str, _Test] = {
    "model_type": _is_text,
    "_name_or_path": _is_text,
    "transformers_version": _is_text,
    "architectures": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    "dtype": _one_of("float32", "bfloat16", "float16"),
    "torch_dtype": _one_of("float32", "bfloat16", "float16"),
    "tie_word_embeddings": _is_flag,
}
_TEXT_MODEL: Mapping[str, _Test] = {
    **_ANY_MODEL,
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"), _is_count),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "max_position_embeddings"), _is_count),
    "head_dim": _or_null(_is_count),
    "hidden_act": _one_of("silu", "gelu"),
    "rms_norm_eps": _is_positive,
    "initializer_range": _is_share,
    "attention_dropout": _is_share,
    "attention_bias": _one_of(False),
    "mlp_bias": _one_of(False),
    "pretraining_tp": _one_of(1),
    "use_cache": _is_flag,
    "rope_theta": _is_theta,
    "rope_scaling": _one_of(None),
    "rope_parameters": _is_plain_rope,
    "use_sliding_window": _is_flag,
    "sliding_window": _or_null(_is_count),
    "max_window_layers": _is_count,
    "layer_types": _or_null(lambda value: isinstance(value, list)),
    "bos_token_id": _or_null(_is_row),
    "eos_token_id": _or_null(lambda value: all(map(_is_row, value if isinstance(value, list) else [value]))),
    "pad_token_id": _or_null(_is_row),
}
_VISION_MODEL: Mapping[str, _Test] = {
    **_ANY_MODEL,
    "model_type": _one_of("clip_vision_model"),
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), _is_count),
    **dict.fromkeys(("image_size", "patch_size", "projection_dim"), _is_count),
    "num_channels": _one_of(3),
    "hidden_act": _one_of("gelu", "quick_gelu"),
    "layer_norm_eps": _is_positive,
    "attention_dropout": _is_share,
    "initializer_range": _is_share,
    "initializer_factor": _is_positive,
}
_LLAVA: Mapping[str, _Test] = {
    **_ANY_MODEL,
    "text_config": lambda value: isinstance(value, dict),
    "vision_config": lambda value: isinstance(value, dict),
    "image_seq_length": _is_count,
    "image_token_index": _is_count,
    "projector_hidden_act": _one_of("gelu"),
    "multimodal_projector_bias": _one_of(True),
    "vision_feature_layer": _one_of(-2, -1),
    "vision_feature_select_strategy": _one_of("default", "full"),
}
_NEEDED_OF_TEXT = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads"),
)
_NEEDED_OF_VISION = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("image_size", "patch_size"),
)
_BLOCK = (
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    *("input_layernorm.weight", "post_attention_layernorm.weight"),
)
_BLOCKS: Mapping[str, tuple[str, ...]] = {
    "llama": _BLOCK,
    "mistral": _BLOCK,
    "qwen2": (*_BLOCK, *(f"self_attn.{name}_proj.bias" for name in "qkv")),
    "qwen3": (*_BLOCK, "self_attn.q_norm.weight", "self_attn.k_norm.weight"),
}
_STATES_HEAD_DIM = ("qwen3",)
_KINDS = {FULL_ATTENTION, SLIDING_ATTENTION}


def is_plain(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint surely loads: config and tensors agree in every name and every shape.

    False says only that it is not known here: another architecture, or a setting or value outside of the tables.
    """
    layout, config = checkpoint.layout, checkpoint.config
    if any(place.dtype_code not in PLAIN_FLOATS for place in checkpoint.places.values()) or not _is_plain_text(layout):
        return False
    expected = _text_shapes(layout)
    if layout.is_vlm:
        if layout.model_type != "llava" or not _holds(config, _LLAVA, needed=("text_config", "vision_config")):
            return False
        vision = config["vision_config"]
        if not _holds(vision, _VISION_MODEL, needed=_NEEDED_OF_VISION) or not _divides(vision, "num_attention_heads"):
            return False
        prefix = _VISION[any(name.startswith(_VISION[1]) for name in checkpoint.places)]
        expected = {**expected, **_vision_shapes(vision, prefix), **_projector_shapes(vision, layout.text_config)}
    found = {name: place.shape for name, place in checkpoint.places.items()}
    if layout.tied:
        # Saved or not, it is the embedding.
        found.pop(layout.names.get(HEAD, HEAD), None)
    return found == expected


def _holds(config: Mapping[str, Any], tests: Mapping[str, _Test], *, needed: tuple[str, ...]) -> bool:
    known = all(key in tests and tests[key](value) for key, value in config.items())
    return known and all(key in config for key in needed)


def _divides(config: Mapping[str, Any], key: str, of: str = "hidden_size") -> bool:
    return bool(config[of] % config[key] == 0)


def _is_plain_text(layout: BackboneLayout) -> bool:
    text = layout.text_config
    if text.get("model_type") not in _BLOCKS or not _holds(text, _TEXT_MODEL, needed=_NEEDED_OF_TEXT):
        return False
    kinds, pad = text.get("layer_types"), text.get("pad_token_id")
    return (
        (text.get("head_dim") is not None or text["model_type"] not in _STATES_HEAD_DIM)
        and _divides(text, "num_attention_heads")
        and _divides(text, "num_key_value_heads", of="num_attention_heads")
        and (pad is None or pad < text["vocab_size"])
        and (kinds is None or (len(kinds) == text["num_hidden_layers"] and all(kind in _KINDS for kind in kinds)))
    )


def _text_shapes(layout: BackboneLayout) -> _Shapes:
    """Return the tensors that the language model of a config has, by their names on disk."""
    text = layout.text_config
    hidden, inner, rows = text["hidden_size"], text["intermediate_size"], text["vocab_size"]
    head = text.get("head_dim") or hidden // text["num_attention_heads"]
    queries, keys = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    sizes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    found: dict[str, tuple[int, ...]] = {EMBEDDING: (rows, hidden), "model.norm.weight": (hidden,)}
    if not layout.tied:
        found[HEAD] = (rows, hidden)
    for number in range(text["num_hidden_layers"]):
        for name in _BLOCKS[text["model_type"]]:
            module, _, kind = name.rpartition(".")
            found[f"model.layers.{number}.{name}"] = sizes[module] if kind == "weight" else sizes[module][:1]
    # A tensor that the checkpoint lacks keeps its backbone name, which is not found among the files' names.
    return {layout.names.get(name, name): shape for name, shape in found.items()}


def _vision_shapes(vision: Mapping[str, Any], prefix: str) -> _Shapes:
    hidden, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    norm, square = {"weight": (hidden,), "bias": (hidden,)}, {"weight": (hidden, hidden), "bias": (hidden,)}
    modules: dict[str, Mapping[str, tuple[int, ...]]] = {
        "embeddings": {"class_embedding": (hidden,)},
        "embeddings.patch_embedding": {"weight": (hidden, 3, patch, patch)},
        "embeddings.position_embedding": {"weight": ((vision["image_size"] // patch) ** 2 + 1, hidden)},
        "pre_layrnorm": norm,
        "post_layernorm": norm,
    }
    for number in range(vision["num_hidden_layers"]):
        block = f"encoder.layers.{number}."
        modules |= {f"{block}{name}": norm for name in ("layer_norm1", "layer_norm2")}
        modules |= {f"{block}self_attn.{name}_proj": square for name in ("q", "k", "v", "out")}
        modules[f"{block}mlp.fc1"] = {"weight": (inner, hidden), "bias": (inner,)}
        modules[f"{block}mlp.fc2"] = {"weight": (hidden, inner), "bias": (hidden,)}
    return {f"{prefix}{module}.{name}": shape for module, own in modules.items() for name, shape in own.items()}


def _projector_shapes(vision: Mapping[str, Any], text: Mapping[str, Any]) -> _Shapes:
    hidden = text["hidden_size"]
    return {
        f"{_PROJECTOR}linear_1.weight": (hidden, vision["hidden_size"]),
        f"{_PROJECTOR}linear_1.bias": (hidden,),
        f"{_PROJECTOR}linear_2.weight": (hidden, hidden),
        f"{_PROJECTOR}linear_2.bias": (hidden,),
    }
