"""What a checkpoint does not say of itself, by model type: usual names of modules, defaults, how pictures are taken.

A model type without a row merges, too: `merging/models/structure.py` derives its layout from its tensors.

Defaults, namings and ties are those of transformers 5.23: `models/*/configuration_*.py`, `conversion_mapping.py` (names
on disk against names in memory), `_tied_weights_keys` and `tie_word_embeddings` of `models/*/modeling_*.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

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
    """What cannot be derived of one model type of a text config: whose weights it has, and its defaults.

    `architecture` is the model type of the text model whose tensors mean the same. `positions` is the default of
    max_position_embeddings. `local_rope_theta` is the rope of sliding layers that have another than the full ones. A
    window that is `switched` counts only under `use_sliding_window`, and from block `max_window_layers` on; of every
    `pattern` blocks, all but the last have a sliding window. A norm's factor is its weight, or its weight plus 1
    (`norm_adds_one`); with `post_norms` the output of each branch is normed, too. `biases` and `head_norms` say that
    the attention has biases, or norms of queries and keys. A default is None where it is not known here; `is_known`
    says whether the type has a row in the table.
    """

    architecture: str
    positions: int | None = None
    tied: bool | None = False
    rope_theta: float | None = 10000.0
    local_rope_theta: float | None = None
    window: int | None = None
    switched: bool = False
    rms_norm_eps: float | None = 1e-6
    activation: str | None = "silu"
    activation_key: str = "hidden_act"
    max_window_layers: int | None = None
    pattern: int | None = None
    norm_adds_one: bool = False
    post_norms: bool = False
    biases: bool = False
    head_norms: bool = False
    is_known: bool = True

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

_SAME_WEIGHTS: Mapping[str, str] = {
    "qwen3_vl_moe_text": "qwen3_moe",
    "glm4v_text": "glm4",
    "glm4v_moe_text": "glm4_moe",
}
"""Parts of a VLM whose tensors mean the same as a text model's with another name."""

FIXED_SETTINGS: Mapping[str, Mapping[str, object]] = {"qwen3_vl_moe_text": {"norm_topk_prob": True}}
"""What the code of a type always does, by the setting of another type with the same weights."""


def text_family(text_model_type: str) -> TextFamily:
    """Return the row of a model type; for a type without a row, one that leaves every default open."""
    row = TEXT_FAMILIES.get(text_model_type)
    if row is not None:
        return row
    # transformers calls the language model inside a VLM NAME_text; alone, it is the same model.
    architecture = _SAME_WEIGHTS.get(text_model_type, text_model_type.removesuffix("_text"))
    return TextFamily(
        architecture=architecture, tied=None, rope_theta=None, rms_norm_eps=None, activation=None, is_known=False
    )


EMBEDDINGS = (
    "embed_tokens",
    "wte",
    "embed_in",
    "word_embeddings",
    "tok_embeddings",
    "tokens_embed",
    "embeddings",
    "embed",
)
"""What the module of a token embedding is called."""

FINAL_NORMS = (
    "norm",
    "final_norm",
    "final_layernorm",
    "final_layer_norm",
    "ln_f",
    "norm_f",
    "embedding_norm",
    "ln_out",
    "ln_final",
    "out_norm",
    "layer_norm",
)
"""What the norm after the last block is called; the first of these beside the blocks counts."""

HEADS = ("lm_head", "embed_out", "output", "unembed", "head")
"""What the module of the output head is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackbonePrefixes:
    """Where the tensors of a language model are, as prefixes of their names on disk.

    `body` is what its embedding, blocks and final norm have in common, `blocks` follows it and precedes the number of a
    block, `head` is the output head's. A dot at the end may be left out.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    body: str
    head: str = "lm_head."
    blocks: str = "layers."

    def __post_init__(self) -> None:
        for name in ("body", "head", "blocks"):
            prefix: str = getattr(self, name)
            object.__setattr__(self, name, f"{prefix.rstrip('.')}." if prefix else "")

    def is_in(self, tensor_names: Iterable[str]) -> bool:
        """Return whether tensors of a block are among these names."""
        return any(name.startswith(self.body + self.blocks) for name in tensor_names)

    def as_values(self) -> dict[str, str]:
        """Return the prefixes as the plain values of a recipe's file."""
        return {"body": self.body, "head": self.head, "blocks": self.blocks}


@dataclass(frozen=True, slots=True, kw_only=True)
class VlmFamily:
    """One model type of a vision-language model: its text config, and how it takes pictures.

    `text_model_type` is the model type of a text config that does not name one, or of any if `text_is_fixed`; the text
    config of a family that is `flat_once` may be config.json itself. `tied` says whether the head is the embedding
    where config.json does not say; under `tied_with_text` the text config can say so too.

    `tiles_one_picture`: a picture is cut into tiles only if it is the only one of its question. `takes_encoded`: its
    `generate` takes what the image part returns, not embeddings in a row. `kinds_input` is the input that says which
    tokens are a picture's (Gemma 3 lets those attend to each other). `deepstack`: the vision encoder adds features
    after several blocks.
    """

    text_model_type: str
    text_is_fixed: bool = False
    flat_once: bool = False
    tied: bool = False
    tied_with_text: bool = False
    tiles_one_picture: bool = False
    takes_encoded: bool = False
    kinds_input: str | None = None
    deepstack: bool = False


_LLAVA = VlmFamily(text_model_type="llama")
_QWEN_VL = VlmFamily(text_model_type="qwen2_vl_text", text_is_fixed=True, flat_once=True, tied_with_text=True)

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
    "qwen3_vl": VlmFamily(text_model_type="qwen3_vl_text", text_is_fixed=True, takes_encoded=True, deepstack=True),
}
