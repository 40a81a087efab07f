"""Changing how a collection lies in its store while others use it, and perhaps change it too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pixdex import _records
from pixdex.errors import InvalidRecord, StoreError

if TYPE_CHECKING:
    from pixdex.collection import Collection
    from pixdex.spec import Field, Source, Spec, Vector
    from pixdex.types import Batch

__all__ = ["Addition", "check_fillable", "respecify"]

_TRIES = 3
_altering = threading.Lock()


@dataclass(frozen=True, slots=True)
class Addition:
    """What is declared besides what there is."""

    fields: tuple[Field, ...]
    vectors: tuple[Vector, ...]
    sources: tuple[Source, ...]

    def to(self, spec: Spec) -> Spec:
        """The Spec with it.

        Raises:
            ConfigError: a name that is declared already.
        """
        return replace(
            spec,
            fields=(*spec.fields, *(replace(field, ordinal=0) for field in self.fields)),
            vectors=(*spec.vectors, *self.vectors),
            sources=(*spec.sources, *self.sources),
        )

    def is_in(self, spec: Spec) -> bool:
        """Whether a Spec has all of it."""
        return (
            {field.name for field in self.fields} <= {field.name for field in spec.fields}
            and {vector.name for vector in self.vectors} <= {vector.name for vector in spec.vectors}
            and {source.name for source in self.sources} <= {source.name for source in spec.sources}
        )


def check_fillable(batches: Iterable[Batch], fields: Sequence[Field]) -> None:
    """See that the payload of every record, as ports give it, can fill the columns of new fields.

    Raises:
        InvalidRecord: a value is of another kind.
    """
    for batch in batches:
        for record, payload in zip(batch.ids, batch.payloads or (), strict=True):
            try:
                for field in fields:
                    _records.coerce(field, payload.get(field.name))
            except InvalidRecord as error:
                raise InvalidRecord(f"record {record!r}: {error}; no field was added") from None


def respecify(collection: Collection, change: Callable[[Spec], Spec], kept: Callable[[Spec], bool]) -> None:
    """Put another Spec in the place of the one that is there. Stores take it as a whole: so threads do that one after the other, and
    where another program was at it this very moment, and what was changed is not ``kept``, it is done again. What
    another one writes after that goes unnoticed; several programs write only to servers.

    Raises:
        ConfigError, FingerprintMismatch: as ``change`` and ``Collection.refresh``.
        StoreError: others replace it again and again.
    """
    for _ in range(_TRIES):
        with _altering:
            collection.refresh()
            spec = change(collection.spec)
            if spec != collection.spec:
                collection._run("alter", collection.connector.alter, spec)  # noqa: SLF001 - as its own verbs
        collection.refresh()
        if kept(collection.spec):
            return
    raise StoreError(
        f"others keep changing the Spec of collection {collection.name!r} as it is changed here: try again"
    )
