"""The Specs of a store's collections, as last read, and a file of those that the store itself cannot keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson

from pixdex.connectors._files import replace_file
from pixdex.errors import StoreFormat
from pixdex.spec import Spec

__all__ = ["Specs"]


class Specs:
    """What a connector knows of its collections without asking the store.

    A Spec may be old: another process may have changed the collection, or switched an alias. Physical names carry
    digests, so that a call that goes by an old Spec fails in the store. ``read`` always asks; writers use it, since
    a field that was declared meanwhile must be filled.

    ``registry`` is a JSON file, collection -> Spec, for collections of other tools in stores that keep no Spec or
    may not be changed.
    """

    def __init__(self, read: Callable[[str, float | None], Spec], *, registry: str | None = None) -> None:
        self._read = read
        self._registry = None if registry is None else Path(registry).expanduser()
        self._known: dict[str, Spec] = {}

    def read(self, name: str, timeout: float | None) -> Spec:
        """The Spec as it is now.

        Raises:
            NotFound: no such collection.
            StoreFormat: another tool made it, and it is not registered.
        """
        text = self._registered().get(name)
        self._known.pop(name, None)
        spec = self._read(name, timeout) if text is None else Spec.from_json(text)
        self._known[name] = spec
        return spec

    def last(self, name: str, timeout: float | None) -> Spec:
        """The Spec as it was when it was last read."""
        return self._known.get(name) or self.read(name, timeout)

    def forget(self) -> None:
        """Called after whatever changes a Spec or an alias, and when a call by an old Spec failed."""
        self._known.clear()

    @property
    def in_file(self) -> bool:
        """Whether Specs of other tools' collections go to a file."""
        return self._registry is not None

    def register(self, name: str, spec: Spec | None) -> None:
        """Keep the Spec of another tool's collection in the file; None takes it out."""
        if self._registry is None:
            raise ValueError("there is no registry file")
        entries = self._registered() | ({} if spec is None else {name: spec.to_json()})
        if spec is None:
            entries.pop(name, None)
        replace_file(self._registry, orjson.dumps(entries, option=orjson.OPT_INDENT_2))
        self.forget()

    def _registered(self) -> dict[str, str]:
        if self._registry is None or not self._registry.exists():
            return {}
        try:
            entries = orjson.loads(self._registry.read_bytes())
        except orjson.JSONDecodeError as error:
            raise StoreFormat(f"registry {self._registry} is not valid JSON: {error}") from error
        if not isinstance(entries, dict):
            raise StoreFormat(f"registry {self._registry} holds no object: collection -> Spec")
        return entries
