"""Reads a model's licence from its card, and finds the licence that binds a merge of several models.

A merge is derived from all of its models, so the strictest licence among them applies. This is a table and an order,
not legal advice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from evovlm.assets import asset_path
from evovlm.files import read_foreign
from evovlm.recipes.checkpoint_files import CARD_FILE
from evovlm.recipes.model_ref import config_in
from evovlm.texts.languages import Phrase

UNKNOWN = "unknown"
OWN = "apache-2.0"
"""The licence of the embedded models, which is this project's."""

_LARGEST_FRONT_MATTER = 200_000
_LARGEST_CARD_BYTES = 20_000_000


class Terms(NamedTuple):
    """How strict a licence is (by `rank`), and why."""

    rank: int
    why: Phrase


_FREE = Terms(0, Phrase("terms_free", {}))
_PERMISSIVE = Terms(1, Phrase("terms_permissive", {}))
_ATTRIBUTION = Terms(2, Phrase("terms_attribution", {}))
_SHARE_ALIKE = Terms(3, Phrase("terms_share_alike", {}))
_RAIL = Terms(4, Phrase("terms_rail", {}))
_LLAMA = Terms(5, Phrase("terms_llama", {}))
_GEMMA = Terms(6, Phrase("terms_gemma", {}))
_NON_COMMERCIAL = Terms(7, Phrase("terms_non_commercial", {}))
_NO_DERIVATIVES = Terms(8, Phrase("terms_no_derivatives", {}))

KNOWN: Mapping[str, Terms] = {
    "cc0-1.0": _FREE,
    "unlicense": _FREE,
    "apache-2.0": _PERMISSIVE,
    "mit": _PERMISSIVE,
    "bsd-2-clause": _PERMISSIVE,
    "bsd-3-clause": _PERMISSIVE,
    "cc-by-4.0": _ATTRIBUTION,
    "cc-by-3.0": _ATTRIBUTION,
    "mpl-2.0": _SHARE_ALIKE,
    "lgpl-3.0": _SHARE_ALIKE,
    "cc-by-sa-3.0": _SHARE_ALIKE,
    "cc-by-sa-4.0": _SHARE_ALIKE,
    "gpl-3.0": _SHARE_ALIKE,
    "agpl-3.0": _SHARE_ALIKE,
    "openrail": _RAIL,
    "bigscience-openrail-m": _RAIL,
    "bigscience-bloom-rail-1.0": _RAIL,
    "creativeml-openrail-m": _RAIL,
    "bigcode-openrail-m": _RAIL,
    "llama2": _LLAMA,
    "llama3": _LLAMA,
    "llama3.1": _LLAMA,
    "llama3.2": _LLAMA,
    "llama3.3": _LLAMA,
    "llama4": _LLAMA,
    "gemma": _GEMMA,
    "microsoft-research-license": _NON_COMMERCIAL,
    "qwen-research": _NON_COMMERCIAL,
    "cc-by-nc-2.0": _NON_COMMERCIAL,
    "cc-by-nc-3.0": _NON_COMMERCIAL,
    "cc-by-nc-4.0": _NON_COMMERCIAL,
    "cc-by-nc-sa-2.0": _NON_COMMERCIAL,
    "cc-by-nc-sa-3.0": _NON_COMMERCIAL,
    "cc-by-nc-sa-4.0": _NON_COMMERCIAL,
    "cc-by-nd-4.0": _NO_DERIVATIVES,
    "cc-by-nc-nd-4.0": _NO_DERIVATIVES,
}
"""Licences by the hub's identifiers, or by the name that a card gives for `other`."""

_ALIASES: Mapping[str, str] = {
    "msrla": "microsoft-research-license",
    "microsoft-research-licence": "microsoft-research-license",
    "microsoft research license": "microsoft-research-license",
    "apache 2.0": "apache-2.0",
    "llama-2": "llama2",
    "llama-3": "llama3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """A model's licence: an identifier (or the name of an `other` licence), and a link to its text.

    The identifier is `unknown` when the model names none.
    """

    id: str
    link: str | None = None

    def __str__(self) -> str:
        return self.id

    @property
    def terms(self) -> Terms | None:
        """How strict the licence is, None when the table does not have it."""
        return KNOWN.get(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """The licence that binds a merge (None: no licence is known), and sentences that say why."""

    licence: Licence | None
    reasons: tuple[Phrase, ...]

    @property
    def is_certain(self) -> bool:
        """Whether every model's licence was known."""
        return self.licence is not None and len(self.reasons) == 1


def licence_of(folder: Path) -> Licence:
    """Return the licence of the model in `folder`, from its card's front matter or else its config.json."""
    found = _front_matter(folder / CARD_FILE)
    name = _text(found.get("license"))
    if name in (None, "other"):
        name = _text(found.get("license_name")) or name
    if name is None:
        name = _text((config_in(folder) or {}).get("license"))
    if name is None:
        return Licence(id=OWN if folder.parent == asset_path("zoo") else UNKNOWN)
    plain = name.lower()
    return Licence(id=_ALIASES.get(plain, plain), link=_text(found.get("license_link")))


def most_restrictive(licences: Mapping[str, Licence]) -> Binding:
    """Return the licence that binds a merge of the models (`licences` by model), with the reason.

    Of equally strict licences the first is taken, and the others are named. A licence that is not in the table may be
    stricter than all others: the reasons ask to read it.
    """
    known = [(each.terms.rank, model, each) for model, each in licences.items() if each.terms is not None]
    reasons: list[Phrase] = []
    strictest: Licence | None = None
    if known:
        rank = max(rank for rank, _, _ in known)
        names = [(model, each) for found, model, each in known if found == rank]
        model, strictest = names[0]
        others = dict.fromkeys(str(each) for _, each in names if each != strictest)
        values = {"model": model, "licence": strictest, "why": KNOWN[strictest.id].why, "others": ", ".join(others)}
        reasons.append(Phrase("licence_binds_also" if others else "licence_binds", values))
    for model, each in licences.items():
        if each.id == UNKNOWN:
            reasons.append(Phrase("licence_unnamed", {"model": model}))
        elif each.terms is None:
            reasons.append(Phrase("licence_not_known", {"model": model, "licence": each.id}))
    return Binding(licence=strictest, reasons=tuple(reasons))


def forbids_sharing(licences: Mapping[str, Licence]) -> Sequence[str]:
    """Return the models whose licence does not let changed versions be shared."""
    return [model for model, each in licences.items() if each.terms is _NO_DERIVATIVES]


def _front_matter(card: Path) -> Mapping[str, object]:
    """Return the YAML between the first two lines of dashes; nothing when it cannot be read."""
    try:
        text = read_foreign(card, limit_bytes=_LARGEST_CARD_BYTES).decode("utf-8")[:_LARGEST_FRONT_MATTER]
    except (OSError, UnicodeDecodeError):
        return {}
    parts = text.split("\n---", 1)
    if not text.startswith("---") or len(parts) < 2:
        return {}
    try:
        found = yaml.safe_load(parts[0].removeprefix("---"))
    except (yaml.YAMLError, ValueError, RecursionError, KeyError, AttributeError, TypeError, OverflowError):
        # What PyYAML raises for values that do not suit their tags (`!!bool maybe`), too.
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str | None:
    # A card may list several licences; the first is used, as on the hub.
    first = value[0] if isinstance(value, list) and value else value
    words = " ".join(first.split())[:200] if isinstance(first, str) else ""
    # This text comes from a stranger, and a terminal will show it.
    shown = "".join(char for char in words if char.isprintable())
    return shown or None
