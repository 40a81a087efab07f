"""How a collection lies in its store: vectors, declared fields, tokens, and which encoder made what.

All of it is frozen. A stored ``Spec`` is validated by pydantic when it is read back. The import of this module stays free of
pydantic and numpy: with them it would cost ten times as much. Nothing here knows a store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

import orjson

from pixdex._names import check_field, check_vector
from pixdex.errors import ConfigError, FingerprintMismatch, StoreFormat

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "REV",
    "Field",
    "Fingerprint",
    "Foreign",
    "Kind",
    "Metric",
    "Native",
    "Source",
    "Spec",
    "TokenSpec",
    "Vector",
]

SPEC_VERSION = 2
_ITEM_BYTES = {"uint8": 1, "int8": 1, "float16": 2, "float32": 4}


class Metric(StrEnum):
    """How two vectors are compared. A score is always a similarity: higher is better."""

    COSINE = "cosine"
    """cos(q, x), in [-1, 1]."""
    DOT = "dot"
    """Inner product."""
    L2 = "l2"
    """Minus the squared Euclidean distance."""


class Kind(StrEnum):
    """The type of a declared field."""

    TEXT = "text"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    TIME = "time"
    GEO = "geo"


@dataclass(frozen=True, kw_only=True)
class Field:
    """A payload key that filters may use.

    ``ordinal`` numbers the physical column; a Spec assigns it, so that user names never enter SQL or an
    expression. ``stored_as`` is the key or dotted path under which another tool keeps the field (see ``Foreign``).
    """

    name: str
    kind: Kind
    many: bool = False
    ordinal: int = 0
    stored_as: str | None = None

    @cached_property
    def column(self) -> str:
        """The physical column name, such as ``f1_3fa9c1``. The digits are a digest of name and kind, so that a filter
        of a handle that went stale fails in the store instead of reading another field.
        """
        if self.stored_as is not None:
            return self.stored_as
        return _physical_name(f"f{self.ordinal}", f"{self.name}/{self.kind}/{self.many}", 3)


REV = Field(name="_rev", kind=Kind.INT, ordinal=0)
"""The revision that every record carries: microseconds since 1970, monotone per writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Which encoder made a vector: its name and digests of all that shapes the result.

    ``digest`` is hexadecimal, 8 characters at least. ``parts`` maps what went into it (``config``,
    ``weights``, ``head``, ``preprocessing``) to a digest each, so that a mismatch can say what differs.
    """

    encoder: str
    digest: str
    parts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{8,128}", self.digest):
            raise ConfigError(f"fingerprint digest {self.digest!r}: 8 to 128 lower-case hexadecimal characters")

    def difference(self, other: Fingerprint) -> str:
        """What differs from ``other``, in words; empty when nothing does."""
        if self.digest == other.digest:
            return ""
        names = [n for n in {**self.parts, **other.parts} if self.parts.get(n) != other.parts.get(n)]
        if self.encoder != other.encoder:
            names.insert(0, "encoder")
        return ", ".join(names) or "digest"


@dataclass(frozen=True, kw_only=True)
class Vector:
    """One named vector of a collection. ``stored_as`` is what another tool calls it (see ``Foreign``).

    A vector of captions says in ``encoder`` what makes its encoder again, and in ``embeds`` which payload key it is made of.
    """

    name: str = "image"
    dim: int
    metric: Metric = Metric.COSINE
    dtype: Literal["float32", "float16"] = "float32"
    kind: Literal["dense"] = "dense"
    fingerprint: Fingerprint
    stored_as: str | None = None
    encoder: str | None = None
    embeds: str | None = None

    def __post_init__(self) -> None:
        check_vector(self.name)
        if self.dim < 1:
            raise ConfigError(f"vector {self.name!r} needs a dimension of at least 1, not {self.dim}")

    @cached_property
    def column(self) -> str:
        """The physical name. It carries a digest of the fingerprint and of the vector's shape, so that a handle
        that went stale fails in the store.
        """
        if self.stored_as is not None:
            return self.stored_as
        return _physical_name(self.name, f"{self.fingerprint.digest}/{self.dim}/{self.metric}/{self.dtype}", 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpec:
    """The local descriptors a record may carry for rerankers: at most ``count`` rows of ``dim`` values.

    Of ``bits`` each value is kept by its sign: a row is ``dim / 8`` bytes, as ``numpy.packbits`` makes them, the first
    value in the highest bit, 1 for what is positive. A matrix of uint8 is always such a one.

    Raises:
        ConfigError: the width of bits is no multiple of 8.
    """

    count: int
    dim: int
    dtype: Literal["bits", "int8", "float16", "float32"] = "int8"
    fingerprint: Fingerprint

    def __post_init__(self) -> None:
        if self.dtype == "bits" and self.dim % 8:
            raise ConfigError(
                f"tokens of bits have a multiple of 8 values, eight to a byte, not {self.dim}: project them, or take int8"
            )

    @property
    def stored_dtype(self) -> Literal["uint8", "int8", "float16", "float32"]:
        """What a token matrix consists of, as numpy calls it."""
        return "uint8" if self.dtype == "bits" else self.dtype

    @property
    def width(self) -> int:
        """Columns of a token matrix."""
        return self.dim // 8 if self.dtype == "bits" else self.dim

    @property
    def max_bytes(self) -> int:
        """Bytes of a full token matrix."""
        return self.count * self.width * _ITEM_BYTES[self.stored_dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """A collection that pixdex made: ordinals for columns, our id mapping."""

    kind: Literal["native"] = "native"


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A collection that another tool made. Its vectors and fields say in ``stored_as`` what they are called.

    Attributes:
        ids: how its ids are coded; pixdex shows all of them as text, a uuid in its canonical form.
        key: the name of its id column.
        companion: the collection, made by pixdex, that holds the vectors that its store could not add to it,
            under the same ids.
    """

    kind: Literal["foreign"] = "foreign"
    ids: Literal["text", "uuid", "int"]
    key: str
    companion: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A folder that was added: ids start with ``name``; ``root`` is where it lay."""

    name: str
    root: str


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How a collection lies in its store: vectors, declared fields, tokens, layout, identity.

    Fields without an ordinal get the next one. ``encoder`` is the reference that makes the encoder
    again. ``fed_from`` names the collection from which a reindexing still brings records here. Written with the collection
    and compared when it is opened.

    Raises:
        ConfigError: no vector, a name that stands twice, or a field name that is not allowed.
    """

    vectors: tuple[Vector, ...]
    fields: tuple[Field, ...] = ()
    tokens: TokenSpec | None = None
    layout: Native | Foreign = Native()
    encoder: str | None = None
    sources: tuple[Source, ...] = ()
    fed_from: str | None = None
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        if not self.vectors:
            raise ConfigError("a collection needs at least one vector")
        _refuse_twice("vector", [v.name for v in self.vectors])
        _refuse_twice("field", [f.name for f in self.fields])
        _refuse_twice("ordinal", [f.ordinal for f in self.fields if f.ordinal])
        _refuse_twice("source", [s.name for s in self.sources])
        for declared in self.fields:
            check_field(declared.name)
        object.__setattr__(self, "fields", _with_ordinals(self.fields))

    @cached_property
    def columns(self) -> tuple[Field, ...]:
        """Every physical column: the revision (another tool's records have none), then the declared fields."""
        return (REV, *self.fields) if self.native else self.fields

    @cached_property
    def native(self) -> bool:
        """Whether pixdex made the collection."""
        return isinstance(self.layout, Native)

    def field(self, name: str) -> Field | None:
        """The declared field of that name, ``_rev`` included, or None."""
        return next((f for f in self.columns if f.name == name), None)

    def vector(self, name: str) -> Vector:
        """The vector of that name.

        Raises:
            ConfigError: the collection has none.
        """
        for vector in self.vectors:
            if vector.name == name:
                return vector
        raise ConfigError(f"no vector {name!r} in this collection: it has {', '.join(v.name for v in self.vectors)}")

    def physical(self, column: str) -> Vector:
        """The vector with that physical name. Connectors look up here what a request names.

        Raises:
            FingerprintMismatch: the collection has none: the request comes from a handle of another encoder.
        """
        vector = self._by_column.get(column)
        if vector is not None:
            return vector
        has = ", ".join(self._by_column)
        raise FingerprintMismatch(f"there is no vector {column!r}, the collection has {has}")

    @cached_property
    def _by_column(self) -> Mapping[str, Vector]:
        return {vector.column: vector for vector in self.vectors}

    def to_json(self) -> str:
        """The form that stores keep."""
        return orjson.dumps(asdict(self)).decode()  # of itself orjson would write what is cached, too

    @classmethod
    def from_json(cls, text: str | bytes) -> Spec:
        """The Spec of ``to_json``. Cheap to ask for again: stores read theirs at every call.

        Raises:
            StoreFormat: it is not one, or a newer pixdex wrote it.
        """
        return _read_spec(text)


