"""Searches by several kinds of evidence, on every store of the unit tests: the same order and the same numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import toys

import pixdex
from pixdex import fusion
from pixdex.errors import ConfigError, Unsupported
from pixdex.fusion import Decay, Moment, Place
from pixdex.rerankers import Stage

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Worded(toys.ToyEncoder):
    """A toy that knows words: the names of colours."""

    def encode_text(self, texts):
        pictures = [np.full((8, 8, 3), COLOURS[text], np.uint8) for text in texts]
        vectors = self.encode([self.prepare(picture) for picture in pictures]).vectors
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def picture(*colour: int) -> np.ndarray:
    return np.full((8, 8, 3), colour, np.uint8)


@pytest.fixture
def photos(url):
    """Reds, greens and blues, each further away and longer ago than the one before."""
    fields = {"spot": "geo", "made": "time", "n": "int"}
    with pixdex.open(url, encoder=Worded(), fields=fields, tokens=True) as index:
        for n, (name, shade) in enumerate([(c, s) for s in range(3) for c in COLOURS]):
            colour = np.array(COLOURS[name]) * (1 - 0.1 * shade) + 12 * shade
            values = {"n": n, "spot": (50.0 + n, 10.0), "made": NOON - timedelta(days=10 * n)}
            index.add(picture(*colour.astype(int)), ids=[f"{name}{shade}"], fields=values)
        index.add(picture(120, 120, 10), ids=["yellow"], fields={"n": 9})
        yield index


def ids(hits):
    return [hit.id for hit in hits]


def test_picture_and_words_are_joined(photos):
    image, text = photos.search("red0", k=10), photos.search(text="green", k=10)
    for method in fusion.Method:
        joined = photos.search("red0", text="green", k=10, fusion=method)
        expected = fusion.fuse({"image": image, "text": text}, method=method)
        assert ids(joined) == ids(expected)
        assert [hit.score for hit in joined] == pytest.approx([hit.score for hit in expected])
    both = photos.search("red0", text="green", k=1)[0]
    assert set(both.trace) == {"image", "text"}
    assert both.payload["n"] is not None


def test_weights_decide_which_counts(photos):
    assert ids(photos.search("red0", text="green", k=1, weights={"text": 0}))[0] == "red0"
    assert ids(photos.search("red0", text="green", k=1, weights={"image": 0}))[0] == "green0"
    with pytest.raises(ConfigError, match="a weight for 'near', which nothing was searched by; there is image, text"):
        photos.search("red0", text="green", weights={"near": 2})


def test_a_way_of_joining_that_there_is_not_is_named(photos):
    with pytest.raises(ConfigError, match="fusion 'sum': one of rrf, z, dbsf"):
        photos.search("red0", fusion="sum")  # also where there is nothing to join


def test_a_filter_applies_to_every_kind(photos):
    assert set(ids(photos.search("red0", text="green", k=10, where=pixdex.F.n < 3))) == {"red0", "green0", "blue0"}


def test_what_is_near_comes_first(photos):
    plain = photos.search("red0", k=10)
    there = photos.search("red0", k=10, near=Place(56.0, 10.0, Decay(scale=30), field="spot"))
    assert ids(plain)[0] == "red0"
    assert ids(there)[0] == "red2"  # 56 degrees north
    assert there[0].trace["near"] == pytest.approx(1)
    yellow = next(hit for hit in there if hit.id == "yellow")
    assert yellow.trace["near"] == 0.5, "a record without a place is as one a scale away"
    undecided = photos.search("red0", k=10, near=Place(56.0, 10.0, Decay(scale=30), field="spot"), weights={"near": 0})
    assert ids(undecided) == ids(plain)


class Doubtful:
    """Scores lower than any of another kind; the redder the lower."""

    name, uses_tokens, uses_vectors = "doubtful", False, True

    def rerank(self, query, candidates):
        by_name = [0.001 * ord(c.id[0]) for c in candidates]  # green and blue are as far from red
        scores = [(1 - c.score) + more - 9 for c, more in zip(candidates, by_name, strict=True)]
        return np.where([c.id == "red1" for c in candidates], np.nan, scores)


def test_the_order_of_stages_stays_where_nothing_else_counts(photos):
    """Below a stage's ``@n``, and where it has no score, stand scores of another kind, higher ones here."""
    stages = ["maxsim", Stage(Doubtful(), top=6)]
    plain = photos.search("red0", k=10, rerank=stages)
    assert plain[0].score < plain[-1].score
    spot = Place(56.0, 10.0, Decay(scale=30), field="spot")
    assert ids(photos.search("red0", k=10, rerank=stages, near=spot, weights={"near": 0})) == ids(plain)
    for method in fusion.Method:
        joined = photos.search("red0", text="red", k=10, rerank=stages, fusion=method, weights={"text": 0})
        assert ids(joined) == ids(plain), method
    behind = photos.search("red0", k=10, candidates=4, rerank="maxsim", near=spot, weights={"near": 0})
    assert ids(behind) == ids(photos.search("red0", k=10, candidates=4, rerank="maxsim"))


