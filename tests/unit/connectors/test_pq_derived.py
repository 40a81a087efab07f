"""Derived files: what is written is read, mapped; what is not whole is refused by name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pixdex.connectors import _pq_derived as derived
from pixdex.errors import StoreFormat

FILE = 0x1234
ARRAYS: dict[str, NDArray[Any]] = {
    "ints": np.arange(-3, 4, dtype=np.int16),
    "matrix": np.arange(6, dtype=np.float64).reshape(2, 3),
    "words": np.array([b"ab", b"c\0d"], dtype="S16"),
    "none": np.zeros(0, dtype=np.int64),
    "blob": np.frombuffer(b"\0\1\2", dtype=np.uint8),
    "big-endian": np.array([1, 2], dtype=">i4"),
    "strided": np.arange(10)[::2],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = derived.path_of(tmp_path, "toys", FILE, 70)
    derived.write(path, "toys", FILE, 70, {"seq": 9, "names": ["é"]}, ARRAYS)
    return path


def test_what_was_written_is_read(path: Path) -> None:
    found = derived.read(path, "toys", FILE)
    assert (found.covers, found.facts) == (70, {"seq": 9, "names": ["é"]})
    assert list(found.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        again = found.arrays[name]
        assert again.shape == array.shape
        assert again.tolist() == array.tolist()
        assert not again.flags.writeable
        assert again.ctypes.data % 64 == 0


def test_a_flipped_or_lost_byte_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for wound in range(0, len(whole), 11):
        path.write_bytes(whole[:wound] + bytes([whole[wound] ^ 0x10]) + whole[wound + 1 :])
        with pytest.raises(StoreFormat, match=re.escape(str(path))):
            derived.read(path, "toys", FILE)
        path.write_bytes(whole[:wound])
        with pytest.raises(StoreFormat, match=re.escape(str(path))):
            derived.read(path, "toys", FILE)
    path.write_bytes(whole + b"\0")
    with pytest.raises(StoreFormat):
        derived.read(path, "toys", FILE)
    path.unlink()
    with pytest.raises(StoreFormat, match=re.escape(str(path))):
        derived.read(path, "toys", FILE)


def test_another_kind_or_file_is_refused(path: Path) -> None:
    for kind, file in (("boys", FILE), ("toys", FILE + 1)):
        with pytest.raises(StoreFormat, match="not what its name says"):
            derived.read(path, kind, file)


def test_what_is_mapped_outlives_its_file(path: Path) -> None:
    found = derived.read(path, "toys", FILE)
    derived.write(path, "toys", FILE, 70, {}, {"ints": np.zeros(7, dtype=np.int16)})
    path.unlink()
    assert found.arrays["ints"].tolist() == ARRAYS["ints"].tolist()


def test_the_file_that_covers_most_comes_first(path: Path) -> None:
    folder = path.parent
    for covers in (9, 1000):
        derived.write(derived.path_of(folder, "toys", FILE, covers), "toys", FILE, covers, {}, {})
    derived.write(derived.path_of(folder, "toys", FILE + 1, 5000), "toys", FILE + 1, 5000, {}, {})
    derived.write(derived.path_of(folder, "other", FILE, 2000), "other", FILE, 2000, {}, {})
    assert [derived.read(found, "toys", FILE).covers for found in derived.find(folder, "toys", FILE)] == [1000, 70, 9]
    assert derived.find(folder / "nowhere", "toys", FILE) == []


def test_cleaning_keeps_the_newest_of_each_kind(path: Path) -> None:
    folder = path.parent
    kept = [
        derived.path_of(folder, "toys", FILE, 1000),
        derived.path_of(folder, "index", FILE, 20),
        folder / f"{path.name}abcd.tmp",  # being written
    ]
    gone = [derived.path_of(folder, "toys", FILE + 1, 5), folder / f"{path.name}efgh.tmp"]
    for some in (*kept, *gone):
        some.write_bytes(b"x")
    os.utime(gone[-1], (0, 0))
    derived.clean(folder, {FILE})
    assert sorted(folder.iterdir()) == sorted(kept)
    derived.clean(folder / "nowhere", set())
