"""Training: heads, fine-tuning, adaptation and distillation. Needs the extra ``train``; nothing that serves imports it.

``train_head`` fits a small head on frozen features; ``losses``, ``sampling`` and ``data`` are what every kind of training
shares.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pixdex.errors import MissingDependency

try:
    import torch  # noqa: F401 - every module of this package needs it, and one place says so
except ImportError as error:
    raise MissingDependency("torch", "train") from error

if TYPE_CHECKING:
    from pixdex.training.heading import TrainedHead, train_head

__all__ = ["TrainedHead", "train_head"]

_LAZY = {"TrainedHead": "heading", "train_head": "heading"}
"""They need libraries that other modules of this package do without."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
