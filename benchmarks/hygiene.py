"""What becomes of hostile and odd pictures: each read right, or refused with its reason, in bounded time and memory.

A corpus of files is made in a temporary folder, by another process, and every file goes through pixdex's own path from
a file to pixels, in this one. Where a file is readable, its size and the mean colours of its quadrants have to be right:
orientation, colour profiles, transparency and wide samples show there. JPEG files are also read at a fraction of their
size. Then the same for the oddities of a folder: loops of links, pipes, sockets, devices, names that are no text.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import resource
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import Goal, report, table
from benchmarks._hostile_files import Case, cases
from benchmarks._picture_parts import FOUR, encoded, quadrants
from pixdex import pictures
from pixdex.errors import InvalidImage

FEWEST_FILES, MOST_MB, MOST_SECONDS = 60, 1_500, 10.0
MIN_SIDE = 24


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a file."""

    name: str
    expected: str
    got: str
    right: bool
    seconds: float


def main() -> int:
    arguments = _arguments()
    wanted = cases(quick=arguments.quick)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow about the metadata of damaged TIFFs
        _made_elsewhere(Path(folder), quick=arguments.quick)
        rows = [_read(Path(folder, "files", case.name), case) for case in wanted]
        rows += list(_walked(Path(folder, "walk")))
    table(("file", "expected", "got", ""), [(r.name, r.expected, r.got, "" if r.right else "WRONG") for r in rows])
    slowest = max(rows, key=lambda row: row.seconds)
    results: dict[str, Any] = {
        "files": [{"file": r.name, "expected": r.expected, "got": r.got, "right": r.right} for r in rows],
        "slowest_file": slowest.name,
    }
    goals = {
        "wrong": Goal(sum(not row.right for row in rows), 0, at_most=True),
        "files": Goal(len(rows), FEWEST_FILES),
        "peak_memory_mb": Goal(round(_peak_mb()), MOST_MB, at_most=True),
        "slowest_seconds": Goal(round(slowest.seconds, 2), MOST_SECONDS, at_most=True),
    }
    return 0 if report("hygiene", results, goals, as_json=arguments.json) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="without the two largest pictures")
    return parser.parse_args()


def _made_elsewhere(folder: Path, *, quick: bool) -> None:
    """Make the corpus in a process of its own, so that the peak of this one is that of reading."""
    maker = multiprocessing.get_context("spawn").Process(target=make_files, args=(folder, quick))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit("the corpus could not be made")


def make_files(folder: Path, quick: bool) -> None:  # noqa: FBT001 - called by position in another process
    """Write every case, and the folder to walk."""
    there = folder / "files"
    there.mkdir()
    for case in cases(quick=quick):
        (there / case.name).write_bytes(case.make())
    _make_walk(folder / "walk")


