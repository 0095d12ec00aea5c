"""A merged model without its numbers: its config.json, whether its head is tied, its tensors, its new tokens."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from evovlm.errors import IncompatibleModels
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.chat_change import ChatChange, plan_chat
from evovlm.merging.models.compatibility import NamedCheckpoint
from evovlm.merging.models.structure import EMBEDDING, HEAD
from evovlm.merging.models.tensor_names import BackboneLayout
from evovlm.merging.models.vocabulary import NewToken
from evovlm.merging.models.vocabulary_policy import new_tokens, token_rows
from evovlm.recipes.families import FULL_ATTENTION, SLIDING_ATTENTION, text_family
from evovlm.recipes.language_config import (
    MROPE_KEYS,
    ROPE_KEYS,
    WINDOW_KEYS,
    backbone_settings,
    language_path,
    rope_kind,
)
from evovlm.recipes.recipe import MergeTemplate

_TIE = "tie_word_embeddings"
_VOCAB_SIZE = "vocab_size"
_STOPS = "eos_token_id"
_NORM_EPS = "rms_norm_eps"
_NORM_KEYS = (_NORM_EPS, "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
_POSITIONS = "max_position_embeddings"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResultLayout:
    """A merged model without its numbers.

    `config` is its config.json, the same object as the host's if nothing differs (`is_hosts`). `tied` says that its
    head is its embedding; `tensor_names` are its backbone's tensors, by backbone name and in the model's order, and
    can differ from the host's only by the head. `new_tokens` are added to the host's tokenizer, `n_rows` is the number
    of embedding rows. `chat` says what its files say about chatting in place of the host's (None: nothing).
    """

    config: Mapping[str, Any]
    is_hosts: bool
    tied: bool
    tensor_names: tuple[str, ...]
    n_rows: int
    new_tokens: tuple[NewToken, ...] = ()
    chat: ChatChange | None = None

    @staticmethod
    def plan(
        template: MergeTemplate,
        *,
        base: NamedCheckpoint | None,
        host: NamedCheckpoint,
        sources: Iterable[NamedCheckpoint],
    ) -> "ResultLayout":
        """Return the layout of the template's merges of these models.

        Raises IncompatibleModels when the host's architecture cannot have the chosen config, or tokens cannot be added;
        ConfigError when the chosen model has no chat template, or the sources do not agree on one.
        """
        sources = tuple(sources)
        named = {model.name: model for model in ([base] if base else []) + list(sources)}
        donor = host
        if template.config_from is not None:
            donor = named.get(f"sources.{template.config_from}") or named[template.config_from]
        chat = plan_chat(template, base=base, host=host, sources=sources)
        wanted = chat.tokens if chat else frozenset()
        new = new_tokens(template.vocabulary, base=base, host=host, sources=sources, wanted=wanted)
        own_rows = host.checkpoint.shape(EMBEDDING)[0]
        n_rows = max([own_rows, *(token.row + 1 for token in new)])
        stops = chat.stop_ids(token_rows(host, new)) if chat is not None else None
        is_hosts = donor.checkpoint is host.checkpoint and n_rows == own_rows and stops is None
        config: Mapping[str, Any] = host.checkpoint.config
        if not is_hosts:
            config = chatting_config(host.checkpoint, donor.checkpoint, n_rows=n_rows, stops=stops)
        tied = donor.checkpoint.layout.tied
        names = tuple(name for name in host.checkpoint.backbone_names() if name != HEAD)
        return ResultLayout(
            config=config,
            is_hosts=is_hosts,
            tied=tied,
            tensor_names=names if tied else (*names, HEAD),
            n_rows=n_rows,
            new_tokens=new,
            chat=chat,
        )


def chatting_config(
    host: Checkpoint, donor: Checkpoint | None = None, *, n_rows: int, stops: int | list[int] | None
) -> dict[str, Any]:
    """Return the host's config.json for a result with `n_rows` embedding rows, which stops at the rows `stops`.

    Settings are those of `donor` (None: the host's), see `result_config`; None keeps the host's stops.
    """
    changed = _with_vocab_size(result_config(host, donor or host), host, n_rows)
    return changed if stops is None else _with_stops(changed, stops)


def result_config(host: Checkpoint, donor: Checkpoint) -> dict[str, Any]:
    """Return the host's config.json with the rope, sliding window, positions, norm eps and tying of the donor's.

    Where the donor's config is silent, its own family's default counts, never the host's setting. Rope is written so
    that transformers 4 and 5 read the same. Raises IncompatibleModels when the donor's config has a sliding window that
    the host's architecture does not support.
    """
    config = deepcopy(dict(host.config))
    if donor is host:
        return config
    text, theirs = text_part(config, host), deepcopy(dict(donor.layout.text_config))
    ours = dict(text)
    _check_forms(host, donor)
    for key in (*ROPE_KEYS, *WINDOW_KEYS, *_NORM_KEYS, _POSITIONS):
        text.pop(key, None)
    text |= {key: theirs[key] for key in (*_NORM_KEYS, _POSITIONS) if key in theirs}
    family = text_family(donor.layout.text_model_type)
    if family.is_known:
        text.setdefault(_NORM_EPS, family.rms_norm_eps)
        text.setdefault(_POSITIONS, family.positions)
    text |= _rope(theirs, ours, donor.layout.text_model_type)
    text |= _window(theirs, host.layout, donor)
    if donor.layout.tied != host.layout.tied:
        # Some VLMs read it from the whole config, some from the text config, some from both.
        config[_TIE] = text[_TIE] = donor.layout.tied
    return config


def text_part(config: dict[str, Any], host: Checkpoint) -> dict[str, Any]:
    """Return the part of a copy of the host's config that describes its backbone; changes to it change `config`."""
    if host.layout.text_config is host.config:
        return config
    path = language_path(config)
    if not path:
        config["text_config"] = dict(host.layout.text_config)
        path = ("text_config",)
    part = config
    for key in path:
        part = part[key]
    return part


def _check_forms(host: Checkpoint, donor: Checkpoint) -> None:
    """Raise IncompatibleModels when the donor states its settings in a form that the host's code may not read."""
    kinds = [text_family(each.layout.text_model_type) for each in (host, donor)]
    if kinds[0].architecture != kinds[1].architecture and not all(kind.is_known for kind in kinds):
        raise IncompatibleModels(
            f"config_from: {donor.folder} is a {donor.layout.text_model_type}, whose settings a "
            f"{host.layout.text_model_type} may read differently.\n    Name a model of the host's type."
        )


def _rope(theirs: Mapping[str, Any], ours: Mapping[str, Any], donor_type: str) -> dict[str, Any]:
    """Return the donor's rope as transformers 5's (rope_parameters) and 4's (rope_theta, rope_scaling)."""
    family = text_family(donor_type)
    if not family.is_known:
        return {key: theirs[key] for key in ROPE_KEYS if key in theirs}
    found: Mapping[str, Any] = theirs.get("rope_scaling") or theirs.get("rope_parameters") or {}
    if family.local_rope_theta is not None:
        return _rope_by_layer(theirs, donor_type)
    theta = found.get("rope_theta") or theirs.get("rope_theta") or family.rope_theta
    own: Mapping[str, Any] = ours.get("rope_scaling") or ours.get("rope_parameters") or {}
    scaling = {
        **{key: value for key, value in found.items() if key not in ("rope_theta", "rope_type", "type", *MROPE_KEYS)},
        **{key: own[key] for key in MROPE_KEYS if key in own},
    }
    return _both_forms(rope_kind(found), theta, scaling)


def _rope_by_layer(theirs: Mapping[str, Any], donor_type: str) -> dict[str, Any]:
    """Return the rope of a family whose sliding layers have another rope than the full ones (Gemma 3)."""
    nested: Mapping[str, Any] = theirs.get("rope_parameters") or {}
    settings = backbone_settings(theirs, donor_type)
    theta, local_theta = settings["rope_theta"], settings["rope_theta of sliding layers"]
    full: Mapping[str, Any] = theirs.get("rope_scaling") or nested.get(FULL_ATTENTION) or {}
    scaling = {key: value for key, value in full.items() if key not in ("rope_theta", "rope_type", "type")}
    forms = _both_forms(rope_kind(full), theta, scaling)
    sliding = {"rope_type": "default", **(nested.get(SLIDING_ATTENTION) or {}), "rope_theta": local_theta}
    forms["rope_parameters"] = {FULL_ATTENTION: forms["rope_parameters"], SLIDING_ATTENTION: sliding}
    return {**forms, "rope_local_base_freq": local_theta}


def _both_forms(kind: str, theta: float | None, scaling: Mapping[str, Any]) -> dict[str, Any]:
    older = {"rope_type": kind, "type": kind, **scaling} if scaling or kind != "default" else None
    return {
        "rope_parameters": {"rope_type": kind, "rope_theta": theta, **scaling},
        "rope_theta": theta,
        "rope_scaling": older,
    }


def _window(theirs: Mapping[str, Any], host: BackboneLayout, donor: Checkpoint) -> dict[str, Any]:
    """Return the donor's sliding window in the host's terms."""
    if host.text_model_type == donor.layout.text_model_type:
        return {key: theirs[key] for key in WINDOW_KEYS if key in theirs}
    window = backbone_settings(theirs, donor.layout.text_model_type)["sliding_window"]
    family = text_family(host.text_model_type)
    if family.window is None:
        if window is not None:
            raise IncompatibleModels(
                f"config_from: {donor.folder} has a sliding window of {window}, which the host's architecture "
                f"({host.text_model_type}) does not support.\n    Name another model, or another host."
            )
        return {}
    if not family.switched:
        return {"sliding_window": window}
    if window is None:
        return {"use_sliding_window": False}
    return {
        "use_sliding_window": True,
        "sliding_window": window,
        "max_window_layers": 0,
        **{key: theirs[key] for key in ("max_window_layers", "layer_types") if key in theirs},
    }


def _with_vocab_size(config: dict[str, Any], host: Checkpoint, n_rows: int) -> dict[str, Any]:
    text = text_part(config, host)
    if n_rows != host.shape(EMBEDDING)[0]:
        text[_VOCAB_SIZE] = n_rows
        if _VOCAB_SIZE in config:
            config[_VOCAB_SIZE] = n_rows
    return config


def _with_stops(config: dict[str, Any], stops: int | list[int]) -> dict[str, Any]:
    """Let config.json name the stop tokens of generation_config.json, where it names any."""
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and _STOPS in part:
            part[_STOPS] = stops
    return config
