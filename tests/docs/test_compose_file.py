"""``docker/compose.yaml``: pinned images, health checks, profiles, named volumes, and no port that others can reach."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker" / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROFILES = {"qdrant": {"qdrant"}, "milvus": {"milvus", "milvus-etcd", "milvus-minio"}}
PROFILES["all"] = PROFILES["qdrant"] | PROFILES["milvus"]


@pytest.mark.parametrize("service", SERVICES)
def test_images_are_pinned_to_a_full_version(service: str) -> None:
    tag = SERVICES[service]["image"].rpartition(":")[2]
    assert re.fullmatch(r"v\d+\.\d+\.\d+|RELEASE\.\d{4}(-\d\d){2}T\d\d(-\d\d){2}Z", tag), tag


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_open_to_this_machine_only(service: str) -> None:
    assert "network_mode" not in SERVICES[service]
    for port in SERVICES[service].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


def test_the_ports_are_those_that_addresses_take_for_granted() -> None:
    bound = {port for service in SERVICES.values() for port in service.get("ports", ())}
    assert {f"127.0.0.1:{port}:{port}" for port in (6333, 6334, 19530)} <= bound


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_says_when_it_is_well(service: str) -> None:
    check = SERVICES[service]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries"} <= check.keys()


def test_a_service_waits_until_those_it_needs_are_well() -> None:
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert set(service["profiles"]) <= set(SERVICES[needed]["profiles"])


def test_profiles() -> None:
    found = {name: {s for s, service in SERVICES.items() if name in service["profiles"]} for name in PROFILES}
    assert found == PROFILES
    assert all(set(service["profiles"]) <= PROFILES.keys() for service in SERVICES.values())  # none starts unasked


@pytest.mark.parametrize("service", SERVICES)
def test_data_lies_in_a_named_volume(service: str) -> None:
    volumes = [volume.split(":")[0] for volume in SERVICES[service]["volumes"]]
    assert volumes
    assert set(volumes) <= COMPOSE["volumes"].keys()


def test_no_volume_is_left_over() -> None:
    used = [volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]]
    assert sorted(used) == sorted(COMPOSE["volumes"])


def test_the_newest_versions_of_the_integration_tests_are_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "integration"))
    import servers

    for versions, service in ((servers.QDRANT, "qdrant"), (servers.MILVUS, "milvus")):
        numbers = [tuple(map(int, re.findall(r"\d+", version))) for version in versions]
        assert numbers == sorted(numbers)
        assert SERVICES[service]["image"].rpartition(":")[2] == versions[-1]
    sys.modules.pop("servers")


def test_the_check_of_qdrant_tells_ready_from_not(tmp_path: Path) -> None:
    """The image has no curl, so the check is a line of bash: run here, on a port of its own, against both answers."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine")
    import http.server
    import threading

    class Ready(http.server.BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(self.status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    command = SERVICES["qdrant"]["healthcheck"]["test"][3].replace("$$", "$")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            line = command.replace("6333", str(server.server_address[1]))
            ready = subprocess.run([bash, "-c", line], timeout=20, check=False).returncode
            Ready.status = 503
            busy = subprocess.run([bash, "-c", line], timeout=20, check=False).returncode
        finally:
            server.shutdown()
    away = subprocess.run([bash, "-c", line], timeout=20, check=False, stderr=subprocess.DEVNULL).returncode
    assert (ready, busy, away) == (0, 1, 1)


@pytest.mark.parametrize("profile", PROFILES)
def test_docker_compose_reads_it(profile: str) -> None:
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("no docker client on this machine")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("the docker client has no compose plugin")
    command = [docker, "compose", "--file", str(FILE), "--profile", profile, "config", "--services"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COMPOSE_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == PROFILES[profile]
