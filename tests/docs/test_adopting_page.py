"""docs/adopting.md, executed on every store that can be adopted from."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.test_docs import ROOT, SERVER, home, run

__all__ = ["home"]

PAGE = (ROOT / "docs" / "adopting.md").read_text(encoding="utf-8")
CODE = dict(re.findall(r"```python\n# store: (\w+)\n(.*?)```", PAGE, re.DOTALL))
LINES = [line[2:] for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@dataclass(frozen=True)
class Case:
    """Code that makes the collection, its address, the id of product 3."""

    code: str
    url: str
    own_id: str


CASES = {
    "qdrant": Case(CODE["qdrant"], "qdrant+local://shop.qdrant#products", "3"),
    "milvus": Case(CODE["milvus"], "milvus+lite://shop.milvus.db#products", "sku-3"),
}
if SERVER:
    there = CODE["milvus"].replace("shop.milvus.db", SERVER.replace("milvus://", "http://"))
    CASES["milvus_server"] = Case(there, f"{SERVER}/products", "sku-3")


@pytest.mark.parametrize("store", CASES)
def test_the_page_runs(home: Path, store: str) -> None:
    case = CASES[store]
    assert len(LINES) == 4
    run([sys.executable, "-W", "ignore", "-c", case.code], home)
    printed = [run(["bash", "-c", line.replace("URL", f"'{case.url}'")], home) for line in LINES]
    assert "price: float" in printed[1]
    assert f'"id": "{case.own_id}"' in printed[3]
    found = run([sys.executable, "-W", "error", "-c", CODE["any"].replace("URL", case.url)], home)
    assert found.startswith(f"+1.000  {case.own_id}  product 3\n")
    assert len(found.splitlines()) == 3
