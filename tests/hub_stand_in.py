"""The Hugging Face hub's file protocol on 127.0.0.1, as far as the client needs it: what a model consists of, its files with
ranges and etags. Models can be gated or unknown, and a download can be broken off half-way.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_INFO = re.compile(r"/api/models/(?P<name>[\w.-]+/[\w.-]+)(?:/revision/[\w.-]+)?")
_TREE = re.compile(r"/api/models/(?P<name>[\w.-]+/[\w.-]+)/tree/[\w.-]+(?:\?.*)?")
_FILE = re.compile(r"/(?P<name>[\w.-]+/[\w.-]+)/resolve/[\w.-]+/(?P<file>[\w./-]+)")


@dataclass
class Hub:
    """What is on the hub, and what was asked of it.

    Attributes:
        url: its address, for ``HF_ENDPOINT``.
        models: name -> file -> content.
        gated: names of models whose files nobody may have, though everybody may see what they are.
        down: whether it answers everything with an error of its own.
        broken: file -> for each coming request how many of its bytes are sent before the connection ends.
        requests: method and path of every request.
    """

    url: str = ""
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    down: bool = False
    broken: dict[str, list[int]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub in a thread."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.hub.down:
            return self._refuse(503, "ServerError")
        for pattern, answer in ((_TREE, self._tree), (_INFO, self._info), (_FILE, self._file)):
            match = pattern.fullmatch(self.path)
            if match is None:
                continue
            if match["name"] not in self.hub.models:
                return self._refuse(401, "RepoNotFound")
            if match["name"] in self.hub.gated and pattern is _FILE:
                return self._refuse(403, "GatedRepo")
            return answer(self.hub.models[match["name"]], match, body)
        return self._refuse(404, "EntryNotFound")

    def _info(self, files: dict[str, bytes], match: re.Match[str], body: bool) -> None:
        siblings = [{"rfilename": name} for name in files]
        self._json({"id": match["name"], "modelId": match["name"], "sha": _commit(files), "siblings": siblings}, body)

    def _tree(self, files: dict[str, bytes], _: re.Match[str], body: bool) -> None:
        self._json([{"type": "file", "path": n, "size": len(c), "oid": _etag(c)} for n, c in files.items()], body)

    def _file(self, files: dict[str, bytes], match: re.Match[str], body: bool) -> None:
        content = files.get(match["file"])
        if content is None:
            return self._refuse(404, "EntryNotFound")
        start, wanted = 0, self.headers.get("Range")
        if wanted and body:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", _commit(files))
        self.send_header("ETag", f'"{_etag(content)}"')
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return None
        limits = self.hub.broken.get(match["file"])
        if limits:  # fewer bytes than announced
            self.wfile.write(content[start : limits.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(content[start:])
        return None

    def _json(self, value: object, body: bool) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(content: bytes) -> str:
    """What the hub calls a file by: git's checksum of it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _commit(files: dict[str, bytes]) -> str:
    return hashlib.sha1(b"".join(_etag(content).encode() for content in files.values())).hexdigest()
