"""``docs/stores.md`` says what the connectors declare today, and its filters mean what they say."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

from pixdex.connectors.port import Capabilities
from pixdex.filters import Filter, Operator, bind, from_json, matches, operators_of, parse
from pixdex.spec import Field, Fingerprint, Kind, Spec, Vector

pytest.importorskip("qdrant_client")
pytest.importorskip("qdrant_edge")
pytest.importorskip("pymilvus")

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The generator, as a module."""
    from importlib.util import module_from_spec, spec_from_file_location

    found = spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert found is not None
    module = module_from_spec(found)
    sys.modules["generate_docs"] = module  # dataclasses look their module up
    found.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@pytest.fixture(scope="module")
def spec() -> Spec:
    """A Spec that declares the fields of the examples."""
    kinds = {"album": Kind.TEXT, "year": Kind.INT, "width": Kind.INT, "taken": Kind.TIME, "place": Kind.GEO}
    return Spec(
        vectors=(Vector(dim=3, fingerprint=Fingerprint(encoder="none", digest="00" * 8)),),
        fields=(
            *(Field(name=name, kind=kind) for name, kind in kinds.items()),
            Field(name="tags", kind=Kind.TEXT, many=True),
            Field(name="places", kind=Kind.GEO, many=True),
        ),
    )


def test_the_page_is_up_to_date(generate: ModuleType) -> None:
    page = (DOCS / "stores.md").read_text(encoding="utf-8")
    assert page == generate.generated(page), "run python docs/generate.py"


def test_check_says_by_its_exit_status_whether_the_page_is_stale(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "stores.md"
    good = (DOCS / "stores.md").read_text(encoding="utf-8")
    stale = good.replace("| `max_batch` | 1,000 |", "| `max_batch` | 999 |")
    assert stale != good
    page.write_text(stale, encoding="utf-8")
    monkeypatch.setattr(generate, "PAGE", page)
    assert generate.main(["--check"]) == 1
    assert page.read_text(encoding="utf-8") == stale
    assert generate.main([]) == 0
    assert page.read_text(encoding="utf-8") == good
    assert generate.main(["--check"]) == 0
    assert generate.main(["--nonsense"]) == 2


def test_a_page_without_its_markers_is_an_error(generate: ModuleType) -> None:
    with pytest.raises(ValueError, match="markers"):
        generate.generated("# Stores\n")


def test_every_store_has_a_column(generate: ModuleType) -> None:
    from pixdex.connectors import GROUP

    ours = {point.name for point in entry_points(group=GROUP) if point.value.startswith("pixdex.")}
    assert ours - generate.STORES.keys() <= {"qdrant+https", "mirror"}  # as the other one, and as the two it is made of


def test_every_capability_has_a_row_and_a_meaning(generate: ModuleType) -> None:
    names = {field.name for field in fields(Capabilities)} - {"operators"}
    assert names <= generate.meanings().keys()
    table = generate.capability_table()
    assert all(f"| `{name}` |" in table and f"* `{name}`: " in table for name in names)


def test_every_operator_has_an_example_that_needs_it(generate: ModuleType, spec: Spec) -> None:
    assert {row.operator for row in generate.FILTERS} == set(Operator)
    for row in generate.FILTERS:
        assert row.operator in operators_of(bind(row.filter, spec)), row.python


RECORDS = {
    "in/01.png": {"album": "summer", "year": 2020, "width": 1000, "tags": ["sea", "sun"]},
    "in/02.png": {"album": "winter", "year": 2010, "width": 999, "taken": "2020-05-17T16:30:05Z", "tags": ["lake"]},
    "in/03.png": {"year": 2019, "place": {"lat": 47.4, "lon": 8.5}, "tags": ["sea"]},
    "in/04.png": {"year": 2021, "place": {"lat": 43.5, "lon": 11.5}, "places": [{"lat": 47.41, "lon": 8.51}]},
    "in/05.png": {"album": "summer", "places": [{"lat": 43.0, "lon": 11.0}, {"lat": 0.0, "lon": 0.0}]},
}


def found(where: Filter, spec: Spec) -> list[str]:
    return [record for record, payload in RECORDS.items() if matches(bind(where, spec), record, payload)]


def test_the_three_forms_of_an_example_find_the_same(generate: ModuleType, spec: Spec) -> None:
    for row in generate.FILTERS:
        _, python, text, document, *_ = (cell.strip("`") for cell in generate._filter_row(row))
        expected = found(row.filter, spec)
        assert 0 < len(expected) < len(RECORDS), "an example that tells records apart"
        assert python == row.python
        assert found(parse(text), spec) == expected
        assert found(from_json(json.loads(document)), spec) == expected


def test_a_store_that_lacks_an_operator_is_named_as_completed(generate: ModuleType) -> None:
    for row in generate.FILTERS:
        *_, native, completed = generate._filter_row(row)
        for scheme in generate.STORES:
            able = row.operator in generate.capabilities(scheme).operators
            assert (native == "all" or f"`{scheme}`" in native) == able
            assert (f"`{scheme}`" in completed) != able
