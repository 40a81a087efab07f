"""What a store can hold: checked before anything is sent, and batches cut accordingly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import orjson

from pixdex.errors import InvalidRecord, Unsupported
from pixdex.spec import Spec
from pixdex.types import MAX_ID_BYTES, Batch

if TYPE_CHECKING:
    from pixdex.connectors.port import Capabilities, Connector

__all__ = ["check_supported", "cuts", "pieces"]


def check_supported(spec: Spec, connector: Connector) -> None:
    """Refuse a Spec that the store cannot hold.

    Raises:
        Unsupported: what is too much, and of what the store takes how much.
    """
    limits, scheme = connector.capabilities, connector.scheme
    if len(spec.vectors) > limits.max_vectors:
        raise Unsupported(f"{scheme} holds {limits.max_vectors} vectors a record, the Spec has {len(spec.vectors)}")
    for vector in spec.vectors:
        if vector.dim > limits.max_dim:
            raise Unsupported(
                f"{scheme} takes vectors of {limits.max_dim} dimensions, {vector.name!r} has {vector.dim}"
            )
        if vector.metric not in limits.metrics:
            raise Unsupported(f"{scheme} has no {vector.metric} metric")
    if spec.tokens is not None and not limits.tokens:
        raise Unsupported(f"{scheme} has no place for tokens: leave out the TokenSpec")
    if spec.tokens is not None and spec.tokens.max_bytes > limits.max_token_bytes:
        raise Unsupported(
            f"{scheme} keeps {limits.max_token_bytes} bytes of tokens a record, the TokenSpec asks for "
            f"{spec.tokens.max_bytes}: fewer or narrower tokens"
        )


def pieces(batch: Batch, connector: Connector) -> Sequence[range]:
    """Consecutive rows within the store's limits by count and by bytes.

    Raises:
        InvalidRecord: a record is more than the store holds.
    """
    if not len(batch):
        return []
    limits = connector.capabilities
    if _fits(batch, limits):
        return [range(len(batch))]
    return list(cuts(_sizes(batch, connector), limits))


def _row_bytes(batch: Batch) -> int:
    return sum(values.shape[1] * values.itemsize for values in batch.vectors.values())


_STRETCH = 64


def _fits(batch: Batch, limits: Capabilities) -> bool:
    """Whether a batch is within all limits beyond doubt, asked of stretches of payloads, which is quick."""
    if len(batch) > limits.max_batch or limits.max_id_bytes < MAX_ID_BYTES:
        return False
    tokens = [matrix.nbytes for matrix in batch.tokens or () if matrix is not None]
    if max(tokens, default=0) > limits.max_token_bytes:
        return False
    payloads = batch.payloads or ()
    sizes = [len(orjson.dumps(payloads[i : i + _STRETCH])) for i in range(0, len(payloads), _STRETCH)]
    total = sum(sizes) + sum(tokens) + len(batch) * (MAX_ID_BYTES + _row_bytes(batch))
    return max(sizes, default=0) <= limits.max_payload_bytes and total <= limits.max_batch_bytes


def _sizes(batch: Batch, connector: Connector) -> list[int]:
    """Bytes of each record, about; refuses what the store cannot hold."""
    limits, vectors = connector.capabilities, _row_bytes(batch)
    sizes = []
    for row, record in enumerate(batch.ids):
        payload = len(orjson.dumps(batch.payloads[row])) if batch.payloads else 0
        matrix = batch.tokens[row] if batch.tokens else None
        for what, size, limit in (
            ("its id", len(record.encode()), limits.max_id_bytes),
            ("its payload", payload, limits.max_payload_bytes),
            ("its token matrix", 0 if matrix is None else matrix.nbytes, limits.max_token_bytes),
        ):
            if size > limit:
                raise InvalidRecord(f"record {record!r:.60}: {what} has {size} bytes, {connector.scheme} takes {limit}")
        sizes.append(len(record) + payload + vectors + (0 if matrix is None else matrix.nbytes))
    return sizes


def cuts(sizes: Sequence[int], limits: Capabilities) -> Iterator[range]:
    """Consecutive rows within the store's limits by count and by bytes."""
    start, total = 0, 0
    for row, size in enumerate(sizes):
        full = row - start >= limits.max_batch or total + size > limits.max_batch_bytes
        if row > start and full:
            yield range(start, row)
            start, total = row, 0
        total += size
    if start < len(sizes):
        yield range(start, len(sizes))
