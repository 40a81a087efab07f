"""``ImageIndex``: encoder + collection + rerankers. What users of pictures hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pixdex import encoders, rerankers
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.errors import ConfigError, NotFound, Unsupported
from pixdex.filters import F, Filter
from pixdex.ingest import (
    AUTOMATIC,
    CONTENT,
    Item,
    Picture,
    Progress,
    Report,
    check_user_fields,
    content_hash,
    from_files,
    infer,
    ingest,
    load_picture,
)
from pixdex.rerankers.port import Candidate, Query
from pixdex.types import Batch, Field, Hit, Kind, Source, Spec, Tuning, Vector, Want

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector
    from pixdex.encoders.port import Encoder
    from pixdex.policy import Policy
    from pixdex.rerankers.port import Reranker

__all__ = ["DEFAULT_ENCODER", "ImageIndex", "Info", "describe", "open"]

DEFAULT_ENCODER = "classic"
IMAGE = "image"

Fields: TypeAlias = "Mapping[str, Kind | str | Field]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What an index is, for people: the store, the collection, its encoder, fields and size."""

    store: str
    collection: str
    count: int
    encoder: str
    fingerprint: str
    dim: int
    metric: str
    fields: Mapping[str, str]
    tokens: str | None
    sources: Mapping[str, str]


def open(  # noqa: A001 - pixdex.open, as gzip.open
    url: str,
    *,
    encoder: Encoder | str | None = None,
    fields: Fields | None = None,
    tokens: bool = False,
    policy: Policy | None = None,
) -> ImageIndex:
    """Open an image index; the collection is made by the first ``add``.

    Args:
        url: address of store and collection, such as ``pq://photos.pix`` or ``qdrant+local:///dir#name``.
        encoder: an encoder or its reference. May be left out: a collection knows its encoder, and a
            new one gets ``classic``.
        fields: name -> kind (or Field) of payload keys to filter on; counts at creation only.
        tokens: a new collection keeps the encoder's tokens, for rerankers; counts at creation only.

    Raises:
        ConfigError: not an address, unknown store, option or encoder.
        MissingDependency: the store or encoder needs an extra.
        FingerprintMismatch: the collection was written by another encoder.
        StoreError: the store cannot be opened.
    """
    connector, name = connect(url)
    try:
        try:
            collection = Collection.open(connector, name, policy=policy)
        except NotFound:
            collection = None
        return ImageIndex(
            connector,
            name,
            collection=collection,
            encoder=_encoder_for(collection, encoder),
            fields=tuple(_declared(key, kind) for key, kind in (fields or {}).items()),
            tokens=tokens,
            policy=policy,
        )
    except BaseException:
        connector.close()
        raise


def _encoder_for(collection: Collection | None, encoder: Encoder | str | None) -> Encoder:
    """The encoder asked for, else the collection's own, else the default; checked against the collection."""
    if encoder is None:
        encoder = (collection.spec.encoder if collection is not None else None) or DEFAULT_ENCODER
    loaded = encoders.load(encoder) if isinstance(encoder, str) else encoder
    if collection is not None:
        Collection.open(collection.connector, collection.name, expect={IMAGE: loaded.fingerprint})
    return loaded


def _declared(name: str, kind: Kind | str | Field) -> Field:
    if isinstance(kind, Field):
        return replace(kind, name=name)
    many = kind.endswith("[]")
    try:
        return Field(name=name, kind=Kind(kind.removesuffix("[]")), many=many)
    except ValueError:
        known = ", ".join(Kind)
        raise ConfigError(f"field {name!r}: unknown kind {kind!r} (known: {known}; name[] for lists)") from None


