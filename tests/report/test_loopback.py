"""The page on the loopback interface, asked by real connections: who gets it, and who does not."""

import http.client
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from evovlm.errors import OutputError
from evovlm.report.loopback import serving

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Recorder:
    """A page that remembers what was sent."""

    taken: list[dict[str, str]] = field(default_factory=list)

    def html(self) -> str:
        return f"<p>日本語 {len(self.taken)}</p>"

    def take(self, form: Mapping[str, str]) -> None:
        self.taken.append(dict(form))


@dataclass
class Served:
    page: Recorder
    port: int
    path: str

    def ask(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, Mapping[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def served() -> Iterator[Served]:
    page = Recorder()
    with serving(page) as address:
        port, path = address.removeprefix("http://127.0.0.1:").split("/", 1)
        yield Served(page=page, port=int(port), path=f"/{path}")


def test_the_page_is_shown_and_a_form_is_taken(served: Served) -> None:
    status, headers, text = served.ask("GET", served.path)
    assert (status, text) == (200, "<p>日本語 0</p>")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    status, headers, _ = served.ask("POST", served.path, "chosen=left&name=%E5%B1%B1", Origin="null", **FORM)
    assert (status, headers["Location"]) == (303, served.path)
    assert served.page.taken == [{"chosen": "left", "name": "山"}]


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1"])
def test_a_tunnel_may_use_another_port(served: Served, host: str) -> None:
    assert served.ask("GET", served.path, Host=host)[0] == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (None, {"Host": "attacker.example"}, 403),
        (None, {"Host": "127.0.0.1.attacker.example"}, 403),
        (None, {"Host": "["}, 403),
        (None, {"Host": ""}, 403),
        (None, {"Origin": "https://attacker.example"}, 403),
        ("/", {}, 404),
        ("/x/", {}, 404),
        (None, {"Origin": "http://["}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_others_get_nothing(
    served: Served, method: str, path: str | None, headers: dict[str, str], status: int
) -> None:
    found, _, text = served.ask(method, path or served.path, "chosen=left" if method == "POST" else None, **headers)
    assert (found, text) == (status, "")
    assert served.page.taken == []


@pytest.mark.parametrize("length", ["10001", "-1", "x", "１"])
def test_a_form_that_is_too_long_is_not_read(served: Served, length: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.putrequest("POST", served.path)
    connection.putheader("Content-Length", length.encode().decode("latin-1"))
    connection.endheaders()
    assert connection.getresponse().status == 413
    assert served.page.taken == []
    connection.close()


def test_a_port_that_is_taken_is_said(served: Served) -> None:
    with (
        pytest.raises(OutputError, match=f"--port {served.port}: cannot be used"),
        serving(Recorder(), port=served.port),
    ):
        pass


def test_nothing_is_left_running() -> None:
    before = set(threading.enumerate())
    with serving(Recorder()) as address:
        host = address.removeprefix("http://").partition("/")[0]
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == 404
        connection.close()
        assert set(threading.enumerate()) > before
    for thread in set(threading.enumerate()) - before:
        # That of the request may take a moment.
        thread.join(timeout=10)
        assert not thread.is_alive()
