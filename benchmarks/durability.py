"""Killed at any instant, the embedded store opens again with every acknowledged record.

A child writes through ``Collection`` (new records, replaced ones, deletions, calls of 1 to 200 records, now and then a
compaction or an index that is trained) and says after each call that it was acknowledged. It is killed with SIGKILL at
a random instant, during the creation of the store too; then the store is opened, every record compared with what was
acknowledged, searched, verified and written to. Most kills hit the same store again and again, so that wounds add up;
every fifth hits a fresh one. Meanwhile two other processes search the wounded store, and compare what each hit holds
with what was ever written under its id.

As often, a child that adds a folder of pictures (``ImageIndex.add``) is killed; what its progress had reported must
be there whole, and adding again goes on from it.

Then a disk that is full, a directory that may not be written, and flipped bytes: see ``_wounds``.

The call that was under way may have happened or not, but not by half. SIGKILL is not a power cut: what the
system had not yet brought to the disk is not lost by it, so this does not prove the fsyncs.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

import pixdex
from benchmarks import Goal, report, table
from benchmarks._wounds import wound
from pixdex.collection import Collection
from pixdex.connectors.pq import PqConnector, PqOptions
from pixdex.errors import NotFound, PixdexError
from pixdex.index import ImageIndex
from pixdex.pictures import content_hash
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, Vector
from pixdex.types import Batch, Hit, Want

NAME, DIM, POOL = "pictures", 64, 3000
KILLS, QUICK_KILLS, ADD_KILLS = 200, 8, 20
READERS = 2
BEGUN = 0.8
"""The share of lives in which something is acknowledged before the clock runs."""
LONGEST = 1.0
"""Seconds that a child writes at most before it is killed."""

SPEC = Spec(
    vectors=(Vector(dim=DIM, metric=Metric.L2, fingerprint=Fingerprint(encoder="random", digest="00000000")),),
    fields=(
        Field(name="life", kind=Kind.INT),
        Field(name="call", kind=Kind.INT),
        Field(name="tags", kind=Kind.TEXT, many=True),
    ),
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one life of the child: the same in child and parent, because both are drawn from the same seed."""

    life: int
    number: int
    does: Literal["upsert", "delete", "compact", "index"]
    ids: tuple[str, ...]

    def batch(self) -> Batch:
        """The records that it writes."""
        vectors = np.random.default_rng([self.life, self.number]).normal(size=(len(self.ids), DIM)).astype(np.float32)
        payload = {"life": self.life, "call": self.number, "tags": [f"t{self.number % 7}", "all"]}
        return Batch(self.ids, {"image": vectors}, tuple({**payload, "id": record} for record in self.ids))


@lru_cache(maxsize=512)
def calls_so_far(life: int, count: int) -> list[Call]:
    """The first ``count`` calls of a life."""
    stream = calls(life)
    return [next(stream) for _ in range(count)]


def calls(life: int) -> Iterator[Call]:
    """Everything a child would do, if it lived."""
    dice, number = random.Random(life), 0
    while True:
        does = dice.choices(("upsert", "delete", "compact", "index"), (78, 14, 5, 3))[0]
        size = int(200 ** dice.random())
        ids = () if does in ("compact", "index") else tuple(f"r{n}" for n in dice.sample(range(POOL), size))
        yield Call(life, number, does, ids)
        number += 1


def write(path: Path, life: int) -> None:
    """The child: write until killed."""
    print("ready", flush=True)
    with_store = opened(path)
    for call in calls(life):
        match call.does:
            case "upsert":
                with_store.upsert(call.batch())
            case "delete":
                with_store.delete(call.ids)
            case "compact":
                with_store.compact()
            case "index":
                with_store.connector.settle(NAME, timeout=None)
        print(call.number, flush=True)


def opened(path: Path) -> Collection:
    """The collection, created where there is none."""
    connector = PqConnector(path, PqOptions(index="ivf-pq"))
    try:
        return Collection.open(connector, NAME)
    except NotFound:
        return Collection.create(connector, NAME, SPEC)


def read(path: Path, seed: int) -> None:
    """A reader: search until told to end, and say how often, and how often what came was never written."""
    print("ready", flush=True)
    rng, searches, wrong = np.random.default_rng(seed), 0, 0
    asked = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), asked.set()), daemon=True).start()
    with_store: Collection | None = None
    while not asked.wait(0.005):  # the writer needs some of the machine too
        try:
            with_store = with_store or Collection.open(PqConnector(path), NAME)
            hits = with_store.search_one(rng.normal(size=DIM), k=20, want=Want(vectors=("image",)))
        except NotFound:  # it is being made
            time.sleep(0.01)
            continue
        except PixdexError as error:
            print(f"a reader met {type(error).__name__}: {error}", file=sys.stderr)
            wrong += 1
            continue
        searches += 1
        wrong += len({hit.id for hit in hits}) < len(hits)
        wrong += sum(not true_hit(hit) for hit in hits)
    print(searches, wrong, flush=True)


