"""The hub as it really answers: busy, silent, cut off, behind a proxy, with Xet storage out of reach."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from huggingface_hub import constants

from evovlm.errors import ModelNotFound
from evovlm.recipes import hub_client
from evovlm.recipes.hub import HubModel, fetch, look_up, read_header
from evovlm.recipes.model_ref import ModelRef
from tests.hub_fixtures import OpenHub, open_hub
from tests.hub_server import Fault, HubServer, commit_of
from tests.marks import quick_and_slow
from tests.recipes.test_hub import publish

__all__ = ["open_hub"]

MODEL = HubModel(id="org/model")
LARGE = "model-1.safetensors"
CLOSED = "http://127.0.0.1:9"
"""The discard port, where nothing listens."""


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return publish(tmp_path / "published", **{LARGE.replace(".", "__"): "weights " * 1000})


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client waited, which pass at once."""
    waited: list[float] = []
    monkeypatch.setattr(hub_client._stopped, "wait", waited.append)
    return waited


def check_fetched(published: Path) -> None:
    folder = fetch(MODEL)
    for name in (LARGE, "config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (published / name).read_bytes()


@pytest.mark.parametrize("path", ["/api/models/org/model", "/tree/", "/resolve/", "/resolve-cache/", "/repos/"])
@pytest.mark.parametrize(
    "fault", quick_and_slow([Fault(status=503), Fault(hangs_up=True), Fault(status=500), Fault(status=429)], quick=2)
)
def test_a_request_that_fails_once_is_repeated(
    open_hub: OpenHub, published: Path, waits: list[float], path: str, fault: Fault
) -> None:
    hub = open_hub({"org/model": published})
    hub.faults[path] = [fault]
    check_fetched(published)
    assert hub.faults[path] == []
    assert len(waits) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"api|ip";r=0;t=55'}, 1),
        ({"RateLimit": '"api";r=0;t=55', "Retry-After": "7"}, 55),
        ({"RateLimit": '"api";r=12;t=55', "Retry-After": "7"}, 7),
        ({}, 1),
    ],
)
def test_a_limit_is_waited_for_as_long_as_the_hub_asks(
    open_hub: OpenHub,
    published: Path,
    waits: list[float],
    capsys: pytest.CaptureFixture[str],
    headers: dict[str, str],
    seconds: float,
) -> None:
    hub = open_hub({"org/model": published})
    hub.faults["/api/models"] = [Fault(status=429, headers=headers)]
    look_up(MODEL)
    assert waits == [seconds]
    assert f"note: the hub limits requests from here; waiting {seconds} s." in capsys.readouterr().err


def test_a_limit_until_a_date_is_waited_for(open_hub: OpenHub, published: Path, waits: list[float]) -> None:
    hub = open_hub({"org/model": published})
    hub.faults["/api/models"] = [Fault(status=429, headers={"Retry-After": formatdate(time.time() + 60, usegmt=True)})]
    look_up(MODEL)
    assert 55 < waits[0] <= 60


def test_a_limit_of_an_hour_is_an_error_that_says_so(open_hub: OpenHub, published: Path, waits: list[float]) -> None:
    hub = open_hub({"org/model": published})
    hub.always["/api/models"] = Fault(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(ModelNotFound, match=r"limits requests .* another 60 min \(429\)[\s\S]*hf auth login"):
        look_up(MODEL)
    assert waits == []


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_hub_that_stays_broken_is_named_with_what_it_says(
    open_hub: OpenHub, published: Path, waits: list[float], status: int
) -> None:
    hub = open_hub({"org/model": published})
    hub.always["/api/models"] = Fault(status=status)
    with pytest.raises(ModelNotFound, match=rf"the hub \({hub.url}\) failed: .*\({status}\)[\s\S]*later"):
        look_up(MODEL)
    assert waits == [1, 2, 4]
    assert len(hub.requests) < 8


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"null", b"\xff\xfe", b'{"id": 1, "siblings": 3}'])
def test_something_else_that_answers_in_place_of_the_hub_is_named(
    open_hub: OpenHub, published: Path, body: bytes
) -> None:
    hub = open_hub({"org/model": published})
    hub.always["/api/models"] = Fault(status=200, body=body)
    with pytest.raises(ModelNotFound, match=r"cannot be used[\s\S]*a login page answers in place of the hub"):
        look_up(MODEL)


def test_a_login_that_is_not_accepted_is_named(open_hub: OpenHub, published: Path) -> None:
    hub = open_hub({"org/model": published})
    hub.always["/api/models"] = Fault(
        status=401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}
    )
    with pytest.raises(ModelNotFound, match=r"does not accept the login \(401\)[\s\S]*hf auth login"):
        look_up(MODEL)
    hub.always["/api/models"] = Fault(status=403)
    with pytest.raises(ModelNotFound, match=r"does not let this login read it \(403\)"):
        look_up(MODEL)


