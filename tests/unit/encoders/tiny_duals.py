"""Dual encoders, tiny and random, with tiny tokenizers, saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PICTURES = {**TOWER, "image_size": 32, "patch_size": 8}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _clip_tokenizer(folder: Path) -> None:
    import transformers

    vocab = {letter: i for i, letter in enumerate(LETTERS)}
    vocab.update({f"{letter}</w>": i + 26 for i, letter in enumerate(LETTERS)})
    vocab.update({"ca": 52, "cat</w>": 53, "<|startoftext|>": 54, "<|endoftext|>": 55})
    transformers.CLIPTokenizer(vocab=vocab, merges=[("c", "a"), ("ca", "t</w>")]).save_pretrained(folder)


def _siglip_tokenizer(folder: Path) -> None:
    """As those of SigLIP lie on the hub: a tokenizer.json with lower-casing in it, and the name of a class."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = [("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), ("▁cat", -2.0), *((letter, -3.0) for letter in LETTERS)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=1, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "model_max_length": 16}
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps({"tokenizer_class": "SiglipTokenizer", **names}))


def _gemma_tokenizer(folder: Path) -> None:
    """As those of SigLIP 2 of fixed resolution: Gemma's class, with a SigLIP model."""
    import transformers

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS, "ca", "cat"]
    tokenizer = transformers.GemmaTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=[("c", "a"), ("ca", "t")], add_bos_token=False,
        add_eos_token=True, padding_side="right",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)


KINDS = {
    "clip": (
        "CLIP",
        {**TOWER, "vocab_size": 56, "max_position_embeddings": 12, "bos_token_id": 54, "eos_token_id": 55},
        _clip_tokenizer,
    ),
    "siglip": ("Siglip", {**TOWER, "vocab_size": 40, "max_position_embeddings": 16}, _siglip_tokenizer),
    "siglip 2": ("Siglip", {**TOWER, "vocab_size": 40, "max_position_embeddings": 16}, _gemma_tokenizer),
}


def save(kind: str, folder: Path) -> Path:
    """Write a model folder of that kind."""
    import torch
    import transformers

    stem, text, tokenizer = KINDS[kind]
    torch.manual_seed(1)
    config: dict[str, Any] = {"vision_config": PICTURES, "text_config": text}
    if stem == "CLIP":
        config["projection_dim"] = 24
    model = getattr(transformers, f"{stem}Model")(getattr(transformers, f"{stem}Config")(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    tokenizer(folder)
    processor = {"image_processor_type": f"{stem}ImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_bytes(orjson.dumps({**processor, "do_center_crop": False}))
    return folder