def _physical_name(name: str, identity: str, size: int) -> str:
    from hashlib import blake2b  # late, as it loads OpenSSL

    return f"{name}_{blake2b(identity.encode(), digest_size=size).hexdigest()}"


@lru_cache(maxsize=64)
def _read_spec(text: str | bytes) -> Spec:
    try:
        version = orjson.loads(text).get("version", 1)
        if version < SPEC_VERSION:
            raise StoreFormat(
                f"the collection has a layout of before the first release (Spec version {version}): add its pictures again"
            )
        if version > SPEC_VERSION:
            raise StoreFormat(
                f"the collection was written by a newer pixdex (Spec version {version}, "
                f"this one reads {SPEC_VERSION}): pip install -U pixdex"
            )
        return _spec_reader().validate_json(text)
    except (ValueError, AttributeError, TypeError) as error:
        raise StoreFormat(f"the collection's Spec cannot be read: {error}") from error


@cache
def _spec_reader() -> TypeAdapter[Spec]:
    from pydantic import TypeAdapter  # a tenth of a second: only when a stored Spec is read

    return TypeAdapter(Spec)


def _refuse_twice(what: str, names: Sequence[str | int]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{what} {name!r} is declared twice")


def _with_ordinals(fields: Sequence[Field]) -> tuple[Field, ...]:
    """The fields, numbered: those without an ordinal follow the highest that is taken."""
    last = max((f.ordinal for f in fields), default=0)
    numbered = []
    for declared in fields:
        if declared.ordinal:
            numbered.append(declared)
        else:
            last += 1
            numbered.append(replace(declared, ordinal=last))
    return tuple(numbered)
