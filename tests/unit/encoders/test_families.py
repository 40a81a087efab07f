"""Each family of models, tiny and random, through the real loading code: vectors are those of transformers' own processor
(PIL) and model, on photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from pixdex import encoders
from pixdex.errors import ConfigError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
skimage = pytest.importorskip("skimage")

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {**TRANSFORMER, "image_size": 32, "patch_size": 8}
TEXT = {**TRANSFORMER, "vocab_size": 60, "max_position_embeddings": 16}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1]}
CONVNEXT = {**STAGES, "num_stages": 2}
EFFICIENT = {
    "image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320, "in_channels": [16, 16],
    "out_channels": [16, 24], "kernel_sizes": [3, 3], "strides": [1, 2], "num_block_repeats": [1, 1],
    "expand_ratios": [1, 4], "depthwise_padding": [],
}  # fmt: skip
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def _cls(output: Any) -> Any:
    return output.last_hidden_state[:, 0]


def _mean(output: Any) -> Any:
    return output.last_hidden_state.flatten(2).mean(dim=2)


def _mean_of_tokens(output: Any) -> Any:
    return output.last_hidden_state.mean(dim=1)


def _mean_of_last_map(output: Any) -> Any:
    return output.feature_maps[-1].flatten(2).mean(dim=2)


def _pooled(output: Any) -> Any:
    return output.pooler_output


def _projected(output: Any) -> Any:
    return output.image_embeds


@dataclass(frozen=True)
class Family:
    """A model class with its config, the image processor with its values, and what the default vector is."""

    model: str
    config: str
    values: dict[str, Any]
    processor: str
    processing: dict[str, Any]
    vector: Callable[[Any], Any]
    reference: str


def _dual(vision: dict[str, Any]) -> dict[str, Any]:
    return {"vision_config": vision, "text_config": {**TEXT, "projection_dim": 24}, "projection_dim": 24}


CROPPED = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
SQUARE = {"size": {"height": 32, "width": 32}}
FAMILIES = {
    "vit": Family("ViTModel", "ViTConfig", PATCHES, "vit.ViT", SQUARE, _cls, "cls"),
    "dinov2": Family("Dinov2Model", "Dinov2Config", PATCHES, "bit.Bit", {**CROPPED, **IMAGENET}, _cls, "cls"),
    "dinov2 with registers": Family(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {**PATCHES, "num_register_tokens": 3}, "bit.Bit",
        CROPPED, _cls, "cls",
    ),
    "clip": Family("CLIPModel", "CLIPConfig", _dual(PATCHES), "clip.CLIP", CROPPED, _pooled, "own"),
    "clip, pictures only": Family(
        "CLIPVisionModelWithProjection", "CLIPVisionConfig", {**PATCHES, "projection_dim": 24}, "clip.CLIP", CROPPED,
        _projected, "own",
    ),
    "siglip": Family(
        "SiglipModel", "SiglipConfig", {"vision_config": PATCHES, "text_config": TEXT}, "siglip.Siglip", SQUARE, _pooled,
        "own",
    ),
    "siglip, pictures only": Family(
        "SiglipVisionModel", "SiglipVisionConfig", PATCHES, "siglip.Siglip", SQUARE, _pooled, "own",
    ),
    "metaclip 2": Family(
        "MetaClip2Model", "MetaClip2Config",
        {**_dual(PATCHES), "text_config": {**TEXT, "projection_dim": 24, "eos_token_id": 2}}, "clip.CLIP", CROPPED,
        _pooled, "own",
    ),
    "convnext": Family(
        "ConvNextModel", "ConvNextConfig", CONVNEXT, "convnext.ConvNext", {"size": {"shortest_edge": 32}}, _mean, "mean",
    ),
    "convnext, squeezed": Family(
        "ConvNextModel", "ConvNextConfig", CONVNEXT, "convnext.ConvNext", {"size": {"shortest_edge": 384}}, _mean,
        "mean",
    ),
    "convnext v2": Family(
        "ConvNextV2Model", "ConvNextV2Config", CONVNEXT, "convnext.ConvNext", {"size": {"shortest_edge": 32}}, _mean,
        "mean",
    ),
    "resnet": Family(
        "ResNetModel", "ResNetConfig", {**STAGES, "embedding_size": 16, "layer_type": "basic"}, "convnext.ConvNext",
        {"size": {"shortest_edge": 64}, **IMAGENET}, _mean, "mean",
    ),
    "swin": Family("SwinModel", "SwinConfig", SWIN, "vit.ViT", SQUARE, _mean_of_tokens, "mean"),
    "swin v2": Family("Swinv2Model", "Swinv2Config", SWIN, "vit.ViT", SQUARE, _mean_of_tokens, "mean"),
    "mobilenet v1": Family(
        "MobileNetV1Model", "MobileNetV1Config", {"depth_multiplier": 0.1, "min_depth": 8},
        "mobilenet_v1.MobileNetV1", {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}, _mean,
        "mean",
    ),
    "mobilenet v2": Family(
        "MobileNetV2Model", "MobileNetV2Config", {"depth_multiplier": 0.1}, "mobilenet_v2.MobileNetV2",
        {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}, _mean, "mean",
    ),
    "efficientnet": Family(
        "EfficientNetModel", "EfficientNetConfig", EFFICIENT, "efficientnet.EfficientNet", SQUARE, _mean, "mean",
    ),
    "efficientnet, offset": Family(
        "EfficientNetModel", "EfficientNetConfig", EFFICIENT, "efficientnet.EfficientNet",
        {**SQUARE, "rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False, "resample": 0}, _mean,
        "mean",
    ),
    "backbone of dinov2": Family(
        "Dinov2Backbone", "Dinov2Config", {**PATCHES, "out_indices": [1, 2]}, "bit.Bit", CROPPED, _mean_of_last_map,
        "mean",
    ),
    "backbone of convnext": Family(
        "ConvNextBackbone", "ConvNextConfig", {**CONVNEXT, "out_features": ["stage1", "stage2"]}, "convnext.ConvNext",
        {"size": {"shortest_edge": 32}}, _mean_of_last_map, "mean",
    ),
    "backbone of resnet": Family(
        "ResNetBackbone", "ResNetConfig", {**STAGES, "embedding_size": 16, "layer_type": "basic"}, "convnext.ConvNext",
        {"size": {"shortest_edge": 64}}, _mean_of_last_map, "mean",
    ),
    "backbone of swin": Family("SwinBackbone", "SwinConfig", SWIN, "vit.ViT", SQUARE, _mean_of_last_map, "mean"),
}  # fmt: skip


def _sane(model: Any, seed: int = 0) -> Any:
    """Weights that keep signals alive; the library's start of a CNN gives nearly the same vector for any picture."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Any, spread: float, centre: float = 0.0) -> None:
        tensor.copy_(centre + spread * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim >= 2:
                normal(tensor, math.sqrt(2 / max(1, tensor[0].numel())))
            elif _is_scale(name.lower()):
                normal(tensor, 0.1, 1.0)
            else:
                normal(tensor, 0.02)
        for name, tensor in model.named_buffers():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model.eval()


def _is_scale(name: str) -> bool:
    """Of a norm or of a layer, as the families call them."""
    *_, layer, kind = ["", *name.split(".")]
    return kind in {"lambda1", "layer_scale_parameter"} or (kind == "weight" and ("norm" in layer or "bn" in layer))


def _processor(family: Family) -> Any:
    module, name = family.processor.split(".")
    found = import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    return getattr(found, f"{name}ImageProcessorPil")(**family.processing)


def _save(family: Family, folder: Path) -> Path:
    config = getattr(transformers, family.config)(**family.values)
    _sane(getattr(transformers, family.model)(config)).save_pretrained(folder)
    _processor(family).save_pretrained(folder)
    return folder


def _photographs() -> list[Image.Image]:
    folder = Path(skimage.__file__).parent / "data"
    return [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]


def _theirs(family: Family, folder: Path) -> np.ndarray:
    pixels = torch.from_numpy(
        np.asarray(_processor(family)(images=_photographs(), return_tensors="np")["pixel_values"])
    )
    model = getattr(transformers, family.model).from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        run = model.get_image_features if hasattr(model, "get_image_features") else model
        vectors = family.vector(run(pixel_values=pixels)).numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _ours(encoder: Any) -> np.ndarray:
    return encoder.encode([encoder.prepare(np.asarray(photo)) for photo in _photographs()]).vectors


@pytest.mark.parametrize("name", FAMILIES)
def test_vectors_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    folder = _save(family, tmp_path / "model")
    encoder = encoders.load(f"{folder}?runtime=torch")
    assert encoder.reference.startswith(f"hf:{folder}?pooling={family.reference}&")
    ours, theirs = _ours(encoder), _theirs(family, folder)
    assert ours.shape == (len(PHOTOGRAPHS), encoder.dim)
    assert np.sum(ours * theirs, axis=1).min() >= 0.999
    assert (
        _cosines(ours - theirs.mean(axis=0), theirs - theirs.mean(axis=0)).min() >= 0.999
    )  # what tells pictures apart


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def _save_with(model: str, config: str, values: dict[str, Any], processing: dict[str, Any], folder: Path) -> Path:
    """With a hand-written file of what its input looks like."""
    _sane(getattr(transformers, model)(getattr(transformers, config)(**values))).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes(orjson.dumps(processing))
    return folder


def _by_hand(mean: list[float], std: list[float]) -> Any:
    """Photographs squeezed to 32 by 32 pixels, bilinear, and normalized."""
    small = [photo.resize((32, 32), Image.Resampling.BILINEAR) for photo in _photographs()]
    normalized = (np.stack([np.asarray(photo) for photo in small]) / 255 - mean) / std
    return torch.from_numpy(normalized.transpose(0, 3, 1, 2).astype(np.float32))


def test_dinov3(tmp_path: Path) -> None:
    """Its processor needs torchvision, so pictures are resized here by hand."""
    values = {**PATCHES, "num_register_tokens": 4}
    processing = {
        "image_processor_type": "DINOv3ViTImageProcessorFast", "do_resize": True, "do_rescale": True,
        "do_normalize": True, "size": {"height": 32, "width": 32}, "resample": 2, **IMAGENET,
    }  # fmt: skip
    folder = _save_with("DINOv3ViTModel", "DINOv3ViTConfig", values, processing, tmp_path / "model")
    encoder = encoders.load(f"{folder}?runtime=torch")
    assert encoder.reference == f"hf:{folder}?pooling=cls&tokens=16"
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = model(pixel_values=_by_hand(IMAGENET["image_mean"], IMAGENET["image_std"])).last_hidden_state.numpy()
    assert states.shape == (4, 1 + 4 + 16, 32)
    assert _cosines(_ours(encoder), states[:, 0]).min() >= 0.999
    mean = encoders.load(f"{folder}?pooling=mean&runtime=torch")
    assert _cosines(_ours(mean), states[:, 5:].mean(axis=1)).min() >= 0.999


def test_dinov3_convnext(tmp_path: Path) -> None:
    """The mean of its cells comes first among them, as a class token does."""
    processing = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 32, "width": 32}}
    values = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    folder = _save_with("DINOv3ConvNextModel", "DINOv3ConvNextConfig", values, processing, tmp_path / "model")
    encoder = encoders.load(f"{folder}?runtime=torch")
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = model(pixel_values=_by_hand(IMAGENET["image_mean"], IMAGENET["image_std"])).last_hidden_state.numpy()
    assert encoder.trunk.cells == states.shape[1] - 1
    assert _cosines(_ours(encoder), states[:, 0]).min() >= 0.999


