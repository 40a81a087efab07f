"""Masks over columns, compared with what filters mean record by record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pixdex._records import checked
from pixdex.connectors._pq_columns import Column
from pixdex.connectors._pq_mask import mask
from pixdex.connectors._pq_parts import Lists, Part, form_of
from pixdex.errors import Unsupported
from pixdex.filters import And, F, Filter, bind, distance_km, matches, stored
from pixdex.spec import Field, Kind
from pixdex.testing.random_data import RICH, filters, record_ids, records
from pixdex.types import Batch


def part_of(field: Field, payloads: Sequence[Mapping[str, Any]]) -> Part:
    values = [stored(field, payload) for payload in payloads]
    if not field.many:
        return form_of(field.kind).of(values)
    owned = [(owner, item) for owner, items in enumerate(values) for item in items or ()]
    owners = np.array([owner for owner, _ in owned], dtype=np.int32)
    return Lists.of(len(values), form_of(field.kind).of([item for _, item in owned]), owners)


def column_of(field: Field, payloads: Sequence[Mapping[str, Any]], cuts: Sequence[int] = ()) -> Column[Part]:
    column: Column[Part] = Column()
    for start, stop in zip([0, *cuts], [*cuts, len(payloads)], strict=True):
        column = column.extended([part_of(field, payloads[start:stop])], 1)
    return column


def asking(
    payloads: Sequence[Mapping[str, Any]], ids: Sequence[str] = (), cuts: Sequence[int] = ()
) -> Callable[[Filter], list[bool]]:
    """What answers filters about ``payloads``, in columns that are cut into parts."""
    column = cache(lambda field: column_of(field, payloads, cuts))

    def positions(some: Sequence[str]) -> NDArray[np.int64]:
        return np.array([ids.index(record) for record in some if record in ids], dtype=np.int64)

    def answer(where: Filter) -> list[bool]:
        found: list[bool] = mask(bind(where, RICH), len(payloads), column, positions).tolist()
        return found

    return answer


def expected(where: Filter, payloads: Sequence[Mapping[str, Any]]) -> list[bool]:
    bound = bind(where, RICH)
    return [matches(bound, "", payload) for payload in payloads]


@settings(max_examples=15, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_a_mask_is_what_the_filter_means(data: st.DataObject) -> None:
    drawn = data.draw(records(6))
    ids = data.draw(record_ids(len(drawn)))
    payloads = checked(Batch(tuple(ids), payloads=tuple(drawn)), RICH).payloads or ()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(payloads)), max_size=3)))
    answer = asking(payloads, ids, cuts)
    for where in data.draw(st.lists(filters(ids, max_leaves=4), min_size=8, max_size=8)):
        bound = bind(where, RICH)
        truth = [matches(bound, record, payload) for record, payload in zip(ids, payloads, strict=True)]
        assert answer(where) == truth, str(where)


def test_a_long_list_of_values_is_exact() -> None:
    payloads: list[dict[str, Any]] = [
        {"label": f"w{i}\0", "year": i * 7, "rating": i / 3, "tags": ["x", f"w{i}"]} for i in range(300)
    ]
    payloads += [{}, {"label": "w1"}]
    answer = asking(payloads)
    for where in (
        F.label.is_in([f"w{i}\0" for i in range(100, 10_100)]),
        F.year.is_in([i * 7 for i in range(100, 10_100)]),
        F.rating.is_in([i / 3 for i in range(100, 10_100)]),
        F.tags.contains_any([f"w{i}" for i in range(100, 10_100)]),
    ):
        truth = [100 <= i < 300 for i in range(302)]
        assert answer(where) == truth
        assert answer(~where) == [not one for one in truth]


def test_ints_are_exact_at_the_edge_of_every_width() -> None:
    edges = [sign * (2**bits + step) for bits in (7, 8, 15, 16, 31, 32, 52) for sign in (1, -1) for step in (-1, 0, 1)]
    for widest in (2**7 - 1, 2**15 - 1, 2**31 - 1, 2**53 - 1):
        values = [None, 0, *(edge for edge in edges if abs(edge) <= widest)]
        payloads = [{"year": value, "sizes": [value, 0] if value else None} for value in values]
        answer = asking(payloads)
        for edge in edges:
            for where in (F.year == edge, F.year <= edge, F.year > edge, F.sizes.contains(edge)):
                assert answer(where) == expected(where, payloads), str(where)


def test_parts_of_several_widths_are_one_column() -> None:
    """What is joined moves into the wider form: absent stays absent, and texts keep their codes apart."""
    wide = [{"year": 2**40, "label": f"t{i}", "tags": [f"t{i}"]} for i in range(300)]
    payloads: list[dict[str, Any]] = [{"year": 1, "label": "t7", "tags": ["t7"]}, {}, {"year": -128}, *wide, {}]
    answer = asking(payloads, cuts=[1, 2, 3, 100])

    def found(where: Filter) -> list[int]:
        return np.flatnonzero(answer(where)).tolist()

    assert found(F.label == "t7") == found(F.tags.contains("t7")) == [0, 10]
    assert found(~F.label.exists()) == found(~F.tags.exists()) == [1, 2, len(payloads) - 1]
    assert found(F.year < 2) == [0, 2]
    assert found(~F.year.exists()) == [1, len(payloads) - 1]


@pytest.mark.parametrize("lon", [179.95, -179.95, 180.0, 13.4])
def test_a_place_on_the_circle_is_decided_as_python_does(lon: float) -> None:
    rng = np.random.default_rng(3)
    places = [(float(lat), float(east)) for lat, east in rng.uniform((-60, -180), (60, 180), (200, 2))]
    places += [(0.01 * i, 179.9 - 0.01 * i) for i in range(20)] + [(0.0, -179.99)]
    odd = [(-48.914, -140.903), (-51.837, 154.057), (34.157, -26.245)]  # numpy's distance from (10, 13.4) differs
    places += odd
    payloads = [{"place": {"lat": lat, "lon": east}, "stops": [{"lat": lat, "lon": east}]} for lat, east in places]
    answer = asking(payloads)
    for at in [*places[::20], *odd]:
        km = distance_km(*at, 10.0, lon)
        for where in (F.place.within(10.0, lon, km), F.stops.within(10.0, lon, float(np.nextafter(km, 0)))):
            assert answer(where) == expected(where, payloads)
    box = F.place.within_box(-1.0, 179.8, 1.0, -179.9)
    assert answer(box) == expected(box, payloads)


def test_a_deep_filter_and_one_of_many_parts() -> None:
    payloads = [{"year": 1}, {"year": 2}, {}]
    deep: Filter = F.year == 1
    for level in range(60):
        deep = ~(deep & F.year.exists()) if level % 2 else ~(deep | (F.year == 3))
    answer = asking(payloads)
    assert answer(deep) == expected(deep, payloads)
    wide = (F.year > 0) & (F.year < 2)
    assert answer(And((wide, *(F.year > -low for low in range(3000))))) == [True, False, False]


def test_an_unknown_node_is_refused() -> None:
    class Odd(Filter):
        __slots__ = ()

    with pytest.raises(Unsupported, match="Odd"):
        mask(Odd(), 1, lambda _: Column(), lambda _: np.zeros(0, dtype=np.int64))


def test_no_positions() -> None:
    assert asking([])(~(F.year == 1) | (F.tags.contains("a"))) == []


def test_every_kind_has_a_form() -> None:
    for kind in Kind:
        assert len(form_of(kind).of([])) == 0