def test_what_nothing_can_be_searched_by_is_named(photos):
    for given, said in [
        ({"near": "here"}, "give latitude and longitude"),
        ({"near": (1, 2, 3)}, "give latitude and longitude"),
        ({"at": "2026"}, "give a datetime with a zone"),
        ({"more_like": "red0"}, r"more_like=\['red0'\]"),
        ({"less_like": "red0"}, r"less_like=\['red0'\]"),
        ({"weights": {"image": "much"}}, "'much': a number, 0 or more"),
        ({"rerank": 5}, "rerank 5: no reranker"),
        ({"rerank": [("maxsim", 3)]}, "no reranker"),
        ({"rerank": "maxsim", "candidates": -1}, "candidates is -1"),
    ]:
        with pytest.raises(ConfigError, match=said):
            photos.search("red0", **given)
    with pytest.raises(ConfigError, match=r"maxsim@2\.5"):
        Stage("maxsim", top=2.5)


def test_what_is_of_that_time_comes_first(photos):
    at = Moment(NOON - timedelta(days=60), Decay(scale=5 * 86_400), field="made")
    found = photos.search(text="red", k=10, at=at)
    assert ids(found)[0] == "red2"
    assert found[0].trace["at"] == pytest.approx(1)


def test_fields_that_hold_no_place_or_time_are_refused_by_name(photos):
    with pytest.raises(ConfigError, match="'n' is no geo field.*there is .*spot"):
        photos.search("red0", near=Place(1, 1, field="n"))
    with pytest.raises(ConfigError, match="'gone' is no time field.*made"):
        photos.search("red0", at=Moment(NOON, field="gone"))
    with pytest.raises(ConfigError, match="latitude"):
        photos.search("red0", near=(91, 0))
    with pytest.raises(ConfigError, match="say in which time zone"):
        photos.search("red0", at=datetime(2020, 1, 1))


def test_more_and_less_like(photos):
    towards = photos.search("yellow", k=10, more_like=["green0", "green1"], less_like=["red0"])
    order = ids(towards)
    assert order.index("green2") < order.index("red2")
    blues = photos.search(more_like=["blue0", picture(0, 0, 240)], k=3)
    assert set(ids(blues)) == {"blue0", "blue1", "blue2"}
    with pytest.raises(ConfigError, match="less_like= moves a picture's query"):
        photos.search(text="red", less_like=["red0"])


def test_a_picture_is_reranked_before_it_is_joined(photos):
    reranked = photos.search("red0", k=10, rerank="maxsim")
    text = photos.search(text="green", k=10)
    joined = photos.search("red0", text="green", k=10, rerank="maxsim")
    assert ids(joined) == ids(fusion.fuse({"image": reranked, "text": text}))


def test_words_need_an_encoder_that_knows_them(url):
    with pixdex.open(url, encoder=toys.ToyEncoder()) as photos:
        photos.add(picture(1, 2, 3), ids=["a"])
        with pytest.raises(Unsupported, match="vectors of pictures only"):
            photos.search("a", text="red")
