"""Collections that another tool made: looked at, registered, given image vectors. Nothing of theirs is changed.

``propose`` makes a Spec of what is there, ``adopt`` registers it, and ``Collection.open`` then reads the collection.
``attach`` gives its records an image vector: beside theirs, where the store can add a named vector to a live
collection, else in a companion collection under the same ids.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pixdex._encoding import Encoding
from pixdex._joined import Joined
from pixdex._vectors import checked_vectors
from pixdex.collection import Collection
from pixdex.connectors.port import Adopting, Survey, SurveyedVector
from pixdex.errors import AccessDenied, AlreadyExists, ConfigError, StoreFormat, Unsupported
from pixdex.fields import AUTOMATIC, IMAGE
from pixdex.filters.meaning import at
from pixdex.ingest import ingest
from pixdex.pictures import Item
from pixdex.policy import Call, Policy
from pixdex.report import Progress, Report, Tally
from pixdex.spec import Field, Fingerprint, Foreign, Kind, Metric, Spec, Vector
from pixdex.types import MAX_ID_BYTES, Batch, Payload, Want

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector
    from pixdex.encoders.port import Encoder
    from pixdex.filters import Filter

__all__ = ["Proposal", "adopt", "attach", "propose", "release"]

_CHUNK = 128
_UNKNOWN = "unknown"
"""The encoder of vectors that nobody vouched for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What was found in a collection, the Spec it could be opened with, and what had to be left out, in sentences."""

    collection: str
    survey: Survey
    spec: Spec
    notices: tuple[str, ...]


def propose(
    connector: Connector,
    name: str,
    *,
    encoder: Encoder | None = None,
    vector: str | None = None,
    policy: Policy | None = None,
) -> Proposal:
    """How pixdex could open a collection that another tool made. Nothing is changed.

    Args:
        encoder: the encoder that made the vector, on the caller's word; searching by picture needs one.
        vector: which of the collection's vectors that is, by the store's name; may be left out when there is one.

    Raises:
        NotFound: no such collection.
        AlreadyExists: pixdex made it, or it is adopted already.
        Unsupported: the store cannot be adopted from, or no vector of the collection can be searched.
        ConfigError: no such vector, or one that cannot be of that encoder.
    """
    policy = policy or Policy()
    store = _adopting(connector)
    try:
        Collection.open(connector, name, policy=policy)
    except StoreFormat:
        pass
    else:
        raise AlreadyExists(f"collection {name!r} needs no adopting: pixdex can open it as it is")
    survey = policy.run(Call("survey", name), lambda timeout: store.survey(name, timeout=timeout))
    notices: list[str] = []
    vectors = _vectors(survey, name, encoder, vector, notices)
    spec = Spec(
        vectors=vectors,
        fields=_fields(survey, notices),
        layout=Foreign(ids=survey.ids, key=survey.key),
        encoder=None if encoder is None else encoder.reference,
    )
    return Proposal(collection=name, survey=survey, spec=spec, notices=tuple(notices))


def adopt(connector: Connector, proposal: Proposal, *, policy: Policy | None = None) -> Collection:
    """Register what was proposed and open the collection; no record is touched.

    Raises:
        AccessDenied, Unsupported: the Spec cannot be kept in the store; the message names the remedy.
    """
    store, name = _adopting(connector), proposal.collection
    try:
        (policy or Policy()).run(Call("register", name), lambda t: store.register(name, proposal.spec, timeout=t))
    except AccessDenied as error:
        raise AccessDenied(f"{error}; who may only read names a file in the address: ?registry=specs.json") from error
    return Collection.open(connector, name, policy=policy)


def release(connector: Connector, name: str, *, policy: Policy | None = None) -> None:
    """Undo ``adopt``: forget the Spec. Vectors that were attached stay where they are.

    Raises:
        Unsupported: pixdex made the collection.
    """
    store = _adopting(connector)
    if Collection.open(connector, name, policy=policy).spec.native:
        raise Unsupported(f"collection {name!r} was not adopted: pixdex made it")
    (policy or Policy()).run(Call("register", name), lambda timeout: store.register(name, None, timeout=timeout))


def attach(
    connector: Connector,
    name: str,
    encoder: Encoder,
    *,
    images: str,
    root: str | Path | None = None,
    where: Filter | None = None,
    again: bool = False,
    progress: Progress | None = None,
    policy: Policy | None = None,
) -> Report:
    """Give the records of an adopted collection the image vector of the picture that a field of theirs names.

    Records that have the vector are left alone, so that an interrupted run goes on where it was. A picture that
    cannot be used becomes a row of the report.

    Args:
        images: the key of the payload that holds the path of a picture; dots lead into objects.
        root: what relative paths are relative to; default the working directory.
        where: only records that match.
        again: encode also those that have the vector: their pictures changed. Where a companion holds the vectors
            this is not needed: it knows the contents that it was made from.
        progress: called with the report so far.

    Raises:
        ConfigError: the collection has a vector ``image`` of its own, or no record has that key.
        FingerprintMismatch: an earlier run used another encoder.
        Unsupported: pixdex made the collection: use ``add``.
        StoreError: the store failed; what was written stays.
    """
    collection = _prepared(connector, name, encoder, policy)
    sources = _Sources(collection, images, Path(root or "."), where, Tally())
    companion = _layout(collection.spec).companion
    if companion is None:
        return _in_place(collection, encoder, sources, again=again, progress=progress)
    return _beside(collection, companion, encoder, sources, progress)


# --- the proposal -----------------------------------------------------------------------------------


def _adopting(connector: Connector) -> Adopting:
    if not connector.capabilities.foreign or not isinstance(connector, Adopting):
        raise Unsupported(f"{connector.scheme} has no collections of other tools to adopt")
    return connector


def _vectors(
    survey: Survey, name: str, encoder: Encoder | None, chosen: str | None, notices: list[str]
) -> tuple[Vector, ...]:
    usable = [found for found in survey.vectors if found.searchable and found.metric is not None]
    notices += [f"vector {v.name!r} is left out: {_why_not(v)}" for v in survey.vectors if v not in usable]
    if not usable:
        raise Unsupported(f"collection {name!r} has no vector that pixdex can search: {'; '.join(notices) or 'none'}")
    encoded = None if encoder is None and chosen is None else _chosen(usable, chosen)
    if encoded is not None and encoder is None:
        raise ConfigError(f"vector {encoded.name!r}: say with encoder= which encoder made it")
    if encoded is not None and encoder is not None:
        _check_shape(encoded, encoder)
    taken = {IMAGE} if encoded is not None else set[str]()
    vectors = []
    for found in usable:
        ours = found is encoded
        called = IMAGE if ours else _name(found.name or "vector", taken, r"[A-Za-z][A-Za-z0-9_]{0,39}", 40)
        taken.add(called)
        fingerprint = encoder.fingerprint if ours and encoder else Fingerprint(encoder=_UNKNOWN, digest="0" * 32)
        metric = found.metric or Metric.COSINE
        vectors.append(Vector(name=called, dim=found.dim, metric=metric, fingerprint=fingerprint, stored_as=found.name))
    return tuple(vectors)


def _why_not(found: SurveyedVector) -> str:
    if found.metric is None:
        return f"its metric ({found.index or 'unknown'}) is none that pixdex scores with"
    return "it holds several vectors a record, or none of floats"


def _chosen(usable: Sequence[SurveyedVector], name: str | None) -> SurveyedVector:
    names = ", ".join(repr(found.name) for found in usable)
    if name is None:
        if len(usable) > 1:
            raise ConfigError(f"the collection has several vectors ({names}): say which one the encoder made")
        return usable[0]
    found = next((found for found in usable if found.name == name), None)
    if found is None:
        raise ConfigError(f"there is no vector {name!r} that pixdex can search: the collection has {names}")
    return found


def _check_shape(found: SurveyedVector, encoder: Encoder) -> None:
    if (found.dim, found.metric) != (encoder.dim, encoder.metric):
        raise ConfigError(
            f"vector {found.name!r} has {found.dim} dimensions under {found.metric}, encoder {encoder.name!r} makes "
            f"{encoder.dim} under {encoder.metric}: it did not make these"
        )


def _fields(survey: Survey, notices: list[str]) -> tuple[Field, ...]:
    fields: list[Field] = []
    taken: set[str] = set()
    for found in survey.fields:
        if found.kind is None:
            notices.append(f"field {found.name!r} ({found.type}) is kept and returned, but cannot be filtered on")
            continue
        called = _name(found.name, taken, r"[A-Za-z][A-Za-z0-9_]{0,62}", 63)
        taken.add(called)
        if called != found.name:
            notices.append(f"field {found.name!r} is called {called!r} in filters")
        fields.append(Field(name=called, kind=found.kind, many=found.many, stored_as=found.name))
    return tuple(fields)


def _name(theirs: str, taken: set[str], allowed: str, longest: int) -> str:
    """A name of ours for one of theirs: itself where it can be."""
    plain = theirs if re.fullmatch(allowed, theirs) else re.sub(r"[^A-Za-z0-9_]", "_", theirs).lstrip("_0123456789")
    plain = (plain or "field")[:longest]
    called, number = plain, 2
    while called in taken:
        suffix = f"_{number}"
        called, number = plain[: longest - len(suffix)] + suffix, number + 1
    return called


# --- attaching --------------------------------------------------------------------------------------


def _prepared(connector: Connector, name: str, encoder: Encoder, policy: Policy | None) -> Collection:
    """The collection, with a place for the vector."""
    collection = Collection.open(connector, name, policy=policy)
    spec = collection.spec
    if spec.native:
        raise Unsupported(f"collection {name!r} was made by pixdex: add pictures to it with add")
    there = next((vector for vector in spec.vectors if vector.name == IMAGE), None)
    if there is not None and there.stored_as is not None:
        raise ConfigError(
            f"collection {name!r} was adopted with a vector {IMAGE!r} of its own ({there.stored_as!r}): pictures are "
            "searched by that one already"
        )
    if there is None:
        _add_vector(collection, encoder)
        return Collection.open(connector, name, policy=policy)
    collection.require(encoder.fingerprint, vector=IMAGE)
    return collection


def _add_vector(collection: Collection, encoder: Encoder) -> None:
    store, name, run = _adopting(collection.connector), collection.name, collection.policy.run
    vector = _vector(encoder)
    spec = replace(collection.spec, vectors=(*collection.spec.vectors, vector), encoder=encoder.reference)
    if collection.capabilities.alter:
        try:
            run(Call("alter", name), lambda timeout: collection.connector.alter(name, spec, timeout=timeout))
        except Unsupported:  # an older server
            pass
        else:
            return
    companion = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100] + f"_{IMAGE}_vectors"
    try:
        Collection.create(collection.connector, companion, _companion_spec(encoder), policy=collection.policy)
    except AlreadyExists:  # by a run that was interrupted before the next line
        Collection.open(collection.connector, companion, expect={IMAGE: encoder.fingerprint}, policy=collection.policy)
    joined = replace(spec, layout=replace(_layout(spec), companion=companion))
    run(Call("register", name), lambda timeout: store.register(name, joined, timeout=timeout))


def _layout(spec: Spec) -> Foreign:
    assert isinstance(spec.layout, Foreign)  # noqa: S101 - adopted collections only come here
    return spec.layout


def _vector(encoder: Encoder) -> Vector:
    return Vector(name=IMAGE, dim=encoder.dim, metric=encoder.metric, fingerprint=encoder.fingerprint)


def _companion_spec(encoder: Encoder) -> Spec:
    return Spec(vectors=(_vector(encoder),), fields=AUTOMATIC, encoder=encoder.reference)


@dataclass(frozen=True, slots=True)
class _Sources:
    """Which records of a collection are to have which pictures; those without one go to the report."""

    collection: Collection
    images: str
    root: Path
    where: Filter | None
    tally: Tally

    def pages(self, want: Want) -> Iterator[tuple[Batch, list[Item]]]:
        """Records, page by page, and an item for each that names a picture.

        Raises:
            ConfigError: the key is no text field of the collection, and no record of the first page has a picture.
        """
        fields = self.collection.spec.fields
        known = any(field.stored_as == self.images and field.kind is Kind.TEXT for field in fields)
        for page in self.collection.scan(where=self.where, want=want, size=_CHUNK):
            items = []
            for record, payload in zip(page.batch.ids, page.batch.payloads or (), strict=True):
                path = self._path(record, payload)
                if path is not None:
                    items.append(Item(record, path))
            if not known and not items and len(page.batch):
                keys = ", ".join(sorted({key for payload in page.batch.payloads or () for key in payload})) or "none"
                raise ConfigError(f"no record has a picture under {self.images!r}: their keys are {keys}")
            known = True
            yield page.batch, items

    def _path(self, record: str, payload: Payload) -> Path | None:
        value, tally = at(payload, self.images), self.tally
        if len(record.encode()) > MAX_ID_BYTES:
            tally.quarantine(record[:80], f"its id has more than {MAX_ID_BYTES} bytes")
        elif not isinstance(value, str) or not value:
            tally.quarantine(
                record, f"{self.images!r} names no picture" + ("" if value is None else f": {value!r:.80}")
            )
        elif re.match(r"[a-z][a-z0-9+.-]*://", value):
            tally.quarantine(record, f"{value!r:.120} is an address: download it, and give the folder as root")
        else:
            return self.root / os.path.expanduser(value)  # noqa: PTH111 - leaves an unknown ~user as it is
        return None


def _in_place(
    collection: Collection, encoder: Encoder, sources: _Sources, *, again: bool, progress: Progress | None
) -> Report:
    """Vectors written beside those of the other tool."""
    store, tally = _adopting(collection.connector), sources.tally
    vector = collection.spec.vector(IMAGE)
    with Encoding(encoder, IMAGE, tokens=False) as encoding:
        for there, items in sources.pages(Want(vectors=(IMAGE,))):
            has = dict(zip(there.ids, there.present(IMAGE).tolist(), strict=True))
            left = [item for item in items if again or not has[item.id or ""]]
            tally.unchanged += len(items) - len(left)
            made = encoding.batch(left, tally)
            if len(made):
                matrix = checked_vectors(made.vectors[IMAGE], vector, ids=made.ids)
                batch = Batch(made.ids, {vector.column: matrix})
                call = Call("attach", collection.name, len(batch))
                collection.policy.run(call, partial(_attached, store, collection.name, batch))
                tally.added += len(batch)
            if progress is not None:
                progress(tally.report(()))
    collection.flush()
    return tally.report(())


def _attached(store: Adopting, name: str, batch: Batch, timeout: float) -> None:
    store.attach(name, batch, timeout=timeout)


def _beside(
    collection: Collection, companion: str, encoder: Encoder, sources: _Sources, progress: Progress | None
) -> Report:
    """Vectors written to the companion, as pictures are added to any collection of pixdex."""
    connector = collection.connector.connector if isinstance(collection.connector, Joined) else collection.connector
    vectors = Collection.open(connector, companion, policy=collection.policy)
    items = (item for _, page in sources.pages(Want()) for item in page)
    report = ingest(items, vectors, encoder, vector=IMAGE, progress=progress)
    if sources.where is None:
        _prune(collection, vectors)
    passed_over = sources.tally.report(()).quarantined
    return replace(report, quarantined=(*passed_over, *report.quarantined))


def _prune(collection: Collection, vectors: Collection) -> None:
    """Remove the vectors of records that the other tool has removed."""
    gone: list[str] = []
    for page in vectors.scan(want=Want(payload=False)):
        there = set(collection.fetch(page.batch.ids, want=Want(payload=False)).ids)
        gone += [record for record in page.batch.ids if record not in there]
    if gone:  # collected first: deleting under a running scan may skip pages
        vectors.delete(gone)
        vectors.flush()
