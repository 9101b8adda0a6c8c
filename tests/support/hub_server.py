"""A server with the part of the Hugging Face Hub's interface that fetching needs, and faults.

As on the Hub, small files are behind a relative redirect (307) to a path of the interface, and come
zipped and without a length unless the client refuses that. Large files are behind a redirect (302)
to another host, which can send them from any byte.
"""

import gzip
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from spectro_render.checkpoints.manifest import sha256

MOST_IN_MEMORY = 1 << 23  # bytes of a file
REPO = "owner/tiny"
GATED, PRIVATE = "owner/gated", "owner/private"
LARGE_SUFFIXES = (".safetensors", ".onnx", ".bin")  # stored by Git LFS
Content = bytes | Path  # a file's content, or where it is


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None
    zipped: bool  # whether the client takes gzip


@dataclass
class Hub:
    """One repository, the requests so far, and the faults to simulate."""

    files: dict[str, Content]
    repo: str = REPO
    pinned: str = ""  # another commit, with the same files
    address: str = ""
    requests: list[Request] = field(default_factory=list)
    cut: dict[str, list[int]] = field(
        default_factory=dict
    )  # file -> bytes after which sending ends
    altered: set[str] = field(default_factory=set)  # files that come with a wrong last byte
    sizes: dict[str, int] = field(default_factory=dict)  # file -> wrong size in the listing
    answer: bytes | None = None  # to every request for the description
    status: int = 200  # of every answer
    held: threading.Event = field(
        default_factory=threading.Event
    )  # before a cut file ends, it is awaited

    def __post_init__(self) -> None:
        self.held.set()

    @property
    def commit(self) -> str:
        """The commit of the main branch."""
        names = "".join(f"{name} {checksum(name, self.files[name])}" for name in self.files)
        return hashlib.sha1(names.encode()).hexdigest()

    def asked_for(self, method: str = "GET") -> list[str]:
        """The files that were fetched, in order; large ones were fetched from the storage."""
        mark = re.compile(rf"/api/resolve-cache/models/{self.repo}/[0-9a-f]{{40}}/|/storage/")
        paths = [request.path for request in self.requests if request.method == method]
        return [mark.sub("", path) for path in paths if mark.match(path)]

    def ranges(self) -> list[str]:
        """The parts of files that were requested."""
        return [request.range for request in self.requests if request.range]