def test_redirects_that_never_end_are_an_error(open_hub: OpenHub, published: Path) -> None:
    hub = open_hub({"org/model": published})
    for path in ("/api/models/org/model", "/resolve-cache/"):
        hub.always = {path: Fault(status=307, headers={"Location": f"{hub.url}{path}/org/model/x"})}
        with pytest.raises(ModelNotFound, match="redirects"):
            fetch(MODEL)


def test_a_renamed_model_is_found_under_its_old_name(open_hub: OpenHub, published: Path) -> None:
    hub = open_hub({"org/model": published})
    hub.renamed["old/name"] = "org/model"
    assert (fetch(HubModel(id="old/name")) / LARGE).read_bytes() == (published / LARGE).read_bytes()


def test_a_body_that_is_cut_off_is_continued_and_never_kept_as_a_file(open_hub: OpenHub, published: Path) -> None:
    hub = open_hub({"org/model": published})
    hub.faults[f"/repos/org/model/{commit_of(published)}/{LARGE}"] = [Fault(cut_after=3000)]
    check_fetched(published)
    assert sum(LARGE in request and "/repos/" in request for request in hub.requests) == 2


@pytest.mark.slow
def test_a_body_that_stops_coming_ends_within_the_time_limits(
    open_hub: OpenHub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    hub = open_hub({"org/model": published})
    hub.always["/repos/org/model/"] = Fault(cut_after=3000, stalls=True)
    start = time.monotonic()
    with pytest.raises(ModelNotFound, match=r"failed: .*(does not answer|timed out)[\s\S]*are kept"):
        fetch(MODEL)
    assert time.monotonic() - start < 40
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


def test_a_file_of_another_length_is_refused(open_hub: OpenHub, published: Path) -> None:
    hub = open_hub({"org/model": published})
    hub.always["/repos/org/model"] = Fault(status=200, body=b"short", headers={})
    with pytest.raises(ModelNotFound, match="should be of size"):
        fetch(MODEL)
    assert not list(Path(constants.HF_HUB_CACHE).rglob(LARGE))
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


def test_a_silent_hub_is_named_within_the_time_limit(
    open_hub: OpenHub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    hub = open_hub({"org/model": published})
    hub.always["/"] = Fault(silent=True)
    start = time.monotonic()
    with pytest.raises(ModelNotFound, match=r"no such folder[\s\S]*does not answer[\s\S]*Check the connection"):
        fetch(MODEL)
    asked = len(hub.requests)
    # The host is remembered: no other model waits for it.
    with pytest.raises(ModelNotFound, match="does not answer"):
        fetch(HubModel(id="org/other"))
    assert len(hub.requests) == asked
    assert time.monotonic() - start < 20


def test_an_unreachable_hub_is_found_at_once(
    open_hub: OpenHub, published: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = open_hub({"org/model": published})
    hub.stop()
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for _ in range(3):
        with pytest.raises(ModelNotFound, match="Connection refused"):
            fetch(MODEL)
    assert (sum(waits), slept) == (pytest.approx(0.3), [])


def test_a_hub_lost_after_the_look_up_gives_what_the_cache_has(
    open_hub: OpenHub, published: Path, waits: list[float]
) -> None:
    hub = open_hub({"org/model": published})
    folder = fetch(MODEL)
    hub.stop()
    assert fetch(MODEL) == folder
    assert sum(waits) < 10


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        ("http://user:hidden-word@127.0.0.1:9", r"cannot be reached .* through the proxy http://\*\*\*@127\.0\.0\.1:9"),
        ("socks9://127.0.0.1:9", "the proxy settings cannot be used"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(
    open_hub: OpenHub, published: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, says: str
) -> None:
    open_hub({"org/model": published})
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    hub_client.close_session()
    with pytest.raises(ModelNotFound, match=says) as refused:
        look_up(MODEL)
    assert "hidden-word" not in str(refused.value)
    hub_client.close_session()


def test_names_that_cannot_be_resolved_are_the_network_s(
    open_hub: OpenHub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_hub({"org/model": published})

    def refused(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    with pytest.raises(ModelNotFound, match="Temporary failure in name resolution"):
        look_up(MODEL)


def test_a_full_disk_is_not_a_problem_of_the_network(
    open_hub: OpenHub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_hub({"org/model": published})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(ModelNotFound, match=r"cannot be written: .*No space left on device[\s\S]*Make space"):
        fetch(MODEL)


@pytest.mark.parametrize("storage", ["closed", pytest.param("silent", marks=pytest.mark.slow), "refusing", "token"])
def test_without_xet_storage_files_come_over_http(
    open_hub: OpenHub, published: Path, capsys: pytest.CaptureFixture[str], storage: str
) -> None:
    with HubServer({}) as xet:
        hub = open_hub({"org/model": published}, CLOSED if storage == "closed" else xet.url)
        if storage == "silent":
            xet.always["/"] = Fault(silent=True)
        if storage == "token":
            hub.always["/xet-read-token/"] = Fault(status=404)
        start = time.monotonic()
        check_fetched(published)
        assert time.monotonic() - start < 60
        assert "Xet storage cannot be used" in capsys.readouterr().err
        assert hub.sent[LARGE] == (published / LARGE).stat().st_size


def test_headers_are_read_by_ranges_of_the_other_host(open_hub: OpenHub, tmp_path: Path) -> None:
    from tests.pico import pico_llm

    open_hub({"org/model": pico_llm(tmp_path / "pico")}, CLOSED)
    listing = look_up(MODEL)
    assert "model.norm.weight" in read_header(MODEL, "model.safetensors", commit=listing.commit)


_FETCH = "from evovlm.recipes.model_ref import ModelRef; print(ModelRef(text='org/model').resolve())"


@pytest.fixture
def slow_hub(published: Path) -> Iterator[HubServer]:
    """A hub that sends one large file at 1 kB a second."""
    with HubServer({"org/model": published}) as hub:
        hub.always[f"/{LARGE}"] = Fault(slow_s=1)
        yield hub


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_download_ends_at_once_on_a_signal_and_continues_later(
    slow_hub: HubServer, published: Path, tmp_path: Path, number: signal.Signals
) -> None:
    (published / LARGE).write_text("weights " * 20_000)
    own = {"HF_ENDPOINT": slow_hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1,localhost"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | own
    command = [sys.executable, "-m", "evovlm", "ask", "org/model", "1+1"]
    # The tests' own process may ignore signals; a shell's child does not.
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, restore_signals=True)
    other = tmp_path / "home/hub/models--org--model"
    deadline = time.monotonic() + 120
    while not (slow_hub.sent[LARGE] and list(other.rglob("model-2.safetensors"))):
        assert time.monotonic() < deadline
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    time.sleep(0.5)
    running.send_signal(number)
    start = time.monotonic()
    _, said = running.communicate(timeout=60)
    assert time.monotonic() - start < 15
    assert running.returncode == 128 + number
    assert "Traceback" not in said
    assert not list(other.rglob("*.incomplete"))
    slow_hub.always.clear()
    slow_hub.sent.clear()
    done = subprocess.run([sys.executable, "-c", _FETCH], env=environment, capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / LARGE).read_bytes() == (published / LARGE).read_bytes()
    assert slow_hub.sent["model-2.safetensors"] == 0


def test_a_file_in_place_of_a_folder_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m.safetensors").touch()
    with pytest.raises(ModelNotFound, match="is a file"):
        ModelRef(text="models/m.safetensors", origin=tmp_path).resolve()


def test_a_mistyped_folder_comes_before_the_network(open_hub: OpenHub, tmp_path: Path) -> None:
    open_hub({}).stop()
    for name in ("merged", "other"):
        (tmp_path / "models" / name).mkdir(parents=True)
    for text, hint in (("models/mreged", "Did you mean the folder .*merged"), ("models/x", r"are merged, other\.")):
        with pytest.raises(ModelNotFound, match=rf"^Model '{text}': there is no such folder\. .*{hint}"):
            ModelRef(text=text, origin=tmp_path).resolve()


def test_a_proxy_that_refuses_is_named(open_hub: OpenHub, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = open_hub({"org/model": published})
    # An address of a secure hub goes through a tunnel, which this hub, as a proxy, does not know.
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, hub.url)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    hub_client.close_session()
    with pytest.raises(ModelNotFound, match=rf"hub\.invalid cannot be reached \(501.* through the proxy {hub.url}"):
        look_up(MODEL)
    hub_client.close_session()


def test_a_secure_address_that_is_not_one_is_named(
    open_hub: OpenHub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = open_hub({"org/model": published})
    monkeypatch.setattr(constants, "ENDPOINT", hub.url.replace("http:", "https:"))
    with pytest.raises(ModelNotFound, match=r"cannot be reached .*SSL"):
        look_up(MODEL)


def test_a_token_that_cannot_be_one_is_named(
    open_hub: OpenHub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_hub({"org/model": published})
    monkeypatch.setenv("HF_TOKEN", "hf_日本語のトークン")
    with pytest.raises(ModelNotFound, match=r"characters that a token cannot have[\s\S]*hf auth login"):
        look_up(MODEL)


def test_after_an_interrupted_download_the_hub_can_be_asked_again(open_hub: OpenHub, published: Path) -> None:
    open_hub({"org/model": published})
    hub_client._stopped.set()
    check_fetched(published)