def test_cells_are_patches_after_the_last_norm(tmp_path: Path) -> None:
    """Neither class nor register tokens; of CLIP, whose last hidden state is not normalized, normalized here."""
    for name, prefix in (("dinov2 with registers", 4), ("clip", 1), ("siglip", 0)):
        folder = _save(FAMILIES[name], tmp_path / name)
        encoder = encoders.load(f"{folder}?runtime=torch")
        made = encoder.trunk.forward(np.stack([encoder.prepare(np.asarray(photo)) for photo in _photographs()]))
        assert made.cells.shape == (4, 16, 32)
        assert (made.cls is None) == (prefix == 0)
        assert encoder.trunk.outputs == ("cells", "cls", "own") if prefix else ("cells", "own")
        if name == "clip":
            tower = encoder.trunk.tower.model
            with torch.inference_mode():
                projected = tower.visual_projection(torch.from_numpy(made.cls)).numpy()
            assert projected == pytest.approx(made.own, abs=1e-5)
            model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).vision_model.eval()
            pixels = torch.from_numpy(
                encoder.trunk.preprocess.normalize(np.stack([encoder.prepare(np.asarray(p)) for p in _photographs()]))
            )
            with torch.inference_mode():
                state = model.post_layernorm(model(pixel_values=pixels).last_hidden_state).numpy()
            assert made.cells == pytest.approx(state[:, 1:], abs=1e-4)


