"""Values of one field by position, in the narrowest form that is exact, and what filters ask of them.

A part covers some consecutive positions and never changes. A column is a few parts: what is new is a part of its
own, and parts of like size are joined, so that a long column grows at the cost of what is added. An answer is a
bool array of the part's length that belongs to the caller. Absent answers no to everything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import numpy as np

from pixdex.filters import EARTH_RADIUS_KM, Box, Near, bounding_boxes, distance_km
from pixdex.spec import Field, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask: TypeAlias = NDArray[np.bool_]

__all__ = ["Floats", "Ints", "Lists", "Part", "Piece", "Places", "Strings", "Words", "form_of", "restored"]

_WIDTHS = (np.int8, np.int16, np.int32, np.int64)
_FEW = 16
"""Up to so many values are compared one after the other."""
_SLACK_KM = 0.01
"""Distances nearer to the radius than this are computed again, by the definition."""


class Piece(Protocol):
    """Something at each of some consecutive positions."""

    def __len__(self) -> int: ...

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """All that it holds, under names."""

    @classmethod
    def joined(cls, parts: Sequence[Any]) -> Self:
        """One with what several of its kind have, in order."""


class Part(Piece, Protocol):
    """Values that filters ask for; ``restored`` makes one of its arrays."""

    def present(self) -> Mask: ...
    def among(self, values: Sequence[Any]) -> Mask: ...
    def between(self, low: Any, high: Any) -> Mask:
        """``low <= value <= high``; None is open."""

    def near(self, leaf: Near) -> Mask: ...
    def box(self, leaf: Box) -> Mask: ...


class Form(Part, Protocol):
    """Single values, each of which has a key: one number, in the order of the values where they have one."""

    @property
    def keys(self) -> NDArray[Any]: ...
    def keys_of(self, values: Sequence[Any]) -> NDArray[Any]:
        """The keys, in the dtype of ``keys``, of those values that it may hold."""

    def taken(self, order: NDArray[np.intp]) -> Self: ...


class _Keyed(ABC):
    """Compares keys. What is left is never asked of most forms: binding refuses it."""

    __slots__ = ()

    @property
    @abstractmethod
    def keys(self) -> NDArray[Any]: ...

    @abstractmethod
    def keys_of(self, values: Sequence[Any]) -> NDArray[Any]: ...

    def __len__(self) -> int:
        return len(self.keys)

    def among(self, values: Sequence[Any]) -> Mask:
        keys, wanted = self.keys, self.keys_of(values)
        if not len(wanted):
            return np.zeros(len(keys), dtype=bool)
        if len(wanted) > _FEW:
            return np.isin(keys, wanted)
        found: Mask = keys == wanted[0]
        for key in wanted[1:]:
            found |= keys == key
        return found

    def between(self, low: Any, high: Any) -> Mask:
        raise TypeError(f"{type(self).__name__} have no order")

    def near(self, leaf: Near) -> Mask:
        raise TypeError(f"{type(self).__name__} are no places")

    def box(self, leaf: Box) -> Mask:
        raise TypeError(f"{type(self).__name__} are no places")


@dataclass(frozen=True, slots=True)
class Ints(_Keyed):
    """Ints, times and bools: signed ints of the smallest width; the lowest of the width is absent."""

    values: NDArray[Any]

    @classmethod
    def of(cls, values: Sequence[int | None]) -> Ints:
        absent = np.iinfo(np.int64).min
        return cls(_narrowed(np.array([absent if value is None else value for value in values], dtype=np.int64)))

    @classmethod
    def loaded(cls, arrays: Mapping[str, NDArray[Any]]) -> Ints:
        return cls(arrays["values"])

    @classmethod
    def joined(cls, parts: Sequence[Ints]) -> Ints:
        dtype = max((part.values.dtype for part in parts), key=lambda dtype: dtype.itemsize)
        return cls(np.concatenate([_widened(part.values, dtype) for part in parts]))

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return {"values": self.values}

    def present(self) -> Mask:
        found: Mask = self.values != np.iinfo(self.values.dtype).min
        return found

    @property
    def keys(self) -> NDArray[Any]:
        return self.values

    def keys_of(self, values: Sequence[Any]) -> NDArray[Any]:
        limits = np.iinfo(self.values.dtype)
        return np.array([value for value in values if limits.min < value <= limits.max], dtype=self.values.dtype)

    def taken(self, order: NDArray[np.intp]) -> Ints:
        return Ints(self.values[order])

    def between(self, low: Any, high: Any) -> Mask:
        limits = np.iinfo(self.values.dtype)
        low = limits.min + 1 if low is None else max(int(low), limits.min + 1)
        high = limits.max if high is None else min(int(high), limits.max)
        if low > high:
            return np.zeros(len(self.values), dtype=bool)
        found: Mask = self.values >= low
        if high < limits.max:
            found &= self.values <= high
        return found


@dataclass(frozen=True, slots=True)
class Floats(_Keyed):
    """float64; NaN is absent."""

    values: NDArray[np.float64]

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Floats:
        return cls(np.array(values, dtype=np.float64))  # which reads None as NaN

    @classmethod
    def loaded(cls, arrays: Mapping[str, NDArray[Any]]) -> Floats:
        return cls(arrays["values"])

    @classmethod
    def joined(cls, parts: Sequence[Floats]) -> Floats:
        return cls(np.concatenate([part.values for part in parts]))

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return {"values": self.values}

    def present(self) -> Mask:
        return ~np.isnan(self.values)

    @property
    def keys(self) -> NDArray[Any]:
        return self.values

    def keys_of(self, values: Sequence[Any]) -> NDArray[Any]:
        return np.array(values, dtype=np.float64)

    def taken(self, order: NDArray[np.intp]) -> Floats:
        return Floats(self.values[order])

    def between(self, low: Any, high: Any) -> Mask:
        found: Mask = self.values <= (np.inf if high is None else high)
        if low is not None:
            found &= self.values >= low
        return found


@dataclass(frozen=True, slots=True)
class Words(_Keyed):
    """Texts, of which filters ask only whether they are equal: codes into a vocabulary of digests.

    128 bits of BLAKE2b stand for a text: no two texts that anybody can find share them.

    Attributes:
        codes: which of the vocabulary.
        vocabulary: ``S16`` ``[m]``, ascending and distinct.
    """

    codes: Ints
    vocabulary: NDArray[np.bytes_]

    @classmethod
    def of(cls, values: Sequence[str | None]) -> Words:
        words = list(dict.fromkeys(value for value in values if value is not None))
        vocabulary = _digests(words)
        order = np.argsort(vocabulary)
        code: dict[str | None, int | None] = dict(
            zip((words[i] for i in order.tolist()), range(len(words)), strict=True)
        )
        code[None] = None
        return cls(Ints.of([code[value] for value in values]), vocabulary[order])

    @classmethod
    def loaded(cls, arrays: Mapping[str, NDArray[Any]]) -> Words:
        return cls(Ints(arrays["codes"]), arrays["vocabulary"])

    @classmethod
    def joined(cls, parts: Sequence[Words]) -> Words:
        vocabulary = np.unique(np.concatenate([part.vocabulary for part in parts]))
        absent = np.iinfo(np.int64).min
        codes = []
        for part in parts:
            # The code of absent is the lowest of its width: as an index from behind it may hit anything.
            place = np.append(np.searchsorted(vocabulary, part.vocabulary), absent)
            codes.append(place[np.where(part.codes.present(), part.codes.values, -1)])
        return cls(Ints(_narrowed(np.concatenate(codes))), vocabulary)

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return {"codes": self.codes.values, "vocabulary": self.vocabulary}

    def present(self) -> Mask:
        return self.codes.present()

    @property
    def keys(self) -> NDArray[Any]:
        return self.codes.values

    def keys_of(self, values: Sequence[Any]) -> NDArray[Any]:
        wanted = _digests(values)
        places = np.searchsorted(self.vocabulary, wanted)
        inside = places < len(self.vocabulary)
        places, wanted = places[inside], wanted[inside]
        known: NDArray[Any] = places[self.vocabulary[places] == wanted]
        return known.astype(self.keys.dtype)

    def taken(self, order: NDArray[np.intp]) -> Words:
        return Words(self.codes.taken(order), self.vocabulary)


@dataclass(frozen=True, slots=True)
class Places(_Keyed):
    """Degrees as float64; NaN is absent."""

    lat: NDArray[np.float64]
    lon: NDArray[np.float64]

    @classmethod
    def of(cls, values: Sequence[tuple[float, float] | None]) -> Places:
        degrees = np.array([value or (np.nan, np.nan) for value in values], dtype=np.float64).reshape(-1, 2)
        return cls(degrees[:, 0].copy(), degrees[:, 1].copy())

    @classmethod
    def loaded(cls, arrays: Mapping[str, NDArray[Any]]) -> Places:
        return cls(arrays["lat"], arrays["lon"])

    @classmethod
    def joined(cls, parts: Sequence[Places]) -> Places:
        return cls(np.concatenate([part.lat for part in parts]), np.concatenate([part.lon for part in parts]))

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return {"lat": self.lat, "lon": self.lon}

    def present(self) -> Mask:
        return ~np.isnan(self.lat)

    @property
    def keys(self) -> NDArray[Any]:
        return self.lat

    def keys_of(self, values: Sequence[Any]) -> NDArray[Any]:
        raise TypeError("places are not compared")

    def taken(self, order: NDArray[np.intp]) -> Places:
        return Places(self.lat[order], self.lon[order])

    def near(self, leaf: Near) -> Mask:
        """Those in the boxes around the circle are measured, and those on the circle by the definition itself:
        numpy's sines differ from those of Python in the last bit.
        """
        found = np.zeros(len(self), dtype=bool)
        for around in bounding_boxes(leaf):
            if isinstance(around, Box):
                found |= self.box(around)
        inside = np.flatnonzero(found)
        distances = _distances(self.lat[inside], self.lon[inside], leaf)
        found[inside] = distances <= leaf.km
        for position in inside[np.abs(distances - leaf.km) <= _SLACK_KM].tolist():
            lat, lon = float(self.lat[position]), float(self.lon[position])
            found[position] = distance_km(lat, lon, leaf.lat, leaf.lon) <= leaf.km
        return found

    def box(self, leaf: Box) -> Mask:
        found: Mask = self.lat >= leaf.south
        found &= self.lat <= leaf.north
        west, east = self.lon >= leaf.west, self.lon <= leaf.east
        found &= west & east if leaf.west <= leaf.east else west | east
        return found


@dataclass(frozen=True, slots=True)
class Lists:
    """The items of lists: a list answers yes where any of its items does.

    Attributes:
        items: the items of all positions, by ascending keys.
        owners: int32, the position of each item.
        filled: bool: which positions have items.
    """

    items: Form
    owners: NDArray[Any]
    filled: Mask

    @classmethod
    def of(cls, rows: int, items: Form, owners: NDArray[Any]) -> Lists:
        """The lists of ``rows`` positions, from items in any order."""
        order = np.argsort(items.keys, kind="stable")
        filled = np.zeros(rows, dtype=bool)
        filled[owners] = True
        return cls(items.taken(order), owners[order], filled)

    @classmethod
    def joined(cls, parts: Sequence[Lists]) -> Lists:
        starts = np.cumsum([0, *map(len, parts)], dtype=np.int32)
        owners = [part.owners + start for part, start in zip(parts, starts, strict=False)]
        items = [part.items for part in parts]
        return cls.of(int(starts[-1]), type(items[0]).joined(items), np.concatenate(owners))

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        items = {f"items.{name}": array for name, array in self.items.arrays.items()}
        return {"owners": self.owners, "filled": self.filled, **items}

    def __len__(self) -> int:
        return len(self.filled)

    def present(self) -> Mask:
        return self.filled.copy()

    def among(self, values: Sequence[Any]) -> Mask:
        keys, wanted = self.items.keys, self.items.keys_of(values)
        found = np.zeros(len(self), dtype=bool)
        starts, stops = np.searchsorted(keys, wanted, side="left"), np.searchsorted(keys, wanted, side="right")
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            found[self.owners[start:stop]] = True
        return found

    def between(self, low: Any, high: Any) -> Mask:
        return self._any(self.items.between(low, high))

    def near(self, leaf: Near) -> Mask:
        return self._any(self.items.near(leaf))

    def box(self, leaf: Box) -> Mask:
        return self._any(self.items.box(leaf))

    def _any(self, held: Mask) -> Mask:
        found = np.zeros(len(self), dtype=bool)
        found[self.owners[held]] = True
        return found


@dataclass(frozen=True, slots=True)
class Strings:
    """Texts to be read again: UTF-8, one behind the other.

    Attributes:
        ends: uint32 ``[n + 1]``, uint64 of more than 4 GB: text ``i`` lies from ``ends[i]`` to ``ends[i + 1]``.
        data: uint8.
    """

    ends: NDArray[Any]
    data: NDArray[np.uint8]

    @classmethod
    def of(cls, values: Sequence[str]) -> Strings:
        coded = [value.encode() for value in values]
        lengths = np.fromiter(map(len, coded), dtype=np.int64, count=len(coded))
        return cls(_ends(lengths), np.frombuffer(bytearray(b"").join(coded), dtype=np.uint8))

    @classmethod
    def loaded(cls, arrays: Mapping[str, NDArray[Any]]) -> Strings:
        return cls(arrays["ends"], arrays["data"])

    @classmethod
    def joined(cls, parts: Sequence[Strings]) -> Strings:
        lengths = np.concatenate([np.diff(part.ends) for part in parts])
        return cls(_ends(lengths), np.concatenate([part.data for part in parts]))

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        return {"ends": self.ends, "data": self.data}

    def __len__(self) -> int:
        return len(self.ends) - 1

    def take(self, places: NDArray[np.intp]) -> list[str]:
        """The texts at ``places`` ``[m]``, in that order."""
        data = self.data.data
        bounds = zip(self.ends[places].tolist(), self.ends[places + 1].tolist(), strict=True)
        return [str(data[start:stop], "utf-8") for start, stop in bounds]

    def text(self, place: int) -> str:
        """The text at ``place``."""
        return str(self.data.data[self.ends[place] : self.ends[place + 1]], "utf-8")


def form_of(kind: Kind) -> type[Ints | Floats | Words | Places]:
    """What holds values of a kind; ints, times and bools are alike."""
    match kind:
        case Kind.TEXT:
            return Words
        case Kind.FLOAT:
            return Floats
        case Kind.GEO:
            return Places
    return Ints


def restored(field: Field, arrays: Mapping[str, NDArray[Any]]) -> Part:
    """The part of a field that had these ``arrays``."""
    form = form_of(field.kind)
    if not field.many:
        return form.loaded(arrays)
    items = {name.removeprefix("items."): array for name, array in arrays.items()}
    return Lists(form.loaded(items), arrays["owners"], arrays["filled"])


def _digests(texts: Iterable[str]) -> NDArray[np.bytes_]:
    from hashlib import blake2b  # late, as it loads OpenSSL

    return np.array([blake2b(text.encode(), digest_size=16).digest() for text in texts], dtype="S16")


def _narrowed(values: NDArray[np.int64]) -> NDArray[Any]:
    """The same numbers in the smallest width, the lowest of int64 as the lowest of that width."""
    absent = values == np.iinfo(np.int64).min
    low = values.min(where=~absent, initial=0)
    high = values.max(initial=0)
    dtype = next(width for width in _WIDTHS if np.iinfo(width).min < low and high <= np.iinfo(width).max)
    narrow = values.astype(dtype)
    narrow[absent] = np.iinfo(dtype).min
    return narrow


def _widened(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if values.dtype == dtype:
        return values
    wide = values.astype(dtype)
    wide[values == np.iinfo(values.dtype).min] = np.iinfo(dtype).min
    return wide


def _distances(lat: NDArray[np.float64], lon: NDArray[np.float64], leaf: Near) -> NDArray[np.float64]:
    """``filters.distance_km`` of many places at once."""
    phi1, phi2 = np.radians(lat), np.radians(leaf.lat)
    half = np.sin((phi2 - phi1) / 2) ** 2
    half += np.cos(phi1) * np.cos(phi2) * np.sin(np.radians(leaf.lon - lon) / 2) ** 2
    distances: NDArray[np.float64] = 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(1.0, np.sqrt(half)))
    return distances


def _ends(lengths: NDArray[Any]) -> NDArray[Any]:
    """Where texts of these lengths begin and end, in the narrower width that counts so far."""
    ends = np.zeros(len(lengths) + 1, dtype=np.uint64)
    np.cumsum(lengths, out=ends[1:], dtype=np.uint64)
    return ends.astype(np.uint32) if ends[-1] < 2**32 else ends
