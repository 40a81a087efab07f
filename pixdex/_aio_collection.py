"""``pixdex.aio.AsyncCollection``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pixdex._limiter import Calls, Limiter
from pixdex.collection import Collection
from pixdex.spec import Field, Fingerprint, Source, Spec, TokenSpec, Vector
from pixdex.types import Batch, Hit, Page, Tuning, Want

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pixdex.connectors.port import Capabilities, Compacted, Connector, Finding
    from pixdex.filters import Filter
    from pixdex.policy import Policy

__all__ = ["AsyncCollection"]


class AsyncCollection:
    """A ``Collection``, awaited. What asks nothing of the store is a property or a plain method, as there."""

    def __init__(self, collection: Collection, *, limiter: Limiter | None = None) -> None:
        """Serve ``collection`` by ``limiter``, or by the default one."""
        self._calls = Calls(limiter)
        self._sync = collection

    @classmethod
    def _sharing(cls, collection: Collection, calls: Calls) -> AsyncCollection:
        made = cls(collection)
        made._calls = calls
        return made

    @classmethod
    async def create(
        cls, connector: Connector, name: str, spec: Spec, *, policy: Policy | None = None
    ) -> AsyncCollection:
        """See ``Collection.create``. When cancelled, the collection may have been made."""
        calls = Calls(None)
        return cls._sharing(await calls.run(Collection.create, connector, name, spec, policy=policy), calls)

    @classmethod
    async def open(
        cls,
        connector: Connector,
        name: str,
        *,
        expect: Mapping[str, Fingerprint] | None = None,
        policy: Policy | None = None,
    ) -> AsyncCollection:
        """See ``Collection.open``."""
        calls = Calls(None)
        return cls._sharing(await calls.run(Collection.open, connector, name, expect=expect, policy=policy), calls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for the calls that run, cancelled ones too, and release the store."""
        await self._calls.close(self._sync.connector.close)

    @property
    def connector(self) -> Connector:
        """The open store. Its own methods block."""
        return self._sync.connector

    @property
    def name(self) -> str:
        """The name of the collection."""
        return self._sync.name

    @property
    def spec(self) -> Spec:
        """How it lies in the store."""
        return self._sync.spec

    @property
    def policy(self) -> Policy:
        """How calls to the store are repeated."""
        return self._sync.policy

    @property
    def capabilities(self) -> Capabilities:
        """What the store does natively."""
        return self._sync.capabilities

    def require(self, fingerprint: Fingerprint, *, vector: str) -> None:
        """See ``Collection.require``; not awaited."""
        self._sync.require(fingerprint, vector=vector)

    def require_tokens(self, tokens: TokenSpec | None) -> None:
        """See ``Collection.require_tokens``; not awaited."""
        self._sync.require_tokens(tokens)

    async def refresh(self) -> None:
        """See ``Collection.refresh``."""
        await self._calls.run(self._sync.refresh)

    async def alter(
        self,
        *,
        fields: Sequence[Field] = (),
        vectors: Sequence[Vector] = (),
        sources: Sequence[Source] = (),
    ) -> None:
        """See ``Collection.alter``."""
        await self._calls.run(self._sync.alter, fields=fields, vectors=vectors, sources=sources)

    async def drop(self) -> None:
        """See ``Collection.drop``."""
        await self._calls.run(self._sync.drop)

    async def flush(self) -> None:
        """See ``Collection.flush``."""
        await self._calls.run(self._sync.flush)

    async def settle(self, *, progress: Callable[[int, int], None] | None = None) -> None:
        """See ``Collection.settle``; ``progress`` is called in a thread."""
        await self._calls.run(self._sync.settle, progress=progress)

    async def compact(self, *, progress: Callable[[int, int], None] | None = None) -> Compacted:
        """See ``Collection.compact``; ``progress`` is called in a thread."""
        return await self._calls.run(self._sync.compact, progress=progress)

    async def verify(self, *, progress: Callable[[int, int], None] | None = None) -> list[Finding]:
        """See ``Collection.verify``; ``progress`` is called in a thread."""
        return await self._calls.run(self._sync.verify, progress=progress)

    async def alias(self, alias: str) -> None:
        """See ``Collection.alias``."""
        await self._calls.run(self._sync.alias, alias)

    async def unalias(self, alias: str) -> None:
        """See ``Collection.unalias``."""
        await self._calls.run(self._sync.unalias, alias)

    async def aliases(self) -> list[str]:
        """See ``Collection.aliases``."""
        return await self._calls.run(self._sync.aliases)

    async def upsert(self, batch: Batch) -> None:
        """See ``Collection.upsert``. When cancelled while it runs, the batch is written all the same."""
        await self._calls.run(self._sync.upsert, batch)

    async def delete(self, ids: Sequence[str]) -> None:
        """See ``Collection.delete``."""
        await self._calls.run(self._sync.delete, ids)

    async def delete_where(self, where: Filter) -> None:
        """See ``Collection.delete_where``."""
        await self._calls.run(self._sync.delete_where, where)

    async def fetch(self, ids: Sequence[str], *, want: Want = Want()) -> Batch:
        """See ``Collection.fetch``."""
        return await self._calls.run(self._sync.fetch, ids, want=want)

    async def search(
        self,
        queries: ArrayLike,
        *,
        k: int = 10,
        where: Filter | None = None,
        using: str | None = None,
        threshold: float | None = None,
        tuning: Tuning = Tuning(),
        want: Want = Want(),
    ) -> list[list[Hit]]:
        """See ``Collection.search``."""
        search = self._sync.search
        return await self._calls.run(
            search, queries, k=k, where=where, using=using, threshold=threshold, tuning=tuning, want=want
        )

    async def search_one(
        self,
        query: ArrayLike,
        *,
        k: int = 10,
        where: Filter | None = None,
        using: str | None = None,
        threshold: float | None = None,
        tuning: Tuning = Tuning(),
        want: Want = Want(),
    ) -> list[Hit]:
        """See ``Collection.search_one``."""
        search = self._sync.search_one
        return await self._calls.run(
            search, query, k=k, where=where, using=using, threshold=threshold, tuning=tuning, want=want
        )

    async def scan(
        self,
        *,
        where: Filter | None = None,
        want: Want = Want(),
        size: int = 1000,
        after: str | None = None,
        since: int | None = None,
    ) -> AsyncIterator[Page]:
        """See ``Collection.scan``: ``async for page in collection.scan()``. A page is fetched when it is asked
        for. When cancelled, go on with a new scan behind the last page: ``after=page.after``.
        """
        pages = self._sync.scan(where=where, want=want, size=size, after=after, since=since)
        while (page := await self._calls.run(_next, pages)) is not None:
            yield page

    async def count(self, where: Filter | None = None) -> int:
        """See ``Collection.count``."""
        return await self._calls.run(self._sync.count, where)


def _next(pages: Iterator[Page]) -> Page | None:
    return next(pages, None)
