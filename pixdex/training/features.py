"""Frozen features of labelled pictures: what a head is trained on, encoded once.

They are kept in an embedded store in the cache folder, by source and encoder, and filled by ``ingest``: what was
encoded before a Ctrl-C is there the next time, and a picture that changed is encoded again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from pixdex._progress import following
from pixdex.collection import Collection
from pixdex.connectors.pq import PqConnector, PqOptions
from pixdex.encoders._digest import digest_of, fingerprint_of
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.decoding import PATIENCE, Decoding
from pixdex.encoders.pooling import Pooling
from pixdex.encoders.port import Features, Pixels
from pixdex.encoders.runtimes.cache import folder as cache_folder
from pixdex.errors import ConfigError, NotFound, StoreFormat, Unsupported
from pixdex.fields import AUTOMATIC, IMAGE
from pixdex.ingest import ingest
from pixdex.report import Quarantined
from pixdex.spec import Fingerprint, Metric, Spec, TokenSpec, Vector
from pixdex.training.data import Labelled
from pixdex.types import Want

if TYPE_CHECKING:
    from pixdex.encoders.port import Encoder
    from pixdex.report import Progress

__all__ = ["FeatureSet", "Views", "encoded", "widened"]

_PAGE = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """Frozen vectors of labelled pictures.

    Attributes:
        data: the pictures and classes, without those that could not be used.
        vectors: float32 ``[n, views, d]``, unit vectors; the first view is the picture as it is.
        base: width of the encoder's own vectors, which are the first values of each, scaled to length one.
        unusable: what was left out, and why.
    """

    data: Labelled
    vectors: NDArray[np.float32]
    base: int
    unusable: tuple[Quarantined, ...] = ()

    @property
    def frozen(self) -> NDArray[np.float32]:
        """The encoder's own unit vectors, float32 ``[n, base]``."""
        return _unit(self.vectors[:, 0, : self.base])


class Views:
    """An encoder whose vector is those of several views of a picture, one after the other: as it is, and mirrored.

    The port's ``Encoder``, for encoders whose prepared pictures are uint8 ``[h, w, 3]``.
    """

    metric = Metric.COSINE

    def __init__(self, encoder: ComposedEncoder, *, mirrored: bool) -> None:
        self._encoder = encoder
        self.count = 1 + mirrored
        self.name = encoder.name
        self.reference = encoder.reference
        self.dim = encoder.dim * self.count
        self.token_spec: TokenSpec | None = None
        parts = {
            **encoder.fingerprint.parts,
            "config": digest_of({"of": encoder.fingerprint.digest, "views": self.count}),
        }
        self.fingerprint: Fingerprint = fingerprint_of(encoder.name, parts)

    @property
    def batch_size(self) -> int:
        return self._encoder.batch_size

    @property
    def min_side(self) -> int | None:
        return self._encoder.min_side

    def prepare(self, pixels: Pixels) -> NDArray[np.uint8]:
        return self._encoder.prepare(pixels)

    def encode(self, prepared: Sequence[NDArray[Any]], *, tokens: bool = False) -> Features:
        del tokens
        views = [self._encoder.encode(prepared).vectors]
        if self.count > 1:
            views.append(self._encoder.encode([picture[:, ::-1] for picture in prepared]).vectors)
        return Features(np.concatenate(views, axis=1))


def widened(encoder: Encoder, *, widen: bool) -> ComposedEncoder:
    """What a head is trained on: the encoder or, with ``widen``, for one that pools by the class token, that token and
    the average of the others, which a head makes more of.

    Raises:
        Unsupported: the encoder is not composed, so that nothing can follow its network.
        ConfigError: it has a head already.
    """
    if not isinstance(encoder, ComposedEncoder):
        raise Unsupported(
            f"{encoder.name} is not composed of a network and a pooling, so no head can follow it: choose a model, such as "
            "hf:FOLDER or onnx:FILE"
        )
    composition = encoder.composition
    if composition.head is not None:
        raise ConfigError(f"{encoder.reference} has a head already: train on the encoder that it was made from")
    if not widen or composition.pooling is not Pooling.CLS:
        return encoder
    wider = replace(composition, pooling=Pooling.CLS_MEAN)
    return ComposedEncoder(encoder.trunk, wider, name=encoder.name, reference=encoder.reference)


