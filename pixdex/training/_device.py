"""Where training runs, and how precisely it counts there."""

from __future__ import annotations

import torch

from pixdex.errors import ConfigError

__all__ = ["autocast", "device_named"]


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


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where a GPU multiplies, float32 on the processor. Weights, sums and losses stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
