"""Sizes as people write them on the command line: 5GB, 500MB, 2GiB, or a number of bytes."""

import re
from decimal import Decimal

from evovlm.errors import ConfigError

_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}
_SIZE = re.compile(r"\s*(?P<number>[0-9]+(\.[0-9]+)?)\s*(?P<unit>[a-z]*)\s*", re.ASCII | re.IGNORECASE)


def parse_size(text: str, *, option: str) -> int:
    """Return the bytes that `text` means; GB are 1000^3 bytes and GiB 1024^3, upper or lower case.

    Raises ConfigError, which names the option, for what is no size of at least one byte.
    """
    found = _SIZE.fullmatch(text)
    if found is None or found["unit"].upper() not in _UNITS:
        raise ConfigError(f"{option}: '{text}' is no size; write 5GB, 500MB, 2GiB or a number of bytes.")
    size_bytes = int(Decimal(found["number"]) * _UNITS[found["unit"].upper()])
    if size_bytes < 1:
        raise ConfigError(f"{option}: '{text}' is less than a byte; write 5GB, 500MB, 2GiB or a number of bytes.")
    return size_bytes
