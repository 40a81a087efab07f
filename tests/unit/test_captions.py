"""Captions of pictures: written as they are added, searched beside pictures, kept up with, known again when opened again."""

from __future__ import annotations

import asyncio
import hashlib
import json

import numpy as np
import pytest
import toys
from typer.testing import CliRunner

import pixdex
from pixdex import F, cli, encoders, fusion
from pixdex.errors import ConfigError, FingerprintMismatch, InvalidRecord, Unsupported
from pixdex.spec import Fingerprint, Metric

WIDTH = 64


class ToyWords:
    """A bag of words: each word has its places. ``asked`` are the texts of each call."""

    def __init__(self, name="words"):
        self.name = name
        self.reference = f"{name}:"
        self.dim = WIDTH
        self.metric = Metric.COSINE
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        self.fingerprint = Fingerprint(encoder=name, digest=digest, parts={"weights": digest})
        self.asked = []

    def encode_text(self, texts):
        self.asked.append(list(texts))
        made = np.zeros((len(texts), WIDTH), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().replace(",", " ").split():
                if word != "nothing":
                    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")
                    made[row] += np.random.default_rng(seed).standard_normal(WIDTH)
        return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)


CAPTIONS = {"a": "a red car", "b": "a blue boat", "c": "two dogs", "d": None, "e": "a red boat"}
PICTURES = {name: toys.pixels(seed) for seed, name in enumerate(CAPTIONS)}


@pytest.fixture
def words(monkeypatch):
    """The encoder, also by its reference ``words:``."""
    toy, load = ToyWords(), encoders.load_text
    monkeypatch.setattr(encoders, "load_text", lambda name: toy if name == "words:" else load(name))
    return toy


STORES = ["memory", "pq", "edge"]


@pytest.fixture(params=STORES[:2])
def url(request, tmp_path):
    if request.param == "edge":
        pytest.importorskip("qdrant_edge")
        return f"qdrant+edge://{tmp_path / 'edge'}#main"
    return {"memory": "memory://", "pq": f"pq://{tmp_path / 'store.pix'}"}[request.param]


def table(tmp_path, captions=CAPTIONS, name="t.jsonl"):
    """A table of the pictures with their captions."""
    lines = []
    for record, caption in captions.items():
        (tmp_path / f"{record}.png").write_bytes(toys.encoded(PICTURES[record]))
        lines.append(json.dumps({"id": record, "path": f"{record}.png", "caption": caption}))
    (tmp_path / name).write_text("\n".join(lines))
    return tmp_path / name


def opened(url, toy, words=None, **options):
    return pixdex.open(url, encoder=toy, text_encoder=words, **options)


def ids(hits):
    return [hit.id for hit in hits]


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_pictures_are_found_by_their_captions(url, toy, words, tmp_path):
    with opened(url, toy, words) as photos:
        report = photos.add(table(tmp_path), text="caption")
        assert (report.added, report.quarantined) == (5, ())
        assert words.asked == [["a red car", "a blue boat", "two dogs", "a red boat"]], "one call for a chunk"
        found = photos.search(text="red car", k=10)
        assert ids(found)[:2] == ["a", "e"]
        assert "d" not in ids(found), "it has no caption"
        query, stored = words.encode_text(["red car", "a red car"])
        assert found[0].score == pytest.approx(float(query @ stored), abs=1e-5)
        assert ids(photos.search("d", k=10))[0] == "d", "it is a picture all the same"
        assert ids(photos.search(text="boat", k=10, where=F.caption == "a red boat")) == ["e"]
        assert ids(photos.search(text="red car", k=10, threshold=0.6)) == ["a"]


def test_picture_and_caption_are_joined(url, toy, words, tmp_path):
    with opened(url, toy, words) as photos:
        photos.add(table(tmp_path), text="caption")
        image, text = photos.search(PICTURES["b"], k=10), photos.search(text="red boat", k=10)
        for method in fusion.Method:
            joined = photos.search(PICTURES["b"], text="red boat", k=10, fusion=method, weights={"text": 2})
            expected = fusion.fuse({"image": image, "text": text}, method=method, weights={"text": 2})
            assert ids(joined) == ids(expected)
            assert [hit.score for hit in joined] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        assert "b" not in ids(photos.search("b", text="blue boat", k=10, exclude_self=True))


