"""``F``: comparisons on a name make filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pixdex.errors import InvalidFilter
from pixdex.filters.nodes import And, Box, Contains, Eq, Exists, Filter, Ids, In, Near, Not, Range

__all__ = ["F"]


class _Reference:
    """``F.name``: comparisons on it make filters."""

    __slots__ = ("_name",)
    __hash__ = None  # type: ignore[assignment]  # == builds a filter, so a hash would lie

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        return Eq(self._name, value)

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        return Not(Eq(self._name, value))

    def __lt__(self, value: Any) -> Filter:
        return Range(self._name, high=value, below=True)

    def __le__(self, value: Any) -> Filter:
        return Range(self._name, high=value)

    def __gt__(self, value: Any) -> Filter:
        return Range(self._name, low=value, above=True)

    def __ge__(self, value: Any) -> Filter:
        return Range(self._name, low=value)

    def between(self, low: Any, high: Any) -> Filter:
        """``low <= field <= high``."""
        return Range(self._name, low=low, high=high)

    def is_in(self, values: Sequence[Any]) -> Filter:
        """The field has one of ``values``; false for none."""
        return In(self._name, _several(values))

    def not_in(self, values: Sequence[Any]) -> Filter:
        """The exact complement of ``is_in``."""
        return Not(In(self._name, _several(values)))

    def exists(self) -> Filter:
        """The field is not absent."""
        return Exists(self._name)

    def contains(self, value: Any) -> Filter:
        """The list field holds ``value``."""
        return Contains(self._name, (value,))

    def contains_any(self, values: Sequence[Any]) -> Filter:
        """The list field holds at least one of ``values``; false for none."""
        return Contains(self._name, _several(values))

    def contains_all(self, values: Sequence[Any]) -> Filter:
        """The list field holds every one of ``values``; for none, it must exist."""
        return And((Exists(self._name), *(Contains(self._name, (value,)) for value in _several(values))))

    def within(self, lat: float, lon: float, km: float) -> Filter:
        """The place lies within ``km`` kilometres of a point."""
        return Near(self._name, lat, lon, km)

    def within_box(self, south: float, west: float, north: float, east: float) -> Filter:
        """The place lies in a box of degrees; ``west > east`` crosses the date line."""
        return Box(self._name, south, west, north, east)


class _Builder:
    """``F.year >= 2020``; ``F["year"]`` when the name is in a variable; ``F.ids([...])`` by id."""

    __slots__ = ()

    def __getattr__(self, name: str) -> _Reference:
        return _Reference(name)

    def __getitem__(self, name: str) -> _Reference:
        return _Reference(name)

    @staticmethod
    def ids(ids: Sequence[str]) -> Filter:
        """Records with one of these ids. A field called ``ids`` is ``F["ids"]``."""
        return Ids(_several(ids))


def _several(values: Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(values, str | bytes):
        raise InvalidFilter(f"{values!r} is one value where several are meant: put it into a list")
    return tuple(values)


F = _Builder()
