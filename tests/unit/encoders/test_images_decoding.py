"""What decoding promises beyond the corpus of odd files: exact colours, scaling, limits, policies."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms

from benchmarks import _picture_parts as parts
from pixdex.encoders import _colour, _formats, _jpeg
from pixdex.encoders.images import Decoding, Limits, decode, from_pil
from pixdex.errors import ConfigError, InvalidImage

RNG = np.random.default_rng(11)
CYCLED = parts.rgb_profile((2, 0, 1))
"""Red shows blue, green shows red, blue shows green."""


def waves(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    parts_ = [128 + 100 * np.sin(rows / a + columns / b) for a, b in ((19, 23), (37, 17), (21, 33))]
    return np.stack(parts_, axis=-1).astype(np.uint8)


def jpeg(array: np.ndarray, **options: object) -> bytes:
    return parts.encoded(array, "JPEG", **{"quality": 92, **options})


def distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frame": -1}, "counted from 0"),
        ({"truncated": "half"}, "refuse, accept"),
        ({"background": (0, 0)}, "red, green, blue"),
        ({"background": (0, 0, 256)}, "0 to 255"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Decoding(**wrong)


def test_settings_travel_to_other_processes() -> None:
    settings = Decoding(limits=Limits(max_pixels=9), background=(1, 2, 3), frame=4, truncated="accept")
    assert pickle.loads(pickle.dumps(settings)) == settings


# --- decoding at a fraction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "min_side", "shape"),
    [
        ((2000, 3000), 448, (500, 750)),
        ((2000, 3000), 501, (1000, 1500)),
        ((2000, 3000), 1001, (2000, 3000)),
        ((2000, 3000), 5000, (2000, 3000)),
        ((2000, 3000), 100, (250, 375)),
        ((1003, 801), 101, (126, 101)),
        ((1003, 801), 102, (251, 201)),
        ((9, 900), 2, (2, 113)),
        ((1, 900), 1, (1, 113)),
    ],
)
def test_a_fraction_keeps_as_much_as_asked_for(size: tuple[int, int], min_side: int, shape: tuple[int, int]) -> None:
    decoded = decode(jpeg(waves(*size)), min_side=min_side)
    assert decoded.pixels.shape[:2] == shape
    assert (decoded.height, decoded.width) == size


def test_a_fraction_shows_the_same_picture() -> None:
    source = jpeg(waves(1600, 2400), subsampling=2)
    full = Image.fromarray(decode(source).pixels)
    for min_side, divisor in ((800, 2), (400, 4), (200, 8)):
        small = decode(source, min_side=min_side).pixels
        assert distance(small, np.asarray(full.resize((2400 // divisor, 1600 // divisor), Image.Resampling.BOX))) < 1


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_fraction_is_turned_and_reports_the_full_size(orientation: int) -> None:
    block = Image.Exif()
    block[0x0112] = orientation
    source = jpeg(parts.quadrants(640, 320), exif=block.tobytes())
    full, small = decode(source), decode(source, min_side=80)
    assert (small.width, small.height) == (full.width, full.height) == ((320, 640) if orientation > 4 else (640, 320))
    assert small.pixels.shape[:2] == (full.height // 4, full.width // 4)
    assert distance(small.pixels, full.pixels[2::4, 2::4]) < 3


def test_a_fraction_has_its_colours_converted() -> None:
    small = decode(jpeg(parts.quadrants(640, 320), icc_profile=CYCLED), min_side=80).pixels
    assert distance(small[10, 10], np.array((0, 0, 255))) < 4
    inks = Image.fromarray(parts.quadrants(640, 320)).convert("CMYK")
    small = decode(parts.encoded(inks, "JPEG", icc_profile=parts.cmyk_profile((1, 2, 0))), min_side=80)
    assert small.pixels.shape == (80, 160, 3)
    assert distance(small.pixels[10, 10], np.array((0, 255, 0))) < 8


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_whole(name: str) -> None:
    assert decode(parts.encoded(waves(64, 128), name), min_side=8).pixels.shape == (64, 128, 3)


# --- colours -------------------------------------------------------------------------------------------------------


def test_a_profile_is_converted_exactly_as_littlecms_does() -> None:
    """Adobe RGB, near enough: a wider green. Relative colorimetric, black point compensated."""
    wide = parts.rgb_profile(gamma=1.8)
    array = waves(40, 50)
    wanted = ImageCms.profileToProfile(
        Image.fromarray(array),
        ImageCms.ImageCmsProfile(io.BytesIO(wide)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert wanted is not None
    assert distance(np.asarray(wanted), array) > 5
    assert np.array_equal(decode(parts.encoded(array, "PNG", icc_profile=wide)).pixels, np.asarray(wanted))
    assert np.array_equal(from_pil(wanted), np.asarray(wanted)), "its profile is sRGB now"


def test_srgb_changes_no_pixel() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    array = waves(40, 50)
    assert np.array_equal(decode(parts.encoded(array, "PNG", icc_profile=srgb)).pixels, array)
    assert _colour.to_srgb(srgb, "RGB") is None


def test_profiles_of_pillow_pictures_count_too() -> None:
    for mode in ("RGB", "P"):
        image = Image.fromarray(parts.quadrants())
        image = image.quantize(4) if mode == "P" else image
        image.info["icc_profile"] = CYCLED
        assert tuple(from_pil(image)[0, 0]) == (0, 0, 255)


def test_a_large_picture_is_converted_in_strips_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.linspace(0, 65535, 90 * 70).reshape(90, 70).astype(np.uint16)
    alpha = np.dstack([waves(90, 70), np.full((90, 70), 90, np.uint8)])
    inks = Image.fromarray(waves(90, 70)).convert("CMYK")
    sources = [
        parts.encoded(waves(90, 70), "PNG", icc_profile=CYCLED),
        parts.encoded(alpha, "PNG", icc_profile=CYCLED),
        parts.encoded(ramp, "PNG"),
        parts.encoded(ramp.astype(np.float32), "TIFF"),
        parts.encoded(Image.fromarray(waves(90, 70)).quantize(64), "PNG"),
        parts.encoded(inks, "JPEG", icc_profile=parts.cmyk_profile((1, 2, 0))),
        jpeg(waves(90, 70), icc_profile=CYCLED),
        parts.encoded(Image.fromarray(waves(90, 70)).convert("L"), "JPEG", icc_profile=parts.grey_profile(1.0)),
    ]
    whole = [decode(source).pixels for source in sources]
    monkeypatch.setattr(_colour, "_STRIP", 500)
    for source, wanted in zip(sources, whole, strict=True):
        assert np.array_equal(decode(source).pixels, wanted)


def test_damaged_profiles_never_cost_the_picture() -> None:
    array = parts.quadrants()
    for _ in range(150):
        damaged = bytearray(CYCLED)
        for at in RNG.integers(0, len(damaged), size=8):
            damaged[at] = RNG.integers(256)
        assert decode(jpeg(array, icc_profile=bytes(damaged))).pixels.shape == array.shape
    for cut in range(0, len(CYCLED), 9):
        assert decode(jpeg(array, icc_profile=CYCLED[:cut])).pixels.shape == array.shape


def test_an_enormous_profile_is_ignored() -> None:
    padded = CYCLED + bytes(5 << 20)
    source = parts.jpeg_with(jpeg(parts.quadrants()), *parts.profile_segments(padded, 90))
    assert distance(decode(source).pixels[4, 4], np.array((255, 0, 0))) < 4


def test_lab_gives_the_colours_back() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = to_lab.apply(Image.fromarray(waves(30, 40)))
    image.info.clear()
    assert distance(decode(parts.encoded(image, "TIFF")).pixels, waves(30, 40)) < 2
    assert distance(from_pil(image), waves(30, 40)) < 2


def test_ycck_and_cmyk_are_the_same_picture() -> None:
    inks = np.asarray(Image.fromarray(waves(64, 96)).convert("CMYK"))
    ycck = simplejpeg.encode_jpeg(np.ascontiguousarray(~inks), quality=95, colorspace="CMYK", colorsubsampling="444")
    assert simplejpeg.decode_jpeg_header(ycck)[2] == "YCCK"
    assert distance(decode(ycck).pixels, waves(64, 96)) < 3


def test_rgb_of_16_bits_is_scaled() -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)
    rows = parts.filtered(np.repeat(ramp[None, :, None], 3, axis=2))
    assert np.array_equal(decode(parts.png(rows, width=256, height=1, depth=16)).pixels[0, :, 1], np.arange(256))


# --- JPEG files with blemishes, and with damage --------------------------------------------------------------------


def test_mending_changes_no_pixel() -> None:
    whole = jpeg(waves(80, 120), restart_marker_blocks=4)
    wanted = decode(whole).pixels
    scan = whole.index(b"\xff\xda")
    blemished = {
        "stray": whole[:20] + b"\0\1\2" + whole[20:scan] + b"\7\7" + whole[scan:],
        "jfif": whole.replace(b"JFIF\0\1\1", b"JFIF\0\6\1"),
        "padding": whole[:-2] + bytes(700) + whole[-2:],
        "coefficients": whole[: scan + 11] + bytes(3) + whole[scan + 14 :],
        "everything": whole[:20].replace(b"\1\1", b"\6\1") + b"\0\1\2" + whole[20:-2] + bytes(80) + whole[-2:],
    }
    for name, source in blemished.items():
        with pytest.raises(ValueError, match="Corrupt|unknown|Invalid"):
            simplejpeg.decode_jpeg(source)
        assert np.array_equal(decode(source).pixels, wanted), name
        assert np.array_equal(decode(source, min_side=20).pixels, decode(whole, min_side=20).pixels), name


def test_mending_keeps_the_metadata() -> None:
    block = Image.Exif()
    block[0x0112] = 6
    whole = jpeg(parts.quadrants(), exif=block.tobytes(), icc_profile=CYCLED)
    source = whole[:-2] + bytes(900) + whole[-2:]
    decoded = decode(source[:20] + b"\5" + source[20:])
    assert (decoded.width, decoded.height) == (parts.HEIGHT, parts.WIDTH)
    assert np.array_equal(decoded.pixels, decode(whole).pixels)


def test_a_progressive_picture_with_padding_between_its_scans_is_read() -> None:
    whole = jpeg(waves(80, 120), progressive=True)
    second = whole.index(b"\xff\xda", whole.index(b"\xff\xda") + 2)
    table = whole.rindex(b"\xff\xc4", 0, second)
    source = whole[:table] + bytes(300) + whole[table:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(source)
    assert np.array_equal(decode(source).pixels, decode(whole).pixels)


def test_damage_is_never_mended() -> None:
    """Whatever strict mode says of a scan with other bytes in it is still refused; only filler may be left over."""
    whole = jpeg(waves(120, 160) + RNG.integers(0, 24, (120, 160, 3), dtype=np.uint8))
    scan = whole.index(b"\xff\xda") + 14
    refused = 0
    for _ in range(300):
        at = int(RNG.integers(scan, len(whole) - 40))
        source = whole[:at] + RNG.bytes(20) + whole[at + 20 :]
        try:
            simplejpeg.decode_jpeg(source)
        except ValueError:
            refused += 1
            with pytest.raises(InvalidImage, match="JPEG"):
                decode(source)
            assert decode(source, Decoding(truncated="accept")).pixels.shape == (120, 160, 3)
    assert refused > 50


def test_what_is_left_of_a_cut_jpeg_is_accepted_on_request() -> None:
    array = waves(480, 640)
    whole = jpeg(array)
    half = whole[: len(whole) // 2]
    with pytest.raises(InvalidImage, match="^truncated JPEG$"):
        decode(half)
    decoded = decode(half, Decoding(truncated="accept"))
    assert decoded.pixels.shape == (480, 640, 3)
    assert distance(decoded.pixels[:200], array[:200]) < 4
    assert decoded.pixels[-16:].std() < 12, "the rest is flat"
    assert decode(half, Decoding(truncated="accept"), min_side=100).pixels.shape == (120, 160, 3)


@pytest.mark.parametrize(("name", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "raw"})])
def test_what_is_left_of_other_formats_is_accepted_on_request(name: str, options: dict) -> None:
    array = RNG.integers(1, 255, (100, 120, 3), dtype=np.uint8)
    whole = parts.encoded(array, name, **options)
    # The directory of a TIFF stands at its end: that is cut short by claiming a taller picture.
    source = _tall_tiff(array) if name == "TIFF" else whole[: len(whole) * 3 // 4]
    with pytest.raises(InvalidImage):
        decode(source)
    pixels = decode(source, Decoding(truncated="accept", background=(1, 2, 3))).pixels
    done = (pixels == (array if name != "TIFF" else np.vstack([array, array]))).all(axis=(1, 2))
    assert 60 <= done.sum() <= 180
    if name != "TIFF":
        assert tuple(pixels[0 if name == "BMP" else -1, 5]) == (1, 2, 3)


def _tall_tiff(array: np.ndarray) -> bytes:
    height, width = array.shape[:2]
    entries = {256: width, 257: 2 * height, 258: 8, 259: 1, 262: 2, 273: 200, 277: 3, 278: 2 * height,
               279: 2 * array.size}  # fmt: skip
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return (b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4)).ljust(200, b"\0") + array.tobytes()


def test_nothing_decoded_is_never_accepted() -> None:
    for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF"):
        whole = parts.encoded(waves(50, 60), name)
        for cut in (0, 2, 9, 20, 30):
            with pytest.raises(InvalidImage):
                decode(whole[:cut], Decoding(truncated="accept"))


def test_a_frame_that_cannot_be_decoded_is_never_accepted() -> None:
    picture = Image.fromarray(waves(90, 90))
    for name in ("WEBP", "AVIF"):
        film = parts.encoded(picture, name, save_all=True, append_images=[picture.rotate(90)])
        middle = len(film) // 4
        damaged = film[:middle] + bytes(len(film) - middle)
        with pytest.raises(InvalidImage, match=name):
            decode(damaged, Decoding(truncated="accept"))
    rows = parts.filtered(waves(parts.HEIGHT, parts.WIDTH))
    packed = zlib.compress(rows)
    for source in (parts.png(rows).replace(packed[:40], b"\0" * 40), parts.png(b"")):
        with pytest.raises(InvalidImage, match="PNG"):
            decode(source, Decoding(truncated="accept"))


def test_accepting_leaves_pillow_as_it_was() -> None:
    from PIL import ImageFile

    source = parts.encoded(waves(300, 300), "PNG")[:-2000]
    decode(source, Decoding(truncated="accept"))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    with pytest.raises(InvalidImage, match="truncated"):
        decode(source)


# --- limits --------------------------------------------------------------------------------------------------------


def test_memory_is_limited_by_what_the_header_says() -> None:
    plain, progressive = jpeg(waves(100, 200)), jpeg(waves(100, 200), progressive=True, subsampling=0)
    assert decode(plain, Decoding(limits=Limits(max_decoded_bytes=60_000))).width == 200
    with pytest.raises(InvalidImage, match="megabytes of memory to decode"):
        decode(plain, Decoding(limits=Limits(max_decoded_bytes=59_999)))
    with pytest.raises(InvalidImage, match="memory"):
        decode(progressive, Decoding(limits=Limits(max_decoded_bytes=60_000)))
    assert decode(progressive, Decoding(limits=Limits(max_decoded_bytes=180_000))).width == 200
    block = Image.Exif()
    block[0x0112] = 6
    turned = jpeg(waves(100, 200), exif=block.tobytes())
    assert decode(turned, Decoding(limits=Limits(max_decoded_bytes=120_000))).width == 100
    with pytest.raises(InvalidImage, match="memory"):  # two copies while it is turned
        decode(turned, Decoding(limits=Limits(max_decoded_bytes=119_999)))
    assert decode(plain, Decoding(limits=Limits(max_decoded_bytes=15_000)), min_side=50).pixels.shape == (50, 100, 3)
    wide = parts.encoded(np.zeros((100, 200, 4), np.uint8), "PNG")
    assert decode(wide, Decoding(limits=Limits(max_decoded_bytes=140_000))).width == 200
    with pytest.raises(InvalidImage, match="memory"):
        decode(wide, Decoding(limits=Limits(max_decoded_bytes=139_999)))


def test_the_full_size_is_limited_also_where_a_fraction_is_decoded() -> None:
    with pytest.raises(InvalidImage, match="megapixels"):
        decode(jpeg(waves(100, 200)), Decoding(limits=Limits(max_pixels=19_999)), min_side=10)


def test_frames_are_limited() -> None:
    picture = Image.fromarray(parts.quadrants())
    turned = picture.rotate(180)
    source = parts.encoded(picture, "TIFF", save_all=True, append_images=[turned, picture])
    assert decode(source, Decoding(limits=Limits(max_frames=2), frame=1)).width == parts.WIDTH
    with pytest.raises(InvalidImage, match="frame 2 is wanted, the limit is 2 frames"):
        decode(source, Decoding(limits=Limits(max_frames=2), frame=2))


def test_a_frame_may_have_another_size_and_is_checked_too() -> None:
    source = parts.encoded(
        Image.new("RGB", (10, 10)), "TIFF", save_all=True, append_images=[Image.new("L", (300, 200), 9)]
    )
    decoded = decode(source, Decoding(frame=1))
    assert (decoded.width, decoded.height, int(decoded.pixels.max())) == (300, 200, 9)
    with pytest.raises(InvalidImage, match="megapixels"):
        decode(source, Decoding(limits=Limits(max_pixels=1000), frame=1))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_bombs_of_text_cost_nothing() -> None:
    """200 megabytes of zeros in 200 kilobytes, forty times: a process that reads them never holds one."""
    program = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from pixdex.encoders.images import decode\n"
        "source = sys.stdin.buffer.read()\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "assert decode(source).pixels.any()\n"
        "assert peak() - before < 50_000, (before, peak())\n"
    )
    packed = zlib.compress(bytes(200 << 20), 9)
    chunks = [parts.png_chunk(b"zTXt", b"c\0\0" + packed), parts.png_chunk(b"iCCP", b"c\0\0" + packed)]
    source = parts.png(parts.filtered(parts.quadrants()), before=chunks * 20)
    subprocess.run([sys.executable, "-c", program], input=source, check=True)


# --- PNG -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_whose_data_ends_early_is_refused(interlaced: bool) -> None:
    array = parts.quadrants()
    rows = parts.adam7(array) if interlaced else parts.filtered(array)
    assert np.array_equal(decode(parts.png(rows, interlaced=interlaced)).pixels, array)
    for missing in (1, len(rows) // 2, len(rows) - 10):
        with pytest.raises(InvalidImage, match="PNG"):
            decode(parts.png(rows[:-missing], interlaced=interlaced))


def test_a_png_that_ends_in_black_is_whole() -> None:
    for mode in ("RGB", "L", "RGBA", "P", "1", "I;16"):
        image = Image.new(mode, (33, 17))
        assert decode(parts.encoded(image, "PNG")).pixels.shape == (17, 33, 3)


def test_only_the_chunks_of_the_picture_reach_the_decoder() -> None:
    before = [parts.png_chunk(name, b"x" * 9) for name in (b"tEXt", b"abCd", b"pHYs", b"gAMA")]
    lean = _formats.read_png(parts.png(parts.filtered(parts.quadrants()), before=before), animated=False)
    assert lean.source == parts.png(parts.filtered(parts.quadrants()))
    assert lean.whole


def test_the_frames_of_a_gif_are_those_that_pillow_shows() -> None:
    """With palettes of their own, parts that stay clear, each way of clearing, and a comment between them."""
    colours = [Image.fromarray(waves(40, 50)).rotate(30 * turn).quantize(5 + turn) for turn in range(5)]
    source = parts.encoded(
        colours[0], "GIF", save_all=True, append_images=colours[1:], disposal=[1, 2, 3, 2, 1], transparency=0,
        comment=b"c" * 700,
    )  # fmt: skip
    with Image.open(io.BytesIO(source)) as film:
        assert film.n_frames == 5
        for frame in range(5):
            film.seek(frame)
            assert np.array_equal(decode(source, Decoding(frame=frame)).pixels, from_pil(film.copy())), frame
    with pytest.raises(InvalidImage, match="no frame 5"):
        decode(source, Decoding(frame=5))
    assert b"c" * 200 not in _formats.lean_gif(source, 4)


# --- headers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(40), "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf" + bytes(40), "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(40), "not a picture"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(40), "not a picture"),
    ],
)
def test_containers_are_told_apart_by_their_brands(head: bytes, reason: str) -> None:
    with pytest.raises(InvalidImage, match=reason):
        decode(head)


def test_heic_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    with pytest.raises(
        InvalidImage, match=r'^HEIC is not read: pillow-heif is not installed: pip install "pixdex\[heif\]"$'
    ):
        decode(b"\0\0\0\x18ftypheic" + bytes(40))


def test_a_pillow_without_avif_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    source = parts.encoded(waves(8, 8), "AVIF")
    monkeypatch.setitem(sys.modules, "PIL.AvifImagePlugin", None)
    with pytest.raises(InvalidImage, match="^AVIF is not read: this Pillow is too old for it$"):
        decode(source)


def test_heic_is_read_without_registering_its_plugin() -> None:
    pytest.importorskip("pillow_heif")
    program = (
        "import io, numpy as np, pillow_heif\n"
        "from PIL import Image\n"
        "from pixdex.encoders.images import decode\n"
        "file = pillow_heif.from_bytes(mode='RGB', size=(40, 30), data=bytes((200, 30, 90)) * 1200)\n"
        "out = io.BytesIO(); file.save(out, quality=95, chroma=444)\n"
        "decoded = decode(out.getvalue())\n"
        "assert (decoded.width, decoded.height, decoded.format) == (40, 30, 'HEIC')\n"
        "assert np.abs(decoded.pixels.reshape(-1, 3).mean(0) - (200, 30, 90)).max() < 4\n"
        "assert 'HEIF' not in Image.OPEN\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_header_of_a_jpeg_says_what_its_decoder_finds() -> None:
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}):
        source = jpeg(waves(37, 53), **options)
        header = _jpeg.read_header(source)
        height, width, _, _ = simplejpeg.decode_jpeg_header(source)
        assert (header.width, header.height) == (width, height)
        assert header.has_many_scans == bool(options.get("progressive"))


def test_random_bytes_in_headers_raise_nothing_else() -> None:
    for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "PPM"):
        whole = parts.encoded(waves(24, 24), name)
        for _ in range(120):
            damaged = bytearray(whole)
            for at in RNG.integers(4, min(len(whole), 700), size=3):
                damaged[at] = RNG.integers(256)
            for truncated in ("refuse", "accept"):
                try:
                    pixels = decode(
                        bytes(damaged), Decoding(limits=Limits(max_pixels=10**6), truncated=truncated)
                    ).pixels
                except InvalidImage:
                    continue
                assert pixels.dtype == np.uint8


def test_transforms_are_shared_between_threads() -> None:
    sources = [
        jpeg(waves(200, 300), icc_profile=parts.rgb_profile((2, 0, 1), gamma=1.5 + i / 10)) for i in range(6)
    ] * 4
    alone = [decode(source).pixels for source in sources]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda source: decode(source).pixels, sources))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
