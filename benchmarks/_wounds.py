"""What a disk may do to an embedded store: be full, be read-only, flip a bit.

On a full disk a call raises StoreFull, all before it is there, and the store goes on once there is space. (A limit of
the size of files stands in for it: the system fails the same writes.) A directory that may not be written is read, and a
write raises AccessDenied. A flipped bit in a derived file is noticed and changes no answer; one in the truth is
reported by ``verify`` and never served, unless it hits what nothing reads (free pages, and the like), which shows in all
records being the same as before.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pixdex.collection import Collection
from pixdex.connectors.pq import PqConnector, PqOptions
from pixdex.errors import AccessDenied, PixdexError, StoreFull
from pixdex.filters import F
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, Vector
from pixdex.types import Batch, Tuning, Want

__all__ = ["Wounds", "wound"]

NAME, DIM, COUNT = "pictures", 32, 2000
SPEC = Spec(
    vectors=(Vector(dim=DIM, metric=Metric.L2, fingerprint=Fingerprint(encoder="random", digest="00000000")),),
    fields=(Field(name="n", kind=Kind.INT), Field(name="tags", kind=Kind.TEXT, many=True)),
)
IDS = [f"r{n}" for n in range(COUNT)]
QUERIES = np.random.default_rng(1).normal(size=(20, DIM)).astype(np.float32)


@dataclass(slots=True)
class Wounds:
    """What became of the wounds."""

    counts: dict[str, int] = field(default_factory=dict)
    missed: int = 0
    problems: list[str] = field(default_factory=list)

    def count(self, what: str) -> None:
        """One more of a kind."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def miss(self, problem: str) -> None:
        """Something that must not be."""
        self.missed += 1
        self.problems.append(problem)


def wound(flips: int) -> Wounds:
    """Do it all, with ``flips`` flipped bits in each derived file, and so many times ten in the truth."""
    wounds, dice = Wounds(), random.Random(0)
    with tempfile.TemporaryDirectory(prefix="pixdex-") as place:
        whole = Path(place, "whole.pix")
        make(whole)
        for file in sorted((whole / "derived").iterdir()):
            for _ in range(flips):
                flip_derived(whole, file.relative_to(whole), dice, wounds)
        for number in range(10 * flips):
            truth = [whole / "pixdex.sqlite", *(whole / "segments").iterdir()]
            flip_truth(whole, truth[number % len(truth)].relative_to(whole), dice, wounds)
        for size in (30_000, 200_000, 600_000):
            in_child(lambda size=size: fill(Path(place, f"full{size}.pix"), size), f"disk full at {size}", wounds)
        if os.geteuid() == 0:
            in_child(lambda: deny(whole, Path(place)), "read-only directory", wounds)
    return wounds


def opened(path: Path) -> Collection:
    return Collection.open(PqConnector(path), NAME)


