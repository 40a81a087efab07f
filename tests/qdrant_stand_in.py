"""A stand-in for a Qdrant server, for machines where there is none: the REST API over the client's local mode.

It stands in for the *transport*, not for the engine: requests of the real client arrive over HTTP, are validated by
the client's own models and answered by its local mode, in a process of its own that can be killed, stopped and
restarted. So options, keys, time limits, errors and restarts are real; search quality, concurrency and speed are not.
Of the engine's own rules it keeps one: a filter on a key without an index is refused, as strict mode does.

``python qdrant_stand_in.py PORT GRPC_PORT [DIR]`` serves until it is killed, from memory or from DIR; 0 is for no gRPC. Faults are asked for by
``POST /_fault {"status", "error", "headers", "sleep", "path", "method", "skip"}``: the next request with that method
whose path holds ``path`` meets it, or a later one where ``skip`` is given.
``QDRANT_KEY`` and ``QDRANT_VERSION`` in the environment set the key asked for and the version told.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pydantic_core
from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models

Answer = Callable[[Any, str, str, Any], Any]


# --- for tests --------------------------------------------------------------------------------------


@dataclass
class StandIn:
    """A stand-in of a test: ``start`` and ``kill`` it as often as needed; the port stays."""

    directory: Path | None = None
    key: str = ""
    version: str = "1.20.0"
    port: int = 0
    grpc: bool = False
    grpc_port: int = 0
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self) -> StandIn:
        """Returns when it answers."""
        self.port = self.port or free_port()
        place = [] if self.directory is None else [str(self.directory)]
        environment = {**os.environ, "QDRANT_KEY": self.key, "QDRANT_VERSION": self.version}
        if self.grpc:
            self.grpc_port = self.grpc_port or free_port()
        command = [sys.executable, __file__, str(self.port), str(self.grpc_port), *place]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As ``kill -9`` does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        """Inside, it is stopped: connections are accepted, by the system, and nothing answers."""
        self.signal(signal.SIGSTOP)
        assert self.process is not None
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # on busy cores it answers a little longer
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def fault(self, **what: Any) -> None:
        """What the next request meets."""
        from urllib.request import Request, urlopen

        request = Request(f"http://127.0.0.1:{self.port}/_fault", json.dumps(what).encode(), method="POST")
        with urlopen(request, timeout=10) as answer:
            answer.read()

    @property
    def url(self) -> str:
        """Its address, without a collection."""
        return f"qdrant://127.0.0.1:{self.port}" + (f"?grpc=1&grpc_port={self.grpc_port}" if self.grpc else "")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# --- the server -------------------------------------------------------------------------------------


@dataclass
class Refused(Exception):
    """An answer that is an error."""

    status: int
    error: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Served:
    """What the requests share."""

    client: QdrantClient
    lock: threading.Lock = field(default_factory=threading.Lock)
    faults: list[dict[str, Any]] = field(default_factory=list)
    indexes: dict[str, dict[str, Any]] = field(default_factory=dict)
    strict: set[str] = field(default_factory=set)

    def real(self, name: str) -> str:
        aliases = {a.alias_name: a.collection_name for a in self.client.get_aliases().aliases}
        return aliases.get(name, name)

    def check(self, name: str, where: models.Filter | None) -> None:
        """Strict mode, for collections that this process has seen made with it."""
        indexes = self.indexes.get(self.real(name), {})
        if where is None or self.real(name) not in self.strict:
            return
        for key in keys(where.model_dump(exclude_none=True), ""):
            if key not in indexes:
                raise Refused(400, f'Bad request: Index required but not found for "{key}" of one of the types')


def keys(where: Any, inside: str) -> Iterator[str]:
    """The payload keys of a filter."""
    if isinstance(where, list):
        for part in where:
            yield from keys(part, inside)
    elif isinstance(where, dict):
        if "nested" in where:
            yield from keys(where["nested"]["filter"], f"{inside}{where['nested']['key'].removesuffix('[]')}[].")
            return
        if "key" in where:
            yield inside + where["key"]
        for part in where.values():
            yield from keys(part, inside)


def info(served: Served, name: str, _rest: str, _body: Any) -> Any:
    found = served.client.get_collection(name)
    schema = {
        key: models.PayloadIndexInfo(data_type=kind, points=0)
        for key, kind in served.indexes.get(served.real(name), {}).items()
    }
    if served.real(name) in served.strict:
        found.config.strict_mode_config = models.StrictModeConfigOutput(
            enabled=True, unindexed_filtering_retrieve=False
        )
    return found.model_copy(update={"payload_schema": schema})


def create(served: Served, name: str, _rest: str, body: Any) -> Any:
    asked = models.CreateCollection.model_validate(body)
    done = served.client.create_collection(name, vectors_config=asked.vectors, metadata=asked.metadata)
    if asked.strict_mode_config is not None and asked.strict_mode_config.enabled:
        served.strict.add(name)
    return done


def update(served: Served, name: str, _rest: str, body: Any) -> Any:
    asked = models.UpdateCollection.model_validate(body)
    return served.client.update_collection(name, metadata=asked.metadata)


def delete(served: Served, name: str, _rest: str, _body: Any) -> Any:
    served.indexes.pop(name, None)
    served.strict.discard(name)
    return served.client.delete_collection(name)


def index(served: Served, name: str, _rest: str, body: Any) -> Any:
    asked = models.CreateFieldIndex.model_validate(body)
    served.indexes.setdefault(served.real(name), {})[asked.field_name] = asked.field_schema
    return served.client.create_payload_index(name, asked.field_name, asked.field_schema)


def add_vector(served: Served, name: str, rest: str, body: Any) -> Any:
    config = TypeAdapter(models.VectorNameConfig).validate_python(body)
    return served.client.create_vector_name(name, unquote(rest.rpartition("/")[2]), config)


def upsert(served: Served, name: str, _rest: str, body: Any) -> Any:
    return served.client.upsert(name, models.PointsList.model_validate(body).points)


def retrieve(served: Served, name: str, _rest: str, body: Any) -> Any:
    asked = models.PointRequest.model_validate(body)
    payload = True if asked.with_payload is None else asked.with_payload
    return served.client.retrieve(name, asked.ids, with_payload=payload, with_vectors=asked.with_vector or False)


def remove(served: Served, name: str, _rest: str, body: Any) -> Any:
    asked: Any = TypeAdapter(models.PointsSelector).validate_python(body)
    served.check(name, getattr(asked, "filter", None))
    return served.client.delete(name, asked)


def scroll(served: Served, name: str, _rest: str, body: Any) -> Any:
    asked = models.ScrollRequest.model_validate(body)
    served.check(name, asked.filter)
    found, after = served.client.scroll(
        name,
        asked.filter,
        limit=asked.limit or 10,
        offset=asked.offset,
        with_payload=True if asked.with_payload is None else asked.with_payload,
        with_vectors=asked.with_vector or False,
    )
    return {"points": found, "next_page_offset": after}


def count(served: Served, name: str, _rest: str, body: Any) -> Any:
    asked = models.CountRequest.model_validate(body)
    served.check(name, asked.filter)
    return served.client.count(name, asked.filter)


def search(served: Served, name: str, _rest: str, body: Any) -> Any:
    asked = models.QueryRequestBatch.model_validate(body).searches
    for request in asked:
        served.check(name, request.filter)
        request.params = None
    return served.client.query_batch_points(name, asked)


def search_one(served: Served, name: str, _rest: str, body: Any) -> Any:
    return search(served, name, "", {"searches": [body]})[0]


def batch(served: Served, name: str, _rest: str, body: Any) -> Any:
    return served.client.batch_update_points(name, models.UpdateOperations.model_validate(body).operations)


def vectors(served: Served, name: str, _rest: str, body: Any) -> Any:
    return served.client.update_vectors(name, models.UpdateVectors.model_validate(body).points)


def aliases(served: Served, _name: str, _rest: str, _body: Any) -> Any:
    return served.client.get_aliases()


def change_aliases(served: Served, _name: str, _rest: str, body: Any) -> Any:
    return served.client.update_collection_aliases(models.ChangeAliasesOperation.model_validate(body).actions)


def collections(served: Served, _name: str, _rest: str, _body: Any) -> Any:
    return served.client.get_collections()


ROUTES: dict[tuple[str, str], Answer] = {
    ("GET", "/aliases"): aliases,
    ("POST", "/collections/aliases"): change_aliases,
    ("GET", "/collections"): collections,
    ("GET", ""): info,
    ("PUT", ""): create,
    ("PATCH", ""): update,
    ("DELETE", ""): delete,
    ("PUT", "/index"): index,
    ("PUT", "/points"): upsert,
    ("POST", "/points"): retrieve,
    ("POST", "/points/delete"): remove,
    ("POST", "/points/scroll"): scroll,
    ("POST", "/points/count"): count,
    ("POST", "/points/query"): search_one,
    ("POST", "/points/query/batch"): search,
    ("POST", "/points/batch"): batch,
    ("PUT", "/points/vectors"): vectors,
}


def status_of(error: str) -> int:
    """What a server answers when local mode raises that."""
    return 404 if "not found" in error else 409 if "already exists" in error else 400


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    served: Served

    def answer(self) -> None:
        path = urlsplit(self.path).path
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        try:
            if path == "/_fault":
                self.served.faults.append(body)
                result: Any = True
            else:
                result = self.result(path, body)
        except Refused as refused:
            self.send(refused.status, {"status": {"error": refused.error}, "time": 0.0}, refused.headers)
        except ValueError as error:
            self.send(status_of(str(error)), {"status": {"error": str(error)}, "time": 0.0}, {})
        else:
            if path == "/":
                self.send(200, {"title": "stand-in", "version": os.environ.get("QDRANT_VERSION", "1.20.0")}, {})
            else:
                self.send(200, {"result": result, "status": "ok", "time": 0.0}, {})

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - the names that the base class calls

    def result(self, path: str, body: Any) -> Any:
        key = os.environ.get("QDRANT_KEY", "")
        if key and self.headers.get("api-key") != key:
            raise Refused(401, "Must provide an API key or an Authorization bearer token")
        self.meet_fault(path)
        if path == "/":
            return None
        found = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
        name, rest = ("", path) if found is None else (unquote(found[1]), found[2] or "")
        answer = ROUTES.get((self.command, path)) or ROUTES.get((self.command, rest))
        if rest.startswith("/vectors/") and self.command == "PUT":
            answer = add_vector
        if answer is None:
            raise Refused(404, "")
        with self.served.lock:
            return answer(self.served, name, rest, body)

    def meet_fault(self, path: str) -> None:
        for fault in self.served.faults:
            if fault.get("path", "") in path and self.command == fault.get("method", self.command):
                if fault.get("skip", 0):
                    fault["skip"] -= 1
                    return
                self.served.faults.remove(fault)
                time.sleep(fault.get("sleep", 0))
                if "status" in fault:
                    raise Refused(fault["status"], fault.get("error", ""), fault.get("headers", {}))
                return

    def send(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        data = pydantic_core.to_json(answer, exclude_none=True)
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gave up
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def main(port: int, grpc_port: int, directory: str | None) -> None:
    """Serve until killed."""
    warnings.simplefilter("ignore")
    client = QdrantClient(path=directory) if directory else QdrantClient(":memory:")
    Handler.served = Served(client)
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if grpc_port:
        from qdrant_stand_in_grpc import serve

        _running = serve(Handler.served, grpc_port)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    sys.modules["qdrant_stand_in"] = sys.modules["__main__"]
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
