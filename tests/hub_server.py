"""A small hub on this machine: the endpoints that huggingface_hub asks, over folders of models and data sets.

with HubServer({"org/base": folder}) as hub:
    ...                      # hub.url is the endpoint; hub.sent counts the bytes of each file that were asked for

It answers as the real one: small files by a relative 307, large ones by a 302 to a signed address of another host,
which refuses a login; with `xet`, also with the headers of Xet storage, whose address is `xet`.
"""

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.local_server import LocalServer

_REVISION = r"(?P<revision>refs/convert/[^/]+|[^/]+)"
_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)"
    rf"(/(?P<what>revision|tree|paths-info|xet-read-token)/{_REVISION}(/(?P<under>.+))?)?/?"
)
_FILE = re.compile(rf"/(?P<datasets>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/{_REVISION}/(?P<file>.+)")
_SMALL_FILE = re.compile(
    r"/api/resolve-cache/(models|datasets)/(?P<id>[^/]+/[^/]+)/(?P<commit>[0-9a-f]{40})/(?P<file>.+)"
)
_LARGE_FILE = re.compile(r"/repos/(?P<id>[^/]+/[^/]+)/(?P<commit>[0-9a-f]{40})/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_LARGE = (".safetensors", ".bin", ".parquet", "tokenizer.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to a request: an error, silence, or an answer that is cut off, stalls or is slow."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    silent: bool = False
    hangs_up: bool = False
    cut_after: int | None = None
    stalls: bool = False
    slow_s: float = 0.0


class HubServer(LocalServer):
    """Serves folders as models, each at one commit (`commits`); branches and tags are `main` and those in `tags`.

    `renamed` maps old ids to new ones. A request whose path contains a key of `faults` meets the next fault of its
    list; `always` holds those that it meets each time.
    """

    def __init__(self, models: Mapping[str, Path], *, xet: str | None = None) -> None:
        self.models = dict(models)
        self.xet = xet
        self.tags: dict[tuple[str, str], Path] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.renamed: dict[str, str] = {}
        self.sent: Counter[str] = Counter()
        self.requests: list[str] = []
        self.faults: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.ended = threading.Event()
        self.large_files = LocalServer(_handler_of_large_files(self))
        super().__init__(_handler_of(self))

    def __enter__(self) -> Self:
        self.large_files.__enter__()
        return super().__enter__()

    def stop(self) -> None:
        """Stop answering, as a hub that cannot be reached."""
        self.ended.set()
        self.large_files.stop()
        super().stop()

    def folder(self, model: str, revision: str) -> Path | None:
        """Return the folder of a model at a branch, tag or commit."""
        if revision == "main":
            return self.models[model]
        if (model, revision) in self.tags:
            return self.tags[model, revision]
        known = [self.models[model], *(folder for (name, _), folder in self.tags.items() if name == model)]
        return next((folder for folder in known if commit_of(folder) == revision), None)

    def fault(self, path: str) -> Fault | None:
        """Return what happens to a request for the path, None for its answer."""
        waiting = next((faults for part, faults in self.faults.items() if part in path and faults), None)
        return waiting.pop(0) if waiting else next((fault for part, fault in self.always.items() if part in path), None)


def commit_of(folder: Path) -> str:
    """Return the commit that this hub gives the folder: a hash of its path."""
    return hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a model by their paths inside it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


class _Handler(BaseHTTPRequestHandler):
    """Writes answers, whole or as a fault says."""

    protocol_version = "HTTP/1.1"
    hub: HubServer

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def answer(self, path: str) -> None:
        """Answer the request for the path."""
        raise NotImplementedError

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.fault = self.hub.fault(path)
        if self.fault is not None and (self.fault.silent or self.fault.hangs_up):
            if self.fault.silent:
                self.hub.ended.wait(60)
            self.close_connection = True
        elif self.fault is not None and self.fault.status is not None:
            self.send(self.fault.status, self.fault.body, self.fault.headers)
        else:
            self.answer(path)

    def refuse(self, status: int, code: str) -> None:
        """Refuse the request as the hub does."""
        self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        """Send an answer; a fault may cut its body off, or delay each part of it."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault is not None and self.fault.cut_after is not None:
            content, self.close_connection = content[: self.fault.cut_after], True
        step = 1000 if self.fault is not None and self.fault.slow_s else len(content) or 1
        for start in range(0, len(content), step):
            self.wfile.write(content[start : start + step])
            if self.fault is not None and self.fault.slow_s:
                time.sleep(self.fault.slow_s)
        if self.fault is not None and self.fault.stalls:
            self.hub.ended.wait(60)


def _handler_of(hub_of_requests: HubServer) -> type[BaseHTTPRequestHandler]:
    class Answer(_Handler):
        hub = hub_of_requests

        def answer(self, path: str) -> None:
            if small := _SMALL_FILE.fullmatch(path):
                content, tag = self._content(small)
                self.hub.sent[small["file"]] += 0 if self.command == "HEAD" else len(content)
                self.send(200, content, {"ETag": tag, "X-Repo-Commit": small["commit"]})
                return
            match = _API.fullmatch(path) or _FILE.fullmatch(path)
            if match is not None and match["id"] in self.hub.renamed:
                self.send(307, b"", {"Location": self.path.replace(match["id"], self.hub.renamed[match["id"]])})
                return
            if match is None or match["id"] not in self.hub.models or match["id"] in self.hub.private:
                # The hub does not tell a private model from one that is not there.
                self.refuse(401, "RepoNotFound")
                return
            folder = self.hub.folder(match["id"], match["revision"] or "main")
            if folder is None:
                self.refuse(404, "RevisionNotFound")
            elif "file" in match.groupdict():
                self._file(match, folder)
            else:
                self._listing(match["id"], match["what"] or "revision", folder, under=match["under"] or "")

        def _content(self, match: re.Match[str]) -> tuple[bytes, str]:
            folder = self.hub.folder(match["id"], match["commit"])
            if folder is None:
                raise AssertionError(match)
            path = folder / match["file"]
            return path.read_bytes(), f'"{_etag(path)}"'

        def _listing(self, model: str, what: str, folder: Path, *, under: str) -> None:
            files = files_of(folder)
            headers = {"Content-Type": "application/json"}
            if what == "tree":
                deep = "recursive=true" in urlsplit(self.path).query.lower()
                found: object = _entries(files, under=under, deep=deep, xet=self.hub.xet is not None)
                if under and not found:
                    self.refuse(404, "EntryNotFound")
                    return
            elif what == "paths-info":
                named = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
                everything = [*_entries(files, under="", deep=True), *_folders(files)]
                found = [entry for entry in everything if entry["path"] in named]
            elif what == "xet-read-token":
                until = int(time.time()) + 3600
                found = {"casUrl": self.hub.xet, "exp": until, "accessToken": "x"}
                headers |= {"X-Xet-Cas-Url": str(self.hub.xet), "X-Xet-Access-Token": "x"}
                headers["X-Xet-Token-Expiration"] = str(until)
            else:
                siblings = [
                    {"rfilename": name, "size": path.stat().st_size, "blobId": _etag(path)}
                    for name, path in files.items()
                ]
                found = {"id": model, "sha": commit_of(folder), "siblings": siblings, "tags": [], "private": False}
            self.send(200, json.dumps(found).encode(), headers)

        def _file(self, match: re.Match[str], folder: Path) -> None:
            model, name, kind = match["id"], match["file"], "datasets" if match["datasets"] else "models"
            if model in self.hub.gated and name != "README.md":
                self.refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
                return
            path = files_of(folder).get(name)
            if path is None:
                self.refuse(404, "EntryNotFound")
                return
            where = f"{model}/{commit_of(folder)}/{quote(name)}"
            headers = {
                "X-Repo-Commit": commit_of(folder),
                "X-Linked-ETag": f'"{_etag(path)}"',
                "X-Linked-Size": str(path.stat().st_size),
            }
            if not name.endswith(_LARGE):
                self.send(307, b"", {**headers, "Location": f"/api/resolve-cache/{kind}/{where}?etag=x"})
                return
            if self.hub.xet is not None:
                token = f"{self.hub.url}/api/{kind}/{model}/xet-read-token/{commit_of(folder)}"
                headers |= {"X-Xet-Hash": _sha256(path), "Link": f'<{token}>; rel="xet-auth"'}
            elsewhere = self.hub.large_files.url.replace("127.0.0.1", "localhost")
            headers["Location"] = f"{elsewhere}/repos/{where}?Expires=1&Signature=abc~def&Key-Pair-Id=K"
            self.send(302, b"Found. Redirecting", headers)

    return Answer


def _handler_of_large_files(hub_of_requests: HubServer) -> type[BaseHTTPRequestHandler]:
    class Answer(_Handler):
        hub = hub_of_requests

        def answer(self, path: str) -> None:
            match = _LARGE_FILE.fullmatch(path)
            if match is None or "Signature=" not in self.path or self.headers.get("Authorization"):
                self.send(403, b"", {})
                return
            folder = self.hub.folder(match["id"], match["commit"])
            if folder is None:
                raise AssertionError(path)
            content = (folder / match["file"]).read_bytes()
            headers = {"ETag": f'"{_etag(folder / match["file"])}"', "Accept-Ranges": "bytes"}
            asked = _RANGE.fullmatch(self.headers.get("Range", ""))
            status = 200
            if asked:
                start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
                status, content = 206, content[start:stop]
            self.hub.sent[match["file"]] += 0 if self.command == "HEAD" else len(content)
            self.send(status, content, headers)

    return Answer


def _entries(files: dict[str, Path], *, under: str, deep: bool, xet: bool = False) -> list[dict[str, object]]:
    """Return what a listing of a folder shows: its files, with `deep` those of its folders too, else the folders."""
    start = f"{under}/" if under else ""
    inside = {name: path for name, path in files.items() if name.startswith(start)}
    shown: list[dict[str, object]] = [
        {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path), **_storage(path, xet=xet)}
        for name, path in inside.items()
        if deep or "/" not in name.removeprefix(start)
    ]
    near = [entry for entry in _folders(inside) if "/" not in str(entry["path"]).removeprefix(start)]
    return shown if deep else [*shown, *(entry for entry in near if str(entry["path"]).startswith(start))]


def _folders(files: dict[str, Path]) -> list[dict[str, object]]:
    names = {str(parent) for name in files for parent in PurePosixPath(name).parents if str(parent) != "."}
    return [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(names)]


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _storage(path: Path, *, xet: bool) -> dict[str, object]:
    """Return what a listing shows of a file that Xet storage holds."""
    if not xet or not path.name.endswith(_LARGE):
        return {}
    size = path.stat().st_size
    return {"lfs": {"oid": _sha256(path), "size": size, "pointerSize": 134}, "xetHash": _sha256(path)}
