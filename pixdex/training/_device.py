"""Where training runs, and how precisely it counts there."""

from __future__ import annotations

from functools import cache

import torch

from pixdex.encoders.runtimes.choosing import bfloat16_pays
from pixdex.errors import ConfigError

__all__ = ["autocast", "described", "device_named"]


def device_named(name: str) -> torch.device:
    """The device of that name; ``auto`` is a GPU where torch finds one.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r}: torch finds {torch.cuda.device_count()} GPUs here; device=cpu is slow but works"
        )
    return device


def autocast(device: torch.device, *, processor: bool = False) -> torch.autocast:
    """bfloat16 where a GPU multiplies, and with ``processor`` also on a processor that is faster in it.

    Weights, sums and losses stay float32.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=_halves(device, processor=processor))


def _halves(device: torch.device, *, processor: bool) -> bool:
    """Whether ``autocast`` computes in bfloat16 there."""
    return device.type == "cuda" or (processor and device.type == "cpu" and _pays())


def described(device: torch.device) -> str:
    """Where networks were trained, and in what they computed, for people."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, {'bfloat16' if _halves(device, processor=True) else 'float32'}"


@cache
def _pays() -> bool:
    return bfloat16_pays()
