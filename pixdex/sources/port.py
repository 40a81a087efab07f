"""What a source of pictures is: something that was given to ``add``, and what it leads to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pixdex.encoders.decoding import Limits
from pixdex.errors import ConfigError
from pixdex.spec import Field, Spec

if TYPE_CHECKING:
    from pixdex.pictures import Item

__all__ = ["Alone", "Options", "Origin", "Plain", "Source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How what was given is to be understood.

    Attributes:
        source: the name in ids; None for the folder's own.
        column: the column of tables that names or holds the pictures; None for the first of ``tables.COLUMNS`` there is.
        allow_remote: fetch what http addresses name, and any address that a table or list names.
        allow_private: such addresses may lead into this machine and its own networks.
        max_bytes: of a picture file in an archive or behind an address.
    """

    source: str | None = None
    column: str | None = None
    allow_remote: bool = False
    allow_private: bool = False
    max_bytes: int = Limits().max_bytes

    def __post_init__(self) -> None:
        if self.allow_private and not self.allow_remote:
            raise ConfigError("allow_private says which addresses may be fetched: it needs allow_remote too")


@dataclass(frozen=True, slots=True)
class Origin:
    """What the ids of a source start with, and the place it stands for: the collection remembers both."""

    name: str
    root: str


class Source(Protocol):
    """Pictures that stand behind one thing."""

    @property
    def origin(self) -> Origin | None:
        """None where ids do not depend on a place."""
        ...

    @property
    def single(self) -> bool:
        """Whether it is one picture, which can be given an id."""
        ...

    def check(self) -> None:
        """See that there is something, before a collection is made for it.

        Raises:
            ConfigError: nothing can come of it.
        """
        ...

    def suggested(self) -> Sequence[Field]:
        """The fields that a new collection should declare for what it brings."""
        ...

    def notices(self) -> Sequence[str]:
        """What is to be said about it, in sentences."""
        ...

    def items(self, spec: Spec) -> Iterator[Item | None]:
        """Its pictures, in order, for a collection of that Spec; None for what was passed over. Whatever cannot be a
        picture comes as one that cannot be read: nothing is raised.
        """
        ...


class Plain:
    """What most sources have in common: they bring no fields, and nothing is to be said about them."""

    __slots__ = ()

    @property
    def single(self) -> bool:
        return False

    def suggested(self) -> Sequence[Field]:
        return ()

    def notices(self) -> Sequence[str]:
        return ()


class Alone(Plain):
    """A source that is one picture, which lies in no place that others lie in."""

    __slots__ = ()

    @property
    def origin(self) -> None:
        return None

    @property
    def single(self) -> bool:
        return True

    def check(self) -> None:
        """Only reading it tells whether it is there."""
