"""Searches that rerank in stages, on the oracle and the embedded store: what is fetched, what is made of pictures, what is said."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import toys

import pixdex
from pixdex import rerankers
from pixdex.collection import Collection
from pixdex.encoders.decoding import Decoding
from pixdex.errors import FingerprintMismatch, Unsupported
from pixdex.rerankers import Stage
from pixdex.rerankers.port import Candidate, Query
from pixdex.types import Want


@pytest.fixture
def root(tmp_path):
    return toys.folder(tmp_path / "in", 12)


@pytest.fixture
def photos(url, toy, root):
    with pixdex.open(url, encoder=toy, tokens=True) as index:
        index.add(root)
        yield index


def ids(hits):
    return [hit.id for hit in hits]


def test_stages_rank_one_after_the_other(photos):
    plain = photos.search("in/03.png", k=12)
    by_tokens = photos.search("in/03.png", k=12, rerank="maxsim")
    staged = photos.search("in/03.png", k=12, rerank="maxsim,k-reciprocal?k1=4&k2=2@5")
    assert ids(by_tokens) != ids(plain)
    assert set(ids(staged)[:5]) == set(ids(by_tokens)[:5])
    assert ids(staged)[5:] == ids(by_tokens)[5:]
    assert [sorted(hit.trace) for hit in staged] == [["first", "k-reciprocal", "maxsim"]] * 5 + [
        ["first", "maxsim"]
    ] * 7
    assert [hit.score for hit in staged[:5]] == [hit.trace["k-reciprocal"] for hit in staged[:5]]
    assert ids(photos.search("in/03.png", k=12, rerank=["maxsim", Stage("dba", top=1)])) == ids(by_tokens)
    stored = photos.get(ids(plain), want=Want(vectors=("image",)))
    found = rerankers.load("dba").rerank(
        Query(stored.vectors["image"][0]),
        [Candidate(i, 0.0, vector=v) for i, v in zip(stored.ids, stored.vectors["image"], strict=True)],
    )
    hits = photos.search("in/03.png", k=12, rerank="dba")
    assert {hit.id: hit.score for hit in hits} == pytest.approx(
        dict(zip(stored.ids, found.tolist(), strict=True)), abs=1e-5
    )


def test_all_stages_share_one_round_trip(photos, monkeypatch):
    wants = []
    fetch = Collection.fetch

    def counted(self, ids, *, want=Want()):
        wants.append((len(ids), want))
        return fetch(self, ids, want=want)

    query = photos.get("in/03.png", want=Want(vectors=("image",))).vectors["image"][0]
    monkeypatch.setattr(Collection, "fetch", counted)
    photos.search(toys.pixels(3), rerank="maxsim,alpha-qe,maxsim@3", candidates=7)
    photos.search(query, rerank="alpha-qe", candidates=9)
    assert wants == [
        (7, Want(payload=False, vectors=("image",), tokens=True)),
        (9, Want(payload=False, vectors=("image",))),
    ]


def test_a_threshold_is_of_the_last_stage(photos):
    hits = photos.search("in/03.png", k=12, rerank="maxsim,dba@4", threshold=-1)
    assert len(hits) == 4
    assert all("dba" in hit.trace for hit in hits)


# --- tokens made of pictures -------------------------------------------------------------------------


def test_tokens_that_a_record_lacks_are_made_of_its_picture(photos, root, toy):
    all_stored = photos.search("in/03.png", k=12, rerank="maxsim")
    photos.delete(["in/03.png", "in/05.png", "in/06.png"])
    photos.add([root / f"{n:02}.png" for n in (3, 5, 6)], ids=["in/03.png", "in/05.png", "in/06.png"], tokens=False)
    before = toy.total
    hits = photos.search("in/03.png", k=12, rerank="maxsim")
    assert ids(hits) == ids(all_stored)
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in all_stored])
    computed = {hit.id for hit in hits if hit.trace.get("tokens") == "computed"}
    assert computed == {"in/03.png", "in/05.png", "in/06.png"}
    assert toy.total == before + 1 + 3  # the query's, and those of the candidates in one batch
    assert toy.encoded[-1] == 3
    assert photos.get("in/05.png", want=Want(tokens=True)).tokens in (None, (None,)), "a search writes nothing"


def test_a_collection_without_tokens_is_reranked_by_its_pictures(url, toy, root):
    with pixdex.open(url, encoder=toy) as photos:
        photos.add(root)
        hits = photos.search(root / "04.png", k=12, candidates=5, rerank="maxsim")
        assert (hits[0].id, hits[0].score) == ("in/04.png", pytest.approx(1, abs=1e-3))
        assert [hit.trace.get("tokens") for hit in hits] == ["computed"] * 5 + [None] * 7
        total = toy.total
        hits = photos.search("in/04.png", k=12, rerank="alpha-qe,maxsim@4")
        assert [hit.trace.get("tokens") for hit in hits] == ["computed"] * 4 + [None] * 8
        assert toy.total == total + 1 + 4, "the query's, and of those alone that the stage sees"
        shutil.rmtree(root)
        with pytest.raises(
            Unsupported, match="the picture of no candidate can be read: make a new one with tokens=True"
        ):
            photos.search(toys.pixels(4), rerank="maxsim")
        assert photos.search(toys.pixels(4), rerank="dba", k=1)[0].id == "in/04.png", "vectors are enough for it"


def test_another_picture_by_now_counts_as_missing(photos, root):
    names = ["changed", "gone", "broken", "same"]
    files = [toys.write(root / f"{name}.png", 20 + n) for n, name in enumerate(names)]
    photos.add(files, ids=names, tokens=False)
    shutil.copy(root / "07.png", files[0])
    files[1].unlink()
    files[2].write_bytes(b"no picture")
    first = photos.search(toys.pixels(22), k=20)
    hits = photos.search(toys.pixels(22), k=20, rerank="maxsim")
    said = {hit.id: hit.trace["tokens"] for hit in hits if "tokens" in hit.trace}
    assert said == {"changed": "missing", "gone": "missing", "broken": "missing", "same": "computed"}
    for record in names[:3]:
        assert ids(hits).index(record) == ids(first).index(record)


def test_a_folder_that_was_moved_is_found_where_the_collection_remembers_it(url, toy, root, tmp_path):
    """Records that were written elsewhere, whose paths are relative or of another machine."""
    with pixdex.open(url, encoder=toy) as photos:
        photos.add(root)
        for page in photos.collection.scan(want=Want(vectors=("image",))):
            batch = page.batch
            for n, payload in enumerate(batch.payloads):
                payload["path"] = ("/nowhere/" if n % 2 else "") + batch.ids[n].partition("/")[2]
            photos.collection.upsert(batch)
        hits = photos.search(toys.pixels(4), rerank="maxsim", k=12)
        assert {hit.trace["tokens"] for hit in hits} == {"computed"}


def test_pictures_are_read_as_they_were_added(url, toy, tmp_path):
    """Another frame of a file is another picture."""
    (tmp_path / "film.gif").write_bytes(toys.film(toys.pixels(1), toys.pixels(2)))
    with pixdex.open(url, encoder=toy) as photos:
        photos.add(tmp_path / "film.gif", decoding=Decoding(frame=1))
        hit = photos.search(toys.pixels(2), rerank="maxsim", decoding=Decoding(frame=1))[0]
        assert (hit.trace["tokens"], hit.score) == ("computed", pytest.approx(1, abs=0.05))
        with pytest.raises(Unsupported, match="can be read"):
            photos.search(toys.pixels(2), rerank="maxsim")


def test_what_cannot_be_reranked_says_so_before_it_encodes(photos, root, made, monkeypatch):
    toy = toys.ToyEncoder("plain", with_tokens=False)
    plain = made(encoder=toy)
    plain.add(root)
    encoded = toy.total
    with pytest.raises(Unsupported, match="keeps no tokens to rerank with, and encoder 'plain' makes no tokens"):
        plain.search(root / "00.png", rerank="dba,maxsim")
    assert toy.total == encoded

    class Trained:
        name, uses_tokens = "trained", True

        def check(self, tokens):
            raise FingerprintMismatch(f"not of {tokens.fingerprint.encoder}")

        def rerank(self, query, candidates):
            pytest.fail("it was asked")

    monkeypatch.setattr("pixdex._reranking.tokens_from_pictures", pytest.fail)
    photos.add(toys.png(50), ids=["p"], tokens=False)
    with pytest.raises(FingerprintMismatch, match="not of toy"):
        photos.search(root / "00.png", rerank=Trained())


def test_words_alone_are_reranked_by_vectors(url):
    class Worded(toys.ToyEncoder):
        def encode_text(self, texts):
            return self.encode([self.prepare(toys.pixels(int(text))) for text in texts]).vectors

    with pixdex.open(url, encoder=Worded()) as photos:
        photos.add([toys.pixels(n) for n in range(9)], ids=[f"{n}" for n in range(9)])
        hits = photos.search(text="4", rerank="alpha-qe", k=3)
        assert hits[0].id == "4"
        assert np.isfinite(hits[0].trace["alpha-qe"])
