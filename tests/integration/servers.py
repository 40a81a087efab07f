"""Current Qdrant and Milvus servers in containers, each on a port of 127.0.0.1 that the engine chooses.

They need a container engine and ``testcontainers``; ``refusal`` says what is missing. The newest versions are those of
``docker/compose.yaml``.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

__all__ = ["MILVUS", "QDRANT", "Running", "milvus", "qdrant", "refusal"]

QDRANT = ("v1.18.2", "v1.19.1")
"""The previous version and the newest one."""
MILVUS = ("v2.6.24", "v3.0.2")

HOST = "127.0.0.1"
_START_LIMIT = 300  # seconds, without the time to fetch the image


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers; ``ports`` maps its own ports to those of this machine."""

    ports: dict[int, int]
    container: Any

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Inside, it takes connections and never answers: the kit's ``faults``."""
        self.container.pause()
        try:
            yield
        finally:
            self.container.unpause()


@cache
def refusal() -> str | None:
    """Why no server can be started here; None when one can."""
    if find_spec("testcontainers") is None:
        return "testcontainers is not installed: pip install testcontainers"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a client that finds no engine leaves its socket open
        reason = _unanswered()
        gc.collect()
    return reason


def _unanswered() -> str | None:
    from testcontainers.core.docker_client import DockerClient

    try:
        DockerClient().client.ping()
    except Exception as error:  # noqa: BLE001 - whatever an engine's client raises, there is none to use
        return f"no container engine answers: {error}"
    return None


def qdrant(version: str) -> Iterator[Running]:
    """A Qdrant server: REST on 6333, gRPC on 6334."""
    with _container(f"qdrant/qdrant:{version}", ports=(6333, 6334), ready=(6333, "/readyz")) as running:
        yield running


def milvus(version: str) -> Iterator[Running]:
    """A Milvus server in one container, with etcd inside and its segments on disk: gRPC on 19530."""
    environment = {
        "DEPLOY_MODE": "STANDALONE",
        "ETCD_USE_EMBED": "true",
        "ETCD_DATA_DIR": "/var/lib/milvus/etcd",
        "COMMON_STORAGETYPE": "local",
    }
    with _container(
        f"milvusdb/milvus:{version}",
        ports=(19530, 9091),
        ready=(9091, "/healthz"),
        command=["milvus", "run", "standalone"],
        environment=environment,
        security_opt=["seccomp:unconfined"],
    ) as running:
        yield running


@contextmanager
def _container(
    image: str,
    *,
    ports: Sequence[int],
    ready: tuple[int, str],
    command: list[str] | None = None,
    environment: dict[str, str] | None = None,
    **options: Any,
) -> Iterator[Running]:
    """A server, once ``ready`` (a port and a path) answers; removed at the end with its data."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    # Its cleaner is another container, which listens everywhere; the ``with`` removes this one.
    testcontainers_config.ryuk_disabled = True
    container = DockerContainer(image, env=environment, **options)
    container.ports = {f"{port}/tcp": (HOST, None) for port in ports}
    if command is not None:
        container.with_command(command)
    container.waiting_for(HttpWaitStrategy(*ready).with_startup_timeout(_START_LIMIT))
    with container:
        taken = {port: int(container.get_exposed_port(port)) for port in ports}
        yield Running(taken, container.get_wrapped_container())
