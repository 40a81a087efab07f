"""A Milvus server (2.3.5, from PyPI) in a network namespace: the suite, and what only a server does.

What these tests look at has run beside the others: see ``tests.milvus_runs``.
"""

from __future__ import annotations

import re
import sys

import pytest

pytest.importorskip("pymilvus")

from tests.milvus_runs import output
from tests.milvus_server import refusal

pytestmark = [pytest.mark.skipif(refusal() is not None, reason=refusal() or ""), pytest.mark.timeout(1200)]


@pytest.fixture
def printed(request: pytest.FixtureRequest) -> str:
    """What the run of this test printed."""
    return output(request.config, request.node.name)


@pytest.mark.conformance
def test_the_suite(printed: str, record_property: pytest.RecordProperty) -> None:
    closing = printed.strip().rpartition("\n")[2]
    sys.stdout.write(f"{closing}\n")
    record_property("milvus_server", closing)
    assert int(re.findall(r"(\d+) passed", closing)[0]) > 500


def test_faults(printed: str) -> None:
    assert re.search(r"\d+ passed", printed)


def test_the_documents(printed: str) -> None:
    """README and docs/adopting.md, with the address of the server in them."""
    assert "2 passed" in printed