def test_an_index_goes_on_with_the_captions_of_what_its_alias_names_now(toy, words, tmp_path, monkeypatch):
    others, load = ToyWords("others"), encoders.load_text
    monkeypatch.setattr(encoders, "load_text", lambda name: others if name == "others:" else load(name))
    store = f"pq://{tmp_path / 'two.pix'}"
    for name, encoder in (("v2", others), ("v1", words)):
        with opened(f"{store}#{name}", toy, encoder) as photos:
            photos.add(table(tmp_path), text="caption")
            photos.collection.alias("live")
    with opened(f"{store}#live", toy) as photos, opened(f"{store}#v2", toy) as second:
        assert ids(photos.search(text="two dogs", k=1)) == ["c"]
        assert photos.text_encoder is words
        second.collection.alias("live")
        assert ids(photos.search(text="two dogs", k=1)) == ["c"]
        assert photos.text_encoder is others


def test_a_collection_knows_its_captions_again(toy, words, tmp_path):
    url = f"pq://{tmp_path / 'again.pix'}"
    with opened(url, toy, words) as photos:
        photos.add(table(tmp_path), text="caption")
        vector = photos.collection.spec.vector("text")
        assert (vector.encoder, vector.embeds, vector.fingerprint) == ("words:", "caption", words.fingerprint)
        assert photos.info().captions == "caption, by words:"
    with opened(url, toy) as photos:
        assert ids(photos.search(text="two dogs", k=1)) == ["c"]
        photos.add(toys.pixels(77), ids=["new"], fields={"caption": "seven ducks"})
        assert ids(photos.search(text="ducks", k=1)) == ["new"]
        with pytest.raises(ConfigError, match="text='title': the vector 'text' .* is made of 'caption'"):
            photos.add(toys.pixels(78), text="title")


def test_captions_of_another_encoder_are_refused(toy, words, tmp_path):
    url = f"pq://{tmp_path / 'other.pix'}"
    with opened(url, toy, words) as photos:
        photos.add(table(tmp_path), text="caption")
    with pytest.raises(FingerprintMismatch, match="captions of .* vectors of words .* not of others .*text_encoder="):
        opened(url, toy, ToyWords("others"))


@pytest.mark.parametrize("url", STORES, indirect=True)
def test_a_changed_caption_gets_its_vector_and_the_picture_stays(url, toy, words, tmp_path):
    with opened(url, toy, words) as photos:
        photos.add(table(tmp_path), text="caption")
        pictures, words.asked[:] = toy.total, []
        again = photos.add(table(tmp_path), text="caption")
        assert again.unchanged == 5
        assert words.asked == []
        changed = {**CAPTIONS, "a": "seven ducks", "d": "late"}
        report = photos.add(table(tmp_path, changed))
        assert (report.reused, report.unchanged) == (2, 3)
        photos.add(tmp_path / "e.png", ids=["e"], fields={"caption": None})
        assert words.asked == [["seven ducks", "late"]]
        assert toy.total == pictures, "no picture was encoded again"
        assert ids(photos.search(text="ducks", k=1)) == ["a"]
        assert ids(photos.search(text="late", k=1)) == ["d"]
        assert set(ids(photos.search(text="red", k=9))) == {"a", "b", "c", "d"}, "e has its caption no more"


def test_captions_may_come_later(url, toy, words, tmp_path):
    with opened(url, toy, words) as photos:
        photos.add(table(tmp_path))
        with pytest.raises(Unsupported, match="pictures only: .*, or add captions.*text_encoder="):
            photos.search(text="red car")
        pictures = toy.total
        report = photos.add(table(tmp_path), text="caption")
        assert (report.reused, report.unchanged) == (4, 1)
        assert toy.total == pictures
        assert any("those that are there when they are added again" in notice for notice in report.notices)
        assert ids(photos.search(text="red car", k=1)) == ["a"]


def test_a_copy_of_a_picture_has_its_own_caption(toy, words):
    with opened("memory://", toy, words) as photos:
        photos.add(PICTURES["a"], ids=["one"], fields={"caption": "a red car"}, text="caption")
        photos.add(PICTURES["a"], ids=["two"], fields={"caption": "summer"})
        photos.add(PICTURES["a"], ids=["three"], fields={"caption": "a red car"})
        photos.add(PICTURES["a"], ids=["four"])
        assert toy.total == 1
        assert words.asked == [["a red car"], ["summer"]], "the vector of the same caption is taken along"
        assert ids(photos.search(text="summer", k=1)) == ["two"]
        assert set(ids(photos.search(text="summer", k=9))) == {"one", "two", "three"}


def test_a_new_picture_under_an_id_keeps_the_caption(toy, words):
    with opened("memory://", toy, words) as photos:
        photos.add(PICTURES["a"], ids=["one"], fields={"caption": "a red car"}, text="caption")
        photos.add(PICTURES["b"], ids=["one"])
        assert ids(photos.search(text="red", k=9)) == ["one"]


