"""Whose vectors a collection holds, and what is said where they are another encoder's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pixdex.errors import FingerprintMismatch

if TYPE_CHECKING:
    from pixdex.spec import Fingerprint, Spec, TokenSpec

__all__ = ["require", "require_tokens", "switched_from"]


def require(name: str, found: Fingerprint, expected: Fingerprint, what: str) -> None:
    """See that ``what`` a collection holds is of the encoder that is expected.

    Raises:
        FingerprintMismatch: it is not; the message says what differs and what to do.
    """
    difference = found.difference(expected)
    if difference:
        raise FingerprintMismatch(
            f"collection {name!r} holds {what} of {_spelled(found)}, not of {_spelled(expected)} "
            f"(they differ in: {difference}). Open it with the encoder that wrote it, or make a new collection "
            "and add the pictures again."
        )


def require_tokens(name: str, found: TokenSpec | None, expected: TokenSpec | None) -> None:
    """The same of the tokens that a collection keeps, if it keeps any.

    Raises:
        FingerprintMismatch: they are others.
    """
    if found is None or found == expected:
        return
    if expected is None:
        raise FingerprintMismatch(f"collection {name!r} keeps tokens, which this encoder does not make")
    require(name, found.fingerprint, expected.fingerprint, "tokens")
    raise FingerprintMismatch(
        f"collection {name!r} keeps tokens of {found.count} x {found.dim} {found.dtype}, this encoder makes "
        f"{expected.count} x {expected.dim} {expected.dtype}. Open it with the encoder that wrote it"
    )


def switched_from(name: str, before: Spec, now: Spec) -> FingerprintMismatch | None:
    """What is to be said where the name stands for a collection of another encoder now."""
    for vector in before.vectors:
        for other in now.vectors:
            if other.name == vector.name and other.fingerprint.digest != vector.fingerprint.digest:
                return FingerprintMismatch(
                    f"collection {name!r} was switched to another encoder while this handle was open: "
                    f"{_spelled(vector.fingerprint)} before, {_spelled(other.fingerprint)} now. Open it again."
                )
    return None


def _spelled(fingerprint: Fingerprint) -> str:
    return f"{fingerprint.encoder} [{fingerprint.digest[:8]}]"
