"""A collection gets another encoder, and goes back, while it is written and searched: nobody notices, and nothing is lost.

5,000 small pictures are added by ``classic``. Then a writer opens the alias and writes 20 records a second (new pictures, other
fields, deletions), a reader opens it and searches 50 times a second by a picture that is in the collection, and ``pixdex reindex``
encodes all with ``mini``, compares and switches; then ``pixdex rollback --catch-up`` goes back. Neither handle is opened again by its
user. The writer is a thread, which calls every quarter of a second; the reader is a process where the store allows several. An answer
is of one encoder when the picture's own record is the first hit with a similarity of 1, or another one, where the index missed it, with
the very similarity that one of the encoders gives the two pictures. In the end every write that was acknowledged is looked for.

How often the reader comes to search depends on what else the machine does. So it is compared with what the same reader reaches beside the
same writer when nothing is reindexed: for some seconds before and after; and while it rolls back with what it reaches between, by
the new encoder.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from queue import Queue
from typing import Any, Self

import numpy as np
from PIL import Image

import pixdex
from benchmarks import Goal, report, table
from pixdex import Collection, Want
from pixdex.encoders import load
from pixdex.encoders.port import Encoder
from pixdex.errors import MissingDependency
from pixdex.index import ImageIndex
from pixdex.reindexing import Options, RollbackReport, name_alias, reindex, rollback

PICTURES, QUICK_PICTURES = 5000, 300
OLD, NEW = "classic", "mini"
SEARCHES, WRITES = 50, 20
"""A second."""
TOGETHER = 5
"""Records a call of the writer."""
SAME = 0.999
"""The similarity of a picture with itself, but for rounding."""
ROUNDED = 0.005
"""How far a score may be off the one that an encoder gives two pictures: runtimes differ by .0011 here, bfloat16 from float32."""
ASKED = 256
"""Pictures that are searched for."""
QUIET, QUICK_QUIET = 6.0, 2.0
"""Seconds in which nothing is reindexed, before, between and after."""
SHARE = 0.9
"""Of what the reader reaches then, it reaches that while something is reindexed."""
STORES = {
    "pq": "pq://{}/store.pix",
    "qdrant+edge": "qdrant+edge://{}/edge",
    "milvus+lite": "milvus+lite://{}/lite.db",
}


@dataclass(slots=True)
class Paced:
    """Calls something so many times a second, in a thread of its own."""

    work: Callable[[int], None]
    rate: float
    errors: list[str] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    """When each call was done, by the clock that all processes share."""
    slowest: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _began: float = 0.0

    def start(self) -> None:
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """Calls a second."""
        self._stop.set()
        assert self._thread is not None
        self._thread.join()
        return len(self.ended) / (time.monotonic() - self._began)

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.work(len(self.ended))
            except Exception as error:  # noqa: BLE001 - it is counted
                self.errors.append(f"{type(error).__name__}: {error}")
            self.ended.append(time.monotonic())
            self.slowest = max(self.slowest, self.ended[-1] - began)
            self._stop.wait(max(0.0, began + 1 / self.rate - self.ended[-1]))


class Reader:
    """Searches by pictures that nobody changes. ``others`` are answers whose first hit is not the picture itself."""

    def __init__(self, index: ImageIndex, files: Sequence[Path]) -> None:
        self._index = index
        self._asked = [(file, file.read_bytes()) for file in files]
        self.others: list[tuple[Path, str, float]] = []

    def search(self, number: int) -> None:
        file, picture = self._asked[number % len(self._asked)]
        (hit,) = self._index.search(picture, k=1)
        if hit.id != f"pictures/{file.name}" or hit.score < SAME:
            self.others.append((file, hit.id, hit.score))


def _of_none(answer: tuple[Path, str, float], encoders: Sequence[Encoder]) -> bool:
    """Whether neither encoder says of the two pictures what the answer says."""
    file, found, score = answer
    paths = file, file.parent.parent / found
    scores = []
    for encoder in encoders:
        pixels = [encoder.prepare(np.asarray(Image.open(path).convert("RGB"))) for path in paths]
        one, other = encoder.encode(pixels).vectors
        scores.append(float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)))
    return all(abs(each - score) > ROUNDED for each in scores)


def _read(url: str, files: Sequence[Path], ready: Any, stop: Any, out: Any) -> None:
    """The reader, in a thread or process of its own, until ``stop`` is set."""
    with pixdex.open(url) as index:
        reader = Reader(index, files)
        reader.search(0)
        searches = Paced(reader.search, SEARCHES)
        ready.set()
        searches.start()
        stop.wait()
        searches.end()
    both = [load(name) for name in (OLD, NEW)]
    mixed = [answer for answer in reader.others if _of_none(answer, both)]
    out.put(
        {
            "ended": searches.ended,
            "searches": len(searches.ended),
            "slowest search": searches.slowest,
            "reader errors": len(searches.errors),
            "of two encoders": len(mixed),
            "another picture first": len(reader.others),
            "said": [*searches.errors[:3], *map(str, mixed[:3])],
        }
    )


class Reading:
    """The reader beside; a context that has it read until it is left, after which ``found`` says how that went."""

    def __init__(self, url: str, files: Sequence[Path], *, apart: bool) -> None:
        self._ready: Any
        self._stop: Any
        self._out: Any
        if apart:
            context = get_context("spawn")
            self._ready, self._stop, self._out = context.Event(), context.Event(), context.Queue()
            arguments = (url, files, self._ready, self._stop, self._out)
            self._it: Any = context.Process(target=_read, args=arguments, daemon=True)
        else:
            self._ready, self._stop, self._out = threading.Event(), threading.Event(), Queue()
            self._it = threading.Thread(
                target=_read, args=(url, files, self._ready, self._stop, self._out), daemon=True
            )
        self.found: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._it.start()
        self._ready.wait(120)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.found = self._out.get(timeout=60)
        self._it.join()


class Writer:
    """New pictures, other fields, deletions; ``there`` is what was acknowledged: id -> its note, or None for a deleted one."""

    def __init__(self, index: ImageIndex, folder: Path) -> None:
        self._index, self._folder = index, folder
        self.there: dict[str, str | None] = {}
        self._rng = np.random.default_rng(1)

    def write(self, number: int) -> None:
        """``TOGETHER`` records: three new ones, other fields for an old one, and one is deleted."""
        alive = [record for record, note in self.there.items() if note is not None]
        note = f"write {number}"
        names = [f"{number:05}-{each}.png" for each in range(TOGETHER - 2)]
        for name in names:
            _picture(self._rng).save(self._folder / name)
        if alive:
            gone, changed = (alive[row] for row in self._rng.choice(len(alive), 2, replace=False))
            self._index.delete(gone)
            self.there[gone] = None
            names.append(changed.partition("/")[2])
        paths = [self._folder / name for name in names]
        done = self._index.add(paths, source="written", fields={"note": note}, progress=False)
        if done.quarantined:
            raise RuntimeError(done.quarantined[0].reason)
        self.there |= {f"written/{name}": note for name in names}


class Clock:
    """When phases began and ended; each begins where the one before ended."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._phases: dict[str, tuple[float, float]] = {}

    def end(self, phase: str) -> None:
        self._phases[phase] = self._since, time.monotonic()
        self._since = self._phases[phase][1]

    def skip(self) -> None:
        """What was since the last phase is none."""
        self._since = time.monotonic()

    def rates(self, ended: Sequence[float]) -> dict[str, float]:
        """How many calls a second ended in each phase."""
        times = np.asarray(ended)
        return {
            phase: float(((times > since) & (times <= until)).sum() / (until - since))
            for phase, (since, until) in self._phases.items()
        }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a few pictures")
    parser.add_argument("--store", action="append", choices=list(STORES), help="only these")
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--rate", type=float, help="hold the job to so many records a second")
    options = parser.parse_args(arguments)
    count = options.pictures or (QUICK_PICTURES if options.quick else PICTURES)
    quiet = QUICK_QUIET if options.quick else QUIET
    results: dict[str, Any] = {}
    for name in options.store or STORES:
        try:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["PIXDEX_STATE"] = str(Path(folder) / "state")
                results[name] = _measured(Path(folder), STORES[name].format(folder), count, quiet, options.rate)
        except MissingDependency as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    heads = ("reader errors", "of two encoders", "writes/s", "writer errors", "writes", "lost", "seconds", "records/s")
    table(("store", *heads), [(name, *(found[head] for head in heads)) for name, found in results.items()])
    print()
    phases = ("before", "reindexing", "between", "rolling back", "after")
    rows = [(name, *(found["searches/s"][phase] for phase in phases)) for name, found in results.items()]
    table(("searches/s", *phases), rows)
    return 0 if report("reindex", results, _goals(results), as_json=options.json) else 1