def batch(ids: list[str], seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    payloads = tuple({"n": n, "tags": [f"t{n % 7}", "all"], "text": f"picture {n}" * 5} for n in range(len(ids)))
    return Batch(tuple(ids), {"image": rng.normal(size=(len(ids), DIM)).astype(np.float32)}, payloads)


def make(path: Path) -> None:
    """A store of some records, with an index and tombstones."""
    connector = PqConnector(path, PqOptions(index="ivf-pq"))
    collection = Collection.create(connector, NAME, SPEC)
    collection.upsert(batch(IDS, seed=1))
    collection.upsert(batch(IDS))
    collection.delete(IDS[::10])
    connector.settle(NAME, timeout=None)
    connector.close()


def records(collection: Collection) -> dict[str, Any]:
    """What is served by id: each record, or nothing where that is refused."""
    found: dict[str, Any] = {}
    for start in range(0, COUNT, 100):
        some = IDS[start : start + 100]
        try:
            read = collection.fetch(some, want=Want(vectors=("image",)))
        except (PixdexError, TypeError, ValueError):
            continue
        for i, record in enumerate(read.ids):
            found[record] = ((read.payloads or ())[i], read.vectors["image"][i].tolist())
    return found


def answers(collection: Collection, *, exact: bool) -> list[list[str]]:
    tuning = Tuning(exact=True) if exact else Tuning(effort=1.0)
    where = F.tags.contains("all") & (F.n >= 0)
    found = collection.search(QUERIES, k=5, where=where, tuning=tuning, want=Want(payload=False))
    return [[hit.id for hit in hits] for hits in found]


def flipped(whole: Path, file: Path, dice: random.Random) -> tuple[Path, int]:
    """A copy of a store with one bit of ``file`` flipped, and where."""
    copy = whole.parent / "flipped.pix"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    data = bytearray((copy / file).read_bytes())
    at = dice.randrange(len(data))
    data[at] ^= 1 << dice.randrange(8)
    (copy / file).write_bytes(data)
    return copy, at


def flip_derived(whole: Path, file: Path, dice: random.Random, wounds: Wounds) -> None:
    """It is noticed, changes no answer, and is made anew."""
    copy, at = flipped(whole, file, dice)
    collection = opened(copy)
    wounds.count("derived_bits_flipped")
    noticed = [finding for finding in collection.verify() if not finding.lost and file.name in finding.place]
    if noticed:
        wounds.count("derived_noticed")
    else:
        wounds.miss(f"{file} byte {at}: not noticed")
    expected = answers(collection, exact=True)
    agreeing = np.mean(
        [len(set(a) & set(b)) / 5 for a, b in zip(answers(collection, exact=False), expected, strict=True)]
    )
    if agreeing < 0.9:
        wounds.miss(f"{file} byte {at}: answers changed")
    collection.connector.settle(NAME, timeout=None)  # type: ignore[attr-defined]
    collection.upsert(batch(["more"]))
    collection.connector.close()
    again = opened(copy)
    if not again.verify():
        wounds.count("derived_rebuilt")
    else:
        wounds.miss(f"{file} byte {at}: not made anew")
    again.connector.close()


def flip_truth(whole: Path, file: Path, dice: random.Random, wounds: Wounds) -> None:
    """It is reported, or nothing reads it; never is something else served than what was written."""
    copy, at = flipped(whole, file, dice)
    wounds.count("truth_bits_flipped")
    expected = records(opened(whole))
    try:
        collection = opened(copy)
        reported = any(finding.lost for finding in collection.verify())
    except PixdexError:
        wounds.count("truth_reported")  # it does not even open
        return
    found = records(collection)
    if any(found[record] != expected.get(record) for record in found):
        wounds.miss(f"{file} byte {at}: served")
    if reported:
        wounds.count("truth_reported")
    elif found == expected and answers(collection, exact=True) == answers(opened(whole), exact=True):
        wounds.count("truth_unread")
    else:
        wounds.miss(f"{file} byte {at}: not reported")
    collection.connector.close()


def fill(path: Path, limit: int) -> None:
    """Write until the disk is full; all that was acknowledged is there, and writing goes on when there is space."""
    collection = Collection.create(PqConnector(path), NAME, SPEC)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    written = 0
    try:
        while True:
            collection.upsert(batch([f"{written}-{i}" for i in range(100)], seed=written))
            written += 1
    except StoreFull:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = opened(path)
    assert again.count() == written * 100
    assert again.verify() == []
    collection.upsert(batch(["more"]))


def deny(path: Path, parent: Path) -> None:
    """Read as a user who may not write."""
    parent.chmod(0o755)
    for entry in [path, *path.rglob("*")]:
        entry.chmod(0o555 if entry.is_dir() else 0o444)
    expected = records(opened(path))
    os.setuid(65534)
    collection = opened(path)
    assert records(collection) == expected
    try:
        collection.upsert(batch(["more"]))
    except AccessDenied:
        return
    raise AssertionError("a directory that may not be written was written")


def in_child(check: Callable[[], None], what: str, wounds: Wounds) -> None:
    """Run what limits or changes its process."""
    wounds.count("disks_full_or_denied")
    child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException as error:  # noqa: BLE001 - the parent reads the status
            print(f"{what}: {type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        wounds.miss(f"{what}: see above")
