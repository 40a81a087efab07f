"""docs/adopting.md, executed on every store that can be adopted from."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.docs.test_docs import ROOT, home, run

PAGE = (ROOT / "docs" / "adopting.md").read_text(encoding="utf-8")
CODE = dict(re.findall(r"```python\n# store: (\w+)\n(.*?)```", PAGE, re.DOTALL))
LINES = [line[2:] for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
STORES = {
    "qdrant": "qdrant+local://shop.qdrant#products",
    "milvus": "milvus+lite://shop.milvus.db#products",
}

__all__ = ["home"]


@pytest.mark.parametrize("store", STORES)
def test_the_page_runs(home: Path, store: str) -> None:
    assert len(LINES) == 4
    run([sys.executable, "-W", "ignore", "-c", CODE[store]], home)
    url = STORES[store]
    printed = [run(["bash", "-c", line.replace("URL", f"'{url}'")], home) for line in LINES]
    assert "price: float" in printed[1]
    own_id = {"qdrant": "3", "milvus": "sku-3"}[store]
    assert f'"id": "{own_id}"' in printed[3]
    found = run([sys.executable, "-W", "error", "-c", CODE["any"].replace("URL", url)], home)
    assert found.startswith(f"+1.000  {own_id}  product 3\n")
    assert len(found.splitlines()) == 3
