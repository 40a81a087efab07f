"""The image index as its users know it: add, search, declare, open again."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toys
from PIL import Image

import pixdex
from pixdex import F, Want
from pixdex.errors import (
    ConfigError,
    FingerprintMismatch,
    InvalidFilter,
    InvalidImage,
    InvalidRecord,
    NotFound,
    Unsupported,
)
from pixdex.index import describe
from pixdex.pictures import content_hash


def ids(hits: list[pixdex.Hit]) -> list[str]:
    return [hit.id for hit in hits]


def nothing_was_made(photos: pixdex.ImageIndex) -> bool:
    return list(photos._connector.names(timeout=5)) == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of ten pictures."""
    return toys.folder(tmp_path / "in", 10)


# --- what may be added ------------------------------------------------------------------------------


def test_a_folder_a_file_bytes_an_array_a_pil_image(photos, root):
    assert photos.add(root).added == 10
    assert photos.add(str(root)).unchanged == 10
    assert photos.add(toys.write(root / "10.png", 10)).added == 1
    assert photos.add(toys.png(11)).added == 1
    assert photos.add(bytearray(toys.png(12))).added == 1
    assert photos.add(toys.pixels(13)).added == 1
    assert photos.add(Image.fromarray(toys.pixels(14))).added == 1
    assert photos.count() == 15


def test_several_at_once_of_every_kind(photos, root, tmp_path):
    single = toys.write(tmp_path / "else/x.png", 20)
    report = photos.add(
        [root, single, str(root / "00.png"), toys.png(21), toys.pixels(22), Image.fromarray(toys.pixels(23))]
    )
    assert report.added == 14
    hashes = {content_hash(toys.png(21)), content_hash(toys.pixels(22)), content_hash(toys.pixels(23))}
    assert set(toys.revs(photos)) == {*(f"in/{n:02}.png" for n in range(10)), "else/x.png", *hashes}


def test_a_tuple_and_a_set_are_lists_too(photos, root):
    assert photos.add((root / "00.png", root / "01.png")).added == 2
    assert photos.add({root / "00.png", root / "02.png"}).added == 1


def test_one_file_has_the_id_that_its_folder_gives_it(photos, root):
    photos.add(root / "03.png")
    assert set(toys.revs(photos)) == {"in/03.png"}
    assert photos.add(root).unchanged == 1


def test_a_path_may_start_at_home(photos, root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert photos.add("~/in").added == 10
    assert photos.search("~/in/04.png", k=1)[0].id == "in/04.png"


def test_ids_may_be_given(photos, root):
    photos.add([toys.png(1), root / "02.png", toys.pixels(3)], ids=["one", "two", "drei/3"])
    assert set(toys.revs(photos)) == {"one", "two", "drei/3"}
    photos.add(iter([toys.png(4)]), ids=["four"])
    assert photos.count() == 4


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["a"], ConfigError, "1 ids for 2 pictures: give one id per picture, and no folders"),
        (["a", "b", "c"], ConfigError, "3 ids for 2 pictures"),
        (["a", "a"], ConfigError, "id 'a' stands twice in one call"),
        (["a", ""], InvalidRecord, "has 0 bytes"),
        (["a", 7], InvalidRecord, "ids are text, not int 7"),
    ],
)
def test_ids_that_do_not_fit_are_refused(photos, names, error, message):
    with pytest.raises(error, match=message):
        photos.add([toys.png(1), toys.png(2)], ids=names)
    assert photos.count() == 0


def test_a_folder_has_no_single_id(photos, root):
    with pytest.raises(ConfigError, match="no folders"):
        photos.add(root, ids=["a"])


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"]])
def test_ids_for_a_generator_are_counted_as_it_goes(photos, names):
    with pytest.raises(ConfigError, match=f"{len(names)} ids for .* pictures"):
        photos.add((toys.png(n) for n in range(2)), ids=names)


