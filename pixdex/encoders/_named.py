"""Options whose values have names."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Self

from pixdex.errors import ConfigError

__all__ = ["Named"]


class Named(StrEnum):
    """The values of an option; ``what`` is what messages call it."""

    _what: ClassVar[str]

    def __init_subclass__(cls, *, what: str) -> None:
        super().__init_subclass__()
        cls._what = what

    @classmethod
    def named(cls, name: str) -> Self:
        """The value of that name.

        Raises:
            ConfigError: there is none.
        """
        try:
            return cls(name)
        except ValueError:
            raise ConfigError(f"{cls._what} {name!r}: one of {', '.join(value.value for value in cls)}") from None
