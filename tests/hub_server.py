"""A small hub on this machine: the endpoints that huggingface_hub asks, over folders of models and data sets.

with HubServer({"org/base": folder}) as hub:
    ...                      # hub.url is the endpoint; hub.sent counts the bytes of each file that were asked for
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from tests.local_server import LocalServer

_REVISION = r"(?P<revision>refs/convert/[^/]+|[^/]+)"
_API = re.compile(
    r"/api/(models|datasets)/(?P<id>[^/]+/[^/]+)"
    rf"(/(?P<what>revision|tree|paths-info)/{_REVISION}(/(?P<under>.+))?)?/?"
)
_FILE = re.compile(rf"/(datasets/)?(?P<id>[^/]+/[^/]+)/resolve/{_REVISION}/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class HubServer(LocalServer):
    """Serves folders as models, each at one commit (`commits`); branches and tags are `main` and those in `tags`."""

    def __init__(self, models: Mapping[str, Path]) -> None:
        self.models = dict(models)
        self.tags: dict[tuple[str, str], Path] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.sent: Counter[str] = Counter()
        self.requests: list[str] = []
        super().__init__(_handler_of(self))

    def folder(self, model: str, revision: str) -> Path | None:
        """Return the folder of a model at a branch, tag or commit."""
        if revision == "main":
            return self.models[model]
        if (model, revision) in self.tags:
            return self.tags[model, revision]
        known = [self.models[model], *(folder for (name, _), folder in self.tags.items() if name == model)]
        return next((folder for folder in known if commit_of(folder) == revision), None)


def commit_of(folder: Path) -> str:
    """Return the commit that this hub gives the folder: a hash of its path."""
    return hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files of a model by their paths inside it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _handler_of(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_POST(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            match = _API.fullmatch(path) or _FILE.fullmatch(path)
            if match is None or match["id"] not in hub.models or match["id"] in hub.private:
                # The hub does not tell a private model from one that is not there.
                self._refuse(401, "RepoNotFound", with_body=with_body)
                return
            folder = hub.folder(match["id"], match["revision"] or "main")
            if folder is None:
                self._refuse(404, "RevisionNotFound", with_body=with_body)
            elif "file" in match.groupdict():
                self._file(match["id"], match["file"], folder, with_body=with_body)
            else:
                self._listing(
                    match["id"], match["what"] or "revision", folder, under=match["under"] or "", with_body=with_body
                )

        def _listing(self, model: str, what: str, folder: Path, *, under: str, with_body: bool) -> None:
            files = files_of(folder)
            if what == "tree":
                found: object = _entries(files, under=under, deep="recursive=true" in urlsplit(self.path).query.lower())
                if under and not found:
                    self._refuse(404, "EntryNotFound", with_body=with_body)
                    return
            elif what == "paths-info":
                named = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
                everything = [*_entries(files, under="", deep=True), *_folders(files)]
                found = [entry for entry in everything if entry["path"] in named]
            else:
                siblings = [
                    {"rfilename": name, "size": path.stat().st_size, "blobId": _etag(path)}
                    for name, path in files.items()
                ]
                found = {"id": model, "sha": commit_of(folder), "siblings": siblings, "tags": [], "private": False}
            self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"}, with_body=with_body)

        def _file(self, model: str, name: str, folder: Path, *, with_body: bool) -> None:
            if model in hub.gated and name != "README.md":
                self._refuse(403, "GatedRepo", with_body=with_body)
                return
            path = files_of(folder).get(name)
            if path is None:
                self._refuse(404, "EntryNotFound", with_body=with_body)
                return
            content = path.read_bytes()
            headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": commit_of(folder), "Accept-Ranges": "bytes"}
            asked = _RANGE.fullmatch(self.headers.get("Range", ""))
            status = 200
            if asked:
                start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
                status, content = 206, content[start:stop]
            if with_body:
                hub.sent[name] += len(content)
            self._send(status, content, headers, with_body=with_body)

        def _refuse(self, status: int, code: str, *, with_body: bool) -> None:
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, with_body=with_body)

        def _send(self, status: int, content: bytes, headers: Mapping[str, str], *, with_body: bool) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

    return Answer


def _entries(files: dict[str, Path], *, under: str, deep: bool) -> list[dict[str, object]]:
    """Return what a listing of a folder shows: its files, with `deep` those of its folders too, else the folders."""
    start = f"{under}/" if under else ""
    inside = {name: path for name, path in files.items() if name.startswith(start)}
    shown: list[dict[str, object]] = [
        {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}
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
