"""Which source stands behind what was given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import toys

from pixdex.errors import ConfigError
from pixdex.sources import Options, Sources
from pixdex.sources.archives import Archive
from pixdex.sources.folders import Folder, Glob, Single
from pixdex.sources.tables import Table


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.png", b"", Folder),
        ("a.zip", b"PK", Archive),
        ("A.TAR.GZ", b"\x1f\x8b", Archive),
        ("a.csv", b"path\n", Table),
        ("a.TXT", b"x\n", Table),
        ("a.jsonl", b"{}", Table),
        ("a.csv", toys.png(1), Folder),
        ("a.pdf", b"%PDF", Folder),
    ],
)
def test_files_by_their_names(tmp_path, name, data, kind):
    (tmp_path / name).write_bytes(data)
    with Sources() as sources:
        assert isinstance(sources.of(tmp_path / name), kind)
        assert isinstance(sources.of(str(tmp_path / name)), kind)


def test_folders_are_folders_whatever_they_are_called(tmp_path):
    for name in ("a.zip", "b.csv", "c.png", "d[1]"):
        (tmp_path / name).mkdir()
        with Sources() as sources:
            assert isinstance(sources.of(tmp_path / name), Folder)


def test_other_things(tmp_path):
    with Sources() as sources:
        assert isinstance(sources.of(tmp_path / "*.png"), Glob)
        assert isinstance(sources.of(tmp_path / "none.zip"), Folder), "which is not there, and says so"
        assert isinstance(sources.of(toys.png(1)), Single)
        assert isinstance(sources.of(toys.pixels(1)), Single)
        assert isinstance(sources.of("file:///nowhere/a.png"), Folder)
        assert sources.of("file:///my%20pics/a.png").path == Path("/my pics/a.png")


@pytest.mark.parametrize("address", ["http://example.org/a.png", "HTTPS://example.org/a.png"])
def test_the_web_is_asked_on_request_only(address):
    with Sources() as sources:
        for find in (sources.of, sources.one):
            with pytest.raises(ConfigError, match="fetched on request only"):
                find(address)


def test_a_name_with_a_slash_is_no_source(tmp_path):
    toys.write(tmp_path / "a.png", 1)
    with Sources(Options(source="a/b")) as sources, pytest.raises(ConfigError, match="a name without '/'"):
        _ = sources.of(tmp_path / "*.png").origin


def test_what_a_source_needs_is_loaded_when_it_is_needed():
    libraries = "{'httpx', 'httpcore', 'pyarrow', 'fsspec', 'pandas', 'torch'}"
    code = f"import sys, pixdex.sources, pixdex.transfer; print({libraries} & sys.modules.keys() or '')"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "\n"
