"""Which rows of embedding and head are merged with which: by their tokens, as the recipe's `vocabulary` says.

None (the default) merges by token and refuses vocabularies that differ in more than padding and added tokens; `host`
merges by token, whatever differs; `base_rows` merges by row number; `union` is `host` with a row for every added token
that the host lacks. Padding, and rows of tokens that not every model has, stay the host's.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from evovlm.errors import IncompatibleModels
from evovlm.merging.models.compatibility import NamedCheckpoint, grouped
from evovlm.merging.models.row_plan import NewRow, RowPlan, SharedRows
from evovlm.merging.models.structure import EMBEDDING
from evovlm.merging.models.tensor_names import VOCABULARY_TENSORS
from evovlm.merging.models.vocabulary import NewToken, Tokens, read_tokens
from evovlm.recipes.recipe import Vocabulary

LEAST_SHARED = 0.5
"""If a smaller share of the host's ordinary tokens is merged, a warning says that texts may be garbled."""
_SHOWN = 4


class _KnownModel(NamedTuple):
    """A model of the merge: its name in messages, its rows in one tensor, and its tokens (None: no tokenizer)."""

    text: str
    n_rows: int
    tokens: Tokens | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _TokenOverlap:
    """How the models' tokens relate: `rows` (by label, then token) within the tensor; `added` in any of them.

    `shared` are the host's ordinary tokens that all models have, `moved` those of them with another row in some model,
    `foreign` the ordinary tokens of others that the host lacks; `same` says that only padding and added tokens differ.
    """

    rows: Mapping[str, Mapping[str, int]]
    added: frozenset[str]
    shared: frozenset[str]
    moved: frozenset[str]
    foreign: frozenset[str]
    same: bool

    def n_ordinary(self, label: str) -> int:
        return len(self.rows[label].keys() - self.added)


def plan_rows(
    name: str,
    *,
    base: NamedCheckpoint | None,
    host: NamedCheckpoint,
    sources: Iterable[NamedCheckpoint],
    vocabulary: Vocabulary | None,
    new: Sequence[NewToken],
) -> RowPlan:
    """Return how the rows of a tensor of the result are made; `name` is its backbone name, `new` are the new tokens.

    Models are called "base", "host" and "sources.NAME" in the plan. Everything is one run if all models have the same
    row counts and tokens, and for all tensors except embedding and head. Raises IncompatibleModels when the rows cannot
    be merged, with the shapes, or with counts of tokens and the policies that would work.
    """
    models = _ordered(base, host, sources)
    _check_shapes(name, models)
    labels = tuple(model.name for model in models)
    # A single number without dimensions is one row.
    n_host = next(iter(host.checkpoint.shape(name)), 1)
    if name not in VOCABULARY_TENSORS:
        return RowPlan.leading(n_host, of=n_host, models=labels)
    if vocabulary == "base_rows":
        return _by_number(name, models)
    known = _with_tokens(name, models)
    if known is None or _are_identical(known):
        return RowPlan.leading(n_host, of=n_host, models=labels)
    overlap = _find_overlap(known)
    if vocabulary is None and not overlap.same:
        raise _differing(name, models, overlap)
    rows = tuple(NewRow(row=token.row, origins=token.origins) for token in new)
    return RowPlan(n_rows=max([n_host, *(row.row + 1 for row in rows)]), runs=_shared_runs(overlap), new=rows)


