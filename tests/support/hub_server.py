"""A server with the part of the Hugging Face Hub's interface that fetching needs, and faults."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPO = "owner/tiny"
GATED, PRIVATE = "owner/gated", "owner/private"
LARGE_SUFFIXES = (".safetensors", ".onnx", ".bin")  # stored by Git LFS


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """One repository, the requests so far, and the faults to simulate."""

    files: dict[str, bytes]
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
        names = "".join(f"{name} {checksum(name, self.files[name])}" for name in self.files)
        return hashlib.sha1(names.encode()).hexdigest()

    def asked_for(self, method: str = "GET") -> list[str]:
        """The files that were fetched, in order; large ones were fetched from the storage."""
        marks = [f"/{REPO}/resolve/{self.commit}/", f"/{REPO}/resolve/main/", "/storage/"]
        paths = [request.path for request in self.requests if request.method == method]
        return [path.removeprefix(mark) for path in paths for mark in marks if mark in path]

    def ranges(self) -> list[str]:
        """The parts of files that were requested."""
        return [request.range for request in self.requests if request.range]


def checksum(name: str, content: bytes) -> str:
    """The checksum that the Hub gives: the SHA-256 of large files, else git's SHA-1."""
    if name.endswith(LARGE_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve the files of a folder as the repository REPO."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hub = Hub({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
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


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        range_, authorization = self.headers.get("Range"), self.headers.get("Authorization")
        hub.requests.append(Request(self.command, path, range_, authorization))
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
        elif path.startswith(f"/{REPO}/resolve/"):
            self._resolve(path.removeprefix(f"/{REPO}/resolve/").split("/", 1)[1])
        else:
            self._reply(404, headers={"X-Error-Code": "RepoNotFound"})

    def _describe(self, path: str) -> None:
        repo, _, revision = path.partition("/revision/")
        if repo not in (REPO, GATED):
            self._reply(404, headers={"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", "", self.hub.commit):
            self._reply(404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            answer = self.hub.answer or json.dumps(self._facts()).encode()
            self._reply(200, answer, {"Content-Type": "application/json"})

    def _facts(self) -> dict[str, object]:
        siblings = []
        for name, content in self.hub.files.items():
            size = self.hub.sizes.get(name, len(content))
            facts: dict[str, object] = {"rfilename": name, "size": size}
            if name.endswith(LARGE_SUFFIXES):
                facts["blobId"] = "0" * 40  # of the pointer that git keeps
                facts["lfs"] = {"sha256": checksum(name, content), "size": size, "pointerSize": 130}
            else:
                facts["blobId"] = checksum(name, content)
            siblings.append(facts)
        return {"id": REPO, "modelId": REPO, "sha": self.hub.commit, "siblings": siblings}

    def _resolve(self, name: str) -> None:
        """Send a small file, or redirect to another host for a large one."""
        facts = {"X-Repo-Commit": self.hub.commit}
        if name not in self.hub.files:
            self._reply(404, headers={**facts, "X-Error-Code": "EntryNotFound"})
            return
        content = self.hub.files[name]
        etag = f'"{checksum(name, content)}"'
        if name.endswith(LARGE_SUFFIXES):
            facts |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
            storage = self.hub.address.replace("127.0.0.1", "localhost")
            self._reply(302, headers={**facts, "Location": f"{storage}/storage/{name}"})
        else:
            self._reply(200, content, {**facts, "ETag": etag})

    def _send_file(self, name: str) -> None:
        content, hub = self.hub.files[name], self.hub
        if name in hub.altered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        rest, code = content[start:], 206 if start else 200
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        cuts = hub.cut.get(name)
        self._reply(code, rest, headers if start else {}, cut=cuts.pop(0) if cuts else None)

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
