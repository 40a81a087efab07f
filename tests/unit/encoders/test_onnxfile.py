from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tiny_models

from pixdex import encoders
from pixdex.encoders import onnxfile
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.export import export
from pixdex.encoders.port import Encoder
from pixdex.errors import ConfigError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
IMAGENET = "mean=.485,.456,.406&std=.229,.224,.225"
RNG = np.random.default_rng(5)
FIRST = RNG.standard_normal((6, 3, 3, 3)).astype(np.float32) / 5
SECOND = RNG.standard_normal((4, 6, 3, 3)).astype(np.float32) / 7
LAST = RNG.standard_normal((4, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXDEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIXDEX_RUNTIME", raising=False)


Axis = int | str


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a network in the manner of AlexNet and VGG: convolutions, ReLU, pooling, a dense layer."""

    def write(
        *,
        outputs: Sequence[str] = ("embedding",),
        shape: Sequence[Axis] = ("n", 3, 32, 32),
        layout: str = "nchw",
        dtype: str = "float32",
        name: str = "small.onnx",
    ) -> Path:
        helper, kinds = onnx.helper, onnx.TensorProto
        nodes = []
        taken = "image"
        if layout == "nhwc":
            nodes.append(helper.make_node("Transpose", [taken], ["turned"], perm=[0, 3, 1, 2]))
            taken = "turned"
        if dtype != "float32":
            nodes.append(helper.make_node("Cast", [taken], ["wide"], to=kinds.FLOAT))
            taken = "wide"
        if dtype == "uint8":
            nodes.append(helper.make_node("Div", [taken, "full"], ["scaled"]))
            nodes.append(helper.make_node("Sub", ["scaled", "mean"], ["shifted"]))
            nodes.append(helper.make_node("Div", ["shifted", "std"], ["normal"]))
            taken = "normal"
        nodes += [
            helper.make_node("Conv", [taken, "w1"], ["c1"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"]),
            helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["p1", "w2"], ["c2"], pads=[1, 1, 1, 1], strides=[2, 2]),
            helper.make_node("Relu", ["c2"], ["map"]),
            helper.make_node("GlobalAveragePool", ["map"], ["pool"]),
            helper.make_node("Flatten", ["pool"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w3"], ["embedding"]),
            helper.make_node("Flatten", ["map"], ["rows"], axis=2),
            helper.make_node("Reshape", ["map", "unrolled"], ["line"]),
            helper.make_node("Transpose", ["line"], ["patches"], perm=[0, 2, 1]),
            helper.make_node("Reshape", ["embedding", "one"], ["single"]),
            helper.make_node("Slice", ["single", "zero", "four", "two"], ["cut"]),
            helper.make_node("Concat", ["cut", "patches"], ["tokens"], axis=1),
        ]
        ranks = {"embedding": ["n", 5], "map": ["n", 4, "h", "w"], "tokens": ["n", "t", 4]}
        constants = {
            "w1": FIRST, "w2": SECOND, "w3": LAST, "full": np.float32(255), "unrolled": np.array([0, 4, -1]),
            "one": np.array([-1, 1, 5]), "zero": np.array([0]), "four": np.array([4]), "two": np.array([2]),
            "mean": MEAN.astype(np.float32).reshape(1, 3, 1, 1), "std": STD.astype(np.float32).reshape(1, 3, 1, 1),
        }  # fmt: skip
        made = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("image", getattr(kinds, _kind(dtype)), list(shape))],
            [helper.make_tensor_value_info(output, kinds.FLOAT, ranks[output]) for output in outputs],
            [onnx.numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
        )
        document = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
        document.ir_version = 9
        onnx.checker.check_model(document)
        file = tmp_path / name
        onnx.save(document, file)
        return file

    return write


def _kind(dtype: str) -> str:
    return {"float32": "FLOAT", "float16": "FLOAT16", "uint8": "UINT8", "int64": "INT64"}[dtype]


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """``[n, c, h, w]``, one pixel of zeros around, written out."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwyx,ocyx->nohw", windows, kernel)


def expected_map(pictures: np.ndarray) -> np.ndarray:
    """What the network's second convolution gives of pictures normalized as those of ImageNet are, ``[n, 4, 8, 8]``."""
    x = ((pictures / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    x = np.maximum(convolve(x, FIRST, 1), 0)
    x = x.reshape(len(x), 6, 16, 2, 16, 2).max(axis=(3, 5))
    return np.maximum(convolve(x, SECOND, 2), 0)


def expected(pictures: np.ndarray) -> np.ndarray:
    return unit(expected_map(pictures).mean(axis=(2, 3)) @ LAST)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def vectors(encoder: Encoder, pictures: np.ndarray) -> np.ndarray:
    return encoder.encode([encoder.prepare(p) for p in pictures]).vectors


def load(file: Path, query: str = IMAGENET) -> ComposedEncoder:
    return onnxfile.load(f"{file}?{query}")


def test_no_other_library_is_loaded_before_there_is_a_reason(model: Callable[..., Path]) -> None:
    pytest.importorskip("openvino")
    code = (
        "import sys, numpy, pixdex.encoders\n"
        "encoder = pixdex.encoders.load(sys.argv[1])\n"
        "encoder.encode([numpy.full((32, 32, 3), 9, numpy.uint8)] * 20)\n"
        "print([m for m in ('onnxruntime', 'openvino', 'torch') if m in sys.modules])"
    )
    reference = f"onnx:{model()}?{IMAGENET}"
    done = subprocess.run([sys.executable, "-c", code, reference], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['onnxruntime']"


@pytest.mark.parametrize("runtime", ["auto", "onnx", "openvino"])
def test_an_embedding(runtime: str, model: Callable[..., Path]) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    encoder = load(model(), f"{IMAGENET}&runtime={runtime}")
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.dim, encoder.token_spec, encoder.min_side) == ("small", 5, None, 64)
    pictures = tiny_models.photographs()
    assert vectors(encoder, pictures) == pytest.approx(expected(pictures), abs=1e-4)
    assert unit(expected(pictures)[0]) @ expected(pictures)[1] < 0.999


@pytest.mark.parametrize(
    ("shape", "layout", "dtype", "query"),
    [
        (("n", 3, "h", "w"), "nchw", "float32", f"{IMAGENET}&size=32"),
        (("n", 32, 32, 3), "nhwc", "float32", IMAGENET),
        (("n", "h", "w", "c"), "nhwc", "float32", f"{IMAGENET}&size=32x32&layout=nhwc"),
        (("n", 3, 32, 32), "nchw", "float16", IMAGENET),
        (("n", 3, 32, 32), "nchw", "uint8", ""),
        (("n", 32, 32, 3), "nhwc", "uint8", ""),
        ((1, 3, 32, 32), "nchw", "float32", IMAGENET),
        ((3, 3, 32, 32), "nchw", "float32", IMAGENET),
        (("n", 3, 32, 32), "nchw", "float32", "scale=1&mean=123.675,116.28,103.53&std=58.395,57.12,57.375"),
    ],
    ids=["open", "nhwc", "all-open", "half", "bytes", "bytes-nhwc", "one-at-a-time", "three-at-a-time", "scaled"],
)
def test_inputs(shape: Sequence[Axis], layout: str, dtype: str, query: str, model: Callable[..., Path]) -> None:
    encoder = load(model(shape=shape, layout=layout, dtype=dtype), query)
    pictures = tiny_models.photographs()
    tolerance = 2e-3 if dtype == "float16" else 1e-4
    assert vectors(encoder, pictures) == pytest.approx(expected(pictures), abs=tolerance)


def test_a_feature_map_is_pooled(model: Callable[..., Path]) -> None:
    file, pictures = model(outputs=["map"]), tiny_models.photographs()
    maps = expected_map(pictures)
    encoder = load(file)
    assert encoder.dim == 4
    assert vectors(encoder, pictures) == pytest.approx(unit(maps.mean(axis=(2, 3))), abs=1e-4)
    assert encoder.token_spec is not None
    assert encoder.token_spec.count == 64
    gem = unit(np.cbrt((np.maximum(maps, 1e-6) ** 3).mean(axis=(2, 3))))
    assert vectors(load(file, f"{IMAGENET}&pooling=gem"), pictures) == pytest.approx(gem, abs=1e-4)


def test_tokens_after_a_class_token(model: Callable[..., Path]) -> None:
    file, pictures = model(outputs=["tokens"]), tiny_models.photographs()
    maps = expected_map(pictures)
    first = unit((maps.mean(axis=(2, 3)) @ LAST)[:, :4])
    assert vectors(load(file, f"{IMAGENET}&prefix=1"), pictures) == pytest.approx(first, abs=1e-4)
    mean = unit(maps.mean(axis=(2, 3)))
    assert vectors(load(file, f"{IMAGENET}&prefix=1&pooling=mean"), pictures) == pytest.approx(mean, abs=1e-4)
    with pytest.raises(ConfigError, match="has no class token"):
        load(file, f"{IMAGENET}&pooling=cls")
    with pytest.raises(ConfigError, match="leaves no descriptors"):
        load(file, f"{IMAGENET}&prefix=65")


def test_one_of_several_outputs(model: Callable[..., Path]) -> None:
    file = model(outputs=["map", "embedding"])
    with pytest.raises(ConfigError, match=r"say output=\.\.\. of map, embedding"):
        load(file)
    with pytest.raises(ConfigError, match="no output 'embeding' .did you mean 'embedding'"):
        load(file, f"{IMAGENET}&output=embeding")
    pictures = tiny_models.photographs()
    assert vectors(load(file, f"{IMAGENET}&output=embedding"), pictures) == pytest.approx(expected(pictures), abs=1e-4)
    assert load(file, f"{IMAGENET}&output=map").dim == 4


def test_a_file_beside_it_says_the_same(model: Callable[..., Path]) -> None:
    file = model(shape=("n", 3, "h", "w"))
    plain = load(file, f"size=32&{IMAGENET}")
    file.with_suffix(".json").write_bytes(orjson.dumps({"size": 32, "mean": MEAN.tolist(), "std": STD.tolist()}))
    beside = onnxfile.load(str(file))
    assert beside.fingerprint == plain.fingerprint
    assert beside.reference == plain.reference
    assert load(file, "size=64").trunk.preprocess.size == (64, 64)  # the reference goes first


def test_a_reference_makes_the_same_encoder(model: Callable[..., Path]) -> None:
    file = model(outputs=["map", "embedding"])
    encoder = load(file, f"{IMAGENET}&output=map&pooling=gem&p=2.5&tokens=7&shortest_edge=40&runtime=onnx")
    assert "runtime" not in encoder.reference
    again = onnxfile.load(encoder.reference.removeprefix("onnx:"))
    assert again.reference == encoder.reference
    assert again.fingerprint == encoder.fingerprint
    assert again.token_spec == encoder.token_spec
    pictures = tiny_models.photographs(60)
    assert vectors(again, pictures) == pytest.approx(vectors(encoder, pictures), abs=1e-5)


def test_identity(model: Callable[..., Path]) -> None:
    file = model(outputs=["map", "embedding"])
    plain = load(file, f"{IMAGENET}&output=map")
    others = [
        load(file, f"{IMAGENET}&output=embedding"),
        load(file, f"{IMAGENET}&output=map&pooling=gem"),
        load(file, f"{IMAGENET}&output=map&resample=bilinear"),
        load(file, "mean=.5&std=.5&output=map"),
    ]
    assert len({e.fingerprint.digest for e in (plain, *others)}) == 5
    assert load(file, f"{IMAGENET}&output=map&tokens=3").fingerprint == plain.fingerprint
    contents = file.read_bytes()
    file.write_bytes(contents.replace(FIRST.tobytes(), (FIRST * 2).tobytes()))
    assert load(file, f"{IMAGENET}&output=map").fingerprint != plain.fingerprint


def test_it_can_be_exported(model: Callable[..., Path], tmp_path: Path) -> None:
    pictures = tiny_models.photographs()
    for dtype, query in (("float32", IMAGENET), ("uint8", "")):
        encoder = load(model(dtype=dtype, name=f"{dtype}.onnx"), query)
        export(encoder, tmp_path / dtype)
        loaded = encoders.load(str(tmp_path / dtype))
        assert loaded.fingerprint == encoder.fingerprint
        assert vectors(loaded, pictures) == pytest.approx(expected(pictures), abs=1e-4)


@pytest.mark.parametrize(
    ("made", "query", "message"),
    [
        ({}, "", "say how pixels are normalized"),
        ({}, f"{IMAGENET}&sise=3", "unknown option 'sise' .did you mean 'size'"),
        ({}, f"{IMAGENET}&size=24", r"a size of 24x24 does not fit its input \[\?, 3, 32, 32\]"),
        ({}, f"{IMAGENET}&size=big", "size='big' has no meaning"),
        ({}, f"{IMAGENET}&size=0", "size='0' has no meaning"),
        ({}, "mean=1,2", "mean='1,2' has no meaning"),
        ({}, "std=0", "a standard deviation of 0"),
        ({}, "scale=nan", "scale='nan' has no meaning"),
        ({}, f"{IMAGENET}&layout=nhwc", "layout=nhwc does not fit"),
        ({}, f"{IMAGENET}&resample=sharp", "resample=sharp: one of"),
        ({}, f"{IMAGENET}&pooling=max", "pooling 'max'"),
        ({}, f"{IMAGENET}&p=2", "p is the power of pooling=gem"),
        ({}, f"{IMAGENET}&shortest_edge=16", "shortest_edge=16 is less than"),
        ({}, f"{IMAGENET}&prefix=1", r"prefix is for an output \[n, t, d\]"),
        ({"shape": ("n", 3, "h", "w")}, IMAGENET, r"its input is \[\?, 3, \?, \?\]: say size="),
        ({"shape": ("n", "c", "h", "w")}, f"{IMAGENET}&size=32", "say layout=nchw or layout=nhwc"),
        ({"shape": ("n", 1, 32, 32)}, IMAGENET, "say layout=nchw or layout=nhwc"),
        ({"dtype": "uint8"}, "mean=.5", "its input is uint8, so mean have no meaning"),
        ({"dtype": "int64"}, IMAGENET, "its input is tensor.int64.; there are float32, float16, uint8"),
    ],
)
def test_refusals(made: dict[str, Any], query: str, message: str, model: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=message):
        load(model(**made), query)


def test_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        onnxfile.load(str(tmp_path / "none.onnx"))
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ConfigError, match=r"text\.onnx cannot be loaded by ONNX Runtime"):
        onnxfile.load(str(tmp_path / "text.onnx"))
    (tmp_path / "text.json").write_text("[1]")
    with pytest.raises(ConfigError, match="is no JSON object of options"):
        onnxfile.load(str(tmp_path / "text.onnx"))


def test_weights_beside_the_file(model: Callable[..., Path], tmp_path: Path) -> None:
    document = onnx.load(model())
    onnx.save(
        document, tmp_path / "large.onnx", save_as_external_data=True, location="large.onnx.data", size_threshold=64
    )
    encoder = load(tmp_path / "large.onnx")
    pictures = tiny_models.photographs()
    assert vectors(encoder, pictures) == pytest.approx(expected(pictures), abs=1e-4)
    export(encoder, tmp_path / "exported")
    weights = tmp_path / "exported" / "large.onnx.data"
    assert vectors(encoders.load(str(tmp_path / "exported")), pictures) == pytest.approx(expected(pictures), abs=1e-4)
    weights.write_bytes(bytes(len(weights.read_bytes())))
    with pytest.raises(ConfigError, match="its digest is another"):
        encoders.load(str(tmp_path / "exported"))