@pytest.mark.parametrize("name", ["vit", "dinov2", "convnext", "resnet", "swin", "mobilenet v2", "efficientnet"])
def test_the_embedding_that_a_model_defines_itself(name: str, tmp_path: Path) -> None:
    """``pooling=own`` is what its pooler gives."""
    folder = _save(FAMILIES[name], tmp_path / "model")
    encoder = encoders.load(f"{folder}?pooling=own&runtime=torch")
    assert encoder.dim == encoder.trunk.own_dim
    pixels = _processor(FAMILIES[name])(images=_photographs(), return_tensors="np")["pixel_values"]
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        pooled = model(pixel_values=torch.from_numpy(np.asarray(pixels))).pooler_output.flatten(1).numpy()
    assert _cosines(_ours(encoder), pooled).min() >= 0.999


def test_weights_in_several_files(tmp_path: Path) -> None:
    whole = _save(FAMILIES["clip"], tmp_path / "whole")
    split = tmp_path / "split"
    transformers.CLIPModel.from_pretrained(whole).save_pretrained(split, max_shard_size="60KB")
    (split / "preprocessor_config.json").write_bytes((whole / "preprocessor_config.json").read_bytes())
    shards = sorted(split.glob("*.safetensors"))
    assert len(shards) > 1
    encoder = encoders.load(f"{split}?runtime=torch")
    assert encoder.fingerprint.digest == encoders.load(str(whole)).fingerprint.digest
    encoder.save(tmp_path / "saved")
    assert encoders.load(str(tmp_path / "saved")).fingerprint == encoder.fingerprint
    shards[0].unlink()
    with pytest.raises(ConfigError, match="split cannot be loaded"):
        encoders.load(str(split))


