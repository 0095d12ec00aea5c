"""The HTTP client for the hub: it waits for a busy hub, and gives up at once where there is no network.

huggingface_hub and `datasets` send every request through this client once `ask_patiently` was called. It waits as long
as a busy hub asks (Retry-After), repeats a request after an error of the server, and does not wait for a host that
cannot be reached. `fetching` and `with_xet_or_http` use plain HTTP where Xet storage cannot be used.
"""

import email.utils
import errno
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import close_session, constants, errors, hf_raise_for_status, set_client_factory
from huggingface_hub.utils._http import default_client_factory, parse_ratelimit_headers
from huggingface_hub.utils._xet import abort_xet_session
from huggingface_hub.utils.tqdm import tqdm

from evovlm.errors import FOREIGN_ERRORS, first_line
from evovlm.masking import masked

Result = TypeVar("Result")

NETWORK_ERROR: type[Exception] = vars(errors)["HTTPError"]
"""The base of the HTTP library's errors; huggingface_hub has changed that library between versions."""
HUB_ERRORS: tuple[type[Exception], ...] = (
    NETWORK_ERROR,
    vars(sys.modules[NETWORK_ERROR.__module__])["InvalidURL"],
    errors.RevisionResolutionError,
    *FOREIGN_ERRORS,
)
"""What calls of huggingface_hub raise for a hub that refuses, cannot be reached, or does not answer as a hub does."""

_LOST = frozenset({"NetworkError", "TimeoutException", "RemoteProtocolError"})
_NOT_CONNECTED = frozenset({"ConnectError", "ConnectTimeout"})
_LIMITED, _BUSY = 429, (500, 502, 503, 504)
_WAITS_S = (1.0, 2.0, 4.0)
"""The waits before a request is repeated, where the hub does not say how long."""
_FIRST_WAITS_S = (0.3,)
"""The same, for a host that has not answered before."""
_LONGEST_WAIT_S = 330.0
"""The hub counts requests in windows of 300 s. A longer wait is an error."""
_REMEMBERED_S = 30.0
"""How long a host that could not be reached is not asked again."""
_ANSWER_AFTER_UPLOAD_S = 120.0
_XET_LIMITS = {
    "HF_XET_CLIENT_CONNECT_TIMEOUT": "5s",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "500ms",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "10s",
}
"""By its defaults hf_xet tries for minutes, in silence."""
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})
_URL = re.compile(r"\s*(for )?(url:?)?\s*['(]*https?://\w\S*", re.IGNORECASE)
_CHECK_CONNECTION = "Check the connection, and try again."
_UNAUTHORIZED, _FORBIDDEN = 401, 403

_OF_XET = frozenset({RuntimeError, ConnectionError, TimeoutError})
_REPEATABLE = frozenset({"GET", "HEAD"})

_stopped = threading.Event()
_heard_from: set[str] = set()
_unreachable: dict[str, tuple[float, str]] = {}
_said: set[str] = set()


class HubUnreachable(errors.OfflineModeIsEnabled):
    """A host cannot be reached. huggingface_hub and `datasets` treat it as offline: they use their caches at once."""


class Refusal(NamedTuple):
    """Why a request to the hub failed, as a clause, and what to do.

    `answered` is False when the network is the reason; `status` is that of the hub's answer.
    """

    reason: str
    remedy: str
    answered: bool
    status: int | None = None


def ask_patiently() -> None:
    """Have huggingface_hub use this client from now on; call it before each use of the hub."""
    _stopped.clear()
    _set_client()


@lru_cache(maxsize=1)
def _set_client() -> None:
    for name, value in _XET_LIMITS.items():
        os.environ.setdefault(name, value)
    if "HF_HUB_VERBOSITY" not in os.environ:
        # Its warnings show signed addresses, and waits that are now this module's.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    set_client_factory(_client)


def forget_hosts() -> None:
    """Forget which hosts have answered and which cannot be reached."""
    _heard_from.clear()
    _unreachable.clear()
    _said.clear()


def fetching(download: Callable[[type[tqdm]], Result]) -> Result:
    """Return what a download returns; it gets the class of its progress bars, through which Ctrl-C ends it.

    Where Xet storage cannot be used, the download runs again over HTTP. Raises what the download raises.
    """
    return with_xet_or_http(partial(_interruptible, download))


def with_xet_or_http(transfer: Callable[[], Result], *, silence: str = "8s") -> Result:
    """Return what a transfer returns; where Xet storage cannot be used, it runs again over HTTP.

    `silence` is how long Xet storage may say nothing, as hf_xet reads it; the first transfer of a process decides.
    """
    ask_patiently()
    os.environ.setdefault("HF_XET_CLIENT_READ_TIMEOUT", silence)
    try:
        return transfer()
    except HUB_ERRORS as error:
        if constants.HF_HUB_DISABLE_XET or not _is_from_xet(error):
            raise
        reason = _short(error).removesuffix(", domain:").rpartition(": ")[2]
        _say(f"Xet storage cannot be used ({reason}); continuing over HTTP, as with HF_HUB_DISABLE_XET=1.")
    constants.HF_HUB_DISABLE_XET = True
    return transfer()


