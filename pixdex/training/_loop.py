"""One training loop for everything that trains a network: paced by steps or by time, and going on after a kill.

Every random choice of a batch follows from the seed and the number of the step, so a run that was killed and goes on makes
the batches that it would have made. A checkpoint is written beside the old one and takes its place when it is complete;
it holds tensors and plain values only and is read without unpickling anything else.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from pixdex.errors import ConfigError
from pixdex.training._workplace import saved

__all__ = ["CHECKPOINT", "Follow", "Outcome", "Pace", "Task", "run"]

CHECKPOINT = "checkpoint.pt"
_VERSION = 1
_LOOKED_AT = 10
"""Steps between looks at the loss: each look waits for the device."""
_LEAST = 0.01
"""The share of the rate that is left at the end of the cosine."""

Weights: TypeAlias = dict[str, Tensor]
Follow: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Hears how far a run is: ``share`` of its budget, ``step``, ``loss``, ``score`` (None before the first)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a run goes, whatever is trained.

    Attributes:
        steps: after so many it ends.
        seconds: after so many seconds of work it ends too, evaluation included; what an earlier process of the same run
            worked counts. None: no such limit.
        cpu_time: seconds are those of CPU time, of all threads together, for comparisons on a machine that others use too.
        warmup: the share of the budget in which rates rise; a half cosine down to a hundredth follows (Loshchilov, Hutter:
            SGDR, ICLR 2017).
        clip: the largest norm of all gradients together; longer ones are shortened to it.
        average: decay a step of the exponential moving average of the weights, which is what is evaluated and kept; less
            in the first steps. 0: the weights themselves.
        rounds: how often the result is judged, evenly over the budget.
        patience: it ends early after so many rounds without a better one.
        keep_seconds: seconds between checkpoints.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; ``auto`` is a GPU where there is one.
        seed: what all random choices follow from.
    """

    steps: int = 2000
    seconds: float | None = None
    cpu_time: bool = False
    warmup: float = 0.1
    clip: float = 1.0
    average: float = 0.99
    rounds: int = 8
    patience: int = 4
    keep_seconds: float = 60.0
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good, what in (
            ("steps", self.steps >= 1, "1 or more"),
            ("seconds", self.seconds is None or self.seconds > 0, "more than 0"),
            ("warmup", 0 <= self.warmup < 1, "a share from 0 to below 1"),
            ("clip", self.clip > 0, "more than 0"),
            ("average", 0 <= self.average < 1, "from 0 to below 1"),
            ("rounds", self.rounds >= 1, "1 or more"),
            ("patience", self.patience >= 1, "1 or more"),
        ):
            if not good:
                raise ConfigError(f"{name}={getattr(self, name)}: {what}")

    def identity(self) -> dict[str, Any]:
        """What tells one run from another: not where it runs, nor how often it is kept."""
        return {name: value for name, value in asdict(self).items() if name not in ("device", "keep_seconds")}

    def share(self, step: int, spent: float) -> float:
        """How much of the budget is used up, 0 to 1."""
        shares = [step / self.steps] + ([] if self.seconds is None else [spent / self.seconds])
        return min(1.0, max(shares))

    def factor(self, share: float) -> float:
        """What rates are multiplied with."""
        if share < self.warmup:
            return max(share / self.warmup, _LEAST)
        after = (share - self.warmup) / (1 - self.warmup)
        return _LEAST + (1 - _LEAST) * 0.5 * (1 + math.cos(math.pi * after))


