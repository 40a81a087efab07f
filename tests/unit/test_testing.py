"""The kit itself: deviations are strict and have reasons, tests cannot be overridden."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import pixdex.testing
from pixdex.filters import F, Range
from pixdex.testing import ConnectorConformance, Deviation
from pixdex.testing.random_data import evaluate

pytest_plugins = ["pytester"]

NOON = datetime(2020, 5, 1, 12, tzinfo=UTC)


def test_a_test_cannot_be_overridden() -> None:
    with pytest.raises(TypeError, match="overrides test_long_ids: declare a deviation"):
        type("TestMine", (ConnectorConformance,), {"test_long_ids": lambda self: None})


def test_more_tests_may_be_added() -> None:
    type("TestMine", (ConnectorConformance,), {"test_of_my_own": lambda self: None})


def test_a_deviation_names_a_test() -> None:
    with pytest.raises(TypeError, match="deviates from test_nonesuch, which is no test"):
        type("TestMine", (ConnectorConformance,), {"deviations": {"test_nonesuch": Deviation("because")}})


def test_a_deviation_has_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        Deviation(" ")


def test_the_kit_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = pixdex.testing.nonesuch


def test_every_test_says_what_it_promises() -> None:
    tests = {
        name: getattr(ConnectorConformance, name) for name in dir(ConnectorConformance) if name.startswith("test_")
    }
    assert len(tests) > 100
    assert [name for name, test in tests.items() if not test.__doc__] == []


def test_deviations_are_strict(pytester: pytest.Pytester) -> None:
    """One that holds is an xfail, by test or by parameter; one that healed fails; another error fails."""
    pytester.makeconftest('pytest_plugins = ["pixdex.testing.plugin"]')
    pytester.makepyfile(
        """
        import pytest
        from pixdex.connectors.memory import MemoryConnector
        from pixdex.errors import Unsupported
        from pixdex.filters import Filter
        from pixdex.testing import ConnectorConformance, Deviation

        class Forgetful(MemoryConnector):
            def count(self, name, where, *, timeout):
                return 0

        @pytest.fixture(scope="module")
        def connector():
            return Forgetful()

        class TestForgetful(ConnectorConformance):
            deviations = {
                "test_count": Deviation("it cannot count"),
                "test_filter[int == 0]": Deviation("it cannot count here either"),
                "test_scan_of_nothing": Deviation("this one healed"),
                "test_upsert_is_idempotent": Deviation("it raises something else", raises=KeyError),
            }
        """
    )
    tests = "test_count or test_scan_of_nothing or test_upsert_is_idempotent or (test_filter and int and 0)"
    result = pytester.runpytest_subprocess("-k", tests, "-pno:randomly", "-rA")
    text = result.stdout.str()
    assert "XFAIL" in text
    assert "FAILED test_deviations_are_strict.py::TestForgetful::test_scan_of_nothing" in text
    assert "FAILED test_deviations_are_strict.py::TestForgetful::test_upsert_is_idempotent" in text
    assert result.parseoutcomes()["xfailed"] == 2


@pytest.mark.parametrize(
    ("where", "payload", "holds"),
    [
        (F.year == 1, {"year": 1}, True),
        (F.year == 1, {}, False),
        (F.year != 1, {}, True),
        (F.year != 1, {"year": None}, True),
        (F.year < 1.5, {"year": 1}, True),
        (Range("year", 1, 1, above=True), {"year": 1}, False),
        (Range("year", 1, 2, below=True), {"year": 2}, False),
        (F.tags.exists(), {"tags": []}, False),
        (F.tags.contains_any(["a", "b"]), {"tags": ["b"]}, True),
        (F.tags.contains_all(["a", "b"]), {"tags": ["b"]}, False),
        (F.year.is_in([]), {"year": 1}, False),
        (F.taken > NOON, {"taken": NOON + timedelta(microseconds=1)}, True),
        (F.place.within(0, 180, 112), {"place": (0, -179)}, True),
        (F.place.within(0, 180, 111), {"place": (0, -179)}, False),
        (F.place.within_box(-1, 170, 1, -170), {"place": (0, 175)}, True),
        (F.place.within_box(-1, 170, 1, -170), {"place": (0, 0)}, False),
        (F.place.within_box(-1, -10, 1, 10), {"place": (0, 0)}, True),
        (F.ids(["r"]) & ~(F.ids([]) | (F.year == 1)), {}, True),
    ],
)
def test_the_second_specification(where: Any, payload: dict[str, Any], holds: bool) -> None:
    """``evaluate``, by hand."""
    assert evaluate(where, "r", payload) is holds
    assert evaluate(~where, "r", payload) is not holds


def test_every_module_of_the_kit_explains_its_asserts() -> None:
    import pixdex.testing.conformance  # noqa: F401 - it imports all cases

    cases = {name: module for name, module in sys.modules.items() if name.startswith("pixdex.testing._")}
    assert len(cases) >= 10
    for name, module in cases.items():
        assert type(module.__spec__.loader).__name__ == "AssertionRewritingHook", name