def encoded(
    data: Labelled,
    encoder: ComposedEncoder,
    *,
    base: int,
    mirrored: bool = False,
    cache: str | os.PathLike[str] | None = None,
    decoding: Decoding = Decoding(),
    workers: int | None = None,
    patience: float = PATIENCE,
    progress: Progress | bool | None = None,
) -> FeatureSet:
    """The features of pictures, from the cache where they are there.

    Args:
        data: the pictures.
        encoder: what makes their vectors.
        base: see ``FeatureSet``.
        mirrored: those of the mirrored pictures too, as more to learn from; twice the work.
        cache: the folder where they are kept; default ``features`` in pixdex's cache folder.
        decoding, workers, patience, progress: as of ``ImageIndex.add``.

    Raises:
        ConfigError: no picture can be used.
        StoreError: the cache cannot be written, or another process holds it.
    """
    views = Views(encoder, mirrored=mirrored)
    where = (cache_folder() / "features" if cache is None else Path(cache).expanduser()) / "store"
    name = digest_of({"encoder": views.fingerprint.digest, "source": _place(data)})
    where.parent.mkdir(parents=True, exist_ok=True)
    store = PqConnector(where, PqOptions(index="flat"))
    try:
        collection = _collection(store, name, views)
        with following(progress) as follow:
            report = ingest(
                data.items,
                collection,
                cast("Encoder", views),
                vector=IMAGE,
                progress=follow,
                decoding=decoding,
                workers=workers,
                patience=patience,
            )
        found = _read(collection)
    except StoreFormat as error:
        raise StoreFormat(f"the cache {where} is damaged ({error}): remove it") from error
    finally:
        store.close()
    rows = np.array([row for row, item in enumerate(data.items) if item.id in found], dtype=np.int64)
    bad = {row.path for row in report.quarantined}
    rows = rows[[data.items[row].label not in bad for row in rows]] if bad else rows  # not what it was before
    if not len(rows):
        first = f": {report.quarantined[0].path}: {report.quarantined[0].reason}" if report.quarantined else ""
        raise ConfigError(f"none of the {len(data)} pictures can be used{first}")
    kept = data.take(rows)
    vectors = np.stack([found[item.id or ""] for item in kept.items]).reshape(len(rows), views.count, encoder.dim)
    return FeatureSet(kept, _unit(vectors), base, report.quarantined)


def _place(data: Labelled) -> str:
    """What tells one source from another: ids alone may be the same in two folders of one name."""
    first = data.items[0]
    inside = (first.id or "").partition("/")[2]
    return str(first.picture.absolute()).removesuffix(inside) if isinstance(first.picture, Path) else first.label


def _collection(store: PqConnector, name: str, views: Views) -> Collection:
    try:
        return Collection.open(store, name, expect={IMAGE: views.fingerprint})
    except NotFound:
        vector = Vector(name=IMAGE, dim=views.dim, fingerprint=views.fingerprint, metric=views.metric)
        return Collection.create(store, name, Spec(vectors=(vector,), fields=AUTOMATIC, encoder=views.reference))


def _read(collection: Collection) -> dict[str, NDArray[np.float32]]:
    found: dict[str, NDArray[np.float32]] = {}
    for page in collection.scan(want=Want(payload=False, vectors=(IMAGE,)), size=_PAGE):
        found.update(zip(page.batch.ids, page.batch.vectors[IMAGE], strict=True))
    return found


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, np.where(lengths > 0, lengths, 1), dtype=np.float32)
