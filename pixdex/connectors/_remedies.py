"""What to do about an error of a store: one sentence a kind, the same for every store."""

from __future__ import annotations

from collections.abc import Mapping

from pixdex import errors

__all__ = ["with_remedy"]

_REMEDIES: Mapping[type[errors.PixdexError], str] = {
    errors.StoreFull: "what was acknowledged is safe, free some space and go on",
    errors.StoreFormat: "restore it from a copy",
    errors.StoreLocked: "another process has this directory open: close it there, or run a server",
    errors.StoreTimeout: "allow more time, or ask for less",
    errors.StoreUnavailable: "is the server running, and is this its address?",
    errors.AccessDenied: "check its permissions, and for a server the key that ?key_env= names",
    errors.FingerprintMismatch: "the collection was changed: open it again",
}


def with_remedy(kind: type[errors.PixdexError], message: str) -> str:
    """``message``, and behind it what to do about an error of that kind."""
    remedy = _REMEDIES.get(kind)
    return f"{message}; {remedy}" if remedy else message
