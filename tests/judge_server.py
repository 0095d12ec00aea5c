"""A stand-in for a judge's endpoint: OpenAI's chat completions on this machine, with replies of the test's own."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self

from tests.local_server import LocalServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the endpoint answers: a status with a body (JSON, or text as it is) and headers."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def says(text: object) -> Reply:
    """Return the reply in which a model says a text."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return Reply(body={"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


def refuses(status: int, **error: object) -> Reply:
    """Return an error reply, as OpenAI words it."""
    return Reply(status=status, body={"error": {"message": "no", "type": "x", "param": None, "code": None, **error}})


class JudgeServer:
    """Answers each request with what `answer` returns for its body, and keeps bodies and keys."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], Reply]) -> None:
        self.requests: list[Mapping[str, Any]] = []
        self.keys: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.requests.append(body)
                server.keys.append(self.headers.get("authorization", ""))
                reply = answer(body)
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in {"content-type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._local = LocalServer(Handler)

    @property
    def url(self) -> str:
        """The endpoint, as `--judge-url` takes it."""
        return f"{self._local.url}/v1"

    def __enter__(self) -> Self:
        self._local.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._local.__exit__(kind, error, trace)