def _is_from_xet(error: BaseException) -> bool:
    """Whether hf_xet failed, which raises built-in errors, or the hub's own address of Xet storage."""
    causes = list(_chain(error))
    if any("/xet-" in str(getattr(getattr(each, "response", None), "url", "")) for each in causes):
        return True
    kinds = {type(each) for each in causes}
    named = any(kind.__name__.startswith("Xet") for kind in kinds) or "xet" in str(error).lower()
    return trouble(error) is None and (named or bool(kinds & _OF_XET))


def _interruptible(download: Callable[[type[tqdm]], Result]) -> Result:
    """Run a download in a thread, so that Ctrl-C reaches this one and ends the threads of huggingface_hub."""
    executor = ThreadPoolExecutor(max_workers=1)
    running = executor.submit(download, _Bar)
    try:
        return running.result()
    except (KeyboardInterrupt, SystemExit):
        _stopped.set()
        abort_xet_session()  # type: ignore[no-untyped-call]
        close_session()
        raise
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


class _Bar(tqdm):
    def update(self, n: float | None = 1) -> bool | None:
        _end_if_stopped()
        shown: bool | None = super().update(n)
        return shown


def _end_if_stopped() -> None:
    if _stopped.is_set():
        raise KeyboardInterrupt


def _client() -> Any:
    """Return the client that huggingface_hub makes by itself, with `_send` around its sending of a request."""
    try:
        client: Any = default_client_factory()
    except (ImportError, ValueError) as error:
        raise HubUnreachable(f"the proxy settings cannot be used ({first_line(error)})") from error
    client.send = partial(_send, client.send)
    return client


def _send(send: Callable[..., Any], request: Any, **options: Any) -> Any:
    """Send a request; wait and repeat it as the answer asks. Raises HubUnreachable, or the hub's refusal."""
    host = _host(request)
    _check_reachable(host)
    _limit_silence(request)
    repeats = 0
    while True:
        _end_if_stopped()
        try:
            response = send(request, **options)
        except NETWORK_ERROR as error:
            # After a redirect it is another host that failed.
            wait_s = _wait_after(error, vars(error).get("_request") or request, repeats=repeats)
            if wait_s is None:
                raise
        else:
            _heard_from.update((host, _host(response)))
            wait_s = _wait_after_answer(response, repeats=repeats)
            if wait_s is None:
                return response
            response.close()
        repeats += 1
        _stopped.wait(wait_s)


def _host(message: Any) -> str:
    """Return host and port of a request or an answer."""
    host: str = message.url.netloc.decode("ascii")
    return host


def _check_reachable(host: str) -> None:
    since, reason = _unreachable.get(host, (-_REMEMBERED_S, ""))
    if time.monotonic() - since < _REMEMBERED_S:
        raise HubUnreachable(reason)


def _limit_silence(request: Any) -> None:
    """Give a request its time limits: huggingface_hub sends some of them without any."""
    limit_s = _silence_s()
    limits = {**(request.extensions.get("timeout") or {})}
    silence_s = limit_s if request.method in _REPEATABLE else _ANSWER_AFTER_UPLOAD_S
    limits["connect"] = min(limits.get("connect") or limit_s, limit_s / 2)
    limits["read"] = min(limits.get("read") or silence_s, silence_s)
    request.extensions = {**request.extensions, "timeout": limits}


def _silence_s() -> float:
    return float(max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT))


def _wait_after(error: Exception, request: Any, *, repeats: int) -> float | None:
    """Return after how many seconds to repeat a request that got no answer, None to raise the error as it is.

    Raises HubUnreachable for a host that is not asked again.
    """
    kinds = {each.__name__ for each in type(error).__mro__}
    if "ProxyError" in kinds:
        raise _lost(request, f"cannot be reached ({first_line(error)})") from error
    not_sent = bool(kinds & _NOT_CONNECTED)
    timed_out = "TimeoutException" in kinds
    # huggingface_hub sets shorter time limits only for what it can do without.
    hurried = timed_out and request.extensions["timeout"]["read"] < _silence_s()
    if not kinds & _LOST or hurried or not (not_sent or request.method in _REPEATABLE):
        return None
    host = _host(request)
    first = () if timed_out else _FIRST_WAITS_S
    later = _WAITS_S[:1] if timed_out else _WAITS_S
    waits = later if host in _heard_from else first
    if repeats < len(waits):
        return waits[repeats]
    raise _lost(request, "does not answer" if timed_out else f"cannot be reached ({first_line(error)})") from error


