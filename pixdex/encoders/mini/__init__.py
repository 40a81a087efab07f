"""``mini``: the encoder that pixdex brings along, trained by this project; see MODEL_CARD.md beside this file.

A network of convolutions of a few megabytes, run by ONNX Runtime: a vector of 256 values, and 100 local descriptors of
128. ``pixdex.training.mini`` makes the files here.
"""

from __future__ import annotations

from pathlib import Path

from pixdex.encoders import exported
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.runtimes import requested
from pixdex.errors import ConfigError

__all__ = ["FOLDER", "NAME", "Mini", "load"]

NAME = "mini"
FOLDER = Path(__file__).parent
"""Where its files lie: the form of an exported encoder."""


class Mini(ComposedEncoder):
    """An encoder that decodes JPEG at a smaller fraction than others: it was trained to overlook what that loses."""

    @property
    def min_side(self) -> int:
        """See ``Encoder``: one and a half times the side of what the network takes."""
        return self.trunk.preprocess.size[0] * 3 // 2


def load(rest: str) -> Mini:
    """The encoder; ``PIXDEX_RUNTIME`` says what runs it, where the usual choice is not wanted.

    Raises:
        ConfigError: options, of which it has none.
    """
    if rest:
        raise ConfigError(f"mini takes no options, not {rest!r}")
    wanted = requested(None)
    # What PIXDEX_RUNTIME says of networks of torch cannot be about this one, which must open whatever is set.
    encoder = exported.load(FOLDER, runtime=wanted if wanted.startswith(("auto", "onnx", "openvino")) else "onnx")
    return Mini(encoder.trunk, encoder.composition, name=NAME, reference=NAME)