def test_what_is_no_text_is_no_caption(toy, words):
    with opened("memory://", toy, words) as photos:
        photos.add(PICTURES["a"], ids=["fine"], fields={"tags": ["red", "car", " "]}, text="tags")
        odd = photos.add(PICTURES["b"], ids=["empty"], fields={"tags": []})
        assert odd.notices == ()
    with opened("memory://", toy, words) as photos:
        report = photos.add(PICTURES["a"], ids=["fine"], fields={"n": {"x": 1}}, text="n")
        assert "1 pictures have something else than text as 'n': they are added without a caption" in report.notices
        assert report.added == 1
    assert words.asked == [["red, car"]]


def test_a_caption_without_a_vector_is_told_of(toy, words):
    with opened("memory://", toy, words) as photos:
        report = photos.add(PICTURES["a"], ids=["a"], fields={"caption": "nothing"}, text="caption")
        assert report.added == 1
        assert any("'words' makes no usable vector" in notice for notice in report.notices)
        with pytest.raises(InvalidRecord):
            photos.search(text="nothing")


def test_captions_need_an_encoder_that_is_said(toy):
    with opened("memory://", toy) as photos, pytest.raises(ConfigError, match="say with text_encoder="):
        photos.add(PICTURES["a"], ids=["a"], fields={"caption": "x"}, text="caption")


def test_an_encoder_that_is_gone_is_named(toy, words, tmp_path, monkeypatch):
    url = f"pq://{tmp_path / 'gone.pix'}"
    with opened(url, toy, words) as photos:
        photos.add(table(tmp_path), text="caption")
    monkeypatch.undo()
    with opened(url, toy) as photos:
        assert ids(photos.search("a", k=1)) == ["a"]
        with pytest.raises(ConfigError, match="captions were written by encoder 'words:'.*text_encoder= where it is"):
            photos.search(text="red")


def test_captions_on_asyncio_and_from_the_shell(words, tmp_path, toy_plugin):
    url = f"pq://{tmp_path / 'shell.pix'}"
    source = str(table(tmp_path))
    done = CliRunner().invoke(
        cli.app, ["add", url, source, "-e", "toy", "--text", "caption", "--text-encoder", "words:"]
    )
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(cli.app, ["search", url, "--text", "red boat", "-k", "1", "--json"])
    assert [hit["id"] for hit in json.loads(done.stdout)] == ["e"]

    async def asked():
        async with await pixdex.aio.open("memory://", encoder="toy", text_encoder=words) as photos:
            await photos.add(source, text="caption")
            return await photos.search("b", text="dogs", k=5, weights={"image": 0})

    assert ids(asyncio.run(asked()))[0] == "c"


def test_a_caption_from_a_file_of_vectors_leaves_no_old_vector(toy, words, tmp_path):
    pytest.importorskip("pyarrow")
    url = f"pq://{tmp_path / 'load.pix'}"
    with opened(url, toy, words) as photos:
        photos.add(table(tmp_path), text="caption")
    changed = table(tmp_path, {**CAPTIONS, "a": "seven ducks"})
    pixdex.encode(changed, tmp_path / "v.parquet", encoder=toy)
    pixdex.load(url, tmp_path / "v.parquet")
    with opened(url, toy) as photos:
        assert set(ids(photos.search(text="red", k=9))) == {"b", "c", "e"}
        photos.add(changed)
        assert ids(photos.search(text="ducks", k=1)) == ["a"]


def test_one_caption_of_many_pictures_gives_the_same_on_every_store(toy, words, tmp_path):
    """More of them than are looked at: none of them is preferred by where it lies."""
    answers = []
    for store, step in (("memory://", 1), (f"pq://{tmp_path / 'many.pix'}", -1)):
        with opened(store, toy, words) as photos:
            for row in range(40)[::step]:
                caption = ("a red car", "a red boat", "a green tree")[row % 3]
                photos.add(toys.pixels(row), ids=[f"p{row:02}"], fields={"caption": caption}, text="caption")
            answers.append(photos.search("p07", text="red car", k=9, candidates=9, weights={"text": 3}))
    assert ids(answers[0]) == ids(answers[1])
    assert [hit.score for hit in answers[0]] == pytest.approx([hit.score for hit in answers[1]])
    assert {hit.payload["caption"] for hit in answers[0]} == {"a red car"}
    near = [hit for hit in answers[0] if "image" in hit.trace]
    assert near == answers[0][: len(near)], "of all that have the caption, those whose picture is near come first"
    assert near