def _lost(request: Any, how: str) -> HubUnreachable:
    """Return the error for a host that is not asked again for a while."""
    host = _host(request)
    reason = f"{host} {how}{_through_proxy(request)}"
    _unreachable[host] = (time.monotonic(), reason)
    return HubUnreachable(reason)


def _through_proxy(request: Any) -> str:
    proxy = getproxies().get(request.url.scheme) or getproxies().get("all")
    if proxy is None or proxy_bypass(request.url.host):
        return ""
    return f" through the proxy {masked(proxy)} ({request.url.scheme.upper()}_PROXY)"


def _wait_after_answer(response: Any, *, repeats: int) -> float | None:
    """Return after how many seconds to repeat a request, None for an answer that counts.

    Raises the error of an answer that would have to be waited for too long, or that came too often.
    """
    status, request = response.status_code, response.request
    # A body that was streamed from a file is gone.
    repeatable = request.method in _REPEATABLE or (status == _LIMITED and hasattr(request, "_content"))
    if not repeatable or status not in (_LIMITED, *_BUSY):
        return None
    asked_s = _asked_wait(response)
    wait_s = asked_s if asked_s is not None else _WAITS_S[min(repeats, len(_WAITS_S) - 1)]
    if repeats >= len(_WAITS_S) or wait_s > _LONGEST_WAIT_S:
        response.read()
        # Raised here, because the loops of huggingface_hub would wait again.
        hf_raise_for_status(response)
    if status == _LIMITED:
        _say_once(f"the hub limits requests from here; waiting {wait_s:.0f} s. A login raises the limit: hf auth login")
    return wait_s


def _asked_wait(response: Any) -> float | None:
    """Return after how many seconds to ask the hub again, from its RateLimit or Retry-After header."""
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == _LIMITED and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def refusal(error: BaseException) -> Refusal:
    """Return why huggingface_hub failed, from its error or from what caused it."""
    found = trouble(error)
    if found is not None:
        return found
    if isinstance(error, UnicodeEncodeError):
        reason = "the token contains characters that a token cannot have"
        return Refusal(reason, "Run `hf auth login`, or correct HF_TOKEN.", answered=True)
    if isinstance(error, OSError):
        return Refusal(_short(error), _CHECK_CONNECTION, answered=False)
    return Refusal(
        f"the answer of {constants.ENDPOINT} cannot be used ({_short(error)})",
        "Check HF_ENDPOINT, and whether a proxy or a login page answers in place of the hub.",
        answered=True,
    )


def trouble(error: BaseException) -> Refusal | None:
    """Return what the network, the hub or the disk did to cause an error, None for an error of another kind."""
    for each in _chain(error):
        if isinstance(each, HubUnreachable):
            return Refusal(str(each), _CHECK_CONNECTION, answered=False)
        status = getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(status, int):
            return _refusal_of_status(each, status)
        if isinstance(each, NETWORK_ERROR):
            return Refusal(_short(each), _CHECK_CONNECTION, answered=False)
        if isinstance(each, OSError) and each.errno in _DISK_ERRORS:
            return Refusal(
                f"the cache cannot be written: {first_line(each)}",
                "Make space there, or set HF_HOME to a folder that you can write.",
                answered=True,
            )
    return None


def _refusal_of_status(error: BaseException, status: int) -> Refusal:
    if status == _LIMITED:
        asked_s = _asked_wait(vars(error)["response"])
        after = "" if asked_s is None else f" for another {max(1, round(asked_s / 60))} min"
        reason, remedy = (
            f"it limits requests from here{after}",
            "Try again then. A login raises the limit: hf auth login.",
        )
    elif status == _UNAUTHORIZED:
        reason, remedy = "it does not accept the login", "Run `hf auth login` with a token that is valid."
    elif status == _FORBIDDEN:
        reason, remedy = "it does not let this login read it", "Check what the token may read (hf auth whoami)."
    else:
        reason = getattr(error, "server_message", None) or _short(error)
        later, check = "Try again later.", "Check the name, HF_ENDPOINT, and what the login may do."
        remedy = later if status in _BUSY else check
    return Refusal(f"{reason} ({status})", remedy, answered=True, status=status)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it, the nearest first."""
    seen: set[int] = set()
    waiting: BaseException | None = error
    while waiting is not None and id(waiting) not in seen:
        seen.add(id(waiting))
        yield waiting
        waiting = waiting.__cause__ or waiting.__context__


def _short(error: BaseException) -> str:
    """Return an error's first line, without the address of a request, which may be hundreds of letters long."""
    return _URL.sub("", first_line(error)).rstrip(". ")


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        _say(text)


def _say(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")