def _peak_mb() -> float:
    """The most memory that this process ever held; Linux also counts what its parent held into ``ru_maxrss``."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    kibibytes = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes * 1024 / 1e6


# --- files ---------------------------------------------------------------------------------------------------------


def _read(path: Path, case: Case) -> Row:
    """Read a file at full size, and allowing a fraction; ``seconds`` is the slower of the two."""
    got, slowest = "ok", 0.0
    for side in (None, MIN_SIDE):
        started = time.perf_counter()
        try:
            pixels, fields = pictures.load_picture(path, case.decoding, min_side=side)
        except InvalidImage as error:
            got = str(error)
        except Exception as error:  # noqa: BLE001 - the point of the exercise
            got = f"{type(error).__name__} raised: {error}"
        else:
            got = _fault(pixels, (fields["width"], fields["height"]), side, case) or got
            del pixels  # or the next is held beside it
        slowest = max(slowest, time.perf_counter() - started)
    right = got == "ok" if case.expected == "ok" else re.search(case.expected, got) is not None
    return Row(case.name, case.expected, got, right, slowest)


def _fault(pixels: NDArray[np.uint8], size: tuple[int, int], side: int | None, case: Case) -> str | None:
    """What is wrong with a picture that was read; None when nothing is."""
    if size != case.size:
        return f"{size[0]} x {size[1]}, not {case.size[0]} x {case.size[1]}"
    least = size if side is None else (min(side, *size),) * 2
    if pixels.shape[1] < least[0] or pixels.shape[0] < least[1]:
        return f"{pixels.shape[1]} x {pixels.shape[0]} pixels, at least {least[0]} x {least[1]} were wanted"
    return wrong_colours(pixels, case)


def wrong_colours(pixels: NDArray[np.uint8], case: Case) -> str | None:
    """The mean colours of the middles of the quadrants, where they are not as expected."""
    found = [
        tuple(round(float(mean)) for mean in _middle(pixels, y, x).mean(axis=(0, 1)))
        for y in (0.25, 0.75)
        for x in (0.25, 0.75)
    ]
    for colour, wanted in zip(found, case.look, strict=True):
        if wanted is not None and max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) > case.tolerance:
            return f"colours {found}"
    return None


def _middle(pixels: NDArray[np.uint8], y: float, x: float) -> NDArray[np.uint8]:
    rows, columns = (_around(place, length) for place, length in ((y, pixels.shape[0]), (x, pixels.shape[1])))
    return pixels[rows, columns]


def _around(place: float, length: int) -> slice:
    first = int(length * (place - 0.12))
    return slice(first, max(first + 1, int(length * (place + 0.12))))


# --- a folder ------------------------------------------------------------------------------------------------------

_NOT_TEXT = os.fsdecode(b"caf\xe9.png")
_WALKED = {
    "good.png": "ok",
    "no suffix": "ok",
    _NOT_TEXT: "ok",
    "folder.jpg/inside.png": "ok",
    "linked.png": "ok",
    "itself.png": "symbolic link",
    "dangling.png": "cannot be read: no such file",
    "pipe.png": "not a regular file",
    "socket.png": "not a regular file",
    "zeros.png": "not a regular file",
    "unreadable.png": "permission denied",
    "notes.txt": "skipped",
}


def _make_walk(folder: Path) -> None:
    """Everything of ``_WALKED`` that this system can hold, and a loop of folders."""
    folder.mkdir()
    picture = encoded(quadrants(), "PNG")
    for name in ("good.png", "no suffix", "unreadable.png"):
        (folder / name).write_bytes(picture)
    (folder / "unreadable.png").chmod(0)
    with contextlib.suppress(OSError):  # file systems that hold text only
        (folder / _NOT_TEXT).write_bytes(picture)
    (folder / "notes.txt").write_text("no picture")
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").write_bytes(picture)
    (folder / "folder.jpg" / "loop").symlink_to(folder, target_is_directory=True)
    for name, target in (("linked.png", "good.png"), ("itself.png", "itself.png"), ("dangling.png", "nowhere.png"),
                         ("zeros.png", "/dev/zero")):  # fmt: skip
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.png"))


def _walked(folder: Path) -> Iterator[Row]:
    """What the walk finds of the folder; a folder that is walked for ever would never come back."""
    (folder / "unreadable.png").chmod(0)
    found = {}
    for item in pictures.from_files(folder, "walk"):
        if item is not None:
            found[str(Path(item.picture).relative_to(folder))] = item
    for name, expected in _WALKED.items():
        if not os.path.lexists(folder / name) or (name == "unreadable.png" and os.access(folder / name, os.R_OK)):
            continue  # this file system cannot hold it; root may read everything
        shown = f"walk: {os.fsencode(name).decode(errors='backslashreplace')}"
        if name not in found:
            yield Row(shown, expected, "skipped", expected == "skipped", 0.0)
        else:
            row = _read(folder / name, Case(name=name, make=bytes, expected=expected, look=FOUR))
            yield Row(shown, expected, row.got, row.right, row.seconds)
    extra = sorted(set(found) - set(_WALKED))
    yield Row("walk: anything else", "nothing", ", ".join(extra) or "nothing", not extra, 0.0)


if __name__ == "__main__":
    sys.exit(main())