@pytest.mark.parametrize("pooling", ["cls", "mean", "gem", "own"])
def test_other_poolings_of_a_dual_encoder(pooling: str, tmp_path: Path) -> None:
    folder = _save(FAMILIES["clip"], tmp_path / "model")
    encoder = encoders.load(f"{folder}?pooling={pooling}&tokens=5&runtime=torch")
    assert encoder.dim == (24 if pooling == "own" else 32)
    features = encoder.encode([encoder.prepare(np.asarray(photo)) for photo in _photographs()], tokens=True)
    assert features.vectors.shape == (4, encoder.dim)
    assert [t.shape for t in features.tokens] == [(5, 32)] * 4


def test_a_model_without_descriptors_is_refused(tmp_path: Path) -> None:
    """It takes pictures, and finds keypoints in them."""
    values = {"encoder_hidden_sizes": [8, 8, 8, 8], "decoder_hidden_size": 8, "keypoint_decoder_dim": 65}
    processing = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    config = {**values, "descriptor_decoder_dim": 8}
    folder = _save_with("SuperPointForKeypointDetection", "SuperPointConfig", config, processing, tmp_path / "model")
    with pytest.raises(ConfigError, match="superpoint"):
        encoders.load(str(folder))


def test_a_model_of_language_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(**TRANSFORMER, vocab_size=30)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match=r"bert\) is not a vision model: it takes input_ids"):
        encoders.load(str(tmp_path / "bert"))


def test_models_that_give_no_vector_of_a_picture(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for values, reason in [
        ({"model_type": "siglip2"}, "fixed resolution"),
        ({"model_type": "vit_mae"}, "ViTModel"),
        ({"model_type": "timm_wrapper"}, "ONNX"),
        ({"model_type": "no-such-thing"}, "no-such-thing"),
        ({"model_type": "vit", "architectures": ["NoSuchBackbone"]}, "no NoSuchBackbone"),
    ]:
        (folder / "config.json").write_bytes(orjson.dumps(values))
        (folder / "model.safetensors").write_bytes(b"")
        (folder / "preprocessor_config.json").write_bytes(orjson.dumps({"image_processor_type": "ViTImageProcessor"}))
        with pytest.raises(ConfigError, match=reason) as caught:
            encoders.load(str(folder))
        assert "\n" not in str(caught.value)


def test_an_input_of_another_size_than_the_model_takes(tmp_path: Path) -> None:
    processing = {"image_processor_type": "ViTImageProcessor", "size": {"height": 40, "width": 32}}
    folder = _save_with("ViTModel", "ViTConfig", PATCHES, processing, tmp_path / "model")
    with pytest.raises(ConfigError, match="does not take the 40x32 pixels that its preprocessor makes"):
        encoders.load(str(folder))


def test_a_damaged_file_of_weights_is_named(tmp_path: Path) -> None:
    folder = _save(FAMILIES["clip"], tmp_path / "model")
    file = folder / "model.safetensors"
    content = file.read_bytes()
    for damaged in (content[:-1000], b"\xff" * 64 + content[64:], b""):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"model cannot be loaded: its weights are damaged") as caught:
            encoders.load(str(folder))
        assert "\n" not in str(caught.value)
