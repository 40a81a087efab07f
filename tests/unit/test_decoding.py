"""Decoders in processes: the same pictures as here, and what becomes of those that crash, hang or lie."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import hostile
import numpy as np
import pytest
import toys

from pixdex._decoding import Decoders
from pixdex.errors import InvalidImage
from pixdex.pictures import load_picture


@pytest.fixture
def made() -> Iterator[Callable[..., Decoders]]:
    """Decoders that obey the orders of ``hostile``, elsewhere from the first picture on."""
    opened: list[Decoders] = []

    def make(*, patience: float = 20.0, few: int = 0) -> Decoders:
        opened.append(Decoders(hostile.load, patience=patience, few=few))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def reason(decoders: Decoders, picture: object) -> str:
    with pytest.raises(InvalidImage) as caught:
        decoders.load(picture)
    return str(caught.value)


def test_pictures_come_as_they_are_here(made, tmp_path):
    decoders = made()
    path = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    path.write_bytes(toys.with_exif(toys.pixels(1)))
    wide = toys.encoded(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8), "BMP")
    for picture in (path, path.read_bytes(), toys.png(2), toys.encoded(toys.pixels(3), "WEBP"), wide):
        pixels, fields = decoders.load(picture)
        here, expected = load_picture(picture)
        assert (pixels == here).all()
        assert pixels.dtype == np.uint8
        assert fields.pop("pid") != os.getpid()
        assert fields == expected
    assert decoders.load(path)[1]["taken"] == datetime(2020, 5, 17, 16, 30, 5, tzinfo=UTC)
    assert pixels.flags.writeable


def test_one_process_serves_one_thread(made):
    decoders = made()
    assert len({decoders.load(b"pid")[1]["pid"] for _ in range(5)}) == 1


def test_threads_have_a_process_each(made):
    decoders = made()
    together = threading.Barrier(3)

    def work(_: int) -> int:
        together.wait(20)
        return decoders.load(b"pid")[1]["pid"]

    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(work, range(3)))) == 3


def test_what_is_wrong_with_a_picture_is_told_and_its_decoder_stays(made):
    decoders = made()
    pid = decoders.load(b"pid")[1]["pid"]
    assert reason(decoders, b"no picture") == "not a picture"
    assert reason(decoders, toys.png(1)[:-20]) == "truncated PNG"
    assert reason(decoders, Path("/nowhere")) == "cannot be read: no such file or directory"
    assert reason(decoders, b"no memory") == "not enough memory to decode it"
    assert reason(decoders, b"bug") == "cannot be decoded: KeyError('bug')"
    assert decoders.load(b"chatter")[1]["pid"] == pid, "what a decoder prints is no answer"


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (b"segfault", "its decoder died of SIGSEGV"),
        (b"out of memory", "its decoder died of SIGKILL, perhaps for want of memory"),
        (b"leave", "its decoder ended, exit code 3"),
    ],
)
def test_a_decoder_that_dies_takes_one_picture(made, order, expected):
    decoders = made()
    before = decoders.load(b"pid")[1]["pid"]
    assert reason(decoders, order) == expected
    after = decoders.load(b"pid")[1]["pid"]
    assert before != after
    assert not is_running(before)


@pytest.mark.parametrize("order", [b"sleep", b"spin"])
def test_a_decoder_that_hangs_is_stopped(made, order):
    decoders = made(patience=1.0)
    pid = decoders.load(b"pid")[1]["pid"]
    started = time.monotonic()
    assert reason(decoders, order) == "not decoded after 1 seconds"
    assert time.monotonic() - started < 5
    assert not is_running(pid)
    assert decoders.load(b"pid")[1]["width"] == 1


def test_a_decoder_is_not_believed(made):
    decoders = made()
    assert "its decoder ended" in reason(decoders, b"lie")
    assert decoders.load(b"pid")[1]["width"] == 1


def test_a_decoder_loads_nothing_heavy(made):
    assert made().load(b"modules")[1] == {"heavy": []}


def test_a_handful_of_plain_pictures_starts_no_process(made, tmp_path):
    decoders = made(few=5)
    jpeg, webp = toys.encoded(toys.pixels(1), "JPEG"), toys.encoded(toys.pixels(1), "WEBP")
    for picture in (toys.write(tmp_path / "a.png", 1), toys.png(1), jpeg, webp, toys.png(2)):
        assert decoders.load(picture)[1]["pid"] == os.getpid()
    assert decoders.load(jpeg)[1]["pid"] != os.getpid()


def test_what_is_not_plain_is_never_decoded_here(made, tmp_path):
    decoders = made(few=99)
    (tmp_path / "a.png").write_bytes(toys.encoded(toys.pixels(1), "TIFF"))
    for picture in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), toys.encoded(toys.pixels(1), "PPM")):
        assert decoders.load(picture)[1]["pid"] != os.getpid()
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(decoders, tmp_path / "pipe.jpg") == "not a regular file"


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false", ""])
def test_where_no_process_can_be_started_pictures_are_decoded_here(made, monkeypatch, program):
    monkeypatch.setattr(sys, "executable", program)
    decoders = made()
    for seed in range(3):
        assert decoders.load(toys.png(seed))[1]["pid"] == os.getpid()


@pytest.mark.parametrize("order", [b"sleep", b"stop"])
def test_closing_stops_who_is_busy(made, order):
    decoders = made()
    pid = decoders.load(b"pid")[1]["pid"]
    outcome: list[str] = []
    busy = threading.Thread(target=lambda: outcome.append(reason(decoders, order)))
    busy.start()
    time.sleep(0.3)
    started = time.monotonic()
    decoders.close()
    busy.join(9)
    assert time.monotonic() - started < 3
    assert len(outcome) == 1
    assert not is_running(pid)
    assert reason(decoders, b"pid") == "cancelled"


SCRIPT = """
import sys
import pixdex
photos = pixdex.open("memory://", encoder="classic")
print(photos.add(sys.argv[1], progress=False).added, flush=True)
"""


def test_a_script_without_a_guard_runs_once(tmp_path):
    toys.folder(tmp_path / "in", 50)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "in"], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("50\n", "")
