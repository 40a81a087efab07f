"""``ImageIndex``: encoder + collection + rerankers. What users of pictures hold."""

from __future__ import annotations

from collections.abc import Collection as Sized
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from pixdex import rerankers
from pixdex._adding import canonical, check_distinct, check_source, expected, settled, with_ids
from pixdex._captions import Captions
from pixdex._encoders_of import DEFAULT_ENCODER, encoder_for
from pixdex._encoding import check_pace
from pixdex._following import following_alias
from pixdex._holding import Holding
from pixdex._info import Info, describe, of_collection
from pixdex._names import check_collection
from pixdex._progress import following
from pixdex._searching import Evidence, Joining, found, moment_of, place_of
from pixdex._syncing import remove_gone, synced
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.encoders.decoding import PATIENCE, Decoding
from pixdex.errors import ConfigError, NotFound, SyncRefused
from pixdex.explaining import Explanation, explained
from pixdex.fields import IMAGE, check_user_fields, declared
from pixdex.filters import Filter
from pixdex.fusion import Method, Moment, Place, method_named
from pixdex.ingest import ingest
from pixdex.jobs import Job, journal_for, not_tried, only_failed, twins_for
from pixdex.pictures import NO_PICTURE, Item, Picture, is_picture, several
from pixdex.report import Progress, Report
from pixdex.sources import Options, Source, Sources
from pixdex.spec import Field, Kind
from pixdex.types import Batch, Hit, Tuning, Want

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector
    from pixdex.encoders.port import Encoder, WordEncoder
    from pixdex.policy import Policy
    from pixdex.rerankers.port import Reranker
    from pixdex.rerankers.stages import Rerank

__all__ = ["DEFAULT_ENCODER", "ImageIndex", "Info", "declared_fields", "describe", "open"]

Fields: TypeAlias = "Mapping[str, Kind | str | Field]"