class ImageIndex:
    """Pictures in, pictures found. Made by ``pixdex.open``; close it, or use it in a ``with``."""

    def __init__(
        self,
        connector: Connector,
        name: str,
        *,
        collection: Collection | None,
        encoder: Encoder,
        fields: Sequence[Field] = (),
        tokens: bool = False,
        policy: Policy | None = None,
    ) -> None:
        check_user_fields({f.name: f for f in fields})
        self.encoder = encoder
        self._connector = connector
        self._name = name
        self._collection = collection
        self._fields = tuple(fields)
        self._tokens = tokens
        self._policy = policy

    @property
    def collection(self) -> Collection:
        """The collection beneath, for work with vectors.

        Raises:
            NotFound: nothing was added yet.
        """
        if self._collection is None:
            raise NotFound(f"there is no collection {self._name!r} yet: add pictures first")
        return self._collection

    def __enter__(self) -> ImageIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the store."""
        self._connector.close()

    # --- adding -------------------------------------------------------------------------------------

    def add(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        fields: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        source: str | None = None,
        tokens: bool | None = None,
        progress: Progress | bool | None = None,
    ) -> Report:
        """Add a folder, a file, bytes, an array, a PIL image, or a list of those.

        What the collection holds already is neither encoded nor written again; a file that moved is
        recognised by its content. What cannot be used is reported, never raised.

        Args:
            fields: payload of every picture added. When the collection is new, its keys are declared
                as fields of the kind that the value suggests; later keys stay undeclared payload.
            ids: one per picture (no folders then); else ``<source>/<relative path>``, or the content
                hash for what has no path.
            source: name of the folder in ids; default its own name.
            tokens: write the encoder's tokens too; default: what the collection was made for.
            progress: True for a bar, a function, or False; default a bar on a terminal.

        Raises:
            ConfigError: no such file, a folder without pictures, ids that do not fit, a source name
                that stands for another folder already.
            StoreError: the store failed; what was written stays, and adding again goes on.
        """
        given = dict(fields or {})
        check_user_fields(given)
        several = _as_list(pictures)
        if ids is not None and (len(ids) != len(several) or any(_is_folder(p) for p in several)):
            raise ConfigError(f"{len(ids)} ids for {len(several)} pictures: give one id per picture, and no folders")
        _check_paths(several)
        notices = self._ready(given, tokens=tokens)
        items = self._items(several, given, ids, source)
        with closing(_Bar.of(progress)) as bar:
            return ingest(
                items,
                self.collection,
                self.encoder,
                vector=IMAGE,
                tokens=self.collection.spec.tokens is not None if tokens is None else tokens,
                notices=notices,
                progress=bar.show,
            )

    def _ready(self, fields: Mapping[str, Any], *, tokens: bool | None) -> list[str]:
        """Make the collection when there is none; say in sentences what was decided."""
        if self._collection is None:
            return self._create(fields, tokens=self._tokens if tokens is None else tokens)
        spec = self._collection.spec
        if tokens and spec.tokens is None:
            raise Unsupported("this collection keeps no tokens: make a new one with tokens=True and add again")
        return [
            f"field {name!r} is not declared, so it is kept but cannot be filtered on: declare({name}=...) changes that"
            for name in fields
            if spec.field(name) is None
        ]

    def _create(self, fields: Mapping[str, Any], *, tokens: bool) -> list[str]:
        if tokens and self.encoder.token_spec is None:
            raise Unsupported(f"encoder {self.encoder.name!r} makes no tokens")
        declared = {f.name: f for f in self._fields}
        inferred = [infer(name, value) for name, value in fields.items() if name not in declared]
        new = [field for field in inferred if field is not None]
        spec = Spec(
            vectors=(
                Vector(
                    name=IMAGE, dim=self.encoder.dim, metric=self.encoder.metric, fingerprint=self.encoder.fingerprint
                ),
            ),
            fields=(*AUTOMATIC, *declared.values(), *new),
            tokens=self.encoder.token_spec if tokens else None,
            encoder=self.encoder.reference,
        )
        self._collection = Collection.create(self._connector, self._name, spec, policy=self._policy)
        return [
            f"field {f.name!r} is declared as {f.kind}{'[]' if f.many else ''} (open(fields=...) overrides)" for f in new
        ]

    def declare(self, fields: Fields) -> None:
        """Declare more fields to filter on; records that are there are filled from their payload.

        Raises:
            Unsupported: the store cannot add a field to a live collection.
            InvalidRecord: a record holds a value of another kind.
        """
        declared = tuple(_declared(name, kind) for name, kind in fields.items())
        check_user_fields({f.name: f for f in declared})
        if self._collection is None:
            self._fields = (*self._fields, *declared)
        else:
            self._collection.alter(fields=declared)

    def _items(
        self, pictures: Sequence[Picture], fields: Mapping[str, Any], ids: Sequence[str] | None, source: str | None
    ) -> Iterator[Item | None]:
        for row, picture in enumerate(pictures):
            path = _as_path(picture)
            if path is None or ids is not None:
                yield Item(None if ids is None else ids[row], picture if path is None else path, fields)
                continue
            root = path if path.is_dir() else path.parent
            for item in from_files(path, self._source(root, source)):
                yield item if item is None else replace(item, payload=fields)

    def _source(self, root: Path, name: str | None) -> str:
        """The name that stands for ``root`` in ids; the collection remembers it."""
        absolute = os.fsencode(root.resolve()).decode(errors="backslashreplace")
        name = name or os.fsencode(root.resolve().name).decode(errors="backslashreplace") or "root"
        known = {s.name: s.root for s in self.collection.spec.sources}
        if known.get(name, absolute) != absolute:
            raise ConfigError(
                f"source {name!r} stands for {known[name]} in this collection: give {absolute} another name with source="
            )
        if name not in known:
            self.collection.alter(sources=(Source(name=name, root=absolute),))
        return name

    # --- finding ------------------------------------------------------------------------------------

    def search(
        self,
        query: Any,
        *,
        k: int = 10,
        where: Filter | None = None,
        threshold: float | None = None,
        exclude_self: bool = False,
        rerank: Reranker | str | None = None,
        candidates: int = 100,
        tuning: Tuning = Tuning(),
    ) -> list[Hit]:
        """The pictures most like ``query``, best first.

        Args:
            query: a path, bytes of a picture file, a uint8 array, a PIL image; a float vector
                ``[dim]``; or the id of a record (text that names no file).
            where: applies before top-k.
            threshold: leaves out hits that score lower.
            exclude_self: leave out the record of that id, or those with the query's very content.
            rerank: a reranker or its name; it scores the best ``candidates`` anew from their tokens.

        Raises:
            NotFound: no such file and no such id, or nothing was added yet.
            InvalidImage: the query is not a usable picture.
            Unsupported: the collection or the query has no tokens to rerank with.
        """
        reranker = rerankers.load(rerank) if isinstance(rerank, str) else rerank
        if reranker is not None and reranker.uses_tokens and self.collection.spec.tokens is None:
            raise Unsupported("this collection keeps no tokens to rerank with: make a new one with tokens=True")
        asked = self._query(query, tokens=reranker is not None and reranker.uses_tokens)
        if exclude_self and asked.itself is not None:
            where = ~asked.itself if where is None else where & ~asked.itself
        if reranker is None:
            return self.collection.search_one(
                asked.query.vector, k=k, where=where, using=IMAGE, threshold=threshold, tuning=tuning
            )
        first = self.collection.search_one(
            asked.query.vector, k=max(k, candidates), where=where, using=IMAGE, tuning=tuning
        )
        ranked = self._reranked(asked.query, first, reranker)
        return [hit for hit in ranked if threshold is None or hit.score >= threshold][:k]

    def _query(self, query: Any, *, tokens: bool) -> _Asked:
        if isinstance(query, np.ndarray) and query.dtype != np.uint8:
            return _Asked(Query(query), None)
        if isinstance(query, str) and not Path(query).expanduser().is_file():
            return self._by_id(query, tokens=tokens)
        path = _as_path(query)
        picture = query if path is None else path
        if path is not None and not path.exists():
            raise NotFound(f"{path} does not exist")
        pixels, _ = load_picture(picture)
        features = self.encoder.encode([self.encoder.prepare(pixels)], tokens=tokens)
        return _Asked(
            Query(features.vectors[0], None if features.tokens is None else features.tokens[0]),
            F[CONTENT] == content_hash(picture),
        )

    def _by_id(self, record: str, *, tokens: bool) -> _Asked:
        batch = self.collection.fetch([record], want=Want(payload=False, vectors=(IMAGE,), tokens=tokens))
        if not len(batch):
            raise NotFound(f"{record!r} is neither a file nor an id in collection {self._name!r}")
        if not batch.present(IMAGE)[0]:
            raise Unsupported(f"record {record!r} has no image vector to search with")
        return _Asked(Query(batch.vectors[IMAGE][0], (batch.tokens or (None,))[0]), F.ids([record]))

    def _reranked(self, query: Query, first: Sequence[Hit], reranker: Reranker) -> list[Hit]:
        """The hits with the reranker's scores; those it cannot score keep their order, below."""
        if reranker.uses_tokens and query.tokens is None:
            raise Unsupported(f"reranker {reranker.name!r} needs tokens of the query: search by picture")
        tokens: dict[str, Any] = {}
        if reranker.uses_tokens and first:
            batch = self.collection.fetch([hit.id for hit in first], want=Want(payload=False, tokens=True))
            tokens = dict(zip(batch.ids, batch.tokens or (None,) * len(batch), strict=True))
        scores = reranker.rerank(query, [Candidate(hit.id, hit.score, tokens.get(hit.id)) for hit in first])
        scored, left = [], []
        for hit, score in zip(first, scores, strict=True):
            if np.isnan(score):
                left.append(replace(hit, trace={**hit.trace, "first": hit.score}))
            else:
                trace = {**hit.trace, "first": hit.score, reranker.name: float(score)}
                scored.append(replace(hit, score=float(score), trace=trace))
        return [*sorted(scored, key=lambda hit: (-hit.score, hit.id)), *left]

    # --- the rest -----------------------------------------------------------------------------------

    def get(self, ids: str | Sequence[str], *, want: Want = Want()) -> Batch:
        """Records by id; unknown ids are left out."""
        return self.collection.fetch([ids] if isinstance(ids, str) else ids, want=want)

    def delete(self, what: str | Sequence[str] | Filter) -> None:
        """Remove records by id, or all that match a filter."""
        if isinstance(what, Filter):
            self.collection.delete_where(what)
        else:
            self.collection.delete([what] if isinstance(what, str) else what)

    def count(self, where: Filter | None = None) -> int:
        """How many records match."""
        return 0 if self._collection is None else self._collection.count(where)

    def info(self) -> Info:
        """What this index is.

        Raises:
            NotFound: nothing was added yet.
        """
        return _info(self.collection)


