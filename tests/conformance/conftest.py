"""Runs one share of the tests where several processes do."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With PIXDEX_SHARD=2/4 every fourth test, from the third on: see ``tests.milvus_server``."""
    share = os.environ.get("PIXDEX_SHARD")
    if share:
        number, count = map(int, share.split("/"))
        config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % count != number])
        items[:] = items[number::count]
