"""Collections that another tool made in Milvus Lite."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

from pixdex import errors
from pixdex.collection import Collection
from pixdex.connectors import connect, milvus
from tests import milvus_foreign


@pytest.mark.parametrize("text_ids", [True, False])
def test_adopted(tmp_path: Path, text_ids: bool) -> None:
    connector, _ = connect(f"milvus+lite://{tmp_path}/store")
    assert isinstance(connector, milvus.Milvus)
    with connector._calling(make=True) as held:
        client = held.client
    milvus_foreign.check(connector, client, "theirs", text_ids=text_ids)
    with pytest.raises(errors.StoreFormat, match="adopt"):
        Collection.open(connector, "theirs")
    connector.close()


def test_adopted_by_a_file(tmp_path: Path) -> None:
    connector, _ = connect(f"milvus+lite://{tmp_path}/store?registry={tmp_path}/specs.json")
    assert isinstance(connector, milvus.Milvus)
    with connector._calling(make=True) as held:
        client = held.client
    milvus_foreign.make(client, "theirs", text_ids=False)
    before = client.describe_collection("theirs")
    connector.register("theirs", milvus_foreign.adopted(connector.survey("theirs", timeout=9)), timeout=9)
    assert Collection.open(connector, "theirs").count() == milvus_foreign.COUNT
    assert client.describe_collection("theirs") == before
    connector.close()
