"""What the ``pixdex`` command takes: the options that several commands share, and what they stand for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pixdex.encoders.decoding import Decoding
    from pixdex.fusion import Moment, Place

__all__ = [
    "AllowPrivate", "AllowRemote", "AtTime", "Background", "Column", "Declared", "Encoder", "FieldValues", "Format", "Frame",
    "Fusion", "Json", "LessLike", "MaxBytes", "MaxFailures", "MaxPixels", "MoreLike", "NearPlace", "Patience", "Pictures",
    "RemoveAtMost", "RetryFailed", "SourceName", "Sync", "TextColumn", "TextEncoder", "Truncated", "Url", "Weights", "WhenDuplicate", "Where", "Workers", "decoding", "kinds_and_fields", "moment", "place",
    "weights",
]  # fmt: skip


class Format(StrEnum):
    """What an encoder is exported for."""

    ONNX = "onnx"
    OPENVINO = "openvino"


class Truncated(StrEnum):
    """What becomes of files that end early."""

    REFUSE = "refuse"
    ACCEPT = "accept"


Url = Annotated[str, typer.Argument(metavar="URL", help="Store and collection, such as pq://photos.pix")]
Encoder = Annotated[
    str | None, typer.Option("--encoder", "-e", help="Encoder reference; default: the collection's own, or mini.")
]
TextEncoder = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        metavar="REFERENCE",
        help="Encoder of captions, such as hf:sentence-transformers/all-MiniLM-L6-v2; default: the collection's own.",
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        "--text", metavar="COLUMN", help="The column or field that holds captions, which search --text looks for."
    ),
]
Pictures = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Folders, picture files, patterns, lists (.txt), tables (.csv, .tsv, .jsonl, .parquet), COCO annotations "
        "(.json), archives (.zip, .tar, .tar.gz), addresses (https://, s3://).",
    ),
]
FieldValues = Annotated[
    list[str] | None, typer.Option("--field", "-f", metavar="NAME=VALUE", help="A field of every picture.")
]
Declared = Annotated[
    list[str] | None,
    typer.Option(
        "--declare",
        metavar="NAME:KIND",
        help="Declare a field: text, int, float, bool, time, geo; KIND[] for lists.",
    ),
]
SourceName = Annotated[
    str | None, typer.Option("--source", help="Name of the folder or archive in ids; default: its own name.")
]
Column = Annotated[
    str | None,
    typer.Option(
        "--column", help="Column of tables that names or holds pictures; default: path, file, filename, image or url."
    ),
]
AllowRemote = Annotated[
    bool,
    typer.Option(
        "--allow-remote", help="Fetch pictures over http, and from addresses that tables and annotations name."
    ),
]
AllowPrivate = Annotated[
    bool, typer.Option("--allow-private", help="Fetch also from this machine and private networks.")
]

Sync = Annotated[bool, typer.Option("--sync", help="Remove the records of files that are gone from the folders.")]
RemoveAtMost = Annotated[
    float,
    typer.Option(
        "--remove-at-most",
        metavar="SHARE",
        help="The share of the folders' records that --sync may remove, above 20; else it removes nothing. 1: all that is gone.",
    ),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Add only pictures that failed before.")]
MaxFailures = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Stop when more than N pictures could not be used.")
]
WhenDuplicate = Annotated[
    str,
    typer.Option(
        "--on-duplicate",
        help="A picture that is there under another id: keep it, skip it, or tag it with that id.",
    ),
]


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Where = Annotated[
    str | None, typer.Option("--where", "-w", help='Filter, such as: year >= 2020 and not (album == "x")')
]

# --- how pictures are read ---------------------------------------------------------------------------

Frame = Annotated[
    int,
    typer.Option(min=0, help="Which frame of an animation, or page of a TIFF, from 0; files without it are refused."),
]
WhenTruncated = Annotated[
    Truncated, typer.Option("--truncated", help="A file that is cut or damaged: refuse it, or accept what decodes.")
]
Background = Annotated[str, typer.Option(metavar="RRGGBB", help="The colour behind transparent parts, in hexadecimal.")]
MaxPixels = Annotated[int | None, typer.Option(min=1, help="Refuse pictures of more pixels; default: 200 million.")]
MaxBytes = Annotated[int | None, typer.Option(min=1, help="Refuse picture files of more bytes; default: 256 MiB.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="How many pictures are decoded at once; default: one a core, 8 at most.")
]
Patience = Annotated[
    float, typer.Option(metavar="SECONDS", help="How long one picture may take before it is set aside.")
]


def decoding(
    frame: int, truncated: Truncated, background: str, max_pixels: int | None, max_bytes: int | None
) -> Decoding:
    """How pictures are to be read."""
    from pixdex.encoders.decoding import Decoding, Limits

    if not re.fullmatch("[0-9A-Fa-f]{6}", background.removeprefix("#")):
        raise typer.BadParameter(f"{background!r}: write RRGGBB, such as 000000 for black", param_hint="--background")
    red, green, blue = bytes.fromhex(background.removeprefix("#"))
    given = {"max_pixels": max_pixels, "max_bytes": max_bytes}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    return Decoding(limits=limits, background=(red, green, blue), frame=frame, truncated=truncated.value)


# --- evidence ----------------------------------------------------------------------------------------

MoreLike = Annotated[
    list[str] | None, typer.Option("--more-like", metavar="PICTURE|ID", help="Move the query towards this picture.")
]
LessLike = Annotated[
    list[str] | None, typer.Option("--less-like", metavar="PICTURE|ID", help="Move the query away from this picture.")
]
NearPlace = Annotated[
    str | None,
    typer.Option("--near", metavar="LAT,LON[,KM]", help="Near this place is better; so far away a hit counts half."),
]
AtTime = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME[,DAYS]", help="About this time is better; so long before or after counts half."),
]
Weights = Annotated[
    list[str] | None,
    typer.Option("--weight", metavar="NAME=NUMBER", help="How much image, text, near or at counts; 1 each."),
]
Fusion = Annotated[
    str,
    typer.Option(
        "--fusion", metavar="rrf|z|dbsf", help="How what picture and words find is joined: by ranks, or by scores."
    ),
]


def place(text: str) -> Place:
    """What ``--near`` says."""
    from pixdex.fusion import Decay, Place

    try:
        lat, lon, *more = map(float, text.split(","))
        (kilometres,) = more or (None,)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: write LAT,LON or LAT,LON,KM", param_hint="--near") from None
    return Place(lat, lon) if kilometres is None else Place(lat, lon, Decay(scale=kilometres))


def moment(text: str) -> Moment:
    """What ``--at`` says; a time without a zone is in UTC."""
    from datetime import UTC, datetime

    from pixdex.fusion import Decay, Moment

    time, _, days = text.partition(",")
    try:
        when, scale = datetime.fromisoformat(time.strip()), float(days or 0)
    except ValueError:
        hint = "write a time such as 2020-05-01 or 2020-05-01T12:00+02:00, perhaps with ,DAYS"
        raise typer.BadParameter(f"{text!r}: {hint}", param_hint="--at") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return Moment(when, Decay(scale=scale * 86_400)) if days else Moment(when)


def weights(given: Sequence[str] | None) -> dict[str, float]:
    """What ``--weight`` says."""
    pairs = [_split(text, "=", "--weight") for text in given or ()]
    try:
        return {name: float(value) for name, value in pairs}
    except ValueError:
        raise typer.BadParameter(f"{', '.join(given or ())}: write NAME=NUMBER", param_hint="--weight") from None


# --- fields ------------------------------------------------------------------------------------------


def kinds_and_fields(
    declare: Sequence[str] | None, field: Sequence[str] | None
) -> tuple[dict[str, str], dict[str, Any]]:
    """What is declared, and the fields of every picture."""
    kinds = dict(_split(text, ":", "--declare") for text in declare or ())
    return kinds, {
        name: _value(text, kinds.get(name)) for name, text in (_split(t, "=", "--field") for t in field or ())
    }


def _split(text: str, mark: str, option: str) -> tuple[str, str]:
    name, found, value = text.partition(mark)
    if not found or not name:
        raise typer.BadParameter(f"{text!r}: write NAME{mark}{'KIND' if mark == ':' else 'VALUE'}", param_hint=option)
    return name, value


def _value(text: str, kind: str | None) -> Any:
    """A field's value from the shell, by its declared kind, else by its look: 3, 2.5, true, text."""
    import orjson

    if kind in ("text", "time"):
        return text
    try:
        value = orjson.loads(text)
    except ValueError:
        return text
    return text if value is None else value
