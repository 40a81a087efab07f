from __future__ import annotations

import io
import struct
import warnings
import zlib
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from pixdex.encoders import images
from pixdex.encoders.images import Decoding, Limits, center_crop, decode, from_array, from_pil, resize, thumbnail_jpeg
from pixdex.errors import InvalidImage

RNG = np.random.default_rng(7)
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
QUADRANTS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}


def photo(height: int = 50, width: int = 60) -> Image.Image:
    """Smooth enough for lossy codecs, with detail enough to be worth a scan."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(rows / a + columns / b) for a, b in ((9, 13), (17, 7), (11, 23))]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def encoded(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def quadrants() -> np.ndarray:
    """Red, green over blue, grey: every turn of it is another picture. 16 x 32."""
    array = np.zeros((16, 32, 3), dtype=np.uint8)
    array[:8, :16], array[:8, 16:], array[8:, :16], array[8:, 16:] = QUADRANTS.values()
    return array


def distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


def exif_block(entries: dict[int, object], gps: dict[int, object] | None = None) -> bytes:
    exif = Image.Exif()
    for tag, value in entries.items():
        if tag in (0x9003, 0x9011):
            exif.get_ifd(0x8769)[tag] = value
        else:
            exif[tag] = value
    for tag, value in (gps or {}).items():
        exif.get_ifd(0x8825)[tag] = value
    return exif.tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_picture(name: str) -> None:
    decoded = decode(encoded(photo(), name))
    assert (decoded.width, decoded.height, decoded.format) == (60, 50, name)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape == (50, 60, 3)
    assert distance(decoded.pixels, np.asarray(photo())) < 8


def test_bytes_that_are_no_picture_say_why() -> None:
    for source, reason in [
        (b"", "empty file"),
        (b"hello", "not a picture"),
        (b"%PDF-1.7 ...", "not a picture"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "HEIC"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(40), "not a picture"),
    ]:
        with pytest.raises(InvalidImage, match=reason):
            decode(source)


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_never_accepted(name: str) -> None:
    whole = encoded(photo(), name)
    end = len(whole) - (2 if name == "JPEG" else 13)
    for cut in {*range(0, end, max(1, end // 60)), end}:
        with pytest.raises(InvalidImage):
            decode(whole[:cut])


def test_a_truncated_jpeg_says_so() -> None:
    whole = encoded(photo(200, 300), "JPEG")
    with pytest.raises(InvalidImage, match=r"^truncated JPEG$"):
        decode(whole[: len(whole) * 3 // 4])


def test_a_corrupt_jpeg_scan_is_refused() -> None:
    """Pillow accepts these."""
    whole = encoded(photo(200, 300), "JPEG")
    scan = whole.index(b"\xff\xda") + 14
    for start in range(scan + 20, len(whole) - 80, 97):
        damaged = bytearray(whole)
        damaged[start : start + 40] = b"\xff\xd0" * 20
        with pytest.raises(InvalidImage, match="JPEG"):
            decode(bytes(damaged))


def test_a_corrupt_png_is_refused() -> None:
    whole = encoded(photo(), "PNG")
    for at in range(60, len(whole) - 20, 211):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        with pytest.raises(InvalidImage, match="PNG"):
            decode(bytes(damaged))


def test_random_bytes_after_a_signature_raise_nothing_else() -> None:
    for signature in (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\x00",
        b"MM\x00*",
        b"P6",
        b"RIFFaaaaWEBP",
    ):
        for _ in range(20):
            with pytest.raises(InvalidImage):
                decode(signature + RNG.bytes(200))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_its_header() -> None:
    jpeg = bytearray(encoded(photo(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 20_000, 20_050)
    webp = b"RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00" + b"\x1f\x4e\x00\x51\x4e\x00" + bytes(20)
    for source in (png_header(20_000, 20_050), bytes(jpeg), webp):
        with pytest.raises(InvalidImage, match=r"^401 megapixels, the limit is 200$"):
            decode(source)


def test_limits_are_the_callers() -> None:
    source = encoded(photo(), "PNG")
    with pytest.raises(InvalidImage, match="megapixels"):
        decode(source, Decoding(limits=Limits(max_pixels=2999)))
    assert decode(source, Decoding(limits=Limits(max_pixels=3000))).width == 60
    with pytest.raises(InvalidImage, match="megabytes"):
        decode(source, Decoding(limits=Limits(max_bytes=len(source) - 1)))
    assert decode(source, Decoding(limits=Limits(max_bytes=len(source)))).width == 60


def test_pillows_size_check_neither_warns_nor_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in FORMATS:
            if name in ("TIFF", "WEBP"):
                with pytest.raises(InvalidImage, match="MAX_IMAGE_PIXELS"):
                    decode(encoded(photo(), name))
            else:
                assert decode(encoded(photo(), name)).width == 60
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_undone(name: str, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = Image.fromarray(quadrants())
    if orientation in undo:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if name == "JPEG" else {"lossless": True} if name == "WEBP" else {}
    source = encoded(stored, name, exif=exif.tobytes(), **options)
    decoded = decode(source)
    assert (decoded.width, decoded.height) == (32, 16)
    assert distance(decoded.pixels, quadrants()) < 3
    assert distance(from_pil(Image.open(io.BytesIO(source))), quadrants()) < 3


def test_transparency_shows_the_background() -> None:
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    for name in ("PNG", "WEBP"):
        options = {"lossless": True} if name == "WEBP" else {}
        assert decode(encoded(clear, name, **options)).pixels.min() == 255
        assert set(decode(encoded(half, name, **options)).pixels.ravel()) == {127}
        assert tuple(decode(encoded(clear, name, **options), Decoding(background=(1, 2, 3))).pixels[0, 0]) == (1, 2, 3)
    assert from_pil(clear).min() == 255
    assert from_array(np.asarray(clear)).min() == 255


def test_palette_and_key_transparency() -> None:
    palette = Image.fromarray(quadrants()).quantize(4)
    index = palette.getpixel((0, 0))
    for name in ("PNG", "GIF"):
        pixels = decode(encoded(palette, name, transparency=index)).pixels
        assert tuple(pixels[0, 0]) == (255, 255, 255)
        assert tuple(pixels[0, -1]) == (0, 255, 0)
    keyed = decode(encoded(Image.fromarray(quadrants()), "PNG", transparency=(255, 0, 0))).pixels
    assert tuple(keyed[0, 0]) == (255, 255, 255)
    assert tuple(keyed[-1, -1]) == (128, 128, 128)
    grey_alpha = Image.new("LA", (4, 4), (0, 0))
    assert decode(encoded(grey_alpha, "PNG")).pixels.min() == 255


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(4, axis=0)
    for source in (encoded(Image.fromarray(ramp), "PNG"), encoded(Image.fromarray(ramp), "TIFF")):
        pixels = decode(source).pixels
        assert np.array_equal(pixels[0, :, 0], np.arange(256))
    assert np.array_equal(from_pil(Image.fromarray(ramp))[0, :, 1], np.arange(256))


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_tiff_is_scaled(top: float) -> None:
    ramp = np.linspace(0, top, 256, dtype=np.float32)[None].repeat(4, axis=0)
    assert distance(decode(encoded(Image.fromarray(ramp), "TIFF")).pixels[0, :, 0], np.arange(256)) <= 1


@pytest.mark.parametrize(("low", "high"), [(-3, 9), (0, 1e6)])
def test_float_tiff_with_any_range_is_stretched_and_nan_is_survived(low: float, high: float) -> None:
    ramp = np.linspace(low, high, 256, dtype=np.float32)[None].repeat(4, axis=0)
    ramp[0, 0] = np.nan
    pixels = decode(encoded(Image.fromarray(ramp), "TIFF")).pixels
    assert distance(pixels[1, :, 0], np.arange(256)) <= 1


def test_cmyk_grey_and_bilevel() -> None:
    cmyk = photo().convert("CMYK")
    for name in ("JPEG", "TIFF"):
        options = {"quality": 95} if name == "JPEG" else {}
        assert distance(decode(encoded(cmyk, name, **options)).pixels, np.asarray(photo())) < 4
    grey = decode(encoded(photo().convert("L"), "JPEG")).pixels
    assert grey.shape == (50, 60, 3)
    assert np.array_equal(grey[..., 0], grey[..., 2])
    bilevel = decode(encoded(photo().convert("1"), "PNG")).pixels
    assert set(bilevel.ravel()) == {0, 255}


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    source = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(decode(source).pixels[0, 0]) == (255, 0, 0)


def test_exif_time_and_place() -> None:
    gps = {1: "S", 2: (33.0, 30.0, 36.0), 3: "W", 4: (70.0, 15.0, 0.0)}
    block = exif_block({0x9003: "2024:02:29 23:30:00", 0x9011: "-02:00"}, gps)
    for name in ("JPEG", "PNG", "WEBP"):
        decoded = decode(encoded(photo(), name, exif=block))
        assert decoded.taken == datetime(2024, 3, 1, 1, 30, tzinfo=UTC)
        assert decoded.place == pytest.approx((-33.51, -70.25))
    no_offset = decode(encoded(photo(), "JPEG", exif=exif_block({0x9003: "2024:02:29 23:30:00"})))
    assert no_offset.taken == datetime(2024, 2, 29, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "gps",
    [
        {1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
        {1: "X", 2: (1.0, 0.0, 0.0), 3: "E", 4: (1.0, 0.0, 0.0)},
        {1: "N", 2: (1.0, 0.0, 0.0)},
        {2: (1.0, 0.0, 0.0), 4: (1.0, 0.0, 0.0)},
    ],
)
def test_a_place_that_cannot_be_is_none(gps: dict[int, object]) -> None:
    assert decode(encoded(photo(), "JPEG", exif=exif_block({}, gps))).place is None


def test_a_zero_denominator_is_no_place() -> None:
    gps = {1: "N", 2: (12.5, 30.0, 36.0), 3: "E", 4: (1.0, 0.0, 0.0)}
    block = exif_block({}, gps)
    at = block.index(struct.pack("<II", 25, 2)) if block[6:8] == b"II" else block.index(struct.pack(">II", 25, 2))
    broken = block[:at] + block[at : at + 4] + bytes(4) + block[at + 8 :]
    assert decode(encoded(photo(), "JPEG", exif=block)).place is not None
    assert decode(encoded(photo(), "JPEG", exif=broken)).place is None


def test_damaged_exif_never_costs_the_picture() -> None:
    block = exif_block(
        {0x0112: 6, 0x9003: "2024:02:29 23:30:00"}, {1: "N", 2: (1.0, 2.0, 3.0), 3: "E", 4: (1.0, 2.0, 3.0)}
    )
    for _ in range(300):
        damaged = bytearray(block)
        for at in RNG.integers(6, len(block), size=6):
            damaged[at] = RNG.integers(256)
        assert decode(encoded(photo(8, 8), "JPEG", exif=bytes(damaged))).pixels.shape == (8, 8, 3)
    for cut in range(6, len(block), 5):
        assert decode(encoded(photo(8, 8), "JPEG", exif=block[:cut])).format == "JPEG"
    for text in ("0000:00:00 00:00:00", "0001:01:01 00:00:00", "yesterday", "2024:13:01 00:00:00"):
        source = encoded(photo(8, 8), "JPEG", exif=exif_block({0x9003: text, 0x9011: "+14:00"}))
        assert decode(source).taken is None


def test_exif_of_real_cameras(shared) -> None:
    import csv

    folder = shared / "data" / "geo_exif"
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        decoded = decode((folder / row["path"]).read_bytes())
        assert decoded.place == pytest.approx((float(row["lat"]), float(row["lon"])), abs=1e-5)
        if row["taken"]:
            assert decoded.taken is not None
            assert decoded.taken.strftime("%Y:%m:%d %H:%M:%S") == row["taken"]


def test_arrays() -> None:
    grey = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    assert np.array_equal(from_array(grey), np.stack([grey] * 3, axis=-1))
    colour = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(from_array(colour), colour)
    assert from_array(colour[:, ::-1]).flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("array", "remedy"),
    [
        (np.zeros((4, 4, 3), dtype=np.float32), r"array \* 255"),
        (np.zeros((4, 4), dtype=np.uint16), "// 257"),
        (np.zeros((4, 4), dtype=bool), r"\* 255"),
        (np.zeros((4, 4), dtype=np.int64), "clip"),
        (np.zeros((3, 20, 20), dtype=np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((4,), dtype=np.uint8), r"\[h, w\]"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "empty"),
        ([[1, 2]], "numpy.asarray"),
    ],
)
def test_arrays_of_another_kind_are_refused_with_the_remedy(array: np.ndarray, remedy: str) -> None:
    with pytest.raises(InvalidImage, match=remedy):
        from_array(array)


def test_a_pillow_picture_that_cannot_be_loaded_is_refused() -> None:
    whole = encoded(photo(200, 200), "PNG")
    with pytest.raises(InvalidImage), Image.open(io.BytesIO(whole[: len(whole) // 2])) as image:
        from_pil(image)


def test_resize_is_antialiased_and_takes_height_first() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    for resample in ("bicubic", "bilinear", "lanczos"):
        small = resize(stripes, (8, 16), resample)
        assert small.shape == (8, 16, 3)
        assert np.all(np.abs(small[:, 1:-1].astype(int) - 127) < 12)


def test_center_crop() -> None:
    array = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert np.array_equal(center_crop(array, (3, 3)), array[1:4, 2:5])
    padded = center_crop(array, (7, 3))
    assert np.array_equal(padded[1:6], array[:, 2:5])
    assert not padded[0].any()
    assert not padded[6].any()


def test_thumbnail() -> None:
    pixels = np.asarray(photo(300, 600))
    small = decode(thumbnail_jpeg(pixels, 100, 90))
    assert (small.width, small.height, small.format) == (100, 50, "JPEG")
    assert decode(thumbnail_jpeg(pixels[:20, :30], 100, 90)).width == 30
    assert decode(thumbnail_jpeg(np.zeros((1, 5000, 3), dtype=np.uint8), 100, 90)).height == 1


def test_decoding_in_threads_agrees() -> None:
    from concurrent.futures import ThreadPoolExecutor

    sources = [encoded(photo(40 + i, 50), FORMATS[i % len(FORMATS)]) for i in range(28)]
    alone = [decode(source).pixels for source in sources]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda source: decode(source).pixels, sources))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert images.WHITE == (255, 255, 255)