class Task(Protocol):
    """What is trained.

    Attributes:
        module: everything with parameters, on its device, in training mode. Those that require a gradient are trained.
        lasting: prefixes of names in its state, besides what is trained, that change with the steps: checkpoints hold them.
        averaged: prefix of the names whose moving average is kept; the result is made of those.
    """

    @property
    def module(self) -> nn.Module: ...
    @property
    def lasting(self) -> Sequence[str]: ...
    @property
    def averaged(self) -> str: ...

    def groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW: ``params``, ``lr`` (the highest in the run) and ``weight_decay``."""
        ...

    def loss(self, step: int) -> Tensor:
        """The loss of one batch, which follows from the number of the step."""
        ...

    def stepped(self, rate: float) -> None:
        """After each step, ``rate`` times the highest rates."""
        ...

    def judge(self) -> float | None:
        """How good the module is as it stands, higher is better; None where nothing can tell."""
        ...


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a run.

    Attributes:
        weights: the averaged weights of the best round, or the last ones where nothing judged.
        score: of those, None likewise.
        step: how many steps were made.
        seconds: seconds of work, in all processes.
        early: it ended before its budget was used up.
        history: a row a round: ``step``, ``seconds``, ``loss`` (mean since the last round), ``rate`` and ``score``.
    """

    weights: Weights
    score: float | None
    step: int
    seconds: float
    early: bool
    history: list[dict[str, Any]]


@dataclass(slots=True)
class _State:
    step: int = 0
    spent: float = 0.0
    rounds: int = 0
    stale: int = 0
    score: float | None = None
    best: Weights | None = None
    average: Weights = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: float = 0.0
    """Sum since the last round, of ``counted`` looks."""
    counted: int = 0
    early: bool = False


def run(task: Task, pace: Pace, *, work: Path | None, key: str, follow: Follow | None = None) -> Outcome:
    """Train until the budget is used up or nothing gets better.

    Checkpoints go to the folder ``work`` (None: none are kept); a run of the same ``key`` that was begun there goes on.
    Ctrl-C ends it after the step that is under way, with a checkpoint.

    Raises:
        ConfigError: the checkpoint is damaged or of another run; the loss is no number any more.
        KeyboardInterrupt: it was stopped; the same call goes on.
    """
    return _Run(task, pace, work, key, follow).go()


