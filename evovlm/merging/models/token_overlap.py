"""Which tokens the models of a merge share, and the runs of embedding rows that stand for the same tokens in all."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evovlm.errors import IncompatibleModels
from evovlm.merging.models.compatibility import NamedCheckpoint, grouped
from evovlm.merging.models.row_plan import Run
from evovlm.merging.models.vocabulary import Tokens, read_tokens

_SHOWN = 4


class KnownModel(NamedTuple):
    """A model of the merge: how messages name it, its rows in one tensor, and its tokens (None: no tokenizer)."""

    text: str
    n_rows: int
    tokens: Tokens | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlap:
    """How the models' tokens relate: `rows` (by label, then token) within the tensor; `added` in any of them.

    `shared` are the host's ordinary tokens that all know, `moved` those among them at another row somewhere, `foreign`
    the ordinary tokens of others that the host lacks; `same` says that nothing differs but padding and added tokens.
    """

    rows: Mapping[str, Mapping[str, int]]
    added: frozenset[str]
    shared: frozenset[str]
    moved: frozenset[str]
    foreign: frozenset[str]
    same: bool

    def n_ordinary(self, label: str) -> int:
        return len(self.rows[label].keys() - self.added)


def with_tokens(name: str, models: Sequence[NamedCheckpoint]) -> Mapping[str, KnownModel] | None:
    """Return every model with its tokens by label, None when none has any and all have equally many rows.

    A model without a tokenizer takes the tokens of one that has as many rows. Raises IncompatibleModels if none does.
    """
    found = {
        model.name: KnownModel(str(model), model.checkpoint.shape(name)[0], read_tokens(model.checkpoint.folder))
        for model in models
    }
    # The host's tokens come first: they are what the result's rows stand for.
    lenders = [found["host"], *(model for label, model in found.items() if label != "host")]
    if all(model.tokens is None for model in lenders) and len({model.n_rows for model in lenders}) == 1:
        return None
    for label, model in found.items():
        if model.tokens is None:
            lent = [each.tokens for each in lenders if each.tokens is not None and each.n_rows == model.n_rows]
            if not lent:
                rows = grouped({each.text: f"{each.n_rows} rows" for each in found.values()})
                raise IncompatibleModels(
                    f"{name} has {rows}, and {model.text} has no tokenizer that says what its rows stand for.\n"
                    "    Copy the tokenizer files of the model it was made from into its folder, or set "
                    "`vocabulary: base_rows` in the recipe to merge by row number."
                )
            found[label] = model._replace(tokens=lent[0])
    return found


def are_identical(known: Mapping[str, KnownModel]) -> bool:
    first, *others = known.values()
    return all(
        model.n_rows == first.n_rows
        and (model.tokens is first.tokens or (model.tokens and first.tokens and model.tokens.rows == first.tokens.rows))
        for model in others
    )


def find_overlap(known: Mapping[str, KnownModel]) -> Overlap:
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
    return Overlap(
        rows=rows,
        added=added,
        shared=shared,
        moved=moved,
        foreign=frozenset().union(*ordinary.values()) - all_of_host,
        same=not moved and all(own == ordinary["host"] for own in ordinary.values()),
    )


def shared_runs(overlap: Overlap) -> tuple[Run, ...]:
    """Return the maximal runs of the host's rows whose tokens all models know."""
    host = overlap.rows["host"]
    # Where two tokens claim a row, the added one is what the model reads by it.
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
        Run(
            row=int(table[start, 0]),
            n_rows=stop - start,
            starts={label: int(table[start, 1 + place]) for place, label in enumerate(labels)},
        )
        for start, stop in zip(starts, stops, strict=True)
    )


def counts_text(models: Sequence[NamedCheckpoint], overlap: Overlap) -> str:
    each = grouped({str(model): f"{overlap.n_ordinary(model.name)} ordinary tokens" for model in models})
    moved = f", {len(overlap.moved)} of them at other rows ({listed(overlap.moved)})" if overlap.moved else ""
    return f"the vocabularies differ: {each}; all know {len(overlap.shared)}{moved}"


def listed(tokens: Iterable[str]) -> str:
    ordered = sorted(tokens)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(repr(token) for token in ordered[:_SHOWN]) + more