@pytest.mark.parametrize("wrong", [7, None, 2.5, [toys.png(1), 7]])
def test_what_is_no_picture_by_its_type_is_refused(photos, wrong):
    kind = "int" if isinstance(wrong, list) else type(wrong).__name__
    with pytest.raises(ConfigError, match=f"a picture is a path, bytes, a uint8 array or a PIL image, not {kind}"):
        photos.add(wrong)
    assert nothing_was_made(photos)


def test_a_wrong_type_from_a_generator_is_one_row(photos):
    report = photos.add(picture for picture in (toys.png(1), 7))
    assert report.added == 1
    assert "not int" in report.quarantined[0].reason


def test_a_folder_without_pictures_is_refused_before_anything_is_made(photos, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"no pictures in .*docs"):
        photos.add(tmp_path / "docs")
    assert nothing_was_made(photos)


def test_a_path_that_does_not_exist_is_refused_before_anything_is_made(photos, root, tmp_path):
    for wrong in (tmp_path / "nowhere", [root, str(tmp_path / "nowhere")]):
        with pytest.raises(ConfigError, match="nowhere does not exist"):
            photos.add(wrong)
    with pytest.raises(ConfigError, match="~nobody-of-that-name/x does not exist"):
        photos.add("~nobody-of-that-name/x")
    assert nothing_was_made(photos)


# --- sources ----------------------------------------------------------------------------------------


def test_a_source_is_remembered_with_its_folder(photos, root):
    photos.add(root)
    assert dict(photos.info().sources) == {"in": str(root)}
    photos.add(root, source="holiday")
    assert photos.info().sources["holiday"] == str(root)
    assert photos.count() == 20


def test_two_folders_of_one_name_are_told_apart(photos, root, tmp_path):
    other = toys.folder(tmp_path / "else/in", 2, start=50)
    photos.add(root)
    with pytest.raises(
        ConfigError, match=rf"source 'in' stands for {root} in this collection: give {other} another name with"
    ):
        photos.add(other)
    assert photos.count() == 10
    assert photos.add(other, source="in2").added == 2


def test_two_folders_of_one_name_in_one_call_are_refused_before_anything_is_made(photos, root, tmp_path):
    other = toys.folder(tmp_path / "else/in", 2)
    with pytest.raises(ConfigError, match="another name with source="):
        photos.add([root, other])
    assert nothing_was_made(photos)


def test_a_link_to_a_source_is_that_source(photos, root, tmp_path):
    photos.add(root)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/in").symlink_to(root)
    assert photos.add(tmp_path / "elsewhere/in").unchanged == 0, "the path differs, so the payload does"
    assert photos.count() == 10


def test_the_current_folder_has_a_name(photos, root, monkeypatch):
    monkeypatch.chdir(root)
    photos.add(".")
    assert "in/00.png" in toys.revs(photos)


# --- fields -----------------------------------------------------------------------------------------


def test_fields_are_inferred_and_said(photos, root):
    report = photos.add(root, fields={"album": "summer", "year": 2020, "tags": ["sea"]})
    assert report.notices == (
        "field 'album' is declared as text (open(fields=...) overrides)",
        "field 'year' is declared as int (open(fields=...) overrides)",
        "field 'tags' is declared as text[] (open(fields=...) overrides)",
    )
    assert photos.count((F.album == "summer") & (F.year >= 2020) & F.tags.contains("sea")) == 10
    assert photos.add(root, fields={"album": "summer"}).notices == ()


def test_open_overrides_what_would_be_inferred(made, root):
    photos = made(fields={"year": pixdex.Field(name="any", kind="float"), "tags": "text[]"})
    assert photos.add(root, fields={"year": 2020}).notices == ()
    fields = photos.info().fields
    assert (fields["year"], fields["tags"]) == ("float", "text[]")
    assert photos.count(F.year > 2019.5) == 10


def test_values_that_suggest_no_field_are_said_too(photos, root):
    report = photos.add(root, fields={"note": None, "exif": {"iso": 100}})
    assert [notice.split(",")[0] for notice in report.notices] == [
        "field 'note' is not declared",
        "field 'exif' is not declared",
    ]