class _Run:
    def __init__(self, task: Task, pace: Pace, work: Path | None, key: str, follow: Follow | None) -> None:
        self._task, self._pace, self._key, self._follow = task, pace, key, follow
        self._file = None if work is None else work / CHECKPOINT
        self._optimizer = torch.optim.AdamW(task.groups(), betas=(0.9, 0.999))
        self._highest = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._trained = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
        self._averaged = {name: p for name, p in self._trained.items() if name.startswith(task.averaged)}
        self._state = _State(average={name: p.detach().clone() for name, p in self._averaged.items()})

    def go(self) -> Outcome:
        state, pace = self._state, self._pace
        self._restore()
        clock = time.process_time if pace.cpu_time else time.monotonic
        began = clock() - state.spent
        kept = time.monotonic()  # when the last checkpoint was written
        with _noting_interrupts() as stopped:
            while not state.early and state.rounds < pace.rounds:
                share = pace.share(state.step, state.spent)
                if share < 1:
                    self._step(share)
                state.spent = clock() - began
                due = math.floor(pace.share(state.step, state.spent) * pace.rounds + 1e-9)
                if due > state.rounds:
                    state.rounds = due
                    self._round()
                    state.spent = clock() - began
                    kept = -math.inf
                if stopped():
                    self._keep()
                    raise KeyboardInterrupt
                if time.monotonic() - kept > pace.keep_seconds:
                    self._keep()
                    kept = time.monotonic()
        weights = state.best if state.best is not None else state.average
        return Outcome(
            weights=weights,
            score=state.score,
            step=state.step,
            seconds=state.spent,
            early=state.early,
            history=state.history,
        )

    def _step(self, share: float) -> None:
        state, factor = self._state, self._pace.factor(share)
        for group, highest in zip(self._optimizer.param_groups, self._highest, strict=True):
            group["lr"] = highest * factor
        loss = self._task.loss(state.step)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(list(self._trained.values()), self._pace.clip)
        self._optimizer.step()
        self._task.stepped(factor)
        state.step += 1
        self._average()
        if state.step % _LOOKED_AT == 1:
            self._look(loss.detach(), share)

    def _look(self, loss: Tensor, share: float) -> None:
        value = float(loss)
        if not math.isfinite(value):
            raise ConfigError(
                f"the loss is no number any more at step {self._state.step}: a lower rate, or a longer warm-up"
            )
        self._state.losses += value
        self._state.counted += 1
        if self._follow is not None:
            self._follow({"share": share, "step": self._state.step, "loss": value, "score": self._state.score})

    @torch.no_grad()
    def _average(self) -> None:
        wanted = self._pace.average
        decay = min(wanted, self._state.step / (self._state.step + 9)) if wanted else 0.0
        kept, now = list(self._state.average.values()), [p.detach() for p in self._averaged.values()]
        torch._foreach_lerp_(kept, now, 1 - decay)

    def _round(self) -> None:
        state = self._state
        with self._standing_in(state.average):
            score = self._task.judge()
        loss = state.losses / state.counted if state.counted else None
        state.losses, state.counted = 0.0, 0
        rate = self._optimizer.param_groups[0]["lr"]
        state.history.append(
            {"step": state.step, "seconds": round(state.spent, 2), "loss": loss, "rate": rate, "score": score}
        )
        if score is None:
            return
        if state.score is None or score > state.score:
            state.score, state.stale = score, 0
            state.best = {name: tensor.clone() for name, tensor in state.average.items()}
        else:
            state.stale += 1
            state.early = state.stale >= self._pace.patience
        if self._follow is not None:
            share = self._pace.share(state.step, state.spent)
            self._follow({"share": share, "step": state.step, "loss": loss, "score": state.score})

    @contextmanager
    def _standing_in(self, weights: Weights) -> Iterator[None]:
        """Other weights in the module meanwhile."""
        mine = self._averaged
        own = {name: p.detach().clone() for name, p in mine.items()}
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(weights[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in mine.items():
                    parameter.copy_(own[name])

    # --- checkpoints -------------------------------------------------------------------------------

    def _lasting(self) -> Weights:
        """All tensors that change, as they stand."""
        prefixes = tuple(self._task.lasting)
        state = self._task.module.state_dict()
        return {n: t for n, t in state.items() if n in self._trained or n.startswith(prefixes)}

    def _keep(self) -> None:
        if self._file is None:
            return
        state = self._state
        values = {
            "version": _VERSION,
            "key": self._key,
            "state": {name: getattr(state, name) for name in _State.__slots__},
            "weights": self._lasting(),
            "optimizer": self._optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        saved(self._file, values)

    def _restore(self) -> None:
        if self._file is None or not self._file.is_file():
            return
        device = next(iter(self._trained.values())).device
        try:  # to the processor first, where states of random numbers stay
            values = torch.load(self._file, map_location="cpu", weights_only=True)
            version, key = values["version"], values["key"]
        except Exception as error:  # torch raises anything on a damaged file
            raise ConfigError(f"{self._file} is damaged: remove it to begin anew") from error
        if version != _VERSION or key != self._key:
            raise ConfigError(
                f"{self._file} was begun with other pictures, encoder or options: give the same to go on, or remove it to "
                "begin anew"
            )
        for name, value in values["state"].items():
            setattr(self._state, name, _moved(value, device))
        self._task.module.load_state_dict(values["weights"], strict=False)
        self._optimizer.load_state_dict(values["optimizer"])
        torch.set_rng_state(values["random"])
        if torch.cuda.is_available() and len(values["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(values["random_cuda"])


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {key: _moved(inner, device) for key, inner in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


@contextmanager
def _noting_interrupts() -> Iterator[Callable[[], bool]]:
    """Says whether Ctrl-C was pressed, which raises nothing here until it is pressed again."""
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():  # handlers are the main thread's
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)
