"""Odd and hostile picture files, each with what is expected of it. Everything is made here; nothing is downloaded."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from benchmarks._picture_parts import (
    FOUR,
    HEIGHT,
    WIDTH,
    adam7,
    cmyk_profile,
    encoded,
    filtered,
    flat_jpeg,
    grey_profile,
    jpeg_with,
    png,
    png_chunk,
    profile_segments,
    quadrants,
    rgb_profile,
    segment,
)
from pixdex.encoders.images import Decoding, Limits

__all__ = ["Case", "cases"]

Colour = tuple[int, int, int]
Look = tuple[Colour | None, Colour | None, Colour | None, Colour | None]

RED, GREEN, BLUE, GREY = FOUR
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
GREYS = ((76, 76, 76), (150, 150, 150), (29, 29, 29), (128, 128, 128))
CYCLED = (BLUE, RED, GREEN, GREY)
"""The quadrants under a profile whose red is blue, whose green is red, whose blue is green."""
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""How a picture is to be stored for each EXIF orientation to turn it upright."""
MEBI = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A file and what is expected: ``ok`` or a part of the reason why it is refused.

    ``look``: the mean colours of the quadrants, row by row, None where any will do; ``size``: width and height. Both of
    the upright picture.
    """

    name: str
    make: Callable[[], bytes]
    expected: str = "ok"
    look: Look = FOUR
    size: tuple[int, int] = (WIDTH, HEIGHT)
    tolerance: int = 8
    decoding: Decoding = field(default_factory=Decoding)
    large: bool = False


def cases(*, quick: bool = False) -> list[Case]:
    """All of them; ``quick``: without those that take seconds to make."""
    groups = _jpeg, _jpeg_colours, _jpeg_blemishes, _jpeg_damage, _png, _png_bombs, _animations, _tiff, _heif, _others
    found = [case for group in groups for case in group()]
    return [case for case in found if not (quick and case.large)]


ACCEPT = Decoding(truncated="accept")


# --- JPEG ----------------------------------------------------------------------------------------------------------


@cache
def _plain(**options: object) -> bytes:
    return encoded(quadrants(), "JPEG", **{"quality": 95, "subsampling": 0, **options})


@cache
def _noisy(**options: object) -> bytes:
    """Large enough for a scan that can be cut in half."""
    return encoded(quadrants(640, 480, noise=12), "JPEG", quality=90, **options)


def _stored(orientation: int) -> Image.Image:
    image = Image.fromarray(quadrants())
    return image.transpose(ORIENTATIONS[orientation]) if orientation in ORIENTATIONS else image


def _exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def _oriented(name: str, orientation: int, **options: object) -> bytes:
    return encoded(_stored(orientation), name, exif=_exif(orientation), **options)


def _jpeg() -> Iterator[Case]:
    yield Case(name="baseline.jpg", make=_plain)
    yield Case(name="progressive.jpg", make=lambda: _plain(progressive=True))
    yield Case(name="optimised.jpg", make=lambda: _plain(optimize=True))
    for orientation in range(1, 9):
        yield Case(
            name=f"orientation-{orientation}.jpg",
            make=lambda o=orientation: _oriented("JPEG", o, quality=95, subsampling=0),
        )
    yield Case(name="orientation-9.jpg", make=lambda: _plain(exif=_exif(9)))
    yield Case(name="exif-of-zeros.jpg", make=lambda: jpeg_with(_plain(), segment(0xE1, b"Exif\0\0" + bytes(500))))
    yield Case(name="two-exif-blocks.jpg", make=lambda: jpeg_with(
        _plain(), segment(0xE1, _exif(1)), segment(0xE1, _exif(3))
    ))  # fmt: skip
    for factors in ("11 11 11", "21 11 11", "22 11 11", "12 11 11", "41 11 11", "42 11 11", "14 11 11", "21 11 21",
                    "22 21 12", "21 21 21", "11 22 22", "11", "22"):  # fmt: skip
        sampling = [(int(pair[0]), int(pair[1])) for pair in factors.split()]
        grey = len(sampling) == 1
        yield Case(
            name=f"sampling-{factors.replace(' ', '-')}.jpg",
            make=lambda s=sampling: flat_jpeg(s),
            look=GREYS if grey else FOUR,
        )
    yield Case(name="restarts.jpg", make=lambda: flat_jpeg([(1, 1)] * 3, restart=3))
    yield Case(name="one-pixel.jpg", make=lambda: encoded(np.full((1, 1, 3), 200, np.uint8), "JPEG"),
               look=((200,) * 3,) * 4, size=(1, 1))  # fmt: skip
    yield Case(name="wide-30000x1.jpg", make=lambda: encoded(quadrants(30000, 2)[:1], "JPEG", quality=95),
               look=(RED, GREEN, RED, GREEN), size=(30000, 1), tolerance=12)  # fmt: skip
    yield Case(name="tall-1x30000.jpg", make=lambda: encoded(quadrants(2, 30000)[:, :1], "JPEG", quality=95),
               look=(RED, RED, BLUE, BLUE), size=(1, 30000), tolerance=12)  # fmt: skip
    yield Case(name="jpeg-called.png", make=_plain)
    yield Case(
        name="two-pictures.mpo.jpg", make=lambda: _plain() + encoded(np.zeros((HEIGHT, WIDTH, 3), np.uint8), "JPEG")
    )


def _jpeg_colours() -> Iterator[Case]:
    cycled = rgb_profile((2, 0, 1))
    yield Case(name="profile-srgb.jpg", make=lambda: _plain(icc_profile=ImageCms.ImageCmsProfile(
        ImageCms.createProfile("sRGB")).tobytes()))  # fmt: skip
    yield Case(name="profile-cycled.jpg", make=lambda: _plain(icc_profile=cycled), look=CYCLED)
    yield Case(name="profile-in-three-parts.jpg", make=lambda: jpeg_with(_plain(), *profile_segments(cycled, 3)),
               look=CYCLED)  # fmt: skip
    yield Case(name="profile-parts-reversed.jpg", look=CYCLED,
               make=lambda: jpeg_with(_plain(), *profile_segments(cycled, 3)[::-1]))  # fmt: skip
    yield Case(name="profile-part-missing.jpg", make=lambda: jpeg_with(_plain(), *profile_segments(cycled, 3)[1:]))
    yield Case(name="profile-broken.jpg", make=lambda: _plain(icc_profile=cycled[:90] + bytes(len(cycled) - 90)))
    yield Case(name="profile-truncated.jpg", make=lambda: _plain(icc_profile=cycled[:200]))
    yield Case(name="profile-noise.jpg", make=lambda: _plain(icc_profile=np.random.default_rng(1).bytes(3000)))
    yield Case(name="profile-of-cmyk-in-rgb.jpg", make=lambda: _plain(icc_profile=cmyk_profile((1, 2, 0))))
    yield Case(name="profile-grey-linear.jpg", look=((148,) * 3, (202,) * 3, (94,) * 3, (188,) * 3),
               make=lambda: encoded(Image.fromarray(quadrants()).convert("L"), "JPEG", quality=95,
                                    icc_profile=grey_profile(1.0)))  # fmt: skip
    yield Case(name="grey.jpg", make=lambda: encoded(Image.fromarray(quadrants()).convert("L"), "JPEG"), look=GREYS)
    inks = Image.fromarray(quadrants()).convert("CMYK")
    yield Case(name="cmyk.jpg", make=lambda: encoded(inks, "JPEG", quality=95))
    yield Case(name="cmyk-progressive.jpg", make=lambda: encoded(inks, "JPEG", quality=95, progressive=True))
    yield Case(name="cmyk-profile.jpg", tolerance=45,
               make=lambda: encoded(inks, "JPEG", quality=95, icc_profile=cmyk_profile()))  # fmt: skip
    yield Case(name="cmyk-profile-cycled.jpg", look=(GREEN, BLUE, RED, GREY), tolerance=45,
               make=lambda: encoded(inks, "JPEG", quality=95, icc_profile=cmyk_profile((1, 2, 0))))  # fmt: skip
    yield Case(name="ycck.jpg", make=lambda: _ycck(b""))
    yield Case(name="ycck-profile-cycled.jpg", look=(GREEN, BLUE, RED, GREY), tolerance=45,
               make=lambda: _ycck(cmyk_profile((1, 2, 0))))  # fmt: skip
    yield Case(name="stored-as-rgb.jpg", make=lambda: _plain(keep_rgb=True))


def _ycck(profile: bytes) -> bytes:
    import simplejpeg

    inks = np.asarray(Image.fromarray(quadrants()).convert("CMYK"))
    source = simplejpeg.encode_jpeg(np.ascontiguousarray(~inks), quality=95, colorspace="CMYK", colorsubsampling="444")
    return jpeg_with(source, *profile_segments(profile, 1)) if profile else source


def _jpeg_blemishes() -> Iterator[Case]:
    """Files that a strict decoder complains about, with nothing wrong in the picture."""
    yield Case(name="stray-bytes-in-header.jpg", make=lambda: _plain()[:20] + b"\0\x01\x02" + _plain()[20:])
    yield Case(name="fill-bytes.jpg", make=lambda: _plain()[:20] + b"\xff" * 9 + _plain()[20:])
    yield Case(name="zeros-after-scan.jpg", make=lambda: _plain()[:-2] + bytes(5000) + _plain()[-2:])
    yield Case(name="stray-and-zeros.jpg", make=lambda: (
        _plain()[:20] + b"\0\x01" + _plain()[20:-2] + bytes(900) + _plain()[-2:]
    ))  # fmt: skip
    yield Case(name="bytes-after-the-end.jpg", make=lambda: _plain() + b"<html>" * 1000)
    yield Case(name="jfif-of-the-future.jpg", make=lambda: _plain().replace(b"JFIF\0\1\1", b"JFIF\0\5\7"))
    yield Case(name="adobe-transform-7.jpg", make=lambda: (
        _plain()[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\x07") + _plain()[20:]
    ))  # fmt: skip
    yield Case(name="icc-marker-0-of-0.jpg", make=lambda: jpeg_with(
        _plain(), segment(0xE2, b"ICC_PROFILE\0\x05\x01abc")
    ))  # fmt: skip
    yield Case(name="spectral-selection-0.jpg", make=lambda: _edited_scan(b"\0\0\0"))
    yield Case(name="huge-comment.jpg", make=lambda: jpeg_with(_plain(), *[segment(0xFE, bytes(65533))] * 200))


def _edited_scan(spectral: bytes) -> bytes:
    source = bytearray(_plain())
    at = source.index(b"\xff\xda")
    source[at + 11 : at + 14] = spectral
    return bytes(source)


def _jpeg_damage() -> Iterator[Case]:
    half = (RED, GREEN, None, None)
    yield Case(name="half.jpg", make=lambda: _noisy()[: len(_noisy()) * 6 // 10], expected="truncated")
    yield Case(name="half-accepted.jpg", make=lambda: _noisy()[: len(_noisy()) * 6 // 10], look=half, size=(640, 480),
               decoding=ACCEPT)  # fmt: skip
    yield Case(name="half-progressive.jpg", make=lambda: _noisy(progressive=True)[: len(_noisy()) // 2],
               expected="truncated")  # fmt: skip
    yield Case(name="half-progressive-accepted.jpg", size=(640, 480), tolerance=24, decoding=ACCEPT,
               make=lambda: _noisy(progressive=True)[: len(_noisy()) // 2])  # fmt: skip
    yield Case(name="end-missing.jpg", make=lambda: _plain()[:-2], expected="truncated")
    yield Case(name="end-missing-accepted.jpg", make=lambda: _plain()[:-2], decoding=ACCEPT)
    yield Case(name="corrupt-scan.jpg", make=_corrupt, expected="corrupt")
    yield Case(name="corrupt-scan-accepted.jpg", make=_corrupt, look=half, size=(640, 480), decoding=ACCEPT)
    yield Case(name="leftover-in-scan.jpg", expected="corrupt",
               make=lambda: _plain()[:-2] + bytes(range(1, 200)) + b"\xff\xd9")  # fmt: skip
    yield Case(name="header-only.jpg", make=lambda: _plain()[:300], expected="truncated or corrupt")
    yield Case(name="header-only-accepted.jpg", make=lambda: _plain()[:300], expected="truncated or corrupt",
               decoding=ACCEPT)  # fmt: skip
    yield Case(name="scan-empty-accepted.jpg", expected="truncated", decoding=ACCEPT,
               make=lambda: _plain()[: _plain().index(b"\xff\xda") + 14])  # fmt: skip
    yield Case(name="start-only.jpg", make=lambda: b"\xff\xd8\xff", expected="truncated or corrupt")
    yield Case(name="height-0.jpg", make=lambda: _resized(WIDTH, 0), expected="128 x 0 pixels")
    yield Case(name="bomb-65000x65000.jpg", make=lambda: _resized(65000, 65000), expected="4225 megapixels")
    yield Case(name="bomb-progressive-memory.jpg", make=lambda: _resized(14000, 14000, progressive=True),
               expected="megabytes of memory", decoding=Decoding(limits=Limits(max_decoded_bytes=10**9)))  # fmt: skip
    yield Case(name="bomb-fill-bytes.jpg", make=lambda: b"\xff\xd8" + b"\xff" * (30 * MEBI) + b"\0",
               expected="cannot be read")  # fmt: skip
    yield Case(name="bomb-segments.jpg", make=lambda: jpeg_with(_plain(), segment(0xE0, b"") * 5_000_000),
               expected="10000 segments")  # fmt: skip
    yield Case(name="bomb-restarts.jpg", make=lambda: jpeg_with(_plain(), b"\xff\xd0" * 5_000_000),
               expected="10000 segments")  # fmt: skip
    yield Case(name="frame-of-no-bytes.jpg", make=lambda: b"\xff\xd8\xff\xc0\0\x02", expected="cannot be read")
    yield Case(name="bomb-scans.jpg", make=_many_scans, expected="scans")
    yield Case(name="second-frame.jpg", make=_plain, expected="no frame 1", decoding=Decoding(frame=1))
    yield Case(name="large-progressive.jpg", large=True, size=(10000, 8000), tolerance=12,
               make=lambda: encoded(quadrants(10000, 8000), "JPEG", progressive=True))  # fmt: skip


def _corrupt() -> bytes:
    source = bytearray(_noisy())
    start = len(source) * 3 // 4
    source[start : start + 40] = b"\xff\xd0" * 20
    return bytes(source)


def _resized(width: int, height: int, **options: object) -> bytes:
    """A JPEG whose header claims another size."""
    source = bytearray(_plain(**options))
    at = source.index(b"\xff\xc2" if options else b"\xff\xc0")
    source[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(source)


def _many_scans() -> bytes:
    """A progressive picture whose last scan comes again 20,000 times."""
    source = _resized(4000, 4000, progressive=True)
    last = source[source.rindex(b"\xff\xda") : -2]
    return source[:-2] + last[:12] * 20_000 + source[-2:]


# --- PNG -----------------------------------------------------------------------------------------------------------


def _png() -> Iterator[Case]:
    picture = Image.fromarray(quadrants())
    clear = (WHITE, GREEN, BLUE, GREY)
    yield Case(name="rgb.png", make=lambda: encoded(picture, "PNG"))
    yield Case(name="png-called.jpg", make=lambda: encoded(picture, "PNG"))
    yield Case(name="interlaced.png", make=lambda: png(adam7(quadrants()), interlaced=True))
    yield Case(name="palette.png", make=lambda: encoded(picture.quantize(4), "PNG"))
    yield Case(name="palette-2-bits.png", make=lambda: encoded(picture.quantize(4), "PNG", bits=2))
    yield Case(name="palette-one-clear.png", look=clear, make=lambda: encoded(
        picture.quantize(4), "PNG", transparency=picture.quantize(4).getpixel((0, 0))))  # fmt: skip
    yield Case(name="palette-half-clear.png", make=_half_clear_palette, look=((255, 127, 127), GREEN, BLUE, GREY))
    yield Case(name="rgba.png", make=lambda: encoded(_clear_corner(), "PNG"), look=clear)
    yield Case(name="rgba-on-black.png", make=lambda: encoded(_clear_corner(), "PNG"),
               look=(BLACK, GREEN, BLUE, GREY), decoding=Decoding(background=BLACK))  # fmt: skip
    yield Case(name="rgb-keyed.png", make=lambda: encoded(picture, "PNG", transparency=RED), look=clear)
    yield Case(name="grey.png", make=lambda: encoded(picture.convert("L"), "PNG"), look=GREYS)
    yield Case(name="grey-alpha.png", make=lambda: encoded(_clear_corner().convert("LA"), "PNG"),
               look=(WHITE, *GREYS[1:]))  # fmt: skip
    yield Case(name="1-bit.png", make=lambda: encoded(picture.convert("L").point(lambda v: 255 * (v > 100)).convert("1"),
               "PNG"), look=(BLACK, WHITE, BLACK, WHITE))  # fmt: skip
    wide = quadrants().astype(np.uint16) * 257
    yield Case(name="16-bit-rgb.png", make=lambda: png(filtered(wide), depth=16))
    yield Case(name="16-bit-rgba.png", make=lambda: png(filtered(np.dstack([wide, _corner_alpha() * np.uint16(257)])),
               depth=16, colour_type=6), look=clear)  # fmt: skip
    grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    yield Case(name="16-bit-grey.png", make=lambda: png(filtered(grey), depth=16, colour_type=0), look=GREYS)
    yield Case(name="16-bit-grey-keyed.png", look=(WHITE, *GREYS[1:]), make=lambda: png(
        filtered(grey), depth=16, colour_type=0, before=[png_chunk(b"tRNS", struct.pack(">H", 76 * 257))]))  # fmt: skip
    for orientation in (3, 6, 7):
        yield Case(name=f"orientation-{orientation}.png", make=lambda o=orientation: _oriented("PNG", o))
    yield Case(name="exif-at-the-end.png", make=lambda: png(
        filtered(np.asarray(_stored(6))), width=HEIGHT, height=WIDTH, after=[png_chunk(b"eXIf", _exif(6)[6:])]
    ))  # fmt: skip
    yield Case(name="profile-cycled.png", make=lambda: encoded(picture, "PNG", icc_profile=rgb_profile((2, 0, 1))),
               look=CYCLED)  # fmt: skip
    yield Case(name="profile-under-alpha.png", look=(WHITE, RED, GREEN, GREY),
               make=lambda: encoded(_clear_corner(), "PNG", icc_profile=rgb_profile((2, 0, 1))))  # fmt: skip
    yield Case(name="profile-on-palette.png", look=CYCLED,
               make=lambda: encoded(picture.quantize(4), "PNG", icc_profile=rgb_profile((2, 0, 1))))  # fmt: skip
    yield Case(name="profile-broken.png", make=lambda: png(
        filtered(quadrants()), before=[png_chunk(b"iCCP", b"x\0\0" + b"no zlib at all")]))  # fmt: skip
    yield Case(name="text-latin.png", make=lambda: png(
        filtered(quadrants()), before=[png_chunk(b"tEXt", b"Comment\0" + bytes(range(256)) * 400)]))  # fmt: skip
    yield Case(name="wide-30000x1.png", make=lambda: encoded(quadrants(30000, 2)[:1], "PNG"),
               look=(RED, GREEN, RED, GREEN), size=(30000, 1))  # fmt: skip
    yield Case(name="one-pixel.png", make=lambda: encoded(np.full((1, 1, 3), 7, np.uint8), "PNG"),
               look=((7, 7, 7),) * 4, size=(1, 1))  # fmt: skip


def _corner_alpha() -> NDArray[np.uint8]:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[: HEIGHT // 2, : WIDTH // 2] = 0
    return alpha


def _clear_corner() -> Image.Image:
    return Image.fromarray(np.dstack([quadrants(), _corner_alpha()]))


def _half_clear_palette() -> bytes:
    palette = Image.fromarray(quadrants()).quantize(4)
    opacity = bytearray(b"\xff" * 4)
    opacity[palette.getpixel((0, 0))] = 128
    return encoded(palette, "PNG", transparency=bytes(opacity))


def _png_bombs() -> Iterator[Case]:
    rows = filtered(quadrants())
    yield Case(name="truncated.png", make=lambda: _noise_png()[: len(_noise_png()) * 7 // 10], expected="truncated")
    yield Case(name="truncated-accepted.png", make=lambda: _noise_png()[: len(_noise_png()) * 7 // 10],
               look=(RED, GREEN, None, None), size=(640, 480), decoding=ACCEPT)  # fmt: skip
    yield Case(name="no-end.png", make=lambda: png(rows)[:-12], expected="truncated")
    yield Case(name="no-data.png", make=lambda: png(rows).replace(b"IDAT", b"iDAT"), expected="truncated")
    yield Case(name="checksum.png", make=lambda: _flipped(png(rows), 60), expected="PNG")
    yield Case(name="rows-missing.png", make=lambda: png(rows[: len(rows) // 2]), expected="PNG")
    yield Case(name="rows-too-many.png", make=lambda: png(rows * 50))
    yield Case(name="bomb-50000x50000.png", expected="2500 megapixels",
               make=lambda: png(bytes(1000), width=50_000, height=50_000, depth=1, colour_type=0))  # fmt: skip
    yield Case(name="memory-limited.png", expected="megabytes of memory", make=lambda: png(rows),
               decoding=Decoding(limits=Limits(max_decoded_bytes=10_000)))  # fmt: skip
    packed = zlib.compress(bytes(200 * MEBI), 9)
    yield Case(name="bomb-ztxt.png", make=lambda: png(rows, before=[png_chunk(b"zTXt", b"c\0\0" + packed)] * 20))
    yield Case(name="bomb-itxt.png", make=lambda: png(rows, before=[
        png_chunk(b"iTXt", b"c\0\1\0\0\0" + packed)] * 20))  # fmt: skip
    yield Case(name="bomb-profile.png", make=lambda: png(rows, before=[png_chunk(b"iCCP", b"c\0\0" + packed)]))
    yield Case(name="bomb-chunks.png", make=lambda: png(rows, before=[png_chunk(b"abCd", b"")] * 600_000),
               expected="chunks")  # fmt: skip
    yield Case(name="large.png", large=True, size=(12_800, 12_800), make=_large_png)


@cache
def _noise_png() -> bytes:
    return encoded(quadrants(640, 480, noise=12), "PNG")


def _flipped(source: bytes, at: int) -> bytes:
    return source[:at] + bytes((source[at] ^ 0xFF,)) + source[at + 1 :]


def _large_png() -> bytes:
    side = 12_800
    top, bottom = (b"\0" + bytes(a) * (side // 2) + bytes(b) * (side // 2) for a, b in ((RED, GREEN), (BLUE, GREY)))
    pack = zlib.compressobj(1)
    data = b"".join(pack.compress(row * 100) for row in (top, bottom) for _ in range(side // 200)) + pack.flush()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


# --- animations ----------------------------------------------------------------------------------------------------


def _animations() -> Iterator[Case]:
    options = {"GIF": {}, "PNG": {}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95, "subsampling": "4:4:4"}}
    for name, kind in options.items():
        film = lambda n=name, k=kind: _film(n, **k)  # noqa: E731
        yield Case(name=f"film.{name.lower()}", make=film)
        yield Case(name=f"film-frame-2.{name.lower()}", make=film, look=(GREY, BLUE, GREEN, RED),
                   decoding=Decoding(frame=2))  # fmt: skip
        yield Case(name=f"film-frame-3.{name.lower()}", make=film, expected="no frame 3", decoding=Decoding(frame=3))
    yield Case(name="film-frame-5000.gif", make=lambda: _film("GIF"), expected="limit is 1000 frames",
               decoding=Decoding(frame=5000))  # fmt: skip
    for frames in (0, 3):
        yield Case(name=f"film-of-{frames}-missing.png", make=lambda f=frames: png(filtered(quadrants()), before=[
            png_chunk(b"acTL", struct.pack(">II", f, 0))]))  # fmt: skip
    palette = Image.fromarray(quadrants()).quantize(4)
    yield Case(name="clear.gif", make=lambda: encoded(palette, "GIF", transparency=palette.getpixel((0, 0))),
               look=(WHITE, GREEN, BLUE, GREY))  # fmt: skip
    yield Case(name="truncated.gif", make=lambda: _noise("GIF")[: len(_noise("GIF")) * 7 // 10], expected="truncated")
    yield Case(name="truncated-accepted.gif", make=lambda: _noise("GIF")[: len(_noise("GIF")) * 7 // 10],
               look=(RED, GREEN, None, None), size=(640, 480), tolerance=24, decoding=ACCEPT)  # fmt: skip
    yield Case(name="bomb-65535x65535.gif", expected="4295 megapixels",
               make=lambda: _film("GIF")[:6] + b"\xff\xff\xff\xff" + _film("GIF")[10:])  # fmt: skip
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 100_000 + b"\0"
    yield Case(name="bomb-comment.gif", make=lambda: _film("GIF")[:25] + comment + _film("GIF")[25:])
    yield Case(name="bomb-blocks.gif", make=lambda: _film("GIF")[:25] + b"!\xfe\0" * 5_000_000 + _film("GIF")[25:],
               expected="blocks")  # fmt: skip
    yield Case(name="clear.webp", make=lambda: encoded(_clear_corner(), "WEBP", lossless=True),
               look=(WHITE, GREEN, BLUE, GREY))  # fmt: skip
    yield Case(name="lossy.webp", make=lambda: encoded(quadrants(), "WEBP", quality=95), tolerance=16)
    yield Case(name="orientation-6.webp", make=lambda: _oriented("WEBP", 6, lossless=True))
    yield Case(name="profile-cycled.webp", look=CYCLED,
               make=lambda: encoded(quadrants(), "WEBP", lossless=True, icc_profile=rgb_profile((2, 0, 1))))  # fmt: skip
    yield Case(name="truncated.webp", make=lambda: encoded(quadrants(noise=9), "WEBP")[:-40], expected="WEBP")
    yield Case(name="bomb-16383x16383.webp", make=lambda: _webp_claiming(16383), expected="268 megapixels")
    yield Case(name="bomb-memory.webp", make=lambda: _webp_claiming(12_000), expected="megabytes of memory")


def _webp_claiming(side: int) -> bytes:
    canvas = struct.pack("<I", side - 1)[:3] * 2
    return b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + canvas + bytes(20)


@cache
def _film(name: str, **options: object) -> bytes:
    picture = Image.fromarray(quadrants())
    frames = [
        picture,
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        picture.transpose(Image.Transpose.ROTATE_180),
    ]
    return encoded(frames[0], name, save_all=True, append_images=frames[1:], duration=50, **options)


@cache
def _noise(name: str) -> bytes:
    return encoded(quadrants(640, 480, noise=12), name)


# --- TIFF ----------------------------------------------------------------------------------------------------------


def _tiff() -> Iterator[Case]:
    picture = Image.fromarray(quadrants())
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield Case(name=f"{compression}.tiff", tolerance=12,
                   make=lambda c=compression: encoded(picture, "TIFF", compression=c))  # fmt: skip
    yield Case(name="big.tiff", make=lambda: encoded(picture, "TIFF", big_tiff=True))
    yield Case(name="fax.tiff", make=lambda: encoded(
        picture.convert("L").point(lambda v: 255 * (v > 100)).convert("1"), "TIFF", compression="group4"),
        look=(BLACK, WHITE, BLACK, WHITE))  # fmt: skip
    yield Case(name="cmyk.tiff", make=lambda: encoded(picture.convert("CMYK"), "TIFF"))
    yield Case(name="cmyk-profile-cycled.tiff", look=(GREEN, BLUE, RED, GREY), tolerance=45, make=lambda: encoded(
        picture.convert("CMYK"), "TIFF", icc_profile=cmyk_profile((1, 2, 0))))  # fmt: skip
    yield Case(name="lab.tiff", make=lambda: encoded(_as_lab(picture), "TIFF"), tolerance=24)
    yield Case(name="clear.tiff", make=lambda: encoded(_clear_corner(), "TIFF"), look=(WHITE, GREEN, BLUE, GREY))
    yield Case(name="palette.tiff", make=lambda: encoded(picture.quantize(4), "TIFF"))
    grey = np.asarray(picture.convert("L"))
    yield Case(name="16-bit.tiff", make=lambda: encoded(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
               look=GREYS)  # fmt: skip
    for top in (1.0, 255.0, 65535.0):
        yield Case(name=f"float-{top:.0f}.tiff", look=GREYS, make=lambda t=top: encoded(
            _with_white(grey.astype(np.float32) * np.float32(t / 255), t), "TIFF"))  # fmt: skip
    yield Case(name="float-nan.tiff", look=(None, *GREYS[1:]), make=lambda: encoded(_with_nan(grey), "TIFF"))
    yield Case(name="orientation-6.tiff", make=lambda: _oriented("TIFF", 6))
    yield Case(name="orientation-6-lzw.tiff", make=lambda: _oriented("TIFF", 6, compression="tiff_lzw"))
    yield Case(name="pages-2.tiff", make=_pages, look=(GREY, BLUE, GREEN, RED), decoding=Decoding(frame=1))
    yield Case(name="pages-9.tiff", make=_pages, expected="no frame 9", decoding=Decoding(frame=9))
    yield Case(name="pages-in-a-loop.tiff", make=_looped_pages, expected="no frame 9", decoding=Decoding(frame=9))
    yield Case(name="truncated.tiff", make=lambda: _front_loaded_tiff()[:-6000], expected="TIFF")
    yield Case(name="truncated-accepted.tiff", make=lambda: _front_loaded_tiff()[:-2400], look=(RED, GREEN, None, None),
               decoding=ACCEPT)  # fmt: skip
    yield Case(name="bomb-60000x60000.tiff", make=lambda: _tiff_claiming(60_000, 60_000), expected="3600 megapixels")
    yield Case(name="bomb-strips.tiff", make=_strips_bomb, expected="30000000 values")
    yield Case(name="bomb-tags.tiff", make=lambda: b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(800_000),
               expected="65535 tags")  # fmt: skip
    yield Case(name="directory-at-the-end-of-the-world.tiff", expected="its directory cannot be read",
               make=lambda: b"II+\0\x08\0\0\0" + b"\xff" * 100)  # fmt: skip
    yield Case(name="no-directory.tiff", make=lambda: b"II*\0\xff\xff\xff\x7f" + bytes(100), expected="TIFF")


def _as_lab(picture: Image.Image) -> Image.Image:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    found = to_lab.apply(picture)
    found.info.pop("icc_profile", None)
    return found


def _with_white(values: NDArray[np.float32], white: float) -> NDArray[np.float32]:
    """With one white sample at the edge: the range is told from the largest."""
    values[-1, -1] = white
    return values


def _with_nan(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = grey.astype(np.float32)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    return values


@cache
def _pages() -> bytes:
    picture = Image.fromarray(quadrants())
    return encoded(picture, "TIFF", save_all=True, append_images=[picture.transpose(Image.Transpose.ROTATE_180)])


def _looped_pages() -> bytes:
    """The second page names the first as the one that follows."""
    source = bytearray(_pages())
    first = struct.unpack_from("<I", source, 4)[0]
    second = _next_directory(source, first)[1]
    struct.pack_into("<I", source, _next_directory(source, second)[0], first)
    return bytes(source)


def _next_directory(source: bytearray, directory: int) -> tuple[int, int]:
    """Where the offset of the directory after this one stands, and the offset."""
    at = directory + 2 + 12 * struct.unpack_from("<H", source, directory)[0]
    return at, struct.unpack_from("<I", source, at)[0]


def _tiff_of(entries: dict[int, tuple[int, int, int]], tail: bytes) -> bytes:
    """A little-endian TIFF of one directory: tag to (type, count, value); ``tail`` begins at byte 200."""
    rows = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4)
    return head.ljust(200, b"\0") + tail


def _tiff_claiming(width: int, height: int) -> bytes:
    return _tiff_of(
        {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 200),
         277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, 100)}, bytes(100)
    )  # fmt: skip


def _front_loaded_tiff() -> bytes:
    """The directory before the pixels, so that a cut costs rows only."""
    pixels = quadrants().tobytes()
    return _tiff_of(
        {256: (4, 1, WIDTH), 257: (4, 1, HEIGHT), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 2), 273: (4, 1, 200),
         277: (3, 1, 3), 278: (4, 1, HEIGHT), 279: (4, 1, len(pixels))}, pixels
    )  # fmt: skip


def _strips_bomb() -> bytes:
    """A small picture of thirty million strips."""
    count = 30_000_000
    return _tiff_of(
        {256: (4, 1, WIDTH), 257: (4, 1, HEIGHT), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, count, 200),
         277: (3, 1, 1), 278: (4, 1, 1), 279: (4, count, 200)}, bytes(100)
    )  # fmt: skip


# --- AVIF, HEIC ----------------------------------------------------------------------------------------------------


def _heif() -> Iterator[Case]:
    sharp = {"quality": 95, "subsampling": "4:4:4"}
    yield Case(name="plain.avif", make=lambda: encoded(quadrants(), "AVIF", **sharp))
    yield Case(name="clear.avif", make=lambda: encoded(_clear_corner(), "AVIF", **sharp),
               look=(WHITE, GREEN, BLUE, GREY))  # fmt: skip
    for orientation in (3, 5, 6):
        yield Case(name=f"orientation-{orientation}.avif", make=lambda o=orientation: _oriented("AVIF", o, **sharp))
    yield Case(name="profile-cycled.avif", look=CYCLED, tolerance=16,
               make=lambda: encoded(quadrants(), "AVIF", **sharp, icc_profile=rgb_profile((2, 0, 1))))  # fmt: skip
    yield Case(name="truncated.avif", make=lambda: encoded(quadrants(noise=20), "AVIF")[:-300], expected="AVIF")
    if find_spec("pillow_heif") is None:
        yield Case(name="plain.heic", make=lambda: b"\0\0\0\x18ftypheic" + bytes(40), expected="HEIC is not read")
        return
    yield Case(name="plain.heic", make=_heic, tolerance=12)
    yield Case(name="heic-called.jpg", make=_heic, tolerance=12)
    for orientation in (3, 6):
        yield Case(name=f"orientation-{orientation}.heic", make=lambda o=orientation: _heic(o), tolerance=12)
    yield Case(name="truncated.heic", make=lambda: _heic()[:-200], expected="HEIC")
    yield Case(name="head.heic", make=lambda: _heic()[:60], expected="HEIC")


def _heic(orientation: int = 1) -> bytes:
    import pillow_heif

    stored = _stored(orientation)
    file = pillow_heif.from_bytes(mode="RGB", size=stored.size, data=stored.tobytes())
    file.info["exif"] = _exif(orientation)
    buffer = io.BytesIO()
    file.save(buffer, quality=95, chroma=444)
    return buffer.getvalue()


# --- the rest ------------------------------------------------------------------------------------------------------


def _others() -> Iterator[Case]:
    picture = Image.fromarray(quadrants())
    yield Case(name="rgb.bmp", make=lambda: encoded(picture, "BMP"))
    yield Case(name="palette.bmp", make=lambda: encoded(picture.quantize(4), "BMP"))
    yield Case(name="truncated.bmp", make=lambda: encoded(picture, "BMP")[:-2000], expected="BMP")
    yield Case(name="truncated-accepted.bmp", make=lambda: encoded(picture, "BMP")[:-2000], decoding=ACCEPT,
               look=(None, None, BLUE, GREY))  # fmt: skip
    yield Case(name="bomb-100000x100000.bmp", expected="10000 megapixels", make=lambda: (
        encoded(picture, "BMP")[:18] + struct.pack("<ii", 100_000, 100_000) + encoded(picture, "BMP")[26:]
    ))  # fmt: skip
    yield Case(name="rgb.ppm", make=lambda: encoded(picture, "PPM"))
    wide = np.asarray(picture.convert("L")).astype(">u2") * 257
    yield Case(name="16-bit.pgm", look=GREYS,
               make=lambda: b"P5 128 64 65535\n" + wide.astype(">u2").tobytes())  # fmt: skip
    yield Case(name="16-bit-dark.pgm", look=((1, 1, 1),) * 4, tolerance=0,
               make=lambda: b"P5 128 64 65535\n" + b"\1\1" * (128 * 64))  # fmt: skip
    yield Case(name="comments.ppm", make=lambda: b"P6 # one\n# two\r\n128 #three\n64\n255\n" + quadrants().tobytes())
    yield Case(name="bomb-comment.ppm", make=lambda: b"P6 #" + b"c" * (30 * MEBI) + b"\n128 64 255\n",
               expected="cannot be read")  # fmt: skip
    yield Case(name="bomb.ppm", make=lambda: b"P6 99999 99999 255\n", expected="megapixels")
    yield Case(name="empty.jpg", make=lambda: b"", expected="empty file")
    yield Case(name="zeros.jpg", make=lambda: bytes(4096), expected="not a picture")
    yield Case(name="noise.png", make=lambda: np.random.default_rng(2).bytes(4096), expected="not a picture")
    yield Case(name="page.jpg", make=lambda: b"<!doctype html><title>404</title>", expected="not a picture")
    yield Case(name="document.jpg", make=lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", expected="not a picture")
    yield Case(name="drawing.png", make=lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", expected="not a picture")
    yield Case(name="sound.webp", make=lambda: b"RIFF\0\0\0\0WAVEfmt " + bytes(40), expected="not a picture")
    yield Case(name="letters.bmp", make=lambda: b"BMW sells cars. " * 40, expected="BMP")
    yield Case(name="script.ppm", make=lambda: b"%!PS-Adobe-3.0 EPSF\n", expected="not a picture")