def test_later_fields_are_kept_and_said_to_be_undeclared(photos, root):
    photos.add(root)
    report = photos.add(root, fields={"rating": 5})
    assert report.notices == (
        "field 'rating' is not declared, so it is kept but cannot be filtered on: declare it to change that",
    )
    assert toys.payloads(photos)["in/00.png"]["rating"] == 5
    with pytest.raises(InvalidFilter, match="rating"):
        photos.count(F.rating == 5)


def test_declare_makes_them_filterable(photos, root):
    photos.add(root)
    photos.add([root / "00.png", root / "01.png"], fields={"rating": 5})
    photos.declare({"rating": "int"})
    assert photos.count(F.rating == 5) == 2
    assert photos.count(~F.rating.exists()) == 8
    photos.declare({"rating": "int"})  # again: nothing to do
    with pytest.raises(ConfigError, match="field 'rating' is declared as int already, not text"):
        photos.declare({"rating": "text"})


def test_declare_before_the_first_picture(made, root):
    photos = made()
    photos.declare({"tags": "text[]"})
    photos.declare({"tags": "text[]"})
    photos.add(root)
    assert photos.info().fields["tags"] == "text[]"


def test_declare_refuses_what_the_records_do_not_hold(photos, root):
    photos.add(root)
    photos.add(root / "00.png", fields={"rating": "good"})
    with pytest.raises(InvalidRecord, match=r"record 'in/00.png': field 'rating' is declared int, got str"):
        photos.declare({"rating": "int"})


def test_an_unknown_kind_names_the_known(made):
    with pytest.raises(
        ConfigError, match=r"field 'year': unknown kind 'number' \(known: text, int, .*name\[\] for lists"
    ):
        made(fields={"year": "number"})
    with pytest.raises(ConfigError, match="filled by pixdex"):
        made(fields={"path": "text"})
    with pytest.raises(ConfigError, match="filled by pixdex"):
        made().declare({"taken": "time"})


def test_a_field_name_that_cannot_be_one_is_refused(photos, root):
    with pytest.raises(ConfigError, match="field name 'my album'"):
        photos.add(root, fields={"my album": "x"})
    assert nothing_was_made(photos)


def test_fields_of_open_that_differ_from_the_collection_are_said(made, root, tmp_path):
    address = f"pq://{tmp_path / 'x.pix'}"
    with pixdex.open(address, encoder=toys.ToyEncoder()) as photos:
        photos.add(root, fields={"year": 2020})
    again = made(address, fields={"year": "text"})
    assert again.add(root).notices == ("field 'year' stays int: this collection was made with it so",)


# --- searching --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(3))
def test_a_picture_finds_itself_however_it_is_given(photos, root, number):
    photos.add(root)
    path = root / f"{number:02}.png"
    for query in (path, str(path), toys.png(number), bytearray(toys.png(number)), toys.pixels(number)):
        best = photos.search(query, k=3)
        assert best[0].id == f"in/{path.name}"
        assert best[0].score == pytest.approx(1, abs=1e-5)
        assert len(best) == 3
    assert ids(photos.search(Image.fromarray(toys.pixels(number)), k=1)) == [f"in/{path.name}"]
    assert ids(photos.search(f"in/{path.name}", k=1)) == [f"in/{path.name}"]
    vector = photos.get(f"in/{path.name}", want=Want(vectors=("image",))).vectors["image"][0]
    assert ids(photos.search(vector, k=1)) == [f"in/{path.name}"]


def test_hits_carry_the_payload_best_first(photos, root):
    photos.add(root, fields={"album": "summer"})
    hits = photos.search(root / "00.png")
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].payload["path"] == str(root / "00.png")
    assert hits[0].payload["album"] == "summer"
    assert "_rev" not in hits[0].payload


def test_search_by_id_encodes_nothing(photos, toy, root):
    photos.add(root)
    total = toy.total
    photos.search("in/00.png")
    assert toy.total == total


