"""The collection of an index, with the encoders that belong to it: found, made when there is none, opened anew where its name
stands for another by now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import RLock
from typing import TYPE_CHECKING, Any

from pixdex._adding import canonical, check_source, undeclared
from pixdex._encoders_of import encoder_for, require_own
from pixdex.collection import Collection
from pixdex.errors import ConfigError, NotFound, Unsupported
from pixdex.fields import AUTOMATIC, IMAGE, check_user_fields, infer, spelled
from pixdex.spec import Field, Source, Spec, Vector

if TYPE_CHECKING:
    from pixdex._captions import Captions
    from pixdex.connectors.port import Connector
    from pixdex.encoders.port import Encoder
    from pixdex.policy import Policy
    from pixdex.sources import Origin
    from pixdex.sources import Source as Given

__all__ = ["Holding"]


class Holding:
    """What an index holds.

    Attributes:
        name: what the collection is called, or its alias.
        encoder: that of the collection; the one of a collection to be made.
        captions: what makes vectors of captions.
    """

    def __init__(
        self,
        connector: Connector,
        name: str,
        collection: Collection | None,
        encoder: Encoder,
        captions: Captions,
        *,
        fields: Sequence[Field],
        tokens: bool,
        policy: Policy | None,
        follows: bool,
    ) -> None:
        """``fields`` are declared, and with ``tokens`` those are kept, when the collection is made. ``follows``: its alias may
        lead to another encoder later.
        """
        check_user_fields({f.name: f for f in fields})
        self.encoder = encoder
        self.captions = captions
        self._connector = connector
        self.name = name
        self._collection = collection
        self._fields = tuple(fields)
        self._tokens = tokens
        self._policy = policy
        self._follows = follows
        self._lock = RLock()
        if collection is not None:
            captions.check(collection)

    @property
    def collection(self) -> Collection:
        """The collection.

        Raises:
            NotFound: there is none yet.
        """
        found = self.existing()
        if found is None:
            raise NotFound(f"there is no collection {self.name!r} yet: add pictures first")
        return found

    def existing(self) -> Collection | None:
        """The collection, also when another handle has made it meanwhile."""
        if self._collection is None:
            with suppress(NotFound):
                found = Collection.open(self._connector, self.name, policy=self._policy)
                require_own(found, self.encoder)
                self.captions.check(found)
                self._collection = found
        return self._collection

    def both(self) -> tuple[Collection, Encoder]:
        """The collection and its encoder, which belong together also while another thread opens it anew."""
        with self._lock:
            return self.collection, self.encoder

    def reopened(self) -> bool:
        """Whether the collection that the name stands for now could be opened: of the same encoder, or of another where
        nobody said which.
        """
        with self._lock:
            if self._collection is None:
                return False
            found = Collection.open(self._connector, self.name, policy=self._policy)
            encoder = self.encoder
            if any(v.name == IMAGE and v.fingerprint.difference(encoder.fingerprint) for v in found.spec.vectors):
                if not self._follows:
                    return False
                encoder = encoder_for(found, None)
            self.captions.check(found)
            self._collection, self.encoder = found, encoder
            return True

    # --- what adding needs ----------------------------------------------------------------------------

    def ready(
        self, fields: Mapping[str, Any], given: Sequence[Given], text: str | None, *, tokens: bool | None
    ) -> list[str]:
        """See that there is a collection for pictures with these fields, from these sources, with captions under ``text``;
        say in sentences what was decided. ``tokens``: whether it keeps them; None: as it was made for.
        """
        notices = [notice for source in given for notice in source.notices()]
        collection = self.existing()
        if collection is None:
            return notices + self._create(fields, given, text, tokens=self._tokens if tokens is None else tokens)
        if tokens and collection.spec.tokens is None:
            raise Unsupported("this collection keeps no tokens: make a new one with tokens=True and add again")
        missing = tuple(f for f in AUTOMATIC if collection.spec.field(f.name) is None)
        if missing:  # made by hand, from vectors
            collection.alter(fields=missing)
            notices.append(f"fields that pixdex fills were declared: {', '.join(f.name for f in missing)}")
        notices += self.captions.declare(text, collection)
        for field in self._fields:
            there = collection.spec.field(field.name)
            if there is not None and (there.kind, there.many) != (field.kind, field.many):
                notices.append(f"field {field.name!r} stays {spelled(there)}: this collection was made with it so")
        return notices + [undeclared(name) for name in fields if collection.spec.field(name) is None]

    def _create(
        self, fields: Mapping[str, Any], given: Sequence[Given], text: str | None, *, tokens: bool
    ) -> list[str]:
        if tokens and self.encoder.token_spec is None:
            raise Unsupported(f"encoder {self.encoder.name!r} makes no tokens")
        said = {f.name: f for f in self._fields}
        suggested = {name: infer(name, value) for name, value in fields.items() if name not in said}
        columns = {field.name: field for source in reversed(given) for field in source.suggested()}
        taken = {*said, *suggested}
        new = [field for field in suggested.values() if field is not None]
        new += [field for name, field in columns.items() if name not in taken]
        spec = Spec(
            vectors=(
                Vector(
                    name=IMAGE, dim=self.encoder.dim, metric=self.encoder.metric, fingerprint=self.encoder.fingerprint
                ),
                *(() if text is None else (self.captions.declared(text),)),
            ),
            fields=(*AUTOMATIC, *said.values(), *new),
            tokens=self.encoder.token_spec if tokens else None,
            encoder=self.encoder.reference,
        )
        canonical(fields, spec)
        self._collection = Collection.create(self._connector, self.name, spec, policy=self._policy)
        notices = [f"field {f.name!r} is declared as {spelled(f)} (open(fields=...) overrides)" for f in new]
        return notices + [undeclared(name) for name, field in suggested.items() if field is None]

    def declare(self, wanted: Sequence[Field]) -> None:
        """See ``ImageIndex.declare``."""
        check_user_fields({f.name: f for f in wanted})
        collection = self.existing()
        there = {f.name: f for f in (self._fields if collection is None else collection.spec.fields)}
        for field in wanted:
            old = there.get(field.name, field)
            if (old.kind, old.many) != (field.kind, field.many):
                raise ConfigError(f"field {field.name!r} is declared as {spelled(old)} already, not {spelled(field)}")
        new = tuple(field for field in wanted if field.name not in there)
        if collection is None:
            self._fields = (*self._fields, *new)
        elif new:
            collection.alter(fields=new)

    def roots(self) -> dict[str, str]:
        """What names in ids stand for so far: name -> place."""
        collection = self.existing()
        return {} if collection is None else {s.name: s.root for s in collection.spec.sources}

    def remember(self, origin: Origin) -> None:
        """Keep with the collection what a name in ids stands for."""
        if origin.name not in self.roots():
            self.collection.refresh()  # another handle may have taken the name meanwhile
        roots = self.roots()
        check_source(origin, roots)
        if origin.name not in roots:
            self.collection.alter(sources=(Source(name=origin.name, root=origin.root),))