def _goals(results: dict[str, Any]) -> dict[str, Goal]:
    goals: dict[str, Goal] = {}
    for name, found in results.items():
        goals |= {
            f"{name}, reader errors": Goal(found["reader errors"], 0, at_most=True),
            f"{name}, answers of two encoders": Goal(found["of two encoders"], 0, at_most=True),
            f"{name}, acknowledged writes lost": Goal(found["lost"], 0, at_most=True),
            f"{name}, records of the old collection lost": Goal(found["old records lost"], 0, at_most=True),
            f"{name}, rollback works": Goal(found["rollback works"], 1),
            f"{name}, searches/s while reindexing": Goal(
                found["searches/s"]["reindexing"], SHARE * found["unhindered"]
            ),
            f"{name}, writes/s": Goal(found["writes/s"], SHARE * found["writes/s unhindered"]),
        }
    return goals


def _measured(root: Path, store: str, count: int, quiet: float, most: float | None) -> dict[str, Any]:
    pictures, written = root / "pictures", root / "written"
    written.mkdir()
    files = _pictures(pictures, count)
    with pixdex.open(f"{store}#photos_v1", encoder=OLD, fields={"note": "text"}) as index:
        index.add(pictures, progress=False)
    live = f"{store}#photos"
    name_alias(f"{store}#photos_v1", "photos")
    asked = files[:: max(1, len(files) // ASKED)]
    reading = Reading(live, asked, apart=store.startswith("pq"))
    with pixdex.open(live) as index, reading:
        writer = Writer(index, written)
        writes = Paced(writer.write, WRITES / TOGETHER)
        writes.start()
        clock = Clock()
        time.sleep(quiet)
        clock.end("before")
        forth = reindex(live, encoder=NEW, options=Options(overlap=10.0, rate=most))
        clock.end("reindexing")
        acknowledged = dict(writer.there)
        time.sleep(quiet)
        clock.end("between")
        lost = _lost(live, acknowledged, writer.there)
        clock.skip()
        back = rollback(live, catch_up=True, options=Options(overlap=10.0))
        clock.end("rolling back")
        time.sleep(quiet)
        clock.end("after")
        rate = writes.end() * TOGETHER
    searches, wrote = clock.rates(reading.found.pop("ended")), clock.rates(writes.ended)
    there = _notes(live)
    lost += _differing(there, writer.there)
    found = {
        **reading.found,
        "searches/s": searches,
        "unhindered": min(SEARCHES, (searches["before"] + searches["after"]) / 2),
        "writes/s": rate,
        "writes/s unhindered": min(WRITES, (wrote["before"] + wrote["after"]) / 2 * TOGETHER),
        "writes": len(writes.ended) * TOGETHER,
        "writer errors": len(writes.errors),
        "lost": len(lost),
        "old records lost": sum(f"pictures/{file.name}" not in there for file in files),
        "rollback works": int(_is_back(back, live, files[7])),
        "switched": forth.alias is not None,
        "refused": forth.refused,
        "encoded again": forth.written,
        "seconds": forth.seconds,
        "records/s": forth.rate,
        "rollback": {"caught up": back.caught_up, "deleted": back.deleted, "lacking": back.lacking},
        "writer said": writes.errors[:3],
        "lost, some": [f"{r}: {there.get(r)}, not {writer.there[r]}" for r in lost[:5]],
    }
    print(f"{store.partition(':')[0]}: {found}", file=sys.stderr, flush=True)
    return found


def _lost(live: str, before: dict[str, str | None], now: dict[str, str | None]) -> list[str]:
    """Of the writes acknowledged ``before``, and not changed since, those that are not there. What the writer is at this very
    moment is looked at again when that has been acknowledged.
    """
    suspects = before
    for _ in range(2):
        there = _notes(live)
        time.sleep(1)
        suspects = {r: note for r, note in suspects.items() if now.get(r) == note and there.get(r) != note}
    return sorted(suspects)


def _differing(there: dict[str, Any], acknowledged: dict[str, str | None]) -> list[str]:
    return sorted(record for record, note in acknowledged.items() if there.get(record) != note)


def _notes(url: str) -> dict[str, Any]:
    """The note of each record, by its id."""
    connector, name = pixdex.connect(url)
    try:
        found: dict[str, Any] = {}
        for page in Collection.open(connector, name).scan(want=Want()):
            notes = ((payload or {}).get("note", "") for payload in page.batch.payloads or ())
            found |= dict(zip(page.batch.ids, notes, strict=True))
        return found
    finally:
        connector.close()


def _is_back(done: RollbackReport, live: str, picture: Path) -> bool:
    """Whether the alias names the old collection, with the old encoder, and finds by it."""
    with pixdex.open(live) as index:
        (hit,) = index.search(picture, k=1)
        return done.back == "photos_v1" and index.encoder.name == OLD and hit.score >= SAME


def _pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        files.append(folder / f"{number:05}.png")
        _picture(rng).save(files[-1])
    return files


def _picture(rng: np.random.Generator) -> Image.Image:
    """A small picture of coloured patches, unlike any other."""
    colours = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((64, 64), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    sys.exit(main())
