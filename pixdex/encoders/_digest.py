"""One way to digest what shapes a vector: BLAKE2b, 16 bytes, as 32 hexadecimal characters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pixdex.spec import Fingerprint

__all__ = ["digest_of", "fingerprint_of", "tensors_digest"]


def digest_of(values: Mapping[str, Any]) -> str:
    """The digest of a JSON object; the order of its keys does not matter."""
    return hashlib.blake2b(orjson.dumps(values, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def tensors_digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """The digest of named arrays: names, shapes, dtypes and bytes."""
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        state.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
        state.update(tensor.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def fingerprint_of(encoder: str, parts: Mapping[str, str]) -> Fingerprint:
    """The fingerprint whose digest covers ``parts``; the name is for people and not part of it."""
    return Fingerprint(encoder=encoder, digest=digest_of(parts), parts=dict(parts))