def test_exclude_self(photos, root):
    photos.add(root)
    for query in (root / "00.png", toys.png(0), "in/00.png"):
        hits = photos.search(query, k=20, exclude_self=True)
        assert len(hits) == 9
        assert "in/00.png" not in ids(hits)
    vector = photos.get("in/00.png", want=Want(vectors=("image",))).vectors["image"][0]
    assert len(photos.search(vector, k=20, exclude_self=True)) == 10, "a vector is no record"


def test_exclude_self_leaves_out_every_copy(photos, root):
    photos.add(root)
    toys.write(root / "copy.png", 0)
    photos.add(root)
    assert not {"in/00.png", "in/copy.png"} & set(ids(photos.search(root / "00.png", k=20, exclude_self=True)))


def test_exclude_self_and_where_go_together(photos, root):
    photos.add(root)
    photos.add([root / "00.png", root / "01.png"], fields={"rating": 5})
    photos.declare({"rating": "int"})
    assert ids(photos.search("in/00.png", where=F.rating == 5, exclude_self=True)) == ["in/01.png"]


def test_threshold(photos, root):
    photos.add(root)
    assert ids(photos.search(root / "00.png", threshold=0.999)) == ["in/00.png"]
    assert photos.search(root / "00.png", threshold=1.1) == []


def test_where_applies_before_top_k(photos, root):
    photos.add(root)
    photos.add(root / "07.png", fields={"album": "x"})
    photos.declare({"album": "text"})
    assert ids(photos.search(root / "00.png", k=1, where=F.album == "x")) == ["in/07.png"]
    from pixdex.filters import parse

    assert ids(photos.search(root / "00.png", k=1, where=parse('album == "x"'))) == ["in/07.png"]


@pytest.mark.parametrize("query", ["in/nothing.png", "x" * 400, "~nobody/x", "a\nb"])
def test_text_that_is_neither_file_nor_id_is_not_found(photos, root, query):
    photos.add(root)
    with pytest.raises(NotFound, match="is neither a file nor an id in collection 'main'"):
        photos.search(query)


def test_an_id_that_is_no_file_name_can_be_searched_with(photos, root):
    names = ["x" * 400, "~nobody/x", "a\nb"]
    photos.add([toys.png(n) for n in range(3)], ids=names)
    assert [ids(photos.search(name, k=1)) for name in names] == [[name] for name in names]


def test_a_query_that_is_no_picture_says_why(photos, root, tmp_path):
    photos.add(root)
    (tmp_path / "broken.jpg").write_text("no")
    with pytest.raises(NotFound, match=r"gone\.jpg does not exist"):
        photos.search(tmp_path / "gone.jpg")
    with pytest.raises(InvalidImage, match=r"broken\.jpg: not a picture"):
        photos.search(tmp_path / "broken.jpg")
    with pytest.raises(InvalidImage, match="a picture is a path, bytes, a uint8 array or a PIL image, not int"):
        photos.search(7)
    with pytest.raises(InvalidImage, match="a folder"):
        photos.search(root)
    with pytest.raises(InvalidRecord, match="48 dimensions"):
        photos.search(np.zeros(7, np.float32))
    with pytest.raises(InvalidRecord, match=r"one query is \[dim\]"):
        photos.search(np.zeros((2, 48), np.float32))


def test_a_record_without_an_image_vector_is_no_query(photos, root):
    photos.add(root)
    photos.collection.upsert(pixdex.Batch(("bare",)))
    with pytest.raises(Unsupported, match="record 'bare' has no image vector to search with"):
        photos.search("bare")


@pytest.mark.parametrize("k", [0, -1])
@pytest.mark.parametrize("rerank", [None, "maxsim"])
def test_at_least_one_hit_is_asked_for(made, root, k, rerank):
    photos = made(tokens=True)
    photos.add(root)
    with pytest.raises(ConfigError, match=f"k is {k}"):
        photos.search(root / "00.png", k=k, rerank=rerank)


