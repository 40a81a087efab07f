"""Runtimes: what runs a network. The choice must not move a vector beyond a stated tolerance, so it is no identity.

======================  ==========================================================================================
``torch``               float32, the reference
``torch-bf16``          the whole network in bfloat16; for processors with bf16 instructions
``onnx``                ONNX Runtime, float32
``onnx-int8``           ONNX Runtime, 8-bit integers; only by name, as that is outside the tolerance for many networks
``openvino``            OpenVINO, float32
``openvino-bf16``       OpenVINO, computing in bfloat16 where the processor can
``openvino-int8``       OpenVINO, 8-bit integers; only by name
``cuda``                torch on a GPU in bfloat16
``cuda-compile``        the same, compiled when it starts, which takes a minute or so; only by name
``auto``                the reference, then the fastest of those that keep the tolerance, measured once and remembered
======================  ==========================================================================================

The tolerance: every pooled vector of a picture has a cosine of at least .999 to the one of torch in float32.

The variable ``PIXDEX_RUNTIME`` names a runtime where nobody else does; else it is ``auto``, which is patient. To measure
takes longer than to encode a few pictures, so it starts with the reference (``torch``, or ``onnx`` for graphs) and
measures the others, never those that are used by name only, once the reference has worked for as long as that is expected
to take: a short job never pays for it, and a long one about twice at most. What was chosen is remembered and used at once by
the next process. ``Network.settle`` (``encoder.trunk.settle()``) measures now.

``PIXDEX_CACHE`` names the folder of what is remembered (default: the user's cache folder): graphs made of networks, and
what ``auto`` measured. Threads: as many as ``OMP_NUM_THREADS`` says, else one for each processor that this process may use.

Importing this loads no library.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pixdex.encoders.runtimes.port import Runtime
from pixdex.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pixdex.encoders._tower import Tower
    from pixdex.encoders.preprocess import Preprocess
    from pixdex.encoders.runtimes.graph import Graph

__all__ = ["NAMES", "TOLERANCE", "VARIABLE", "Runtime", "available", "graph_runtime_of", "requested", "runtime_of"]

NAMES = (
    "auto", "torch", "torch-bf16", "onnx", "onnx-int8", "openvino", "openvino-bf16", "openvino-int8", "cuda",
    "cuda-compile",
)  # fmt: skip
TOLERANCE = 0.999
"""The least cosine to torch in float32."""
VARIABLE = "PIXDEX_RUNTIME"


def requested(name: str | None) -> str:
    """The runtime to use: ``name``, else what ``PIXDEX_RUNTIME`` says, else ``auto``.

    Raises:
        ConfigError: there is no runtime of that name.
    """
    wanted = name or os.environ.get(VARIABLE) or "auto"
    if wanted not in NAMES:
        raise ConfigError(f"no runtime {wanted!r}{nearest(wanted, NAMES)}")
    return wanted


def available() -> list[str]:
    """The runtimes that this machine can use at full speed, without ``auto``; ``openvino-bf16`` needs the instructions."""
    from pixdex.encoders.runtimes import finding

    return finding.available()


def runtime_of(name: str | None, tower: Tower, preprocess: Preprocess, *, key: str | None = None) -> Runtime:
    """What runs a torch network. ``key`` names the network in the cache; None: a digest of its weights is made.

    Raises:
        ConfigError: no such runtime, or the network cannot be turned into the runtime's form.
        MissingDependency: a package that it needs is not installed.
    """
    from pixdex.encoders.runtimes import finding

    return finding.of_tower(requested(name), tower, preprocess, key=key)


def graph_runtime_of(name: str | None, graph: Graph, *, reference: Runtime | None = None) -> Runtime:
    """What runs a graph file, without torch: ``auto``, ``onnx`` or one of ``openvino``.

    ``reference`` is the one of this graph, where it was started already.

    Raises:
        ConfigError: no such runtime, or one that runs no graphs, or the file cannot be loaded.
        MissingDependency: a package that it needs is not installed.
    """
    from pixdex.encoders.runtimes import finding

    return finding.of_graph(requested(name), graph, reference=reference)
