"""A small hub on this machine that takes uploads: the endpoints that huggingface_hub's create_repo and uploads call.

Large files go by LFS, as on a machine without `hf_xet`; of Xet storage only the token is imitated here.
"""

import base64
import json
import re
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.local_server import LocalServer

_MODEL = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)/(?P<what>preupload|commit|tree|revision)/main")
_BATCH = re.compile(r"/(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
_STORED = re.compile(r"/lfs/(?P<oid>[0-9a-f]{64})")


class UploadHub(LocalServer):
    """Keeps what is sent: `files` by repository and name; `refuse` answers a path (a part of it) with a status.

    The next `limited` requests are refused with 429. `xet` is the address of its Xet storage.
    """

    def __init__(self, *, token: str) -> None:
        self.token = token
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[tuple[str, ...]] = []
        self.refuse: dict[str, int] = {}
        self.limited = 0
        self.xet: str | None = None
        self.stored: dict[str, bytes] = {}
        self.requests: list[str] = []
        super().__init__(_handler_of(self))


def _handler_of(hub: UploadHub) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def do_PUT(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        def log_message(self, *args: object) -> None:
            """Say nothing."""

        def _answer(self, body: bytes) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            status = next((status for part, status in hub.refuse.items() if part in path), None)
            if hub.limited:
                hub.limited -= 1
                self._send(429, {"error": "limited"}, {"Retry-After": "1"})
            elif status is not None:
                self._send(status, {"error": "refused"})
            elif stored := _STORED.fullmatch(path):
                hub.stored[stored["oid"]] = body
                self._send(200, {})
            elif self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._send(401, {"error": "Invalid username or password."})
            elif "/xet-write-token/" in path and hub.xet is not None:
                until = str(int(time.time()) + 3600)
                names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
                found = {"casUrl": hub.xet, "accessToken": "x", "exp": int(until)}
                self._send(200, found, dict(zip(names, (hub.xet, "x", until), strict=True)))
            elif path == "/api/repos/create":
                self._create(json.loads(body))
            elif path == "/api/validate-yaml":
                self._send(200, {"errors": [], "warnings": []})
            elif batch := _BATCH.fullmatch(path):
                self._batch(batch["id"], json.loads(body))
            elif model := _MODEL.fullmatch(path):
                self._model(model["id"], model["what"], body)
            else:
                self._send(404, {"error": "not found"})

        def _create(self, asked: Mapping[str, str]) -> None:
            repo_id = f"{asked['organization']}/{asked['name']}"
            if repo_id in hub.files:
                self._send(409, {"error": "You already created this model repo"})
                return
            hub.files[repo_id] = {".gitattributes": b""}
            hub.private[repo_id] = asked.get("visibility") == "private"
            self._send(200, {"url": f"{hub.url}/{repo_id}", "name": repo_id})

        def _batch(self, repo_id: str, asked: Mapping[str, list[dict[str, object]]]) -> None:
            actions = [
                {**each, "actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}} for each in asked["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": actions})

        def _model(self, repo_id: str, what: str, body: bytes) -> None:
            files = hub.files[repo_id]
            if what == "preupload":
                asked = json.loads(body)["files"]
                modes = [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for each in asked
                ]
                self._send(200, {"files": modes})
            elif what == "commit":
                self._commit(repo_id, [json.loads(line) for line in body.splitlines()])
            elif what == "tree":
                self._send(200, [{"type": "file", "path": name, "size": 0, "oid": "0" * 40} for name in files])
            else:
                self._send(200, {"id": repo_id, "sha": "0" * 40, "siblings": [], "tags": [], "private": False})

        def _commit(self, repo_id: str, lines: list[dict[str, Any]]) -> None:
            named = []
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.files[repo_id][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[repo_id][value["path"]] = hub.stored[value["oid"]]
                else:
                    continue
                named.append(value["path"])
            hub.commits.append(tuple(sorted(named)))
            commit = f"{len(hub.commits):040x}"
            self._send(200, {"commitUrl": f"{hub.url}/{repo_id}/commit/{commit}", "commitOid": commit})

        def _send(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            own = {"Content-Type": "application/json", "Content-Length": str(len(content))}
            for name, text in {**own, **(headers or {})}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

    return Answer
