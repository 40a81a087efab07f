"""Training: heads, fine-tuning, adaptation and distillation. Needs the extra ``train``; nothing that serves imports it.

``train_head`` fits a small head on frozen features, ``train_reranker`` a reranker on an encoder's tokens; ``losses``, ``sampling``
and ``data`` are what every kind of training shares.
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
    from pixdex.training._loop import Pace
    from pixdex.training.heading import TrainedHead, train_head
    from pixdex.training.pairing import RerankerRecipe, TrainedReranker, train_reranker

__all__ = ["Pace", "RerankerRecipe", "TrainedHead", "TrainedReranker", "train_head", "train_reranker"]

_LAZY = {
    "Pace": "_loop",
    "TrainedHead": "heading",
    "train_head": "heading",
    "RerankerRecipe": "pairing",
    "TrainedReranker": "pairing",
    "train_reranker": "pairing",
}
"""They need libraries that other modules of this package do without."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
