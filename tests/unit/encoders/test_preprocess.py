from __future__ import annotations

from dataclasses import replace

import numpy as np
import orjson
import pytest
from PIL import Image

from pixdex.encoders.preprocess import Preprocess
from pixdex.errors import ConfigError

RNG = np.random.default_rng(5)
VIT = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5], "resample": 3, "rescale_factor": 1 / 255, "size": {"height": 224, "width": 224},
}  # fmt: skip
CROPPED = {
    **VIT, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256},
    "resample": 2, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip


def picture(height: int, width: int) -> np.ndarray:
    small = RNG.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_values_are_read() -> None:
    read = Preprocess.from_transformers(CROPPED)
    assert read == Preprocess(
        shortest_edge=256, crop=(224, 224), resample="bilinear", scale=1 / 255, mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    assert read.size == (224, 224)
    assert Preprocess.from_transformers({**VIT, "size": 384}).resize_to == (384, 384)
    assert Preprocess.from_transformers({**CROPPED, "size": 256}).shortest_edge == 256
    bare = Preprocess.from_transformers({**VIT, "do_rescale": False, "do_normalize": False})
    assert (bare.scale, bare.mean, bare.std) == (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    convnext = Preprocess.from_transformers({**VIT, "size": {"shortest_edge": 224}, "crop_pct": 0.875})
    assert (convnext.shortest_edge, convnext.crop) == (256, (224, 224))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (  # of OpenAI's CLIP
            {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "do_center_crop": True},
            {
                "shortest_edge": 224,
                "crop": (224, 224),
                "resample": "bicubic",
                "mean": (0.48145466, 0.4578275, 0.40821073),
            },
        ),
        (  # of Microsoft's ResNet
            {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "size": 224, "resample": 3},
            {"shortest_edge": 256, "crop": (224, 224), "resample": "bicubic"},
        ),
        (  # without its share: that of the class
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 288}},
            {"shortest_edge": 329, "crop": (288, 288)},
        ),
        (
            {"image_processor_type": "ConvNextImageProcessorFast", "size": 384},
            {"resize_to": (384, 384), "crop": None, "shortest_edge": None},
        ),
        ({"image_processor_type": "ViTImageProcessor", "size": 384}, {"resize_to": (384, 384), "resample": "bilinear"}),
        ({"image_processor_type": "ViTImageProcessor", "size": [224, 192]}, {"resize_to": (224, 192)}),
        ({"image_processor_type": "SiglipImageProcessor"}, {"resize_to": (224, 224), "mean": (0.5, 0.5, 0.5)}),
        ({"image_processor_type": "MobileNetV1ImageProcessor"}, {"shortest_edge": 256, "crop": (224, 224)}),
        (
            {"image_processor_type": "DINOv3ViTImageProcessorFast"},
            {"resize_to": (224, 224), "mean": (0.485, 0.456, 0.406), "resample": "bilinear"},
        ),
        (
            {"image_processor_type": "BitImageProcessor", "do_center_crop": False, "size": {"height": 98, "width": 98}},
            {"resize_to": (98, 98), "crop": None},
        ),
        (  # once by 0.5 in the last step that leads to the classes
            {"image_processor_type": "EfficientNetImageProcessor"},
            {"resize_to": (346, 346), "crop": None, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)},
        ),
        (
            {"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True, "rescale_factor": 1 / 127.5}
            | {"do_normalize": False, "include_top": False},
            {"scale": 1 / 127.5, "mean": (1.0, 1.0, 1.0), "std": (1.0, 1.0, 1.0)},
        ),
    ],
)
def test_files_that_leave_out_what_the_class_knows(values: dict[str, object], expected: dict[str, object]) -> None:
    read = Preprocess.from_transformers(values)
    assert {name: getattr(read, name) for name in expected} == expected


@pytest.mark.parametrize(
    "values",
    [
        {**VIT, "do_pad": True},
        {**VIT, "do_flip_channel_order": True},
        {**VIT, "size": [1, 2, 3]},
        {**VIT, "size": "large"},
        {**VIT, "image_mean": None},
        {**VIT, "size": {"longest_edge": 224}},
        {**VIT, "size": {"shortest_edge": 224}},
        {**VIT, "image_mean": [0.5]},
        {**VIT, "image_std": [0.5, 0.5, 0]},
        {**VIT, "resample": 9},
        {k: v for k, v in VIT.items() if k != "size"},
        {**VIT, "do_resize": False},
    ],
)
def test_values_that_cannot_be_followed_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Preprocess.from_transformers(values)


def test_json_round_trip_and_digest() -> None:
    first = Preprocess.from_transformers(CROPPED)
    again = Preprocess.from_json(orjson.loads(orjson.dumps(first.to_json())))
    assert again == first
    assert again.digest() == first.digest()
    others = [
        replace(first, shortest_edge=255),
        replace(first, resample="bicubic"),
        replace(first, mean=(0.0, 0.0, 0.0)),
    ]
    assert len({first.digest(), *(other.digest() for other in others)}) == 4
    with pytest.raises(ConfigError):
        Preprocess.from_json({"colour": 1})


@pytest.mark.parametrize("shape", [(240, 320), (320, 240), (100, 100), (224, 224), (30, 900), (1, 1)])
def test_batches_always_have_one_size(shape: tuple[int, int]) -> None:
    for values in (VIT, CROPPED):
        fitted = Preprocess.from_transformers(values).fit(picture(*shape))
        assert fitted.shape == (224, 224, 3)
        assert fitted.dtype == np.uint8


@pytest.mark.parametrize(("values", "side"), [(VIT, 448), (CROPPED, 512), ({**CROPPED, "do_resize": False}, None)])
def test_how_much_of_a_picture_is_looked_at(values: dict[str, object], side: int | None) -> None:
    assert Preprocess.from_transformers(values).min_side == side


def test_a_line_of_pixels_is_not_blown_up_to_gigabytes() -> None:
    line = np.zeros((1, 200_000, 3), dtype=np.uint8)
    assert Preprocess.from_transformers(CROPPED).fit(line).shape == (224, 224, 3)


def test_normalize_is_the_formula() -> None:
    preprocess = Preprocess.from_transformers(CROPPED)
    pixels = picture(224, 224)
    expected = (pixels / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    result = preprocess.normalize(pixels[None])
    assert result.dtype == np.float32
    assert result[0] == pytest.approx(expected.transpose(2, 0, 1), abs=1e-5)


@pytest.mark.parametrize("shape", [(240, 320), (333, 217), (224, 224), (64, 80)])
@pytest.mark.parametrize("values", [VIT, CROPPED], ids=["vit", "mobilenet"])
def test_parity_with_transformers(values: dict[str, object], shape: tuple[int, int]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    processor = (ViTImageProcessorPil if values is VIT else MobileNetV2ImageProcessorPil)(**values)
    pixels = picture(*shape)
    theirs = np.asarray(processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"])[0]
    ours = Preprocess.from_transformers(values).apply(pixels)
    assert ours.shape == theirs.shape
    cosine = float((ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs))
    assert cosine >= 0.9999
