"""Texts without secrets: tokens and keys of the environment and of the hub's token file, and passwords in URLs."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

MASK = "***"

_SECRET = re.compile(r".*(TOKEN|KEY|SECRET|PASSWORD|PASSWD)", re.IGNORECASE)
_SHORTEST = 8
"""Shorter values are settings (`1`, `false`) rather than secrets, and would mask ordinary words."""

_QUOTED = ("object", "strerror", "filename", "filename2", "msg", "text", "doc", "server_message")
"""Where exceptions keep texts that their messages quote (UnicodeError, OSError, SyntaxError, JSON, the hub)."""

_USER = re.compile(r"(?<=://)[^/\s@?#]+@")
_QUERY = re.compile(r"(?<=[?&])([\w-]*(?:token|key|signature|credential|password)[\w-]*)=[^&\s]+", re.IGNORECASE)


def masked(text: str) -> str:
    """Return a text with `***` in place of every secret."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _QUERY.sub(rf"\1={MASK}", _USER.sub(f"{MASK}@", text))


def mask_chain(error: BaseException | None) -> None:
    """Mask the secrets in the messages of an exception and of all that led to it, which a traceback would show."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.args = tuple(masked(part) if isinstance(part, str) else part for part in each.args)
        for name in _QUOTED:
            if isinstance(text := getattr(each, name, None), str):
                setattr(each, name, masked(text))
        waiting += (each.__cause__, each.__context__)


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if _SECRET.fullmatch(name):
            yield from _long(value)
    # Before the library of the hub is loaded, nothing has read its token.
    hub = sys.modules.get("huggingface_hub.constants")
    file = Path(getattr(hub, "HF_TOKEN_PATH", None) or os.devnull).expanduser()
    try:
        yield from _long(file.read_text(encoding="utf-8", errors="replace") if file.is_file() else "")
    except OSError:
        return


def _long(value: str) -> Iterator[str]:
    """Yield a secret as it is and without the space around it, if it is long enough to be one."""
    yield from {each for each in (value, value.strip()) if len(each.strip()) >= _SHORTEST}
