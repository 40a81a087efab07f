"""Adding pictures is killed again and again, and in the end it is as if nothing had happened.

A child adds a folder of 5,000 pictures as ``pixdex add`` does, with a journal, by an encoder that writes down what it encodes
and takes its time. It is killed with SIGKILL at a random instant, before it is ready too, and started again, until it has been killed
100 times on each store; whenever it comes to its end the store is compared, record by record, with one that nobody disturbed (ids,
payloads, vectors), and a fresh one is begun. Before every fifth life some files are moved, changed or deleted, and others come, of
which one is damaged. (A file that is damaged after it was added keeps its record, which an undisturbed store would not have.)
A Milvus server is killed as well, while the child writes to it, and started again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from PIL import Image

import pixdex
from benchmarks import Goal, report, table
from pixdex.encoders.images import resize
from pixdex.encoders.port import Features
from pixdex.errors import MissingDependency
from pixdex.jobs import Job
from pixdex.spec import Fingerprint, Metric
from pixdex.types import Want

PICTURES, QUICK_PICTURES = 5000, 400
KILLS, QUICK_KILLS = 100, 4
BATCH = 128
"""Pictures: what may be encoded again after a kill."""
LONGEST, LONGEST_ON_SERVER = 1.6, 3.2
"""Seconds that a child works at most before it is killed; a server loads a collection first."""
PER_SECOND = 400
"""Pictures that the encoder takes in a second."""
SERVER_KILLS = 0.1
"""The share of lives in which the server is killed too."""
STORES = {"pq": "pq://{}/store.pix", "qdrant+edge": "qdrant+edge://{}/edge", "milvus+lite": "milvus+lite://{}/lite"}


class Telling:
    """The mean colours of 4 x 4 cells, 48 values; ``log`` gets a line a picture, before its vector is given away."""

    name, reference, dim, metric, batch_size, token_spec = "telling", "telling", 48, Metric.COSINE, 8, None
    fingerprint = Fingerprint(encoder="telling", digest="7e111a96" * 4)

    def __init__(self, log: Path | None = None) -> None:
        self._log = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def prepare(self, pixels: Any) -> Any:
        return resize(pixels, (4, 4), "box")

    def encode(self, prepared: Sequence[Any], *, tokens: bool = False) -> Features:
        del tokens
        cells = np.stack(prepared).reshape(len(prepared), -1)
        if self._log is not None:
            time.sleep(len(prepared) / PER_SECOND)
            lines = "".join(hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() + "\n" for row in cells)
            os.write(self._log, lines.encode())
        return Features(cells.astype(np.float32) - 127.3, None)


@dataclass(slots=True)
class Outcome:
    """What happened on one store."""

    kills: int = 0
    server_kills: int = 0
    finished: int = 0
    again: list[int] = field(default_factory=list)
    lost: int = 0
    differing: int = 0
    failed: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a few kills")
    parser.add_argument("--store", action="append", help="only these; default: all that can run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--job", nargs=3, metavar=("URL", "FOLDER", "LOG"), help=argparse.SUPPRESS)
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job:
        _child(*options.job)
        return 0
    if options.server:
        print(orjson.dumps(_facts(_on_server(options))).decode())
        return 0
    outcomes = {name: _on(name, options) for name in options.store or STORES if name in STORES}
    results = {name: _facts(outcome) for name, outcome in outcomes.items() if outcome is not None}
    if not options.store or "milvus" in options.store:
        results |= _in_namespace(options)
    heads = ("killed", "server killed", "came to the end", "lost", "differing", "encoded again, most", "mean")
    table(("store", *heads), [(name, *(found[head] for head in heads)) for name, found in results.items()])
    return 0 if report("resume", results, _goals(results, quick=options.quick), as_json=options.json) else 1


def _goals(results: dict[str, Any], *, quick: bool) -> dict[str, Goal]:
    goals: dict[str, Goal] = {}
    for name, found in results.items():
        goals |= {
            f"{name}, kills": Goal(found["killed"], QUICK_KILLS if quick else KILLS),
            f"{name}, pictures lost": Goal(found["lost"], 0, at_most=True),
            f"{name}, records that differ": Goal(found["differing"], 0, at_most=True),
            f"{name}, encoded again a kill, at most": Goal(found["encoded again, most"], BATCH, at_most=True),
        }
    return goals


def _facts(outcome: Outcome) -> dict[str, Any]:
    return {
        "killed": outcome.kills,
        "server killed": outcome.server_kills,
        "came to the end": outcome.finished,
        "lost": outcome.lost,
        "differing": outcome.differing,
        "encoded again, most": max(outcome.again, default=0),
        "mean": float(np.mean(outcome.again)) if outcome.again else 0.0,
        "failed": outcome.failed,
    }


def _child(url: str, folder: str, log: str) -> None:
    """What is killed."""
    with pixdex.open(url, encoder=Telling(Path(log))) as index:
        print("ready", flush=True)
        index.add(folder, job=Job(sync=True), progress=False)


def _on(name: str, options: argparse.Namespace) -> Outcome | None:
    try:
        with tempfile.TemporaryDirectory() as folder:
            pixdex.connect(STORES[name].format(folder))[0].close()
    except MissingDependency as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None
    return _killed(STORES[name], options, name)


def _in_namespace(options: argparse.Namespace) -> dict[str, Any]:
    from tests.milvus_server import command, refusal

    reason = refusal()
    if reason:
        print(f"milvus is left out: {reason}", file=sys.stderr)
        return {}
    inner = [sys.executable, "-m", "benchmarks.resume", "--server", f"--seed={options.seed}"]
    inner += ["--quick"] if options.quick else []
    done = subprocess.run(command(inner), stdout=subprocess.PIPE, check=True, text=True)
    return {"milvus": orjson.loads(done.stdout.splitlines()[-1])}


def _on_server(options: argparse.Namespace) -> Outcome:
    from tests.milvus_server import Server

    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name) / "server").start()
        try:
            return _killed(server.url + "/pictures{}", options, "milvus", server)
        finally:
            server.kill()


def _killed(place: str, options: argparse.Namespace, name: str, server: Any = None) -> Outcome:
    """Lives until there were enough kills; each store that comes to its end is compared, and a fresh one begun."""
    rng = random.Random(options.seed)
    outcome = Outcome()
    wanted = QUICK_KILLS if options.quick else KILLS
    while outcome.kills < wanted:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as work:
            root = Path(work)
            os.environ["PIXDEX_STATE"] = str(root / "state")
            url = place.format(outcome.finished if server is not None else root)
            _round(root, url, options, rng, outcome, wanted, server)
        print(
            f"{name}: {outcome.kills} kills, {outcome.finished} stores came to their end", file=sys.stderr, flush=True
        )
    return outcome


def _round(
    root: Path, url: str, options: argparse.Namespace, rng: random.Random, outcome: Outcome, wanted: int, server: Any
) -> None:
    folder = _pictures(root / "pictures", QUICK_PICTURES if options.quick else PICTURES)
    known: set[str] = set()
    for life in range(10_000):
        if life % 5 == 4:
            _disturb(folder, rng)
        log = root / f"life{life}"
        killed = _life(url, folder, log, rng, outcome, server, kill=outcome.kills < wanted)
        seen = log.read_text().split() if log.exists() else []
        whole = [line for line in seen if len(line) == 16]
        if life:
            outcome.again.append(len(known.intersection(whole)))
        known.update(whole)
        if not killed:
            break
    _compare(root, url, folder, outcome)
    outcome.finished += 1


def _life(url: str, folder: Path, log: Path, rng: random.Random, outcome: Outcome, server: Any, *, kill: bool) -> bool:
    """One run of the child; whether it was killed, or failed as its server was."""
    command = [sys.executable, "-m", "benchmarks.resume", "--job", url, str(folder), str(log)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    longest = LONGEST if server is None else LONGEST_ON_SERVER
    early = kill and rng.random() < 0.1
    if early:
        time.sleep(rng.random())  # while it starts
    else:
        child.stdout.readline()
    if kill and server is not None and rng.random() < SERVER_KILLS:
        time.sleep(rng.random() * longest)
        server.kill()
        outcome.server_kills += 1
        time.sleep(rng.random())
        server.start()
    with suppress(subprocess.TimeoutExpired):
        child.wait(rng.random() * longest if kill else 600)
    if child.poll() is None:
        child.kill()
        child.communicate()
        outcome.kills += 1
        return True
    _, said = child.communicate()
    if child.returncode != 0:
        outcome.failed.append(said.strip().splitlines()[-1] if said.strip() else "")
        return True  # a server that was away too long: the same command goes on
    return False


def _pictures(folder: Path, count: int) -> Path:
    """Small pictures that all differ."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        colours = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(colours).resize((16, 16), Image.Resampling.NEAREST)
        picture.save(folder / f"{number:05}.png")
    return folder