def test_before_the_first_picture_there_is_nothing(photos, root):
    assert photos.count() == 0
    for call in (
        lambda: photos.search(root / "00.png"),
        lambda: photos.get("a"),
        photos.info,
        lambda: photos.delete("a"),
    ):
        with pytest.raises(NotFound, match="there is no collection 'main' yet: add pictures first"):
            call()


def test_delete_by_id_ids_and_filter(photos, root):
    photos.add(root, fields={"n": 1})
    photos.delete("in/00.png")
    photos.delete(["in/01.png", "in/02.png", "unknown"])
    assert photos.count() == 7
    photos.delete(F.n == 1)
    assert photos.count() == 0
    assert photos.add(root).added == 10


class Worded(toys.ToyEncoder):
    """A toy that knows words: the names of colours."""

    def encode_text(self, texts):
        colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
        pictures = [np.full((8, 8, 3), colours[text], np.uint8) for text in texts]
        vectors = self.encode([self.prepare(picture) for picture in pictures]).vectors
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def colours(url):
    with pixdex.open(url, encoder=Worded(), fields={"n": "int"}, tokens=True) as photos:
        for n, (name, colour) in enumerate({"r": (250, 9, 9), "g": (9, 250, 9), "b": (9, 9, 250)}.items()):
            photos.add(np.full((8, 8, 3), colour, np.uint8), ids=[name], fields={"n": n})
        yield photos


def test_search_by_words(colours):
    assert [colours.search(text=word, k=1)[0].id for word in ("red", "green", "blue")] == ["r", "g", "b"]
    assert ids(colours.search(text="red", k=3, where=F.n >= 1, threshold=-1))[0] in "gb"
    assert len(colours.search(text="red", exclude_self=True)) == 3, "words are no record"


def test_words_need_an_encoder_that_knows_them(photos, root):
    photos.add(root)
    with pytest.raises(Unsupported, match="encoder 'toy' makes vectors of pictures only: to search by text, make a"):
        photos.search(text="a red car")


def test_words_have_no_tokens_to_rerank_by(colours):
    with pytest.raises(Unsupported, match="needs tokens of the query: search by picture"):
        colours.search(text="red", rerank="maxsim")


def test_something_is_searched_for(colours):
    with pytest.raises(ConfigError, match="search for a picture, an id or a vector, for text="):
        colours.search()


def test_a_query_is_decoded_as_small_as_the_encoder_allows(photos, root, toy, monkeypatch):
    large = root / "large.jpg"
    large.write_bytes(toys.encoded(toys.pixels(3, (480, 640)), "JPEG"))
    photos.add(root)
    sizes = []
    prepare = toys.ToyEncoder.prepare
    monkeypatch.setattr(toys.ToyEncoder, "prepare", lambda self, p: sizes.append(p.shape) or prepare(self, p))
    photos.search(large)
    toy.min_side = 100
    photos.search(large)
    assert sizes[0] == (480, 640, 3)
    assert 100 <= sizes[1][0] < 480


# --- tokens and rerankers ---------------------------------------------------------------------------


@pytest.fixture
def with_tokens(url, toy, root):
    with pixdex.open(url, encoder=toy, tokens=True) as photos:
        photos.add(root)
        yield photos


def test_tokens_are_kept_when_asked_for(with_tokens):
    batch = with_tokens.get("in/00.png", want=Want(tokens=True))
    assert batch.tokens[0].shape == (16, 3)
    assert batch.tokens[0].dtype == np.int8
    assert with_tokens.info().tokens == "16 x 3 int8"


def test_maxsim_ranks_by_tokens(with_tokens, root):
    hits = with_tokens.search(root / "04.png", rerank="maxsim", k=5)
    assert hits[0].id == "in/04.png"
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    assert set(hits[0].trace) >= {"first", "maxsim"}
    assert hits[0].trace["maxsim"] == hits[0].score
    assert len(hits) == 5
    assert ids(with_tokens.search("in/04.png", rerank="maxsim", k=5)) == ids(hits)