def new_tokens(
    policy: Vocabulary | None,
    *,
    base: NamedCheckpoint | None,
    host: NamedCheckpoint,
    sources: Iterable[NamedCheckpoint],
    wanted: Collection[str],
) -> tuple[NewToken, ...]:
    """Return the tokens that the result has and the host lacks, each with its row in the result.

    They are the `wanted` ones, which a chat template or a stop needs, and under `vocabulary: union` all added tokens of
    base and sources. They take the rows after the host's last token: first its padding, then new rows, because
    tokenizers number added tokens without gaps. Raises IncompatibleModels when the host has no tokenizer or one of the
    rows is in use; under `union` also when it lacks an ordinary token, under `base_rows` when any token is new.
    """
    union = policy == "union"
    if not union and not wanted:
        return ()
    models = _ordered(base, host, sources)
    own = read_tokens(host.checkpoint.tokenizer_folder)
    if policy == "base_rows":
        raise IncompatibleModels(
            f"chat_template: needs the tokens {_listed(wanted)}, which {host} lacks, and `vocabulary: base_rows` adds "
            "no rows.\n    Set `vocabulary: host` in the recipe."
        )
    known = _with_tokens(EMBEDDING, models)
    if known is None or own is None:
        raise IncompatibleModels(
            f"{host} has no tokenizer, to which {'`vocabulary: union`' if union else 'the chat template'} would add "
            "tokens.\n"
            "    Copy the tokenizer files of the model it was made from into its folder, or name another host."
        )
    overlap = _find_overlap(known)
    if union and overlap.foreign:
        raise IncompatibleModels(
            f"`vocabulary: union` can add special tokens, but {_counts_text(models, overlap)}: {len(overlap.foreign)} "
            f"ordinary tokens ({_listed(overlap.foreign)}) are unknown to the host's tokenizer, which cannot learn "
            "them.\n    Set `vocabulary: host` in the recipe, or let the model with the larger vocabulary be the host."
        )
    origins: dict[str, list[tuple[str, int]]] = {}
    entries: dict[str, Mapping[str, Any]] = {}
    for label, model in known.items():
        tokens = model.tokens
        added = tokens.added if tokens is not None else ()
        lacking = [token for token in added if token not in own.rows and (union or token in wanted)]
        for token in sorted(lacking, key=lambda each: overlap.rows[label].get(each, -1)):
            if token in overlap.rows[label] and tokens is not None:
                origins.setdefault(token, []).append((label, overlap.rows[label][token]))
                entries.setdefault(token, tokens.added[token])
    without_row = sorted(set(wanted) - origins.keys())
    if without_row:
        raise IncompatibleModels(
            f"chat_template: needs the tokens {_listed(without_row)}, which {host} lacks, and which no other model has "
            "as added tokens with an embedding row.\n"
            "    Let a model that has them be the host, or remove chat_template from the recipe."
        )
    first = max(own.rows.values()) + 1
    found = tuple(
        NewToken(token, first + place, tuple(places), entries[token])
        for place, (token, places) in enumerate(origins.items())
    )
    _check_free(host, own, found)
    return found


def token_rows(host: NamedCheckpoint, new: Iterable[NewToken]) -> Mapping[str, int]:
    """Return the row of each token of the result: the host's and the new ones."""
    own = read_tokens(host.checkpoint.tokenizer_folder)
    return {**(own.rows if own is not None else {}), **{token.token: token.row for token in new}}


def vocabulary_warnings(
    *,
    base: NamedCheckpoint | None,
    host: NamedCheckpoint,
    sources: Iterable[NamedCheckpoint],
    vocabulary: Vocabulary | None,
    new: Sequence[NewToken],
) -> tuple[str, ...]:
    """Return what can be merged about the vocabularies but may harm the result; `plan_rows` must accept the models."""
    models = _ordered(base, host, sources)
    if vocabulary == "base_rows":
        return _other_tokens_by_number(models)
    found = [
        f"{model} has no tokenizer; its embedding rows are assumed to be for the same tokens as the others'."
        for model in models
        if read_tokens(model.checkpoint.tokenizer_folder) is None
    ]
    known = _with_tokens(EMBEDDING, models)
    if new:
        before, after = host.checkpoint.shape(EMBEDDING)[0], max(token.row for token in new) + 1
        grown = f"; vocab_size grows from {before} to {after}" if after > before else ", which were padding"
        rows = f"the rows {new[0].row} to {new[-1].row}" if len(new) > 1 else f"the row {new[0].row}"
        many = f"{len(new)} added tokens" if len(new) > 1 else "the added token"
        found.append(f"{many} ({_listed(token.token for token in new)}) take{'s' * (len(new) == 1)} {rows}{grown}.")
    if known is None or vocabulary is None:
        return tuple(found)
    overlap = _find_overlap(known)
    if not overlap.same:
        found.append(f"{_counts_text(models, overlap)}; rows of tokens that not all have stay the host's.")
    n_host, n_shared = overlap.n_ordinary("host"), len(overlap.shared)
    if n_shared < LEAST_SHARED * n_host:
        found.append(
            f"only {n_shared} of the host's {n_host} ordinary tokens are in all models: most rows of its embedding "
            "stay as they are while the blocks change, so its texts may be garbled."
        )
    return tuple(found)


def rowless_tokens(model: NamedCheckpoint) -> tuple[str, ...]:
    """Return a warning for a model whose tokenizer has tokens beyond the rows of its embedding; one at most."""
    tokens = read_tokens(model.checkpoint.tokenizer_folder)
    n_rows = model.checkpoint.shape(EMBEDDING)[0]
    beyond = [] if tokens is None else [token for token, row in tokens.rows.items() if row >= n_rows]
    if not beyond:
        return ()
    count = f"{len(beyond)} tokens" if len(beyond) > 1 else "a token"
    return (
        f"the tokenizer of {model} has {count} without a row among the {n_rows} of its embedding ({_listed(beyond)}); "
        "a text with one cannot be answered.",
    )


