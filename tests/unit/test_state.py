"""What jobs remember on this machine: where, under which name, and one at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pixdex import _state
from pixdex._state import address_now, job_file, locked, normal, state_folder
from pixdex.connectors.memory import MemoryConnector
from pixdex.errors import ConfigError, StoreLocked


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIXDEX_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_folder_is_named_or_the_systems_and_its_owners_alone(place, monkeypatch, tmp_path):
    assert state_folder() == place
    assert place.stat().st_mode & 0o77 == 0
    monkeypatch.delenv("PIXDEX_STATE")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
        assert state_folder() == tmp_path / "xdg/pixdex"
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert state_folder() == tmp_path / "home/.local/state/pixdex"


def test_a_folder_that_cannot_be_made_is_told_with_the_remedy(place):
    place.write_text("no folder")
    with pytest.raises(ConfigError, match="let PIXDEX_STATE name another folder"):
        state_folder()


def test_one_address_has_one_file_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert job_file("copy", "pq://a.pix") == job_file("copy", f"pq://{tmp_path}/x/../a.pix?sync=0#main")
    assert job_file("copy", "pq://a.pix") != job_file("copy", "pq://a.pix#other")
    assert job_file("copy", "pq://a.pix") != job_file("add", "pq://a.pix")
    assert job_file("copy", "pq://a", "pq://b") != job_file("copy", "pq://b", "pq://a")
    assert normal("qdrant://Host:6333/photos") == normal("qdrant://host:6333#photos") == "qdrant://host:6333#photos"
    assert normal("milvus://h/db/photos") != normal("milvus://h/photos")
    assert normal("milvus://h/DB/photos") != normal("milvus://h/db/photos")
    mirror = "mirror://?primary=pq://a.pix&secondary=pq://b.pix"
    assert normal(mirror) == normal(f"{mirror}&share=0.1") != normal(mirror.replace("a.pix", "c.pix"))
    assert normal("/some/file") == "/some/file"


def test_one_at_a_time(tmp_path):
    file = tmp_path / "job"
    with locked(file):
        with pytest.raises(StoreLocked, match=f"being done by pid {os.getpid()} on .*: wait for it, or stop it there"):
            locked(file).__enter__()
        code = f"from pathlib import Path; from pixdex._state import locked; locked(Path({str(file)!r})).__enter__()"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "StoreLocked" in other.stderr
    with locked(file):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_nothing_can_be_locked_the_remedy_is_told(number, tmp_path, monkeypatch):
    def refused(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_state, "_taken", refused)  # as on a network drive
    with pytest.raises(
        ConfigError, match="cannot be locked .*let PIXDEX_STATE name a folder on a disk of this machine"
    ):
        locked(tmp_path / "job").__enter__()


def test_a_full_disk_is_no_reason_not_to_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_state.os, "write", full)
    with locked(tmp_path / "job"), pytest.raises(StoreLocked, match="another process"):
        locked(tmp_path / "job").__enter__()


def test_an_alias_has_the_address_of_its_collection():
    store = MemoryConnector()
    store.aliases = lambda *, timeout: {"photos": "photos-2"}
    for name in ("photos", "photos-2"):
        assert address_now(f"qdrant://host/{name}", store, name) == "qdrant://host#photos-2"
    assert address_now("qdrant://host/other", store, "other") == "qdrant://host#other"