def test_a_reranker_sees_as_many_as_it_is_allowed(with_tokens, root):
    first = ids(with_tokens.search(root / "04.png", k=3))
    assert set(ids(with_tokens.search(root / "04.png", k=3, candidates=3, rerank="maxsim"))) == set(first)
    assert len(with_tokens.search(root / "04.png", k=3, candidates=1, rerank="maxsim")) == 3


def test_records_without_tokens_and_picture_keep_their_place(with_tokens, root):
    nearly = np.minimum(toys.pixels(4), 250)
    with_tokens.add([toys.png(50), nearly], ids=["p", "q"], tokens=False)
    first = ids(with_tokens.search(root / "04.png", k=20))
    hits = with_tokens.search(root / "04.png", k=20, rerank="maxsim")
    assert [ids(hits).index(record) for record in "pq"] == [first.index(record) for record in "pq"]
    left = [hit for hit in hits if hit.id in "pq"]
    assert all("maxsim" not in hit.trace and hit.trace["first"] == hit.score for hit in left)
    assert [hit.trace["tokens"] for hit in left] == ["missing"] * 2
    assert all("tokens" not in hit.trace for hit in hits if hit.id not in "pq")
    sure = with_tokens.search(root / "04.png", rerank="maxsim", threshold=0.99)
    assert [hit.id for hit in sure] == ["in/04.png"]  # q, which was not scored, is not known to be that good


def test_tokens_are_added_to_records_that_lack_them(with_tokens, toy):
    with_tokens.add(toys.png(50), ids=["p"], tokens=False)
    assert with_tokens.add(toys.png(50), ids=["p"]).added == 1
    assert with_tokens.get("p", want=Want(tokens=True)).tokens[0] is not None
    assert with_tokens.add(toys.png(50), ids=["p"]).unchanged == 1


def test_a_moved_file_takes_its_tokens_along(with_tokens, root, toy):
    (root / "00.png").rename(root / "moved.png")
    total = toy.total
    assert with_tokens.add(root).reused == 1
    assert toy.total == total
    assert with_tokens.get("in/moved.png", want=Want(tokens=True)).tokens[0].shape == (16, 3)


def test_a_collection_without_tokens_says_so(photos, root):
    photos.add([toys.png(1), toys.png(2)], ids=["a", "b"])
    with pytest.raises(Unsupported, match="make a new one with tokens=True"):
        photos.search(root / "00.png", rerank="maxsim")
    with pytest.raises(Unsupported, match="make a new one with tokens=True"):
        photos.add(root, tokens=True)


def test_a_query_without_tokens_says_so(with_tokens, root):
    with_tokens.add(toys.png(50), ids=["p"], tokens=False)
    for query in ("p", np.ones(48, np.float32)):
        with pytest.raises(Unsupported, match="reranker 'maxsim' needs tokens of the query: search by picture"):
            with_tokens.search(query, rerank="maxsim")


def test_an_encoder_without_tokens_says_so(root):
    with pixdex.open("memory://", encoder=toys.ToyEncoder(with_tokens=False), tokens=True) as photos:
        with pytest.raises(Unsupported, match="encoder 'toy' makes no tokens"):
            photos.add(root)
        assert nothing_was_made(photos)


def test_an_unknown_reranker_names_the_nearest(with_tokens, root):
    with pytest.raises(ConfigError, match="did you mean 'maxsim'"):
        with_tokens.search(root / "00.png", rerank="maxsin")


# --- opening again ----------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, root, toy_plugin) -> str:
    """The address of a store on disk with ten pictures, of the encoder ``toy:48``."""
    address = f"pq://{tmp_path / 'photos.pix'}"
    with pixdex.open(address, encoder="toy:48") as photos:
        photos.add(root)
    return address


def test_a_collection_knows_its_encoder(store, root):
    with pixdex.open(store) as photos:
        assert photos.encoder.reference == "toy:48"
        assert photos.count() == 10
        assert photos.search(root / "03.png", k=1)[0].id == "in/03.png"
        assert photos.add(root).unchanged == 10


