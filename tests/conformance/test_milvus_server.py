"""A Milvus server (2.3.5, from PyPI) in a network namespace: the suite, and what only a server does."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest.importorskip("pymilvus")

from tests.milvus_server import ROOT, command, refusal

pytestmark = pytest.mark.skipif(refusal() is not None, reason=refusal() or "")

PROCESSES = 6


def ran(*arguments: str) -> str:
    """The output of a command in the namespace, which has to succeed."""
    done = subprocess.run(command(arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.conformance
@pytest.mark.timeout(900)
def test_the_suite(record_property: pytest.RecordProperty) -> None:
    output = ran("shards", str(PROCESSES), "tests/conformance/milvus_server_suite.py")
    closing = output.strip().rpartition("\n")[2]
    sys.stdout.write(f"{closing}\n")
    record_property("milvus_server", closing)
    assert int(re.findall(r"(\d+) passed", closing)[0]) > 500


@pytest.mark.timeout(600)
def test_faults() -> None:
    output = ran(
        "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "tests/conformance/milvus_server_faults.py"
    )
    assert re.search(r"\d+ passed", output)


@pytest.mark.timeout(600)
def test_the_documents() -> None:
    """README and docs/adopting.md, with the address of the server in them."""
    output = ran("shards", "1", "tests/docs/test_docs.py", "tests/docs/test_adopting_page.py", "-k", "milvus_server")
    assert "2 passed" in output
