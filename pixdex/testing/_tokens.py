"""Tokens: matrices for rerankers, kept with a record and read only when asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pixdex.collection import Collection
from pixdex.errors import InvalidRecord, Unsupported
from pixdex.spec import TokenSpec
from pixdex.testing._support import (
    Cases,
    fingerprint,
    plain,
    put,
    some_vectors,
)
from pixdex.types import Want

if TYPE_CHECKING:
    from pixdex.connectors.port import Connector


class TokenCases(Cases):
    """A store keeps them as they are, or the facade refuses them."""

    @pytest.mark.parametrize("dtype", ["bits", "int8", "float16", "float32"])
    def test_tokens_come_back_when_asked_for(self, connector: Connector, name: str, dtype: Any) -> None:
        """Exactly as given, by fetch, search and scan; records without have None; unasked there are none."""
        tokens = TokenSpec(count=5, dim=16, dtype=dtype, fingerprint=fingerprint("tokens"))
        spec = plain(tokens=tokens)
        if not connector.capabilities.tokens:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, spec)
            return
        collection = Collection.create(connector, name, spec)
        values = np.random.default_rng(0).integers(-128, 128, size=(5, 16))
        full = np.packbits(values > 0, axis=1) if dtype == "bits" else values.astype(dtype)
        if full.dtype.kind == "f":
            full /= 7
        given = {"full": full, "short": full[:1], "none": None}
        put(collection, list(given), tokens=list(given.values()))
        asked = Want(tokens=True)
        batch = collection.fetch(list(given), want=asked)
        assert batch.tokens is not None
        hits = {h.id: h.tokens for h in collection.search(some_vectors(1), want=asked)[0]}
        page = next(iter(collection.scan(want=asked))).batch
        assert page.tokens is not None
        for got in (
            dict(zip(batch.ids, batch.tokens, strict=True)),
            hits,
            dict(zip(page.ids, page.tokens, strict=True)),
        ):
            assert got["none"] is None
            for record in ("full", "short"):
                matrix = got[record]
                assert matrix is not None
                assert matrix.dtype == np.dtype(tokens.stored_dtype)
                np.testing.assert_array_equal(matrix, given[record])
        assert collection.fetch(list(given)).tokens is None
        assert all(h.tokens is None for h in collection.search(some_vectors(1))[0])
        assert next(iter(collection.scan())).batch.tokens is None
        assert collection.fetch(["full"]).payloads == ({},)

    def test_upsert_drops_tokens_that_are_left_out(self, connector: Connector, name: str) -> None:
        """A record is replaced as a whole, its tokens too."""
        spec = plain(tokens=TokenSpec(count=5, dim=6, fingerprint=fingerprint("tokens")))
        if not connector.capabilities.tokens:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, spec)
            return
        collection = Collection.create(connector, name, spec)
        put(collection, ["a"], tokens=[np.ones((5, 6), np.int8)])
        put(collection, ["a"])
        assert collection.fetch(["a"], want=Want(tokens=True)).tokens in (None, (None,))

    def test_wrong_tokens_are_refused(self, connector: Connector, name: str) -> None:
        """Wrong width, too many, none, another dtype: refused before anything is written."""
        spec = plain(tokens=TokenSpec(count=5, dim=6, dtype="float16", fingerprint=fingerprint("tokens")))
        if not connector.capabilities.tokens:
            with pytest.raises(Unsupported):
                Collection.create(connector, name, spec)
            return
        collection = Collection.create(connector, name, spec)
        nan = np.full((1, 6), np.nan, np.float16)
        ones = np.ones((6, 7), np.float16)
        for wrong in (ones[:5], ones[:, :6], ones[:0, :6], ones[0], ones[:5, :6].astype(np.float32), nan):
            with pytest.raises(InvalidRecord, match="bad"):
                put(collection, ["good", "bad"], tokens=[None, wrong])
        collection.flush()
        assert collection.count() == 0

    def test_tokens_without_a_token_spec_are_refused(self, collection: Collection) -> None:
        """There is no place for tokens that the Spec does not speak of; asking for them brings none."""
        with pytest.raises(InvalidRecord, match="TokenSpec"):
            put(collection, ["a"], tokens=[np.ones((1, 1), np.int8)])
        put(collection, ["a"])
        assert collection.fetch(["a"], want=Want(tokens=True)).ids == ("a",)
