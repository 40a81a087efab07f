"""Options of a reranker, as its reference gives them: ``k-reciprocal?k1=20&weight=0.3``."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from pixdex.errors import ConfigError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["with_options"]

T = TypeVar("T", bound="DataclassInstance")


def with_options(made: T, rest: str) -> T:
    """The reranker, a dataclass of numbers, with those that ``rest``, such as ``?k1=20&weight=0.3``, names changed.

    Raises:
        ConfigError: an option that it has not, or one that is no such number or out of its range.
    """
    name: str = getattr(made, "name", type(made).__name__)
    before, _, query = rest.partition("?")
    if before:
        raise ConfigError(f"{name}:{rest}: options follow a question mark, such as {name}?{_example(made)}")
    known = {field.name: field for field in fields(made)}
    values: dict[str, Any] = {field: getattr(made, field) for field in known}
    for option, text in parse_qsl(query, keep_blank_values=True, separator="&"):
        if option not in known:
            raise ConfigError(f"{name}: no option {option!r}{nearest(option, known)}; there are {', '.join(known)}")
        kind = type(values[option])
        try:
            values[option] = kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{name}: {option} is {wanted}, not {text!r}") from None
    return type(made)(**values)


def _example(made: DataclassInstance) -> str:
    first = fields(made)[0].name
    return f"{first}={getattr(made, first)}"
