"""The runtime ``auto``, on runtimes of known speed and accuracy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pixdex.encoders import runtimes
from pixdex.encoders.backbones import Activations
from pixdex.encoders.runtimes import patient
from pixdex.encoders.runtimes.choosing import Candidates
from pixdex.encoders.runtimes.patient import auto, settled

SLOW, FASTER, FASTEST = 0.004, 0.002, 0.0005
PICTURES = np.full((8, 32, 32, 3), 90, np.uint8)


@dataclass(frozen=True)
class Staged:
    name: str
    seconds: float = 0.0
    error: float = 0.0
    batch_size: int = 8
    called: Any = None

    def forward(self, batch: np.ndarray) -> Activations:
        threading.Event().wait(self.seconds * len(batch))
        if self.called is not None:
            self.called.append(self.name)
        cells = batch[:, ::8, ::8].reshape(len(batch), -1, 3).astype(np.float32) + 1
        cells = np.concatenate([cells, np.full_like(cells[..., :1], self.error * 255)], axis=2)
        return Activations(cells)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIXDEX_CACHE", str(tmp_path))


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient, "_MAKING", 0)
    monkeypatch.setattr(patient, "_PICTURES", 2 * len(PICTURES))


def started(*staged: Staged, **makers: Callable[[], runtimes.Runtime]) -> runtimes.Runtime:
    every = {runtime.name: lambda runtime=runtime: runtime for runtime in staged} | makers
    return auto(Candidates(makers=every, network="n", size=(32, 32)))


def test_the_fastest_within_the_tolerance_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pixdex"):
        chosen = settled(started(Staged("torch", SLOW), Staged("onnx", FASTER, 1e-3), Staged("openvino", FASTEST, 0.2)))
    assert chosen.name == "onnx"
    assert "runtime openvino is left out: a cosine of 0.8" in caplog.text


def test_what_fails_or_gives_nonsense_is_left_out() -> None:
    class Broken(Staged):
        def forward(self, batch: np.ndarray) -> Activations:
            raise RuntimeError("no such instruction")

    made = started(Staged("torch", SLOW), Broken("onnx"), Staged("openvino", FASTEST, float("nan")))
    assert settled(made).name == "torch"


def test_a_hopeless_runtime_is_given_up_at_once() -> None:
    called: list[str] = []
    settled(started(Staged("torch", SLOW), Staged("onnx", 20 * SLOW, called=called)))
    assert len(called) == 2


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b'{"runtime": "onnx"}', b'{"runtime": [], "batch_size": 4}',
                                      b'{"runtime": "gone", "batch_size": 4}'])  # fmt: skip
def test_what_was_remembered_badly_is_measured_again(contents: bytes, tmp_path: Path) -> None:
    staged = Staged("torch", SLOW), Staged("onnx", FASTER)
    settled(started(*staged))
    (file,) = (tmp_path / "runtimes").iterdir()
    good = file.read_bytes()
    file.write_bytes(contents)
    assert settled(started(*staged)).name == "onnx"
    assert file.read_bytes()[:20] == good[:20]


@pytest.mark.usefixtures("_impatient")
def test_a_long_job_gets_the_fastest_and_the_next_one_starts_with_it() -> None:
    runtime = started(Staged("torch", SLOW), Staged("onnx", FASTER, 1e-3, batch_size=4))
    first = runtime.forward(PICTURES)
    runtime.forward(PICTURES)
    assert (runtime.name, runtime.batch_size) == ("torch", 8)
    then = runtime.forward(PICTURES)
    assert runtime.name == "onnx"
    assert not np.array_equal(first.cells, then.cells)
    assert then.cells == pytest.approx(first.cells, abs=0.3)
    again = started(Staged("torch", SLOW), Staged("onnx", FASTER, 1e-3, batch_size=4))
    assert (again.name, again.batch_size) == ("onnx", runtime.batch_size)


@pytest.mark.parametrize(
    ("making", "pictures", "batch"),
    [
        pytest.param(3600, 0, PICTURES, id="not for long"),
        pytest.param(0, 1000, PICTURES, id="not many"),
        pytest.param(0, 0, PICTURES[:1], id="queries"),
    ],
)
def test_a_short_job_pays_nothing(
    making: float, pictures: int, batch: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patient, "_MAKING", making)
    monkeypatch.setattr(patient, "_PICTURES", pictures)
    called: list[str] = []
    runtime = started(Staged("torch", called=called), onnx=lambda: pytest.fail("it was made"))
    for _ in range(5):
        runtime.forward(batch)
    assert called == ["torch"] * 5


@pytest.mark.usefixtures("_impatient")
def test_while_one_thread_measures_the_others_go_on() -> None:
    measuring, enough = threading.Event(), threading.Event()

    def slowly_made() -> runtimes.Runtime:
        measuring.set()
        assert enough.wait(10)
        return Staged("onnx", FASTEST)

    runtime = started(Staged("torch", SLOW), onnx=slowly_made)
    for _ in range(2):
        runtime.forward(PICTURES)
    with ThreadPoolExecutor(3) as pool:
        held_up = pool.submit(runtime.forward, PICTURES)
        try:
            assert measuring.wait(10)
            for going_on in [pool.submit(runtime.forward, PICTURES) for _ in range(4)]:
                going_on.result(10)
            assert runtime.name == "torch"
            assert not held_up.done()
        finally:
            enough.set()
        held_up.result(10)
    assert runtime.name == "onnx"


@pytest.mark.usefixtures("_impatient")
def test_a_measurement_that_fails_costs_no_work(caplog: pytest.LogCaptureFixture) -> None:
    class Moody(Staged):
        def forward(self, batch: np.ndarray) -> Activations:
            if not np.array_equal(batch, PICTURES):
                raise RuntimeError("not these")
            return super().forward(batch)

    runtime = started(Moody("torch", SLOW), Staged("onnx", FASTEST))
    for _ in range(5):
        assert len(runtime.forward(PICTURES).cells) == len(PICTURES)
    assert runtime.name == "torch"
    assert caplog.text.count("runtime torch stays: measuring others failed: RuntimeError('not these')") == 1


def test_where_there_is_no_other_nothing_is_measured(tmp_path: Path) -> None:
    only = Staged("torch", SLOW)
    assert settled(started(only)) is only
    assert not list(tmp_path.iterdir())
