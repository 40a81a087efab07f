"""The training loop on a task of one parameter: pace, averages, early end, checkpoints."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixdex.errors import ConfigError
from pixdex.training._batches import generator_of
from pixdex.training._device import device_named
from pixdex.training._loop import CHECKPOINT, Pace, run


class Distance:
    """Moves a parameter towards targets that are drawn by step; better the nearer it is to ``best``."""

    averaged = "net."

    def __init__(self, *, best: float | None = 3.0) -> None:
        torch.manual_seed(0)
        self.module = nn.ModuleDict({"net": nn.Linear(1, 1, bias=False), "slow": nn.Linear(1, 1)})
        self.module["slow"].requires_grad_(False)
        self.lasting = ("slow.",)
        self.best = best
        self.rates: list[float] = []
        self.ends_at: int | None = None

    @property
    def weight(self) -> Tensor:
        return self.module["net"].weight

    @property
    def value(self) -> Tensor:
        return self.weight.detach()

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.weight], "lr": 0.1, "weight_decay": 0.0}]

    def loss(self, step: int) -> Tensor:
        if step == self.ends_at:
            raise RuntimeError("the power is off")
        target = 3 + torch.randn((), generator=generator_of(1, step)) + torch.randn(()) * 0.1
        return (self.weight - target).square().sum()

    def stepped(self, rate: float) -> None:
        self.rates.append(rate)
        with torch.no_grad():
            self.module["slow"].weight.lerp_(self.value, 0.1)

    def judge(self) -> float | None:
        return None if self.best is None else -abs(float(self.value) - self.best)


def weights(task: Distance) -> list[float]:
    return [float(t) for t in task.module.state_dict().values()]


def test_rates_rise_then_fall_and_the_average_is_what_is_kept() -> None:
    task = Distance(best=None)
    done = run(task, Pace(steps=100, warmup=0.2, rounds=2, device="cpu"), work=None, key="k")
    assert task.rates[0] < 0.1
    assert max(task.rates) == pytest.approx(1.0, abs=0.01)
    assert task.rates.index(max(task.rates)) == 20
    assert task.rates[-1] < 0.02
    assert done.step == 100
    assert not done.early
    assert done.score is None
    assert [row["step"] for row in done.history] == [50, 100]
    kept = float(done.weights["net.weight"])
    assert kept != float(task.value)
    assert abs(kept - 3) < 1


def test_time_ends_a_run_as_well() -> None:
    done = run(Distance(), Pace(steps=10**9, seconds=0.2, rounds=3, patience=9, device="cpu"), work=None, key="k")
    assert 0.1 < done.seconds < 2
    assert len(done.history) <= 3


def test_it_ends_early_and_keeps_the_best_round() -> None:
    task = Distance(best=float(Distance().value))  # nothing is better than where it starts
    done = run(task, Pace(steps=400, rounds=40, patience=3, device="cpu"), work=None, key="k")
    assert done.early
    assert done.step < 100
    scores = [row["score"] for row in done.history]
    assert done.score == max(scores) == scores[0]
    assert -abs(float(done.weights["net.weight"]) - task.best) == pytest.approx(done.score, abs=1e-6)


def test_a_run_that_was_cut_off_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    pace = Pace(steps=60, rounds=3, keep_seconds=0, device="cpu")
    straight = Distance()
    expected = run(straight, pace, work=None, key="k")
    for cut in (7, 25, 41):
        task = Distance()
        task.ends_at = cut
        with pytest.raises(RuntimeError, match="power"):
            run(task, pace, work=tmp_path, key="k")
    task = Distance()
    done = run(task, pace, work=tmp_path, key="k")
    assert len(task.rates) == 60 - 41
    assert weights(task) == weights(straight)
    assert done.weights == expected.weights
    assert [row["score"] for row in done.history] == [row["score"] for row in expected.history]
    assert [row["loss"] for row in done.history] == pytest.approx([row["loss"] for row in expected.history])
    again = Distance()  # and once it is done, there is nothing left to do
    assert run(again, pace, work=tmp_path, key="k").weights == expected.weights
    assert again.rates == []


def test_ctrl_c_ends_it_after_a_step_and_loses_nothing(tmp_path: Path) -> None:
    pace = Pace(steps=60, rounds=3, device="cpu")
    before = signal.getsignal(signal.SIGINT)

    def stop(facts: Mapping[str, Any]) -> None:
        if facts["step"] == 31:
            signal.getsignal(signal.SIGINT)(
                signal.SIGINT, None
            )  # as Ctrl-C does, but without a signal that may come late

    with pytest.raises(KeyboardInterrupt):
        run(Distance(), pace, work=tmp_path, key="k", follow=stop)
    assert signal.getsignal(signal.SIGINT) is before
    task = Distance()
    run(task, pace, work=tmp_path, key="k")
    straight = Distance()
    run(straight, pace, work=None, key="k")
    assert len(task.rates) == 60 - 31
    assert weights(task) == weights(straight)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    pace = Pace(steps=3, rounds=1, device="cpu")
    run(Distance(), pace, work=tmp_path, key="one")
    with pytest.raises(ConfigError, match="other pictures, encoder or options"):
        run(Distance(), pace, work=tmp_path, key="two")
    file = tmp_path / CHECKPOINT
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ConfigError, match="damaged: remove it"):
        run(Distance(), pace, work=tmp_path, key="one")


def test_a_checkpoint_holds_nothing_that_could_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"version": 1, "key": Evil()}, tmp_path / CHECKPOINT)
    with pytest.raises(ConfigError, match="damaged"):
        run(Distance(), Pace(device="cpu"), work=tmp_path, key="k")
    assert not (tmp_path / "made").exists()


def test_a_loss_that_is_no_number_ends_it() -> None:
    task = Distance()
    task.loss = lambda step: task.weight.sum() * float("nan")  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="a lower rate"):
        run(task, Pace(steps=5, device="cpu"), work=None, key="k")


@pytest.mark.parametrize("values", [{"steps": 0}, {"seconds": 0}, {"warmup": 1.0}, {"average": 1.0}, {"rounds": 0}])
def test_a_pace_without_a_meaning_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        Pace(**values)


def test_devices_that_are_not_there_are_refused() -> None:
    assert device_named("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="auto, cpu, cuda"):
        device_named("gpu")
    with pytest.raises(ConfigError, match="torch finds"):
        device_named("cuda:99")