def test_another_encoder_is_refused_even_of_equal_dimension(store):
    for other, reference in ((toys.ToyEncoder("other"), "other"), ("toy:30", "toy")):
        with pytest.raises(FingerprintMismatch) as caught:
            pixdex.open(store, encoder=other)
        message = str(caught.value)
        here, there = toys.ToyEncoder().fingerprint.digest[:8], getattr(other, "fingerprint", None)
        assert f"toy [{here}]" in message
        assert reference in message
        assert there is None or there.digest[:8] in message
        assert "they differ in" in message
        assert "Open it with the encoder that wrote it, or make a new collection" in message
    with pixdex.open(store, encoder="toy:48") as photos:
        assert photos.count() == 10, "the refusal left nothing locked"


def without_encoders(monkeypatch):
    from pixdex import _plugins

    installed = _plugins.installed
    monkeypatch.setattr(_plugins, "installed", lambda group: {} if group == "pixdex.encoders" else installed(group))


def test_an_encoder_that_is_gone_is_named_with_the_remedy(store, monkeypatch):
    without_encoders(monkeypatch)
    with pytest.raises(
        ConfigError, match=r"collection 'main' was written by encoder 'toy:48', which cannot be made here: .*encoder="
    ):
        pixdex.open(store)


def test_an_unknown_encoder_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="clasic"):
        pixdex.open(f"pq://{tmp_path / 'x.pix'}", encoder="clasic")


def test_describe_needs_no_encoder(store, monkeypatch):
    from pixdex.connectors import connect

    without_encoders(monkeypatch)
    connector, name = connect(store)
    facts = describe(connector, name)
    connector.close()
    assert (facts.store, facts.collection, facts.count, facts.encoder, facts.dim) == ("pq", "main", 10, "toy:48", 48)
    assert facts.fields["taken"] == "time"
    assert facts.tokens is None


def test_collections_of_one_store_do_not_mix(store, root):
    with pixdex.open(f"{store}#second", encoder="toy:48") as photos:
        assert photos.count() == 0
        photos.add(toys.png(77), ids=["x"])
        assert photos.count() == 1
    with pixdex.open(store) as photos:
        assert photos.count() == 10


def test_a_collection_made_from_vectors_can_take_pictures(toy, made):
    address = "memory://made-from-vectors"
    connector, name = pixdex.connect(address)
    pixdex.Collection.create(
        connector, name, pixdex.Spec(vectors=(pixdex.Vector(dim=48, fingerprint=toy.fingerprint),))
    )
    photos = made(address)
    report = photos.add(toys.png(1))
    assert report.added == 1
    assert report.notices[0].startswith("fields that pixdex fills were declared: path, width")
    assert photos.add(toys.png(1)).unchanged == 1
    photos.collection.drop()


def test_a_handle_sees_a_collection_that_another_made_meanwhile(tmp_path, root, toy):
    address = f"pq://{tmp_path / 'x.pix'}"
    with pixdex.open(address, encoder=toy) as early, pixdex.open(address, encoder=toys.ToyEncoder("other")) as wrong:
        assert early.count() == 0
        with pixdex.open(address, encoder=toy) as writer:
            writer.add(root)
        assert early.count() == 10
        assert early.search(root / "00.png", k=1)[0].id == "in/00.png"
        assert early.add(root).unchanged == 10
        with pytest.raises(FingerprintMismatch):
            wrong.add(root)


# --- progress ---------------------------------------------------------------------------------------


def test_a_terminal_gets_a_bar_and_a_pipe_gets_none(photos, root, capsys, monkeypatch):
    import sys

    photos.add(root)
    assert capsys.readouterr().err == ""
    photos.add(root, progress=True)
    assert "10 pictures" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    photos.add(root)
    assert "10 unchanged" in capsys.readouterr().err
    photos.add(root, progress=False)
    assert capsys.readouterr().err == ""


def test_the_bar_ends_when_the_work_breaks(made, tmp_path, capsys):
    def pictures():
        yield toys.png(1)
        (tmp_path / "x.jpg").write_text("no")
        yield tmp_path / "x.jpg"
        raise RuntimeError("broken")

    photos = made()
    with pytest.raises(RuntimeError):
        photos.add(pictures(), progress=True)
    photos.add([toys.png(1), tmp_path / "x.jpg"], progress=True)
    assert "1 unusable" in capsys.readouterr().err


