"""pytorch-metric-learning, without what its import does to faiss."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from pixdex.errors import MissingDependency

__all__ = ["metric_learning"]

_SWITCH = "faiss.contrib.torch_utils"
"""Importing it has every index of the process take and give tensors, which others that use faiss do not survive: Milvus Lite."""


def metric_learning(part: str) -> Any:
    """A part of the library, such as ``losses``.

    Raises:
        MissingDependency: it is not installed.
    """
    from importlib import import_module

    switched = _SWITCH in sys.modules
    if not switched:
        sys.modules[_SWITCH] = ModuleType(_SWITCH)
    try:
        return import_module(f"pytorch_metric_learning.{part}")
    except ImportError as error:
        raise MissingDependency("pytorch-metric-learning", "train") from error
    finally:
        if not switched:
            del sys.modules[_SWITCH]