def _ordered(
    base: NamedCheckpoint | None, host: NamedCheckpoint, sources: Iterable[NamedCheckpoint]
) -> tuple[NamedCheckpoint, ...]:
    """Return base, host and the sources by name: the order decides what is taken from the first model that has it."""
    return (*([base] if base else []), host, *sorted(sources, key=lambda model: model.name))


def _check_shapes(name: str, models: Sequence[NamedCheckpoint]) -> None:
    shapes = {str(model): model.checkpoint.shape(name) for model in models}
    compared = {shape[1:] if name in VOCABULARY_TENSORS else shape for shape in shapes.values()}
    if len(compared) > 1:
        each = grouped({label: str(list(shape)) for label, shape in shapes.items()})
        raise IncompatibleModels(f"{name} has shape {each}.\n    Merging needs equal shapes; no setting helps here.")


def _by_number(name: str, models: Sequence[NamedCheckpoint]) -> RowPlan:
    counts = {model.name: model.checkpoint.shape(name)[0] for model in models}
    each = grouped({str(model): f"{counts[model.name]} rows" for model in models})
    rows = _n_by_number(counts)
    if rows != counts["host"]:
        raise IncompatibleModels(
            f"{name} has {each}; with `vocabulary: base_rows` the host needs {rows} rows.\n"
            "    Set `vocabulary: host` to keep the host's further rows, or name another host."
        )
    short = [str(model) for model in models if counts[model.name] < rows]
    if short:
        raise IncompatibleModels(
            f"{name} has {each}; {', '.join(short)} cannot fill the {rows} rows to be merged.\n"
            "    Set `vocabulary: host` to merge the rows of the tokens that all models have."
        )
    return RowPlan.leading(rows, of=rows, models=tuple(counts))


def _n_by_number(counts: Mapping[str, int]) -> int:
    """Return how many rows merge by number: those of the base, without a base the fewest of any source."""
    return counts.get("base") or min(count for label, count in counts.items() if label != "host")


def _differing(name: str, models: Sequence[NamedCheckpoint], overlap: _TokenOverlap) -> IncompatibleModels:
    counts = {model.name: model.checkpoint.shape(name)[0] for model in models}
    policies = [
        "`vocabulary: host` (merge by token the rows of tokens that all models have; keep the host's other rows)"
    ]
    rows = _n_by_number(counts)
    if rows == counts["host"] and min(counts.values()) >= rows:
        policies.append("`vocabulary: base_rows` (merge by row number, whatever token a row is for)")
    return IncompatibleModels(
        f"{name}: {_counts_text(models, overlap)}.\n    Set in the recipe {', or '.join(policies)};\n"
        "    or merge models that share a tokenizer."
    )


def _check_free(host: NamedCheckpoint, own: Tokens, new: Sequence[NewToken]) -> None:
    """Raise IncompatibleModels when the host uses a new row for something, or has tokens without a row."""
    n_rows = host.checkpoint.shape(EMBEDDING)[0]
    beyond = sorted(token for token, row in own.rows.items() if row >= n_rows)
    if new and beyond:
        raise IncompatibleModels(
            f"{host} has {n_rows} embedding rows, but its tokenizer has tokens after them: {_listed(beyond)}.\n"
            "    Tokens cannot be added to it; set `vocabulary: host` in the recipe."
        )
    taken = {token.row: token.token for token in new}
    for config in (host.checkpoint.config, host.checkpoint.layout.text_config):
        for key, row in config.items():
            if key.endswith(("_token_id", "_token_index")) and isinstance(row, int) and row in taken:
                raise IncompatibleModels(
                    f"{host}: its config.json uses the row {row} ({key}), which its tokenizer does not name, "
                    f"and which `vocabulary: union` would give to {taken[row]!r}.\n    Add it to its tokenizer first."
                )


def _other_tokens_by_number(models: Sequence[NamedCheckpoint]) -> tuple[str, ...]:
    """Return a warning for each model whose merged rows are for other tokens than the host's."""
    host = next(model for model in models if model.name == "host")
    rows = host.checkpoint.shape(EMBEDDING)[0]
    ours = _tokens_by_row(host)
    found = []
    for model in models:
        theirs = _tokens_by_row(model)
        both = sorted(row for row in ours.keys() & theirs.keys() if row < rows)
        other = [row for row in both if ours[row] != theirs[row]]
        if other:
            shown = ", ".join(f"{row}: {theirs[row]!r} / {ours[row]!r}" for row in other[:_SHOWN])
            found.append(
                f"{len(other)} of the {rows} embedding rows to be merged are for other tokens in {model} than in "
                f"{host} ({shown})."
            )
    return tuple(found)