@cache
def checksum(name: str, content: Content) -> str:
    """The checksum that the Hub gives: the SHA-256 of large files, else git's SHA-1."""
    if isinstance(content, Path):
        assert name.endswith(LARGE_SUFFIXES)
        return sha256(content)
    if name.endswith(LARGE_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def size_of(content: Content) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def point_client_at(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client take a Hub for the only one; it has read its environment already."""
    constants = pytest.importorskip("huggingface_hub.constants")
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    copy = "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE"  # of older releases
    monkeypatch.setattr(copy, template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve the files of a folder as the repository REPO; large ones are read when sent."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hub = Hub({path.relative_to(folder).as_posix(): _content(path) for path in paths})
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            hub.held.set()
            server.shutdown()
            thread.join()


def _content(path: Path) -> Content:
    return path if path.stat().st_size > MOST_IN_MEMORY else path.read_bytes()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        range_, authorization = self.headers.get("Range"), self.headers.get("Authorization")
        zipped = "gzip" in (self.headers.get("Accept-Encoding") or "")
        hub.requests.append(Request(self.command, path, range_, authorization, zipped))
        if path.startswith(f"/{GATED}/"):  # its description is public, its files are not
            self._reply(403, headers={"X-Error-Code": "GatedRepo"})
        elif PRIVATE in path:
            self._reply(401, headers={"X-Error-Code": "RepoNotFound"})
        elif hub.status != 200:
            self._reply(hub.status)
        elif path.startswith("/api/models/"):
            self._describe(path.removeprefix("/api/models/"))
        elif path.startswith("/storage/"):
            self._send_file(path.removeprefix("/storage/"))
        elif path.startswith("/api/resolve-cache/models/"):
            self._send_small(path.removeprefix(f"/api/resolve-cache/models/{hub.repo}/"), zipped)
        elif path.startswith(f"/{hub.repo}/resolve/"):
            self._resolve(*path.removeprefix(f"/{hub.repo}/resolve/").split("/", 1))
        else:
            self._reply(404, headers={"X-Error-Code": "RepoNotFound"})

    def _describe(self, path: str) -> None:
        repo, _, revision = path.partition("/revision/")
        if repo not in (self.hub.repo, GATED):
            self._reply(404, headers={"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", "", self.hub.commit, self.hub.pinned):
            self._reply(404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            answer = self.hub.answer or json.dumps(self._facts(revision)).encode()
            self._reply(200, answer, {"Content-Type": "application/json"})

    def _commit(self, revision: str) -> str:
        is_pinned = revision and revision == self.hub.pinned
        return self.hub.pinned if is_pinned else self.hub.commit

    def _facts(self, revision: str) -> dict[str, object]:
        siblings = []
        for name, content in self.hub.files.items():
            size = self.hub.sizes.get(name, size_of(content))
            facts: dict[str, object] = {"rfilename": name, "size": size}
            if name.endswith(LARGE_SUFFIXES):
                facts["blobId"] = "0" * 40  # of the pointer that git keeps
                facts["lfs"] = {"sha256": checksum(name, content), "size": size, "pointerSize": 130}
            else:
                facts["blobId"] = checksum(name, content)
            siblings.append(facts)
        repo, commit = self.hub.repo, self._commit(revision)
        return {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}

    def _resolve(self, revision: str, name: str) -> None:
        """Redirect: for a small file on this host, for a large one to another."""
        commit = self._commit(revision)
        facts = {"X-Repo-Commit": commit}
        if name not in self.hub.files:
            self._reply(404, headers={**facts, "X-Error-Code": "EntryNotFound"})
            return
        content = self.hub.files[name]
        etag = f'"{checksum(name, content)}"'
        if name.endswith(LARGE_SUFFIXES):
            facts |= {"X-Linked-Etag": etag, "X-Linked-Size": str(size_of(content))}
            storage = self.hub.address.replace("127.0.0.1", "localhost")
            self._reply(302, headers={**facts, "Location": f"{storage}/storage/{name}"})
        else:
            place = f"/api/resolve-cache/models/{self.hub.repo}/{commit}/{name}?etag=%22%22"
            self._reply(307, b"Temporary Redirect", {**facts, "Location": place})

    def _send_small(self, path: str, zipped: bool) -> None:
        commit, _, name = path.partition("/")
        content = self.hub.files[name]
        assert isinstance(content, bytes)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{checksum(name, content)}"'}
        if zipped:
            self._reply_in_chunks(gzip.compress(content), headers)
        else:
            self._reply(200, content, headers)

    def _send_file(self, name: str) -> None:
        content, hub = self.hub.files[name], self.hub
        if isinstance(content, Path):
            self._send_from_disk(content)
            return
        if name in hub.altered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        rest, code = content[start:], 206 if start else 200
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        cuts = hub.cut.get(name)
        self._reply(code, rest, headers if start else {}, cut=cuts.pop(0) if cuts else None)

    def _send_from_disk(self, path: Path) -> None:
        assert self.headers.get("Range") is None
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        if self.command != "HEAD":
            with path.open("rb") as file:
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    def _reply_in_chunks(self, content: bytes, headers: Mapping[str, str]) -> None:
        """Send zipped content without saying how long it is."""
        self.send_response(200)
        for name, value in {**headers, "Content-Encoding": "gzip"}.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))

    def _reply(
        self,
        code: int,
        content: bytes = b"",
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[:cut])
        if cut is not None:
            self.wfile.flush()
            self.hub.held.wait()
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