def describe(connector: Connector, name: str) -> Info:
    """What a collection is, without loading its encoder.

    Raises:
        NotFound: there is none of that name.
    """
    return _info(Collection.open(connector, name))


def _info(collection: Collection) -> Info:
    spec = collection.spec
    vector = spec.vectors[0]
    return Info(
        store=collection.connector.scheme,
        collection=collection.name,
        count=collection.count(),
        encoder=spec.encoder or vector.fingerprint.encoder,
        fingerprint=vector.fingerprint.digest,
        dim=vector.dim,
        metric=vector.metric,
        fields={f.name: f"{f.kind}{'[]' if f.many else ''}" for f in spec.fields},
        tokens=None if spec.tokens is None else f"{spec.tokens.count} x {spec.tokens.dim} {spec.tokens.dtype}",
        sources={s.name: s.root for s in spec.sources},
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A query ready to run, and the filter that finds itself."""

    query: Query
    itself: Filter | None


class _Bar:
    """A progress bar on stderr, a caller's function, or nothing."""

    def __init__(self, function: Progress | None, bar: Any = None) -> None:
        self._function = function
        self._bar = bar

    @classmethod
    def of(cls, progress: Progress | bool | None) -> _Bar:
        import sys

        if callable(progress):
            return cls(progress)
        if progress is False or (progress is None and not sys.stderr.isatty()):
            return cls(None)
        from pixdex._progress import Bar

        bar = Bar()
        return cls(bar.show, bar)

    def show(self, report: Report) -> None:
        if self._function is not None:
            self._function(report)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _as_list(pictures: Any) -> list[Picture]:
    single = isinstance(pictures, str | os.PathLike | bytes | bytearray | memoryview | np.ndarray)
    if single or not isinstance(pictures, Iterable):  # a PIL image is no iterable
        return [pictures]
    return list(pictures)


def _as_path(picture: Picture) -> Path | None:
    if isinstance(picture, str | os.PathLike):
        return Path(os.fsdecode(picture)).expanduser()
    return None


def _is_folder(picture: Picture) -> bool:
    path = _as_path(picture)
    return path is not None and path.is_dir()


def _check_paths(pictures: Sequence[Picture]) -> None:
    """Every path exists, and every folder has a picture: seen before a collection is made for nothing."""
    for path in filter(None, map(_as_path, pictures)):
        if not path.exists() and not path.is_symlink():
            raise ConfigError(f"{path} does not exist")
        if path.is_dir() and not any(from_files(path, "")):
            raise ConfigError(f"no pictures in {path}")