def test_relative_stores_and_folders(tmp_path, root, toy_plugin, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pixdex.open("pq://photos.pix", encoder="toy") as photos:
        photos.add("in")
    monkeypatch.chdir(root)
    with pixdex.open("pq://../photos.pix") as photos:
        assert photos.add(os.curdir).unchanged == 10


# --- two handles, two sources -------------------------------------------------------------------------


def test_a_source_name_with_a_slash_is_refused(photos, tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "x.png")
    with pytest.raises(ConfigError, match="a name without '/'"):
        photos.add(tmp_path / "a", source="a/b", progress=False)


def test_two_handles_do_not_take_one_source_name_for_two_folders(tmp_path, toy):
    for folder in ("one", "two"):
        (tmp_path / folder / "pics").mkdir(parents=True)
        Image.new("RGB", (8, 8), (folder == "one" and "red") or "blue").save(tmp_path / folder / "pics" / "x.png")
    (tmp_path / "first").mkdir()
    Image.new("RGB", (8, 8), "green").save(tmp_path / "first" / "x.png")
    url = f"pq://{tmp_path / 'store.pix'}"
    with pixdex.open(url, encoder=toy) as early:
        early.add(tmp_path / "first", progress=False)
        with pixdex.open(url, encoder=toy) as other:
            other.add(tmp_path / "one" / "pics", progress=False)
        with pytest.raises(ConfigError, match="another name with source="):
            early.add(tmp_path / "two" / "pics", progress=False)
        assert early.count() == 2


def test_tokens_of_another_kind_are_refused_when_opened(tmp_path):
    url = f"pq://{tmp_path / 'store.pix'}"
    with pixdex.open(url, encoder=toys.ToyEncoder(), tokens=True) as index:
        index.add(np.zeros((8, 8, 3), np.uint8), progress=False)
    without = toys.ToyEncoder(with_tokens=False)
    with pytest.raises(FingerprintMismatch, match="keeps tokens, which this encoder does not make"):
        pixdex.open(url, encoder=without)
    fewer = toys.ToyEncoder()
    fewer.token_spec = replace(fewer.token_spec, count=5)
    with pytest.raises(FingerprintMismatch, match="16 x 3 int8, this encoder makes 5 x 3 int8"):
        pixdex.open(url, encoder=fewer)


@pytest.mark.parametrize("path", ["x" * 5000, Path("x" * 5000)])
def test_a_path_that_no_system_takes_does_not_exist(photos, path):
    with pytest.raises(ConfigError, match="does not exist"):
        photos.add(path, progress=False)


def test_a_handle_opened_early_checks_the_tokens_of_a_collection_made_meanwhile(tmp_path):
    url = f"pq://{tmp_path / 'store.pix'}"
    fewer = toys.ToyEncoder()
    fewer.token_spec = replace(fewer.token_spec, count=5)
    with pixdex.open(url, encoder=fewer) as early:
        with pixdex.open(url, encoder=toys.ToyEncoder(), tokens=True) as other:
            other.add(np.zeros((8, 8, 3), np.uint8), progress=False)
        with pytest.raises(FingerprintMismatch, match="16 x 3 int8, this encoder makes 5 x 3 int8"):
            early.add(np.ones((8, 8, 3), np.uint8), progress=False)


def test_a_search_hashes_its_picture_only_to_leave_it_out(photos, monkeypatch):
    picture = np.zeros((8, 8, 3), np.uint8)
    photos.add([picture, picture + 9], ids=["a", "b"], progress=False)
    hashed = []
    monkeypatch.setattr("pixdex._asking.content_hash", lambda *given: hashed.append(1) or content_hash(*given))
    assert len(photos.search(picture)) == 2
    assert not hashed
    assert [hit.id for hit in photos.search(picture, exclude_self=True)] == ["b"]
    assert hashed
