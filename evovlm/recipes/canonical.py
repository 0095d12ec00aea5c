"""What recipes of every kind share: the hash that stands for one, and how a source may be called."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from evovlm.errors import ConfigError

_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def recipe_digest(canonical: Mapping[str, object]) -> str:
    """Return 12 hexadecimal digits for everything that a recipe says, given as plain values."""
    text = json.dumps(canonical, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def check_source_names(names: Iterable[str]) -> None:
    """Raise ConfigError for what is not a name of a source."""
    for name in names:
        if not _SOURCE_NAME.fullmatch(name):
            raise ConfigError(f"sources: '{name}' is not a name; letters, digits, '-' and '_' make one.")
