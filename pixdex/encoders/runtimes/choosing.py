"""``auto``: measures runtimes on a network, keeps those within the tolerance, takes the fastest, remembers it."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from pixdex.encoders._digest import digest_of
from pixdex.encoders.backbones import Activations
from pixdex.encoders.runtimes import TOLERANCE, cache
from pixdex.encoders.runtimes.port import Runtime, threads
from pixdex.encoders.runtimes.probes import probes, worst_cosine

__all__ = ["Candidates", "bfloat16_pays", "chosen", "remembered"]

_log = logging.getLogger("pixdex.encoders.runtimes")

_VERSION = 1
_PROBES = 8
_SIZES = (4, 8, 16)
"""Batches that are tried for the fastest runtime."""
_HOPELESS = 3.0
"""A runtime that takes so many times as long as the reference for its first pictures is given up."""
_GAIN = 1.05
"""So much faster a runtime must be to be taken instead of the reference, which needs nothing else installed."""
_PACKAGES = ("torch", "onnxruntime", "openvino", "transformers")

_FASTER_THAN_DECODING = 500.0
"""Pictures a second of a network that nobody waits for."""

_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What ``auto`` chooses from, for one network.

    Attributes:
        makers: what makes each runtime, by name; the reference first. The others may fail.
        network: names the network in the cache.
        size: (height, width) of its input, pixels.
    """

    makers: Mapping[str, Callable[[], Runtime]]
    network: str
    size: tuple[int, int]

    @property
    def reference(self) -> str:
        """The name of the runtime that the others are compared with."""
        return next(iter(self.makers))


@dataclass(frozen=True, slots=True)
class _Choice:
    runtime: Runtime
    rates: Mapping[str, float]
    """Pictures a second of each runtime that was measured."""


def remembered(candidates: Candidates) -> Runtime | None:
    """What was chosen from these on this machine before; None where nothing was, or where it cannot be used."""
    values = cache.recall(_key(candidates)) or {}
    name, size = values.get("runtime"), values.get("batch_size")
    if not isinstance(name, str) or name not in candidates.makers or not isinstance(size, int) or size < 1:
        return None
    try:
        return _with_batch(candidates.makers[name](), size)
    except Exception as error:  # noqa: BLE001 - its graph is gone, say: measured anew
        _log.info("runtime %s was remembered and cannot be used: %s", name, error)
        return None


def chosen(candidates: Candidates, usual: Runtime) -> Runtime:
    """The fastest that keeps the tolerance to ``usual``, the reference: measured now, and remembered.

    A runtime that cannot be made, or fails, is left out. Where the reference is faster than pictures can be decoded,
    nothing else is tried. Makes the alternatives and runs some 200 pictures.
    """
    pictures = probes(candidates.size, _PROBES)
    usual.forward(pictures)
    if _rate(usual, pictures) > _FASTER_THAN_DECODING:
        return usual
    choice = _measure(candidates, usual, pictures)
    _keep(_key(candidates), choice)
    return choice.runtime


def bfloat16_pays() -> bool:
    """Whether a matrix product in bfloat16 is faster than in float32: without the instructions it is emulated."""
    import torch

    def duration(dtype: torch.dtype) -> float:
        matrix = torch.ones(256, 256, dtype=dtype)
        return min(_timed(lambda: matrix @ matrix) for _ in range(3))

    with torch.inference_mode():
        return duration(torch.bfloat16) < duration(torch.float32)


def _keep(key: str, choice: _Choice) -> None:
    rates = {name: round(rate, 2) for name, rate in choice.rates.items()}
    chosen = choice.runtime
    values = {"runtime": chosen.name, "batch_size": chosen.batch_size, "pictures_per_second": rates}
    kept = cache.remember(key, values)
    _log.info(
        "runtime %s, %d pictures at a time (pictures a second: %s); %s",
        chosen.name,
        chosen.batch_size,
        ", ".join(f"{name} {rate:g}" for name, rate in rates.items()),
        f"remembered in {cache.folder()}" if kept else f"not remembered: {cache.folder()} cannot be written to",
    )


def _measure(candidates: Candidates, usual: Runtime, pictures: NDArray[np.uint8]) -> _Choice:
    usable = {usual.name: usual, **_usable(candidates, usual, pictures)}
    rates = _rates(usable, pictures, rounds=3)
    best = max(rates, key=lambda name: rates[name])
    chosen = usable[best] if rates[best] > _GAIN * rates[usual.name] else usual
    graph = getattr(chosen, "graph", None)
    if graph is None or graph.batch is None:  # else the graph says how many
        pictures = np.resize(pictures, (max(_SIZES), *pictures.shape[1:]))
        by_size = _rates({size: _with_batch(chosen, size) for size in {*_SIZES, chosen.batch_size}}, pictures, rounds=2)
        chosen = _with_batch(chosen, max(by_size, key=lambda size: by_size[size]))
    return _Choice(chosen, rates)


def _usable(candidates: Candidates, usual: Runtime, pictures: NDArray[np.uint8]) -> dict[str, Runtime]:
    """Those besides the reference that work, are not slower by far, and keep the tolerance."""
    truth = usual.forward(pictures)
    hopeless = _HOPELESS * _timed(lambda: usual.forward(pictures[:1]))
    found = {}
    for name, make in candidates.makers.items():
        if name == usual.name:
            continue
        try:
            runtime = make()
            why_not = _objection(runtime, truth, pictures, hopeless=hopeless)
        except Exception as error:  # noqa: BLE001 - another package that fails must not cost the work
            why_not = str(error)
        if why_not is None:
            found[name] = runtime
        else:
            _log.info("runtime %s is left out: %s", name, why_not)
    return found


def _objection(runtime: Runtime, truth: Activations, pictures: NDArray[np.uint8], *, hopeless: float) -> str | None:
    runtime.forward(pictures[:1])  # some prepare themselves in the first call
    duration = _timed(lambda: runtime.forward(pictures[:1]))
    if duration > hopeless:
        return f"{duration:.3g} s a picture"
    agreement = worst_cosine(truth, runtime.forward(pictures))
    return None if agreement >= TOLERANCE else f"a cosine of {agreement:.5f} to float32"


def _with_batch(runtime: Runtime, size: int) -> Runtime:
    return runtime if runtime.batch_size == size else replace(cast("Any", runtime), batch_size=size)


def _rates(runtimes: Mapping[_Name, Runtime], pictures: NDArray[np.uint8], *, rounds: int) -> dict[_Name, float]:
    """Pictures a second. In turns, so that what else the machine does hits all of them."""
    best = dict.fromkeys(runtimes, 0.0)
    for _ in range(rounds):
        for name, runtime in runtimes.items():
            best[name] = max(best[name], _rate(runtime, pictures))
    return best


def _rate(runtime: Runtime, pictures: NDArray[np.uint8]) -> float:
    return len(pictures) / _timed(lambda: runtime.forward(pictures))


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _key(candidates: Candidates) -> str:
    """What a measurement holds for: this network, on this processor, with these packages."""
    return digest_of(
        {
            "version": _VERSION,
            "network": candidates.network,
            "candidates": list(candidates.makers),
            "processor": _processor(),
            "threads": threads(),
            "packages": {name: _version(name) for name in _PACKAGES},
        }
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    return (
        next((line for line in lines if line.startswith("model name")), "") + platform.machine() + platform.processor()
    )
