"""What the conformance suite does not see of the oracle: places, and refusing what it is told not to have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pixdex.connectors.address import parse
from pixdex.connectors.memory import CAPABILITIES, MemoryConnector, connect
from pixdex.connectors.port import Capabilities
from pixdex.errors import Unsupported
from pixdex.filters import F, Operator, bind
from pixdex.filters import parse as parse_filter
from pixdex.spec import Field, Fingerprint, Kind, Metric, Spec, TokenSpec, Vector
from pixdex.types import Batch, Search, Tuning

PRINT = Fingerprint(encoder="toy", digest="0123456789abcdef")
VECTOR = Vector(dim=2, metric=Metric.DOT, fingerprint=PRINT)
SPEC = Spec(vectors=(VECTOR,), fields=(Field(name="n", kind=Kind.INT),))
ROW = np.ones((1, 2), np.float32)


def _batch(count: int) -> Batch:
    return Batch(
        tuple(f"r{i}" for i in range(count)), {VECTOR.column: np.ones((count, 2), np.float32)}, ({"n": 1},) * count
    )


def test_a_named_place_is_shared() -> None:
    connect(parse("memory://unit-test")).create("a", SPEC, timeout=None)
    assert connect(parse("memory://unit-test")).names(timeout=None) == ["a"]
    assert connect(parse("memory://another")).names(timeout=None) == []
    assert connect(parse("memory://")).names(timeout=None) == []


def _search(**options: object) -> Callable[[MemoryConnector], object]:
    request = replace(Search(queries=ROW, k=1, using=VECTOR.column), **options)  # type: ignore[arg-type]
    return lambda c: c.search("a", request, timeout=None)


WHERE = bind((F.n == 1) & (F.n < 5), SPEC)


@pytest.mark.parametrize(
    ("without", "call"),
    [
        (replace(CAPABILITIES, delete_where=False), lambda c: c.delete_where("a", WHERE, timeout=None)),
        (replace(CAPABILITIES, alias=False), lambda c: c.alias("b", "a", timeout=None)),
        (replace(CAPABILITIES, exact=False), _search(tuning=Tuning(exact=True))),
        (replace(CAPABILITIES, max_k=5), _search(k=6)),
        (replace(CAPABILITIES, max_batch=2), lambda c: c.upsert("a", _batch(3), timeout=None)),
        (replace(CAPABILITIES, max_batch=2), lambda c: c.delete("a", ["1", "2", "3"], timeout=None)),
        (replace(CAPABILITIES, alter=False), lambda c: c.alter("a", Spec(vectors=(VECTOR,)), timeout=None)),
        (replace(CAPABILITIES, tokens=False), lambda c: c.upsert("a", replace(_batch(1), tokens=(ROW,)), timeout=None)),
        (
            replace(CAPABILITIES, operators=frozenset({Operator.EQ, Operator.RANGE})),
            lambda c: c.count("a", WHERE, timeout=None),
        ),
        (replace(CAPABILITIES, operators=frozenset({Operator.EQ, Operator.AND})), _search(where=WHERE)),
        (replace(CAPABILITIES, operators=frozenset()), _search(where=bind(F.n == 1, SPEC))),
        (replace(CAPABILITIES, operators=frozenset({Operator.EQ})), _search(where=bind(F.n != 1, SPEC))),
    ],
)
def test_what_is_switched_off_is_refused(without: Capabilities, call: Callable[[MemoryConnector], object]) -> None:
    able, unable = MemoryConnector(), MemoryConnector(without)
    for connector in (able, unable):
        connector.create("a", SPEC, timeout=None)
    call(able)
    with pytest.raises(Unsupported):
        call(unable)


@pytest.mark.parametrize(
    ("without", "spec"),
    [
        (replace(CAPABILITIES, max_vectors=1), Spec(vectors=(VECTOR, replace(VECTOR, name="text")))),
        (replace(CAPABILITIES, tokens=False), replace(SPEC, tokens=TokenSpec(count=1, dim=1, fingerprint=PRINT))),
        (replace(CAPABILITIES, metrics=frozenset({Metric.L2})), SPEC),
        (replace(CAPABILITIES, max_dim=1), SPEC),
    ],
)
def test_a_spec_beyond_capabilities_is_refused(without: Capabilities, spec: Spec) -> None:
    MemoryConnector().create("a", spec, timeout=None)
    with pytest.raises(Unsupported):
        MemoryConnector(without).create("a", spec, timeout=None)


def test_constants_need_no_operator() -> None:
    connector = MemoryConnector(replace(CAPABILITIES, operators=frozenset()))
    connector.create("a", SPEC, timeout=None)
    connector.upsert("a", _batch(2), timeout=None)
    assert connector.count("a", parse_filter("true"), timeout=None) == 2
    assert connector.count("a", parse_filter("false"), timeout=None) == 0
