"""Search: the score is the defined similarity, the best come first, k of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.errors import ConfigError, InvalidRecord, Unsupported
from pixdex.filters import F, parse
from pixdex.spec import Field, Kind, Metric
from pixdex.testing._support import DIM, EXACT, IDS_ONLY, Cases, allowed, plain, put, similarity, some_vectors
from pixdex.types import Batch, Hit, Tuning, Want

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pixdex.connectors.port import Connector
    from pixdex.spec import Spec

NUMBERED = (Field(name="n", kind=Kind.INT), Field(name="label", kind=Kind.TEXT))
KEYSTONE = [
    pytest.param(metric, dtype, id=f"{metric}-{dtype}") for metric in Metric for dtype in ("float32", "float16")
]


def keystone_vectors() -> NDArray[np.float32]:
    """Vectors that tell definitions apart: short, long, opposite, equal to a query, near and far."""
    matrix = some_vectors(40, seed=3)
    matrix[1] = -matrix[0]
    matrix[2] = 2 * matrix[0]
    matrix[3] = 0.01 * matrix[0]
    matrix[4] = matrix[0] + 100
    matrix[5] = -60 * matrix[0]
    matrix[6] = np.eye(DIM)[0] * 3
    matrix[7] = np.eye(DIM)[0] * 4
    return matrix.astype(np.float32)


def _filled(matrix: NDArray[np.float32]) -> Callable[[Collection], None]:
    payloads = [{"n": i, "label": "even" if i % 2 == 0 else "odd"} for i in range(len(matrix))]
    return lambda collection: put(collection, [f"r{i:02}" for i in range(len(matrix))], matrix, payloads)


def _check(
    hits: Sequence[Hit], query: Any, matrix: Any, metric: Metric, dtype: str, k: int, rows: Sequence[int]
) -> None:
    """The hits are the k best of ``rows``, each with the defined score, in order."""
    scores = {f"r{i:02}": similarity(metric, query, matrix[i]) for i in rows}
    slack = {f"r{i:02}": allowed(metric, query, matrix[i], dtype) for i in rows}
    assert len({hit.id for hit in hits}) == len(hits) == min(k, len(rows))
    for hit in hits:
        assert isinstance(hit.score, float)
        assert hit.id in scores, f"{hit.id} should not have been found"
        assert abs(hit.score - scores[hit.id]) <= slack[hit.id], (
            f"{metric} score of {hit.id} is {hit.score}, defined is {scores[hit.id]}: a distance, a root, a sign?"
        )
    assert [(-hit.score, hit.id) for hit in hits] == sorted((-hit.score, hit.id) for hit in hits)
    if hits:
        worst = hits[-1]
        for record in scores.keys() - {hit.id for hit in hits}:
            assert scores[record] <= scores[worst.id] + slack[worst.id] + slack[record], f"{record} was missed"


def _group(row: int) -> int:
    """1 for one row of 600, 2 for two ... 12 for twelve, 0 for the others; a group's rows lie far apart."""
    place = row * 7 % 600  # 7 and 600 have no common divisor
    return next((group for group in range(1, 13) if group * (group - 1) // 2 <= place < group * (group + 1) // 2), 0)


class SearchCases(Cases):
    """The keystone, and what surrounds it."""

    @pytest.fixture
    def numbered(self, kept: Callable[..., Collection]) -> Collection:
        """40 records ``r00`` to ``r39`` under l2 with ``n`` and ``label``; tests only read it."""
        return kept(plain(*NUMBERED), _filled(keystone_vectors()))

    def _keystone(self, connector: Connector, kept: Any, name: str, spec: Spec) -> Collection | None:
        if spec.vectors[0].metric in connector.capabilities.metrics:
            collection: Collection = kept(spec, _filled(keystone_vectors()))
            return collection
        with pytest.raises(Unsupported):
            Collection.create(connector, name, spec)
        return None

    @pytest.mark.parametrize("exact", [False, True], ids=["default", "exact"])
    @pytest.mark.parametrize(("metric", "dtype"), KEYSTONE)
    def test_score_is_the_defined_similarity(
        self, connector: Connector, kept: Any, name: str, metric: Metric, dtype: Any, exact: Any
    ) -> None:
        """THE KEYSTONE. cosine = cos, dot = inner product, l2 = minus the squared distance, for vectors
        of any length, near and far, and the k best by it.

        Troubleshooting: Qdrant's Euclid is rooted, Milvus' L2 is squared and positive, pgvector's inner
        product is negative, chroma gives 1 - cos. Convert at the connector; never loosen this test.
        """
        collection = self._keystone(connector, kept, name, plain(*NUMBERED, metric=metric, dtype=dtype))
        if collection is None:
            return
        matrix = keystone_vectors()
        queries = np.concatenate(
            [matrix[:1], some_vectors(3, seed=4), np.eye(DIM, dtype=np.float32)[:1] * 5, matrix[4:5]]
        )
        for k in (1, 7, 40, 60):
            found = collection.search(queries, k=k, tuning=Tuning(exact=exact))
            for query, hits in zip(queries, found, strict=True):
                _check(hits, query, matrix, metric, dtype, k, range(40))

    @pytest.mark.parametrize("metric", list(Metric))
    def test_score_with_a_filter(self, connector: Connector, kept: Any, name: str, metric: Metric) -> None:
        """A filter changes who is found, not how they score."""
        collection = self._keystone(connector, kept, name, plain(*NUMBERED, metric=metric))
        if collection is None:
            return
        matrix = keystone_vectors()
        for where, rows in (
            (F.label == "odd", range(1, 40, 2)),
            (F.n.between(3, 5), range(3, 6)),
            (~(F.n < 30), range(30, 40)),
        ):
            for tuning in (Tuning(), EXACT):
                hits = collection.search_one(matrix[0], k=8, where=where, tuning=tuning)
                _check(hits, matrix[0], matrix, metric, "float32", 8, rows)

    def test_the_nearest_is_itself(self, numbered: Collection) -> None:
        """A stored vector finds itself first; under l2 at score 0."""
        matrix = keystone_vectors()
        for i, hits in enumerate(numbered.search(matrix, k=1, tuning=EXACT)):
            assert hits[0].id == f"r{i:02}"
            assert hits[0].score == pytest.approx(0.0, abs=1e-5 * max(1.0, float(matrix[i] @ matrix[i])))

    @pytest.mark.parametrize("metric", list(Metric))
    def test_ties_are_ordered_by_id(self, connector: Connector, name: str, metric: Metric) -> None:
        """Equal scores come by id; at place k equals are interchangeable."""
        if metric not in connector.capabilities.metrics:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, plain(metric=metric))
            return
        collection = Collection.create(connector, name, plain(metric=metric))
        same = np.tile(np.eye(DIM, dtype=np.float32)[:1], (9, 1))
        ids = ["b", "a", "c", "B", "é", "1", "01", "10", "2"]
        put(collection, ids, same)
        assert [h.id for h in collection.search_one(same[0], k=20)] == sorted(ids)
        some = [h.id for h in collection.search_one(same[0], k=4)]
        assert len(set(some)) == 4
        assert some == sorted(some)
        assert set(some) <= set(ids)

    def test_k_beyond_what_is_there(self, numbered: Collection) -> None:
        """Fewer records than k: all of them, once."""
        hits = numbered.search_one(some_vectors(1)[0], k=1000)
        assert sorted(h.id for h in hits) == [f"r{i:02}" for i in range(40)]

    def test_k_beyond_what_the_store_gives(self, numbered: Collection) -> None:
        """max_k is a store's limit, which it does give, not the user's."""
        most = numbered.capabilities.max_k
        assert len(numbered.search_one(some_vectors(1)[0], k=most)) == min(most, 40)
        k = most + 1
        assert len(numbered.search_one(some_vectors(1)[0], k=k, where=F.n < 30)) == min(k, 30)
        assert len(numbered.search_one(some_vectors(1)[0], k=k)) == min(k, 40)

    @pytest.mark.parametrize("k", [0, -1])
    def test_k_below_one_is_refused(self, numbered: Collection, k: int) -> None:
        """There is no such thing as no results."""
        with pytest.raises(ConfigError):
            numbered.search(some_vectors(1), k=k)

    def test_an_empty_collection_has_no_hits(self, collection: Collection) -> None:
        """Searching nothing finds nothing, filtered or not."""
        assert collection.search(some_vectors(2)) == [[], []]
        assert collection.search(some_vectors(2), where=F.n == 1, tuning=EXACT) == [[], []]

    def test_several_queries_are_several_searches(self, numbered: Collection) -> None:
        """The answer of each query is what it is alone, in the order of the queries."""
        queries = some_vectors(5, seed=11)
        together = numbered.search(queries, k=6, where=F.n < 35)
        for query, hits in zip(queries, together, strict=True):
            alone = numbered.search_one(query, k=6, where=F.n < 35)
            assert [h.id for h in hits] == [h.id for h in alone]
            assert [h.score for h in hits] == pytest.approx([h.score for h in alone], rel=1e-5, abs=1e-5)

    def test_a_filter_applies_before_top_k(self, numbered: Collection) -> None:
        """K survivors come although nearer records do not match: a filter is no afterthought."""
        query = keystone_vectors()[5]  # far out: the record itself is by far the nearest
        everything = [h.id for h in numbered.search_one(query, k=40, tuning=EXACT)]
        last = everything[-6:]
        for tuning in (Tuning(), EXACT):
            hits = numbered.search_one(query, k=5, where=F.ids(last), tuning=tuning)
            assert [h.id for h in hits] == last[:5]
            far = sorted(int(i[1:]) for i in last)
            hits = numbered.search_one(query, k=5, where=F.n.is_in(far), tuning=tuning)
            assert [h.id for h in hits] == last[:5]
            one = far[0]
            assert [h.id for h in numbered.search_one(query, k=5, where=(F.n == one) | (F.n == 99), tuning=tuning)] == [
                f"r{one:02}"
            ]

    def test_selective_filters_are_complete(self, kept: Callable[..., Collection]) -> None:
        """Of 600 records 1 to 12 match, scattered: the best k of them come, all when there are fewer."""
        matrix = some_vectors(600, seed=21)
        groups = [_group(row) for row in range(600)]

        def fill(collection: Collection) -> None:
            put(collection, [f"r{i:03}" for i in range(600)], matrix, [{"n": group} for group in groups])

        collection = kept(replace(plain(*NUMBERED), encoder="selective"), fill)
        for matching in range(1, 13):
            rows = [row for row in range(600) if groups[row] == matching]
            assert len(rows) == matching
            query = some_vectors(1, seed=100 + matching)[0]
            scores = {f"r{row:03}": similarity(Metric.L2, query, matrix[row]) for row in rows}
            best = sorted(scores, key=lambda record: -scores[record])[:10]
            for where in (F.n == matching, (F.n >= matching) & (F.n < matching + 1)):
                assert [hit.id for hit in collection.search_one(query, k=10, where=where, want=IDS_ONLY)] == best

    def test_a_filter_that_nothing_meets(self, numbered: Collection) -> None:
        """No survivors, no hits, whatever k."""
        assert numbered.search(some_vectors(2), where=(F.n > 100) & (F.label == "odd")) == [[], []]
        assert numbered.search(some_vectors(2), where=F.n.is_in([])) == [[], []]
        assert numbered.search(some_vectors(2), where=parse("false")) == [[], []]

    def test_a_filter_that_everything_meets(self, numbered: Collection) -> None:
        """The constant true is no filter."""
        for where in (parse("true"), F.n.not_in([]), F.n.exists()):
            assert len(numbered.search_one(some_vectors(1)[0], k=50, where=where)) == 40

    @pytest.mark.parametrize("metric", list(Metric))
    def test_threshold_acts_on_the_score(self, connector: Connector, kept: Any, name: str, metric: Metric) -> None:
        """Hits below it are left out, whatever the metric: a higher threshold never lets more in."""
        collection = self._keystone(connector, kept, name, plain(*NUMBERED, metric=metric))
        if collection is None:
            return
        query = some_vectors(1, seed=4)[0]
        hits = collection.search_one(query, k=40, tuning=EXACT)
        middle = (hits[9].score + hits[10].score) / 2
        assert [h.id for h in collection.search_one(query, k=40, threshold=middle, tuning=EXACT)] == [
            h.id for h in hits[:10]
        ]
        assert collection.search_one(query, k=40, threshold=hits[0].score + 1) == []
        assert len(collection.search_one(query, k=40, threshold=hits[-1].score - 1)) == 40

    def test_cosine_does_not_see_length(self, connector: Connector, name: str) -> None:
        """Neither of records nor of queries, tiny and huge ones included."""
        if Metric.COSINE not in connector.capabilities.metrics:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, plain(metric=Metric.COSINE))
            return
        collection = Collection.create(connector, name, plain(metric=Metric.COSINE))
        base = some_vectors(1)[0]
        put(collection, ["unit", "tiny", "huge"], np.stack([base, base * 1e-20, base * 1e18]).astype(np.float32))
        for scale in (1.0, 1e-20, 1e18):
            hits = collection.search_one(base * np.float32(scale))
            assert [h.score for h in hits] == pytest.approx([1.0] * 3, abs=1e-5)
        assert [h.score for h in collection.search_one(-base)] == pytest.approx([-1.0] * 3, abs=1e-5)

    @pytest.mark.parametrize(
        "wrong",
        [
            np.full((1, DIM), np.nan),
            np.full((1, DIM), np.inf),
            np.ones((1, DIM - 1)),
            np.ones((2, DIM + 1)),
            np.ones((1, 1, DIM)),
        ],
        ids=["NaN", "infinity", "too narrow", "too wide", "three axes"],
    )
    def test_bad_queries_are_refused(self, numbered: Collection, wrong: Any) -> None:
        """A query is held to what a record is held to."""
        with pytest.raises(InvalidRecord):
            numbered.search(wrong)
        with pytest.raises(InvalidRecord):
            numbered.search_one(np.ones((1, DIM)))

    def test_queries_may_be_float64_lists_or_strided(self, numbered: Collection) -> None:
        """What numpy reads as a matrix is a matrix."""
        query = some_vectors(4, seed=2)
        expected = [h.id for h in numbered.search_one(query[0])]
        assert [h.id for h in numbered.search_one(query[0].astype(np.float64))] == expected
        assert [h.id for h in numbered.search_one(query[0].tolist())] == expected
        assert [h.id for h in numbered.search(np.asfortranarray(query))[0]] == expected
        assert [h.id for h in numbered.search(query[::2])[0]] == expected

    @pytest.mark.parametrize("effort", [0.0, 0.5, 1.0])
    def test_effort_never_changes_the_meaning(self, numbered: Collection, effort: float) -> None:
        """The knob trades time for recall: scores stay what they are, and small collections are complete."""
        matrix = keystone_vectors()
        hits = numbered.search_one(matrix[0], k=40, tuning=Tuning(effort=effort))
        for hit in hits:
            score = similarity(Metric.L2, matrix[0], matrix[int(hit.id[1:])])
            assert "approximate" in hit.trace or abs(hit.score - score) <= allowed(
                Metric.L2, matrix[0], matrix[int(hit.id[1:])]
            )
        assert len(hits) == 40

    def test_hits_carry_payloads(self, numbered: Collection) -> None:
        """The payload of a hit is the record's; without ``want`` it is left out, exact or not."""
        for tuning in (Tuning(), EXACT):
            for hit in numbered.search_one(some_vectors(1)[0], k=5, tuning=tuning, where=F.label == "even"):
                assert hit.payload == {"n": int(hit.id[1:]), "label": "even"}
            for hit in numbered.search_one(
                some_vectors(1)[0], k=5, tuning=tuning, want=IDS_ONLY, where=F.label == "even"
            ):
                assert hit.payload is None
                assert not hit.vectors
            for hit in numbered.search_one(
                some_vectors(1)[0], k=5, tuning=tuning, want=Want(payload=False, vectors=("image",))
            ):
                assert hit.payload is None
                assert hit.vectors is not None
                np.testing.assert_allclose(hit.vectors["image"], keystone_vectors()[int(hit.id[1:])], rtol=1e-6)

    def test_search_sees_replacements(self, collection: Collection) -> None:
        """A replaced vector is found at its new place and not at the old one."""
        near, far = np.zeros((1, DIM), np.float32), np.full((1, DIM), 50, np.float32)
        put(collection, ["moving"], near)
        put(collection, ["standing"], near + 1)
        put(collection, ["moving"], far)
        assert [h.id for h in collection.search_one(near[0])] == ["standing", "moving"]
        assert [h.id for h in collection.search_one(far[0])] == ["moving", "standing"]

    def test_width_one(self, connector: Connector, name: str) -> None:
        """The narrowest vector works."""
        from pixdex.spec import Spec
        from pixdex.testing._support import vector

        metric = max(connector.capabilities.metrics)
        collection = Collection.create(connector, name, Spec(vectors=(vector(dim=1, metric=metric),)))
        collection.upsert(Batch(("a", "b"), {"image": np.array([[1.0], [-3.0]], np.float32)}))
        collection.flush()
        assert [h.id for h in collection.search_one([1.0])] == ["a", "b"]

    def test_wide_vectors(self, connector: Connector, name: str) -> None:
        """2048 dimensions, where the store takes them, score as defined."""
        from pixdex.spec import Spec
        from pixdex.testing._support import vector

        dim = min(2048, connector.capabilities.max_dim)
        metric = min(connector.capabilities.metrics)
        collection = Collection.create(connector, name, Spec(vectors=(vector(dim=dim, metric=metric),)))
        matrix = some_vectors(5, dim=dim)
        put(collection, [f"r{i:02}" for i in range(5)], matrix)
        _check(collection.search_one(matrix[2], k=5), matrix[2], matrix, metric, "float32", 5, range(5))
