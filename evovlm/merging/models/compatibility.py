"""Checks whether models can be merged: errors name tensors, shapes and policies, warnings name what may do harm."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evovlm.errors import IncompatibleModels
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.models.config_check import check_config
from evovlm.merging.models.structure import HEAD
from evovlm.recipes.families import MEANING_OF_SHAPES, text_family
from evovlm.recipes.language_config import backbone_settings, default_settings

_SHOWN = 4
_NOT_STATED = "not stated"
_OFF: tuple[object, ...] = (None, False, 0, "", [])
_POSITIONS = "max_position_embeddings"
# `config_from` cannot choose these: the host's code computes with them.
_ALWAYS_THE_HOSTS = ("model_type", "hidden_act")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NamedCheckpoint:
    """An open checkpoint, with its name in the recipe ("base", "host", "sources.ja") and its text there."""

    name: str
    text: str
    checkpoint: Checkpoint

    def __str__(self) -> str:
        return f"{self.name} ('{self.text}')"

    def stored_in(self, dtype: str | None) -> "NamedCheckpoint":
        """Return the same model with its floats in a dtype, as a recipe names it (None: what they have)."""
        return self if dtype is None else replace(self, checkpoint=self.checkpoint.cast_to(dtype))


def check_tensors(models: Iterable[NamedCheckpoint], host: NamedCheckpoint) -> None:
    """Raise IncompatibleModels unless all models have the host's backbone: blocks, tensors and meaning of shapes.

    Raises BrokenCheckpoint when the config.json of one contradicts its tensors.
    """
    models = tuple(models)
    for model in models:
        for problem in tensor_problems(model, host):
            raise problem
    for model in (host, *models):
        check_config(model.checkpoint)


def tensor_problems(model: NamedCheckpoint, host: NamedCheckpoint) -> Iterator[IncompatibleModels]:
    """Yield what prevents merging the model's backbone with the host's: blocks, tensors, meaning of shapes."""
    layout, host_layout = model.checkpoint.layout, host.checkpoint.layout
    if layout.n_blocks != host_layout.n_blocks:
        yield IncompatibleModels(
            f"{model} has {layout.n_blocks} blocks and {host} has {host_layout.n_blocks}.\n"
            "    Merging needs models of one architecture: the same blocks, the same shapes."
        )
    else:
        wanted, found = set(host.checkpoint.backbone_names()), set(model.checkpoint.backbone_names())
        # A separate head is not a matter of architecture: find_warnings reports it, and config_from decides.
        if surplus := sorted(found - wanted - {HEAD}):
            yield IncompatibleModels(f"{model} has {_some(surplus)}, which {host} does not have.")
        if missing := sorted(name for name in wanted if not model.checkpoint.has(name)):
            yield IncompatibleModels(f"{model} lacks {_some(missing)}, which {host} has.")
    for key in MEANING_OF_SHAPES:
        ours, theirs = layout.text_config.get(key), host_layout.text_config.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            yield IncompatibleModels(f"{key} is {ours} in {model} and {theirs} in {host}; they cannot be merged.")


def find_warnings(
    models: Iterable[NamedCheckpoint], host: NamedCheckpoint, *, config_from: str | None = None
) -> tuple[str, ...]:
    """Return what can be merged but may harm the result: settings that differ from the host's, a lost vision tower.

    The result takes rope, window, norm eps and tying from the model that `config_from` names (None: the host).
    """
    models = tuple(models)
    found = [f"{model}: {note}." for model in (host, *models) for note in model.checkpoint.notes]
    found += [
        f"{model} sees pictures and the host {host} does not; only its language model is merged."
        for model in models
        if model.checkpoint.layout.is_vlm and not host.checkpoint.layout.is_vlm
    ]
    found += [f"{key} is {values}; {_taken(key, config_from)}." for key, values in differing_settings((host, *models))]
    return tuple(dict.fromkeys(found))


def differing_settings(models: Iterable[NamedCheckpoint]) -> Iterator[tuple[str, str]]:
    """Yield each setting in config.json that differs between models, with "VALUE in A, and VALUE in B".

    A setting that is off counts as one that is not stated. A type of transformers that does not have a setting is
    not compared by it.
    """
    compared = [(str(model), _settings(model), _states_all(model)) for model in models]
    for key in dict.fromkeys(key for _, settings, _ in compared for key in settings):
        having = [(label, settings) for label, settings, states_all in compared if key in settings or not states_all]
        first, *others = [settings.get(key) for _, settings in having]
        if any(value != first and not (value in _OFF and first in _OFF) for value in others):
            yield key, grouped({label: str(settings.get(key, _NOT_STATED)) for label, settings in having})


def _states_all(model: NamedCheckpoint) -> bool:
    """Whether all settings of the model are known, also those that its config leaves to their defaults."""
    return default_settings(model.checkpoint.layout.text_model_type) is not None


def _settings(model: NamedCheckpoint) -> Mapping[str, Any]:
    layout = model.checkpoint.layout
    return {
        **backbone_settings(layout.text_config, layout.text_model_type),
        _POSITIONS: layout.text_config.get(_POSITIONS) or text_family(layout.text_model_type).positions,
        "tie_word_embeddings": layout.tied,
    }


def _taken(setting: str, config_from: str | None) -> str:
    if setting in _ALWAYS_THE_HOSTS:
        return "the result takes the host's"
    if config_from is None:
        return "the result takes the host's (`config_from` in the recipe can name base or a source instead)"
    return f"the result takes that of {config_from}, which `config_from` names"


def grouped(values: Mapping[str, str]) -> str:
    """Return "VALUE in A and B and VALUE in C"."""
    labels: dict[str, list[str]] = {}
    for label, value in values.items():
        labels.setdefault(value, []).append(label)
    return ", and ".join(f"{value} in {' and '.join(names)}" for value, names in labels.items())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
