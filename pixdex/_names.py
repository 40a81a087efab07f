"""What things may be called, on every store."""

from __future__ import annotations

import re

from pixdex.errors import ConfigError

__all__ = ["check_collection", "check_field", "check_vector"]


def check_collection(name: str) -> None:
    """Refuse, by ConfigError, a collection name that some store refuses."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", name):
        raise ConfigError(f"collection name {name!r}: use letters, digits, '_', '-' and '.', 128 at most")


def check_field(name: str) -> None:
    """Refuse, by ConfigError, a name that no field can have: a leading underscore is ours."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", name):
        raise ConfigError(f"field name {name!r}: use a letter, then letters, digits or underscores, 63 at most")


def check_vector(name: str) -> None:
    """Refuse, by ConfigError, a name that no vector can have."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", name):
        raise ConfigError(f"vector name {name!r}: a letter, then letters or digits or _, 40 at most")
