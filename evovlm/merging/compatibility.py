"""Do these models fit together? Errors name tensors, shapes and policies; warnings tell what merges but may hurt."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evovlm.errors import IncompatibleModels
from evovlm.merging.sources import Checkpoint
from evovlm.merging.tensor_names import VOCABULARY_TENSORS
from evovlm.merging.text_families import backbone_settings
from evovlm.merging.vocabulary import differing_tokens
from evovlm.recipes.recipe import Vocabulary

_SHOWN = 4
# Equal shapes can hide another meaning: so many heads of such a size.
_MEANING_OF_SHAPES = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NamedCheckpoint:
    """An open checkpoint under the name it has in the recipe ("base", "host", "sources.ja") and as it was written."""

    name: str
    text: str
    checkpoint: Checkpoint

    def __str__(self) -> str:
        return f"{self.name} ('{self.text}')"


def check_tensors(models: Iterable[NamedCheckpoint], host: NamedCheckpoint) -> None:
    """Raise IncompatibleModels unless all have the host's backbone tensors, in number, blocks and meaning of shape."""
    for model in models:
        for problem in tensor_problems(model, host):
            raise problem


def tensor_problems(model: NamedCheckpoint, host: NamedCheckpoint) -> Iterator[IncompatibleModels]:
    """Yield what keeps the model's backbone from being merged with the host's: blocks, tensors, meaning of shapes."""
    layout, host_layout = model.checkpoint.layout, host.checkpoint.layout
    if layout.n_blocks != host_layout.n_blocks:
        yield IncompatibleModels(
            f"{model} has {layout.n_blocks} blocks and {host} has {host_layout.n_blocks}.\n"
            "    Merging needs models of one architecture: the same blocks, the same shapes."
        )
    else:
        wanted, found = set(host.checkpoint.backbone_names()), set(model.checkpoint.backbone_names())
        if surplus := sorted(found - wanted):
            hint = " (the host ties its head to its embedding)" if surplus == ["lm_head.weight"] else ""
            yield IncompatibleModels(f"{model} has {_some(surplus)}, which {host} does not have{hint}.")
        if missing := sorted(name for name in wanted if not model.checkpoint.has(name)):
            yield IncompatibleModels(f"{model} lacks {_some(missing)}, which {host} has.")
    for key in _MEANING_OF_SHAPES:
        ours, theirs = layout.text_config.get(key), host_layout.text_config.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            yield IncompatibleModels(f"{key} is {ours} in {model} and {theirs} in {host}; they cannot be merged.")


def merged_rows(
    name: str,
    *,
    base: NamedCheckpoint | None,
    host: NamedCheckpoint,
    sources: Iterable[NamedCheckpoint],
    vocabulary: Vocabulary | None,
) -> int:
    """Return how many leading rows of the tensor are merged; the host's further rows stay as they are.

    For a vocabulary tensor whose rows differ the policy decides: the merged rows are the base's (without a base: the
    fewest of any source), at most the host's, and rows beyond them in a source are not used. Under `base_rows` the
    host must have exactly the merged rows. Raises IncompatibleModels for any other difference of shape.
    """
    models = [*([base] if base else []), *sources, host]
    shapes = {str(model): model.checkpoint.shape(name) for model in models}
    host_shape = host.checkpoint.shape(name)
    if len(set(shapes.values())) == 1:
        return host_shape[0]
    same_but_rows = len({shape[1:] for shape in shapes.values()}) == 1
    if name not in VOCABULARY_TENSORS or not same_but_rows:
        listed = _grouped({label: str(list(shape)) for label, shape in shapes.items()})
        raise IncompatibleModels(f"{name} has shape {listed}.\n    Merging needs equal shapes; no setting helps here.")
    listed = _grouped({label: f"{shape[0]} rows" for label, shape in shapes.items()})
    if vocabulary is None:
        raise IncompatibleModels(
            f"{name} has {listed}.\n"
            "    Set `vocabulary: host` in the recipe (merge the base's rows, keep the host's further rows as they "
            "are)\n    or `vocabulary: base_rows` (merge the base's rows, which must be all that the host has)."
        )
    reference = base.checkpoint.shape(name)[0] if base else min(shape[0] for shape in shapes.values())
    rows = min(reference, host_shape[0])
    if vocabulary == "base_rows" and rows != host_shape[0]:
        raise IncompatibleModels(
            f"{name} has {listed}; with `vocabulary: base_rows` the host needs {rows} rows.\n"
            "    Set `vocabulary: host` to keep the host's further rows, or name another host."
        )
    short = [str(model) for model in models if model.checkpoint.shape(name)[0] < rows]
    if short:
        raise IncompatibleModels(f"{name} has {listed}; {', '.join(short)} cannot fill the {rows} rows to be merged.")
    return rows


def find_warnings(models: Iterable[NamedCheckpoint], host: NamedCheckpoint, *, rows: int) -> tuple[str, ...]:
    """Return what merges but may hurt: settings that differ from the host's, tokens that differ, a lost vision tower.

    `rows` is the number of embedding rows to be merged.
    """
    found: list[str] = []
    settings = {str(host): _settings(host)}
    for model in models:
        settings[str(model)] = _settings(model)
        if model.checkpoint.layout.is_vlm and not host.checkpoint.layout.is_vlm:
            found.append(f"{model} sees pictures and the host {host} does not; only its language model is merged.")
        differing = differing_tokens(model.checkpoint.folder, host.checkpoint.folder, rows=rows)
        if differing:
            shown = ", ".join(f"{row}: {ours!r} / {theirs!r}" for row, ours, theirs in differing[:_SHOWN])
            found.append(
                f"{len(differing)} of the {rows} embedding rows to be merged stand for other tokens in {model} than "
                f"in {host} ({shown})."
            )
    for key in next(iter(settings.values())):
        values = {label: str(each[key]) for label, each in settings.items()}
        if len(set(values.values())) > 1:
            found.append(f"{key} is {_grouped(values)}; the result takes the host's.")
    return tuple(dict.fromkeys(found))


def _settings(model: NamedCheckpoint) -> Mapping[str, Any]:
    return backbone_settings(model.checkpoint.layout.text_config, model.checkpoint.layout.text_model_type)


def _grouped(values: Mapping[str, str]) -> str:
    """Return "VALUE in A and B and VALUE in C"."""
    labels: dict[str, list[str]] = {}
    for label, value in values.items():
        labels.setdefault(value, []).append(label)
    return ", and ".join(f"{value} in {' and '.join(names)}" for value, names in labels.items())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