def true_hit(hit: Hit) -> bool:
    """Whether payload and vector are what one call wrote under that id."""
    payload = hit.payload or {}
    if hit.id == "probe":
        return bool(np.array_equal((hit.vectors or {})["image"], np.ones(DIM)))
    call = calls_so_far(payload["life"], payload["call"] + 1)[-1]
    return (
        call.does == "upsert"
        and hit.id in call.ids
        and same(((hit.vectors or {})["image"], payload), (call, call.ids.index(hit.id)))
    )


@dataclass(slots=True)
class Outcome:
    """What became of the kills."""

    acknowledged: int = 0
    lost: int = 0
    unreadable: int = 0
    torn: int = 0
    searches: int = 0
    wrong: int = 0
    did: Counter[str] = field(default_factory=Counter)
    reopened: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


State = dict[str, tuple[Call, int]]
"""id -> the call that wrote it and its place in there."""


def apply(state: State, call: Call) -> State:
    """The state after a call."""
    after = dict(state)
    for place, record in enumerate(call.ids):
        if call.does == "delete":
            after.pop(record, None)
        else:
            after[record] = (call, place)
    return after


def kill_once(path: Path, life: int, state: State, dice: random.Random, outcome: Outcome) -> State:
    """One life: write, be killed, be looked at. Returns what the store holds now."""
    command = [sys.executable, "-m", "benchmarks.durability", "--write", str(path), "--life", str(life)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    first = child.stdout.readline() if dice.random() < BEGUN else ""
    time.sleep(LONGEST * dice.random() ** 2)
    child.kill()
    done = (first + child.communicate()[0]).split()
    history = calls_so_far(life, len(done) + 1)
    for call in history[:-1]:
        state = apply(state, call)
        outcome.acknowledged += len(call.ids)
    outcome.did[history[-1].does] += 1
    try:
        return examined(path, state, history[-1], outcome)
    except PixdexError as error:
        outcome.unreadable += 1
        outcome.problems.append(f"life {life}: {type(error).__name__}: {error}")
        return state


def examined(path: Path, state: State, under_way: Call, outcome: Outcome) -> State:
    """Compare the store with the acknowledged state, or that and the call under way; search and write to it."""
    start = time.perf_counter()
    collection = opened(path)
    outcome.reopened.append(time.perf_counter() - start)
    batch = collection.fetch([f"r{n}" for n in range(POOL)], want=Want(vectors=("image",)))
    found = {record: (batch.vectors["image"][i], (batch.payloads or ())[i]) for i, record in enumerate(batch.ids)}
    before, after = differences(found, state), differences(found, apply(state, under_way))
    untouched = [record for record in before if record not in under_way.ids]
    outcome.lost += len(untouched)
    outcome.problems += [f"life {under_way.life}: {record} is not what was acknowledged" for record in untouched[:3]]
    if before and after and not untouched:
        outcome.torn += 1
    state = state if not before else apply(state, under_way)
    if collection.count() != len(found):
        outcome.lost += 1
        outcome.problems.append(f"life {under_way.life}: {collection.count()} counted, {len(found)} fetched")
    for finding in collection.verify():
        outcome.lost += finding.lost
        outcome.problems.append(f"life {under_way.life}: {finding.place}: {finding.what}")
    check_use(collection, found, outcome)
    collection.connector.close()
    return state


def check_use(collection: Collection, found: dict[str, Any], outcome: Outcome) -> None:
    """Searching finds a record by its own vector; a record can be written, read and deleted."""
    record = next(iter(found), None)
    if record is not None and collection.search_one(found[record][0], k=1)[0].id != record:
        outcome.lost += 1
        outcome.problems.append(f"{record} is not found by its own vector")
    collection.upsert(Batch(("probe",), {"image": np.ones((1, DIM), dtype=np.float32)}))
    if collection.search_one(np.ones(DIM), k=1)[0].id != "probe":
        outcome.unreadable += 1
        outcome.problems.append("a store that was opened again does not take a record")
    collection.delete(["probe"])


def differences(found: dict[str, Any], state: State) -> list[str]:
    """The ids whose record is not the one of ``state``."""
    return [record for record in found.keys() | state.keys() if not same(found.get(record), state.get(record))]


def same(found: Any, expected: tuple[Call, int] | None) -> bool:
    """Whether a record is the one that a call wrote: its vector and its payload."""
    if found is None or expected is None:
        return found is None and expected is None
    call, place = expected
    batch = written(call)
    return bool(np.array_equal(found[0], batch.vectors["image"][place])) and found[1] == (batch.payloads or ())[place]


written = lru_cache(maxsize=4096)(Call.batch)


def measure(kills: int) -> Outcome:
    """Kill ``kills`` times."""
    outcome, dice, state = Outcome(), random.Random(time.time_ns()), State()
    with tempfile.TemporaryDirectory(prefix="pixdex-") as place, readers(Path(place, "wounded.pix"), outcome):
        for life in range(1, kills + 1):
            if life % 5 == 0:
                kill_once(Path(place, f"fresh{life}.pix"), life, {}, dice, outcome)
            else:
                state = kill_once(Path(place, "wounded.pix"), life, state, dice, outcome)
    return outcome


@contextmanager
def readers(path: Path, outcome: Outcome) -> Iterator[None]:
    """Other processes that search meanwhile."""
    command = [sys.executable, "-m", "benchmarks.durability", "--read", str(path), "--life"]
    pipe = subprocess.PIPE
    started = [subprocess.Popen([*command, str(n)], stdin=pipe, stdout=pipe, text=True) for n in range(READERS)]
    try:
        yield
    finally:
        for reader in started:
            said = reader.communicate()[0].split()
            outcome.searches += int(said[-2])
            outcome.wrong += int(said[-1])


PICTURES = 1500
LONGEST_ADD = 3.0
"""Seconds that a child adds pictures at most before it is killed."""


def add(path: Path, pictures: Path) -> None:
    """The child that adds pictures: says after each written batch how many are there."""
    print("ready", flush=True)
    with pixdex.open(f"pq://{path}") as index:
        index.add(pictures, progress=lambda so_far: print(so_far.added + so_far.unchanged, flush=True))


def draw_pictures(folder: Path) -> list[Path]:
    """Small noisy pictures, in the order in which ``add`` takes them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:05}.png" for number in range(PICTURES)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return paths


def kill_an_add(path: Path, pictures: list[Path], dice: random.Random, outcome: Outcome) -> None:
    """Add, be killed, be looked at: what progress had reported is there, with its content and its own vector."""
    command = [sys.executable, "-m", "benchmarks.durability", "--add", str(path), "--pictures", str(pictures[0].parent)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    first = child.stdout.readline() if dice.random() < BEGUN else ""
    time.sleep(LONGEST_ADD * dice.random())
    child.kill()
    reported = [int(line) for line in (first + child.communicate()[0]).split()]
    acknowledged = pictures[: reported[-1]] if reported else []
    outcome.acknowledged += len(acknowledged)
    try:
        with pixdex.open(f"pq://{path}") as index:
            for picture in acknowledged:
                check_picture(index, picture, outcome)
            index.count()
    except PixdexError as error:
        outcome.unreadable += 1
        outcome.problems.append(f"after an add: {type(error).__name__}: {error}")


def check_picture(index: ImageIndex, picture: Path, outcome: Outcome) -> None:
    """The record of a picture has its content hash, and a vector."""
    batch = index.get(f"{picture.parent.name}/{picture.name}", want=Want(vectors=("image",)))
    whole = len(batch) == 1 and batch.present("image")[0]
    if not whole or (batch.payloads or ())[0]["content"] != content_hash(picture):
        outcome.lost += 1
        outcome.problems.append(f"{picture.name} was reported as added and is not there")


def measure_adds(kills: int) -> Outcome:
    """Kill ``kills`` adds; the same store goes on until all pictures are in it, then a fresh one."""
    outcome, dice = Outcome(), random.Random(time.time_ns())
    with tempfile.TemporaryDirectory(prefix="pixdex-") as place:
        pictures = draw_pictures(Path(place, "pictures"))
        for life in range(kills):
            kill_an_add(Path(place, f"{life // 4}.pix"), pictures, dice, outcome)
    return outcome


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KILLS} kills instead of {KILLS}")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how many; default {KILLS}")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--life", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--add", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.write, options.life)
        return 0
    if options.read:
        read(options.read, options.life)
        return 0
    if options.add:
        add(options.add, options.pictures)
        return 0
    kills = QUICK_KILLS if options.quick else options.kills
    add_kills = min(kills, 4 if options.quick else ADD_KILLS)
    outcome, adds = measure(kills), measure_adds(add_kills)
    wounds = wound(flips=1 if options.quick else 10)
    results = {
        "kills": kills,
        "acknowledged": outcome.acknowledged,
        "lost": outcome.lost,
        "killed_during": dict(outcome.did),
        "searches_meanwhile": outcome.searches,
        "wrong_hits": outcome.wrong,
        "kills_during_add": add_kills,
        "acknowledged_pictures": adds.acknowledged,
        "lost_pictures": adds.lost,
        "torn_calls": outcome.torn,
        "unreadable_stores": outcome.unreadable + adds.unreadable,
        "reopen_ms_median": round(float(np.median(outcome.reopened or [0.0])) * 1e3, 2),
        "reopen_ms_worst": round(max(outcome.reopened, default=0.0) * 1e3, 2),
    }
    results |= wounds.counts
    table(("measured", "value"), list(results.items()))
    for problem in [*outcome.problems, *adds.problems, *wounds.problems][:20]:
        print(problem)
    goals = {
        "acknowledged_lost": Goal(outcome.lost + adds.lost, 0, at_most=True),
        "unreadable_stores": Goal(outcome.unreadable + adds.unreadable, 0, at_most=True),
        "torn_calls": Goal(outcome.torn, 0, at_most=True),
        "wrong_hits": Goal(outcome.wrong, 0, at_most=True),
        "wounds_missed": Goal(wounds.missed, 0, at_most=True),
    }
    return 0 if report("durability", results, goals, as_json=options.json) else 1


if __name__ == "__main__":
    sys.exit(main())
