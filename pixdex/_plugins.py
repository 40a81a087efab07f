"""Plugins, found by entry point: stores, encoders, rerankers. The built-in ones come through the same door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pixdex.errors import ConfigError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["installed", "load"]


def installed(group: str) -> dict[str, EntryPoint]:
    """Name -> entry point of every plugin of a group, sorted by name; none is loaded."""
    from importlib.metadata import entry_points  # 20 ms, and every import of pixdex.Collection comes by here

    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}


def load(group: str, what: str, name: str) -> Any:
    """The object that a plugin registered; ``what`` is what messages call such a plugin.

    Raises:
        ConfigError: there is none of that name, or it cannot be loaded.
        MissingDependency: it needs an extra that is not installed.
    """
    known = installed(group)
    if name not in known:
        raise ConfigError(f"no {what} {name!r}{nearest(name, known)}")
    try:
        return known[name].load()
    except (AttributeError, ModuleNotFoundError) as error:
        raise ConfigError(f"{what} {name!r} ({known[name].value}) cannot be loaded: {error}") from error
