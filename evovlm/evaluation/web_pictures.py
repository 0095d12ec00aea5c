"""Pictures from the web, of limited size and within limited time."""

import time
from http.client import HTTPException
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from evovlm.errors import TaskError
from evovlm.tasks.pictures import EncodedPicture

MOST_BYTES = 32 * 2**20
TIMEOUT_S = 30.0
_PIECE_BYTES = 2**16
_WEB = ("http", "https")


def is_web_address(text: str) -> bool:
    """Say whether the text is an http(s) address."""
    return text.lower().startswith(("http://", "https://"))


def fetch_picture(address: str, *, timeout_s: float = TIMEOUT_S) -> EncodedPicture:
    """Fetch a picture. Raises TaskError when it cannot be had in `timeout_s`, is larger than MOST_BYTES, or is none."""
    try:
        picture = EncodedPicture(content=_fetch(address, timeout_s=timeout_s), where=address)
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise TaskError(f"{address}: cannot be fetched ({error}). Save the picture and name the file.") from error
    picture.load()
    return picture


def _fetch(address: str, *, timeout_s: float) -> bytes:
    until = time.monotonic() + timeout_s
    request = Request(address, headers={"User-Agent": "evovlm", "Accept": "image/*"})  # noqa: S310 (checked by the caller)
    with urlopen(request, timeout=timeout_s) as response:  # noqa: S310
        if urlsplit(response.geturl()).scheme not in _WEB:
            raise ValueError("it leads away from the web")
        content = bytearray()
        while piece := response.read1(_PIECE_BYTES):
            content += piece
            if len(content) > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES // 2**20} MiB")
            if time.monotonic() > until:
                raise TimeoutError(f"it takes more than {timeout_s:.0f} s")
    return bytes(content)