def open(  # noqa: A001 - pixdex.open, as gzip.open
    url: str,
    *,
    encoder: Encoder | str | None = None,
    text_encoder: WordEncoder | str | None = None,
    fields: Fields | None = None,
    tokens: bool = False,
    policy: Policy | None = None,
) -> ImageIndex:
    """Open an image index; the collection is made by the first ``add``.

    Args:
        url: address of store and collection, such as ``pq://photos.pix`` or ``qdrant+local:///dir#name``.
        encoder: an encoder or its reference. May be left out: a collection knows its encoder, and a
            new one gets ``mini``, which is built in. Then the index also goes on by itself when ``url`` is an alias that
            is switched to a collection of another encoder.
        text_encoder: what makes vectors of captions (see ``add``, ``text``), or its reference, such as
            ``hf:sentence-transformers/all-MiniLM-L6-v2``. A collection with captions knows its own.
        fields: name -> kind (or Field) of payload keys to filter on; counts at creation only.
        tokens: a new collection keeps the encoder's tokens, for rerankers; counts at creation only.
        policy: how calls to the store are repeated.

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
            check_collection(name)
            collection = None
        return ImageIndex(
            connector,
            name,
            collection=collection,
            encoder=encoder_for(collection, encoder),
            text_encoder=text_encoder,
            fields=declared_fields(fields or {}),
            tokens=tokens,
            policy=policy,
            address=url,
            follows=encoder is None,
        )
    except BaseException:
        connector.close()
        raise


def declared_fields(fields: Fields) -> tuple[Field, ...]:
    """The fields that names and kinds stand for.

    Raises:
        ConfigError: there is no such kind.
    """
    return tuple(declared(name, kind) for name, kind in fields.items())


class ImageIndex:
    """Pictures in, pictures found. Made by ``pixdex.open``; close it, or use it in a ``with``."""

    def __init__(
        self,
        connector: Connector,
        name: str,
        *,
        collection: Collection | None,
        encoder: Encoder,
        text_encoder: WordEncoder | str | None = None,
        fields: Sequence[Field] = (),
        tokens: bool = False,
        policy: Policy | None = None,
        address: str | None = None,
        follows: bool = False,
    ) -> None:
        self._connector = connector
        self._address = address
        self._captions = Captions(text_encoder)
        self._holding = Holding(
            connector,
            name,
            collection,
            encoder,
            self._captions,
            fields=fields,
            tokens=tokens,
            policy=policy,
            follows=follows,
        )

    @property
    def encoder(self) -> Encoder:
        """What makes vectors of pictures."""
        return self._holding.encoder

    @property
    def collection(self) -> Collection:
        """The collection beneath, for work with vectors.

        Raises:
            NotFound: nothing was added yet.
        """
        return self._holding.collection

    @property
    def text_encoder(self) -> WordEncoder | None:
        """What makes vectors of captions, loaded when it is asked for; None for a collection without captions.

        Raises:
            NotFound: nothing was added yet.
        """
        return self._captions.encoder(self.collection)

    def _reopened(self) -> bool:
        return self._holding.reopened()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the store."""
        self._connector.close()

    # --- adding -------------------------------------------------------------------------------------

    @following_alias
    def add(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        fields: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        source: str | None = None,
        text: str | None = None,
        tokens: bool | None = None,
        column: str | None = None,
        allow_remote: bool = False,
        allow_private: bool = False,
        decoding: Decoding = Decoding(),
        workers: int | None = None,
        patience: float = PATIENCE,
        job: Job | None = None,
        progress: Progress | bool | None = None,
    ) -> Report:
        """Add pictures: what is there already is neither encoded nor written again.

        A file that moved is recognised by its content. A field stays with a record until another value is given for
        it. Pictures that cannot be used are reported, never raised.

        Args:
            pictures: a folder, a file, a pattern such as ``pics/**/*.jpg``, a list of paths (``.txt``), a table
                (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``) with a column of paths and others that become fields,
                annotations in the form of COCO (``.json``), whose categories, captions and licenses become fields, an
                archive (``.zip``, ``.tar``, ``.tar.gz`` ...), an address (``https://``, ``s3://`` and what else
                fsspec knows), bytes, an array, a PIL image; or several of those. An iterator is read as the work goes,
                so that it may yield more than memory holds.
            fields: payload of every picture added. When the collection is new, its keys, the columns of tables and what
                annotations say are declared as fields of the kind that their values suggest; later keys stay undeclared
                payload.
            ids: one per picture (nothing that holds several then); else ``<source>/<relative path>``, the address, or
                the content hash for what has neither.
            source: name of the folder or archive in ids; default its own name.
            text: the key, a column of a table or one of ``fields``, whose text is the caption of a picture: the vector
                ``text`` of its record is made of it, by ``text_encoder`` of ``open``, and what ``search(text=...)`` looks
                for. Once said, the collection knows it: a caption that changes gets its new vector whoever adds it. Of
                several texts, commas between; a picture without a caption is not found by text. Text that is longer than
                the encoder takes is cut off.
            tokens: write the encoder's tokens too; default: what the collection was made for.
            column: the column of tables that names or holds the pictures; default: ``path``, ``file``, ``filename``, ``image``
                or ``url``.
            allow_remote: fetch pictures over http, and from addresses that tables and annotations name.
            allow_private: such addresses may lead to this machine and to private networks.
            decoding: how picture files are read, and what one may cost: which frame, what becomes of truncated files,
                the background behind transparency, limits. Another frame or background makes other content of a file,
                so that what is there is encoded anew; another rule for truncated files, or another limit, does not.
            workers: how many pictures are decoded at once; default one a core, eight at most.
            patience: seconds that one picture may take to be read, and to be decoded; then it is reported.
            job: keep a journal on this machine, and with it: remove what is gone from folders, try only what failed, stop
                at so many failures; see ``Job``.
            progress: True for a bar, a function, or False; default a bar on a terminal.

        Raises:
            ConfigError: no such file, a folder or archive without pictures, ids that do not fit, no workers or patience,
                something that is no picture by its type, a source name that stands for another folder already, an address that may not
                be fetched. Raised before anything is written, save for what an iterator brings later.
            MissingDependency: a table, an address or a file needs an extra.
            InvalidRecord: an id or a field that cannot be kept; nothing is written.
            InvalidImage: more failures than the job allows; what was written stays.
            SyncRefused: more records would be removed than the job allows, so none was; what was written stays.
            StoreLocked: another job adds to this collection.
            StoreError: the store failed; what was written stays, and adding again goes on.
        """
        given = dict(fields or {})
        check_user_fields(given)
        check_pace(workers, patience)
        if ids is not None:
            check_distinct(ids)
        options = Options(
            source=source,
            column=column,
            allow_remote=allow_remote,
            allow_private=allow_private,
            max_bytes=decoding.limits.max_bytes,
        )
        with (
            Sources(options) as sources,
            journal_for(
                job, self._address, self._connector, self._holding.name, self.encoder.reference, decoding
            ) as journal,
        ):
            several_pictures = several(pictures)
            known = self._known(several_pictures, sources, ids)
            folders = synced(known) if job is not None and job.sync else []
            notices = self._holding.ready(given, known, text, tokens=tokens)
            payload = canonical(given, self.collection.spec)
            if ids is None:
                items = self._items(known or map(sources.of, several_pictures), payload)
            else:
                named = with_ids(ids, several_pictures)
                items = (Item(record, sources.one(picture), payload) for record, picture in named)
            total = partial(expected, known, self.collection.spec)
            if journal is not None and job is not None and job.retry_failed:
                items, total = only_failed(items, journal), partial(expected, (), self.collection.spec)
            collection, encoder = self._holding.both()
            with following(progress, total) as follow:
                report = ingest(
                    items,
                    collection,
                    encoder,
                    vector=IMAGE,
                    tokens=collection.spec.tokens is not None if tokens is None else tokens,
                    captions=self._captions.writer(collection),
                    notices=notices,
                    progress=follow,
                    decoding=decoding,
                    workers=workers,
                    patience=patience,
                    journal=journal,
                    max_failures=None if job is None else job.max_failures,
                    twins=twins_for(job, collection, decoding),
                )
                if journal is not None and job is not None and job.retry_failed:
                    report = replace(report, notices=(*report.notices, *not_tried(journal)))
                if journal is not None and job is not None and folders:
                    try:
                        removed, said = remove_gone(collection, journal, folders, job.remove_at_most)
                    except SyncRefused:
                        settled(collection, report, progress=False)
                        raise
                    report = replace(report, removed=removed, notices=(*report.notices, *said))
                    if follow is not None and report.removed:
                        follow(report)
        return settled(collection, report, progress)

    def _known(self, pictures: Iterable[Picture], sources: Sources, ids: Sequence[str] | None) -> Sequence[Source]:
        """The sources of pictures that are there already, none of an iterator's: looked at before a collection is made
        for nothing. Each has something, and no source name means two places.
        """
        if not isinstance(pictures, Sized):
            return ()
        for picture in pictures:
            if not is_picture(picture):
                raise ConfigError(NO_PICTURE.format(type(picture).__name__))
        known = [sources.of(picture) for picture in pictures]
        if ids is not None and (len(ids) != len(known) or not all(source.single for source in known)):
            raise ConfigError(f"{len(ids)} ids for {len(known)} pictures: give one id per picture, and no folders")
        roots = self._holding.roots()
        for source in known:
            source.check()
            origin = source.origin
            if origin is not None:
                check_source(origin, roots)
                roots[origin.name] = origin.root
        return known

    def declare(self, fields: Fields) -> None:
        """Declare more fields to filter on; records that are there are filled from their payload. What is
        declared so already is left alone.

        Raises:
            ConfigError: a field that is declared as another kind, or a name that pixdex fills itself.
            Unsupported: the store cannot add a field to a live collection.
            InvalidRecord: a record holds a value of another kind.
        """
        self._holding.declare(declared_fields(fields))

    def _items(self, sources: Iterable[Source], fields: Mapping[str, Any]) -> Iterator[Item | None]:
        for source in sources:
            origin = source.origin
            if origin is not None:
                self._holding.remember(origin)
            for item in source.items(self.collection.spec):
                yield item if item is None or not fields else replace(item, payload={**item.payload, **fields})

    # --- finding ------------------------------------------------------------------------------------

    @following_alias
    def search(
        self,
        query: Any = None,
        *,
        text: str | None = None,
        more_like: Sequence[Any] = (),
        less_like: Sequence[Any] = (),
        near: Place | tuple[float, float] | None = None,
        at: Moment | datetime | None = None,
        weights: Mapping[str, float] | None = None,
        fusion: Method | str = Method.RRF,
        k: int = 10,
        where: Filter | None = None,
        threshold: float | None = None,
        exclude_self: bool = False,
        rerank: Rerank | None = None,
        candidates: int = 100,
        tuning: Tuning = Tuning(),
        decoding: Decoding = Decoding(),
    ) -> list[Hit]:
        """The pictures most like ``query``, or most like what ``text`` says, or both, best first.

        Args:
            query: a path, bytes of a picture file, a uint8 array, a PIL image; a float vector
                ``[dim]``; or the id of a record (text that names no file).
            text: words, ``"a red car"``: looked for among captions, where the collection has some (see ``add``), else among
                pictures, where the encoder knows texts too. With a query, both are searched for, and what they find is
                joined.
            more_like: pictures, vectors or ids that the query is moved towards (Rocchio, ``pixdex.fusion.rocchio``), or
                starts from where there is none; ``less_like``: that it is moved away from.
            near: a place that hits should be near to, latitude and longitude; a ``fusion.Place`` says how near, and which
                field holds places.
            at: the same for a time, with a zone; a ``fusion.Moment`` says how near.
            weights: how much ``image``, ``text``, ``near`` and ``at`` count; 1 each.
            fusion: how what picture and words find is joined: ``rrf``, ``z`` or ``dbsf``, see ``pixdex.fusion``.
            k: how many hits at most.
            where: applies before top-k.
            threshold: leaves out hits that score lower: by the last reranker, and joined and decayed, if they are; and those
                that the last reranker did not score.
            exclude_self: leave out the record of that id, or those with the query's very content.
            rerank: a reranker, its reference, or several in stages, such as ``"maxsim,cross@30"``: each orders the best
                ``@n`` so far anew, the first of all ``candidates``; see ``pixdex.rerankers``. Tokens that a record lacks are
                made of its picture, where that lies where it was; else the hit keeps its place. ``Hit.trace`` says so.
            candidates: how many hits of each kind of evidence are joined, and the reranker sees; what is reranked alone
                is followed by the others, which keep their score and order.
            tuning: time for recall, or exact.
            decoding: how a query that is a picture file is read, as of ``add``.

        Raises:
            NotFound: no such file and no such id, or nothing was added yet.
            InvalidImage: the query is not a usable picture.
            Unsupported: the collection or the query has no tokens to rerank with; there are no captions and the encoder knows no
                texts.
            ConfigError: nothing to search for, a weight for what is not searched by, no such method or reranker, a field that is
                not declared as a place or time, a number out of its range.
        """
        if k < 1:
            raise ConfigError(f"k is {k}: ask for at least 1")
        evidence = Evidence(
            query=query,
            text=text,
            more=more_like,
            less=less_like,
            near=place_of(near),
            at=moment_of(at),
        )
        return found(
            evidence,
            Joining(weights=weights, method=method_named(fusion), deep=candidates),
            *self._holding.both(),
            self._captions,
            k=k,
            where=where,
            threshold=threshold,
            exclude_self=exclude_self,
            stages=rerankers.stages_of(rerank),
            tuning=tuning,
            decoding=decoding,
        )

    @following_alias
    def explain(
        self,
        query: Any,
        hit: Hit | str,
        *,
        rerank: Reranker | str = "maxsim",
        decoding: Decoding = Decoding(),
    ) -> Explanation:
        """Which regions of a picture that was found answer which regions of the query, as a reranker sees it.

        Args:
            query: a path, bytes of a picture file, a uint8 array, a PIL image, or the id of a record.
            hit: a hit of a search, or the id of a record. Its tokens are those stored, or made of its picture, which is
                opened again to find out where they lie; where it cannot be, or is another by now, places are not known.
            rerank: ``maxsim``, ``cross``, ``transport``, or a reranker that has ``correspondences``.
            decoding: how picture files are read, as of ``add``.

        Raises:
            NotFound: no such file and no such id, or nothing was added yet.
            InvalidImage: the query is not a usable picture.
            Unsupported: the encoder makes no tokens, the record has none and its picture cannot be read, the query is a
                vector, or the reranker does not say what corresponds.
            FingerprintMismatch: the reranker was trained for tokens of another encoder.
        """
        reranker = rerankers.load(rerank) if isinstance(rerank, str) else rerank
        return explained(query, hit, *self._holding.both(), reranker, decoding)

    # --- the rest -----------------------------------------------------------------------------------

    @following_alias
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
        collection = self._holding.existing()
        return 0 if collection is None else collection.count(where)

    def info(self) -> Info:
        """What this index is.

        Raises:
            NotFound: nothing was added yet.
        """
        return of_collection(self.collection)