def _disturb(folder: Path, rng: random.Random) -> None:
    """What happens to folders: one file is moved, one changed, one deleted, two are new and one of these damaged."""
    files = sorted(path for path in folder.glob("*.png") if not path.name.startswith("damaged"))
    moved, changed, deleted = rng.sample(files, 3)
    stem = f"{rng.randrange(1 << 40):010x}"
    moved.rename(folder / f"moved-{stem}.png")
    for path in (changed, folder / f"new-{stem}.png"):
        colours = np.random.default_rng(rng.randrange(1 << 40)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((16, 16), Image.Resampling.NEAREST).save(path)
    (folder / f"damaged-{stem}.png").write_bytes(changed.read_bytes()[:40])
    deleted.unlink()


def _compare(root: Path, url: str, folder: Path, outcome: Outcome) -> None:
    """With a store that nobody disturbed."""
    with pixdex.open(f"pq://{root}/undisturbed.pix", encoder=Telling()) as index:
        index.add(folder, progress=False)
        truth = _records(index)
    with pixdex.open(url, encoder=Telling()) as index:
        found = _records(index)
    outcome.lost += len(truth.keys() - found.keys())
    outcome.differing += len(found.keys() - truth.keys())
    for record in truth.keys() & found.keys():
        payload, vector = truth[record]
        other, theirs = found[record]
        outcome.differing += payload != other or not np.allclose(vector, theirs, atol=1e-6)


def _records(index: Any) -> dict[str, tuple[Any, Any]]:
    records = {}
    for page in index.collection.scan(want=Want(vectors=("image",))):
        rows = zip(page.batch.ids, page.batch.payloads or (), page.batch.vectors["image"], strict=True)
        records |= {record: ({k: v for k, v in p.items() if k != "_rev"}, vector) for record, p, vector in rows}
    return records


if __name__ == "__main__":
    sys.exit(main())
