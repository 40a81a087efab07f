"""OpenVINO, imported without its telemetry: where that package is found, importing OpenVINO reports to its vendor.

OpenVINO does without it when it is not installed, so for the time of the import it is not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["openvino"]

_TELEMETRY = "openvino_telemetry"


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    if module in sys.modules:  # somebody else imported it
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # what makes an import of it fail
    try:
        yield
    finally:
        del sys.modules[module]


with _hidden(_TELEMETRY):
    import openvino