def _tokens_by_row(model: NamedCheckpoint) -> Mapping[int, str]:
    tokens = read_tokens(model.checkpoint.tokenizer_folder)
    return {row: token for token, row in tokens.rows.items()} if tokens is not None else {}


def _with_tokens(name: str, models: Sequence[NamedCheckpoint]) -> Mapping[str, _KnownModel] | None:
    """Return every model with its tokens by label, None if no model has a tokenizer and all have as many rows.

    A model without a tokenizer takes the tokens of one with as many rows. Raises IncompatibleModels without such a one.
    """
    found = {
        model.name: _KnownModel(
            str(model), model.checkpoint.shape(name)[0], read_tokens(model.checkpoint.tokenizer_folder)
        )
        for model in models
    }
    # The host's tokens come first: the rows of the result are for them.
    lenders = [found["host"], *(model for label, model in found.items() if label != "host")]
    if all(model.tokens is None for model in lenders) and len({model.n_rows for model in lenders}) == 1:
        return None
    for label, model in found.items():
        if model.tokens is None:
            lent = [each.tokens for each in lenders if each.tokens is not None and each.n_rows == model.n_rows]
            if not lent:
                rows = grouped({each.text: f"{each.n_rows} rows" for each in found.values()})
                raise IncompatibleModels(
                    f"{name} has {rows}, and {model.text} has no tokenizer that says which tokens its rows are for.\n"
                    "    Copy the tokenizer files of the model it was made from into its folder, or set "
                    "`vocabulary: base_rows` in the recipe to merge by row number."
                )
            found[label] = model._replace(tokens=lent[0])
    return found


def _are_identical(known: Mapping[str, _KnownModel]) -> bool:
    first, *others = known.values()
    return all(
        model.n_rows == first.n_rows
        and (model.tokens is first.tokens or (model.tokens and first.tokens and model.tokens.rows == first.tokens.rows))
        for model in others
    )


def _find_overlap(known: Mapping[str, _KnownModel]) -> _TokenOverlap:
    tokens = {label: (model, model.tokens) for label, model in known.items()}
    rows = {
        label: {token: row for token, row in own.rows.items() if row < model.n_rows} if own is not None else {}
        for label, (model, own) in tokens.items()
    }
    added = frozenset(token for _, own in tokens.values() if own is not None for token in own.added)
    host = rows["host"]
    ordinary = {label: own.keys() - added for label, own in rows.items()}
    shared = frozenset.intersection(*(frozenset(own) for own in ordinary.values()))
    moved = frozenset(token for token in shared if any(own[token] != host[token] for own in rows.values()))
    known_to_host = known["host"].tokens
    all_of_host = known_to_host.rows.keys() if known_to_host is not None else host.keys()
    return _TokenOverlap(
        rows=rows,
        added=added,
        shared=shared,
        moved=moved,
        foreign=frozenset().union(*ordinary.values()) - all_of_host,
        same=not moved and all(own == ordinary["host"] for own in ordinary.values()),
    )


def _shared_runs(overlap: _TokenOverlap) -> tuple[SharedRows, ...]:
    """Return the maximal runs of the host's rows whose tokens all models have."""
    host = overlap.rows["host"]
    # If two tokens have the same row, the model uses it for the added one.
    by_row = {row: token for token, row in host.items() if token not in overlap.added}
    by_row |= {row: token for token, row in host.items() if token in overlap.added}
    labels = list(overlap.rows)
    merged = [
        [row, *(overlap.rows[label][token] for label in labels)]
        for row, token in sorted(by_row.items())
        if all(token in own for own in overlap.rows.values())
    ]
    if not merged:
        return ()
    table = np.array(merged, dtype=np.int64)
    breaks = np.flatnonzero((np.diff(table, axis=0) != 1).any(axis=1)) + 1
    starts, stops = [0, *breaks.tolist()], [*breaks.tolist(), len(table)]
    return tuple(
        SharedRows(
            row=int(table[start, 0]),
            n_rows=stop - start,
            starts={label: int(table[start, 1 + place]) for place, label in enumerate(labels)},
        )
        for start, stop in zip(starts, stops, strict=True)
    )


def _counts_text(models: Sequence[NamedCheckpoint], overlap: _TokenOverlap) -> str:
    each = grouped({str(model): f"{overlap.n_ordinary(model.name)} ordinary tokens" for model in models})
    moved = f", {len(overlap.moved)} of them in other rows ({_listed(overlap.moved)})" if overlap.moved else ""
    return f"the vocabularies differ: {each}; all have {len(overlap.shared)}{moved}"


def _listed(tokens: Iterable[str]) -> str:
    ordered = sorted(tokens)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(repr(token) for token in ordered[:_SHOWN]) + more
