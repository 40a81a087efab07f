"""Encoders: pictures in, vectors out. ``load`` makes one from its reference; importing this loads no library.

An encoder registers a function ``load(rest) -> Encoder`` in the entry-point group ``pixdex.encoders``; it gets what
follows the colon of ``name:rest``. Encoders of texts alone, for captions, are in ``pixdex.text_encoders``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pixdex import _plugins

if TYPE_CHECKING:
    from pixdex.encoders.port import Encoder, WordEncoder

__all__ = ["available", "load", "load_text"]

GROUP = "pixdex.encoders"
TEXT_GROUP = "pixdex.text_encoders"


def load(reference: str) -> Encoder:
    """Make an encoder.

    ``reference`` is ``mini``, ``classic``, ``hf:<folder or hub name>``, ``onnx:<file>``, the folder of a saved or exported encoder or
    of a transformers model, or ``name`` or ``name:rest`` of a plugin. Options follow a ``?``: see ``compose.load`` and
    ``onnxfile``.

    Raises:
        ConfigError: no such encoder, or it cannot be made from what follows its name.
        MissingDependency: it needs an extra that is not installed.
    """
    name, _, rest = reference.partition(":")
    if name not in _plugins.installed(GROUP) and _is_folder(reference):
        name, rest = "hf", reference
    what = "folder or encoder" if "/" in name else "encoder"
    encoder: Encoder = _plugins.load(GROUP, what, name)(rest)
    return encoder


def load_text(reference: str) -> WordEncoder:
    """Make an encoder of texts, for captions.

    ``reference`` is ``hf:<folder or hub name>`` of a model of sentence-transformers, such as
    ``hf:sentence-transformers/all-MiniLM-L6-v2``, its folder, one that ``sentences.export`` wrote, or ``name:rest`` of a
    plugin.

    Raises:
        ConfigError: no such encoder, or it cannot be made from what follows its name.
        MissingDependency: it needs an extra that is not installed.
    """
    name, _, rest = reference.partition(":")
    if name not in _plugins.installed(TEXT_GROUP) and _is_folder(reference):
        name, rest = "hf", reference
    encoder: WordEncoder = _plugins.load(TEXT_GROUP, "encoder of texts", name)(rest)
    return encoder


def available() -> list[str]:
    """The names that ``load`` knows, sorted."""
    return list(_plugins.installed(GROUP))


def _is_folder(reference: str) -> bool:
    return Path(reference.partition("?")[0]).expanduser().is_dir()
