"""How the rerankers in pixdex/rerankers/data are made: ``make rerankers``, or ``python -m pixdex.training.rerankers --help``.

Pictures: those that ``mini`` learns from, see ``pixdex.training.mini``. Some of them only judge; with labels whole classes do.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pixdex.encoders import load
from pixdex.encoders._digest import tensors_digest
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.composition import Composition
from pixdex.encoders.tokens import Choice, Coding, Projection, fit_projection, unit
from pixdex.errors import ConfigError, PixdexError
from pixdex.training._device import device_named
from pixdex.training._loop import Pace
from pixdex.training._workplace import partial_of, place, workplace
from pixdex.training.data import split_classes
from pixdex.training.mini import gathered
from pixdex.training.pairfolder import read_net, save_reranker
from pixdex.training.pairnets import PairNet, described, made
from pixdex.training.reranking import Judged, Mining, judged, maxsim, scored, shortlists, train_reranker
from pixdex.training.tokenbank import Bank, Recipe, Trunk, bank_of, plain
from pixdex.types import TokenSpec

__all__ = ["main"]

HELD = 500  # pictures that choose the weights, a fifth of them at most; two fifths of those are asked for
EDITS = 6  # views of each that are to be found
ASKED = 200  # pictures of held classes that are asked for
WIDTH = 64  # values of a token where the encoder says nothing
FITTED = 800  # pictures that a projection is fitted to
PART = 512  # pictures whose views are kept in one file
SHAPES: Mapping[str, Mapping[str, Any]] = {"cross": {"before": 2}, "transport": {}}
RATES = {"cross": 5e-4, "transport": 2e-3}
PROJECTION = "token_projection.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or go on, and write the reranker's folder."""
    parser = argparse.ArgumentParser(prog="python -m pixdex.training.rerankers", description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--encoder", required=True, help="whose tokens: mini, or hf:FOLDER with options")
    parser.add_argument("--kind", choices=sorted(SHAPES), required=True)
    parser.add_argument("--labels", action="store_true", help="find pictures of the same class instead of copies")
    parser.add_argument("--output", type=Path, required=True, help="the reranker's folder, which is not there yet")
    parser.add_argument("--start", type=Path, help="the folder of a reranker to go on from; default: none")
    parser.add_argument("--views", type=int, default=24, help="of each picture, itself among them")
    parser.add_argument("--bank", type=Path, help="where their tokens are kept, for several runs; default: nowhere")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, after the views are made")
    parser.add_argument("--queries", type=int, help="a step; default: 128 on a GPU, else 24")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    try:
        with workplace(options.output) as (target, work):
            _make(options, target, work)
    except KeyboardInterrupt:
        _say(f"stopped: the same command goes on from {partial_of(options.output)}")
        return 130
    except PixdexError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _make(options: argparse.Namespace, target: Path, work: Path) -> None:
    device, kind = device_named(options.device), options.kind
    encoder, folder = _encoder(options.encoder), options.bank or work / "bank"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = gathered(options.pictures)
    order = np.random.default_rng(11).permutation(len(pictures.pixels))
    held = min(HELD, len(order) // 5)
    judging, learning = (torch.from_numpy(rows) for rows in (order[:held], np.sort(order[held:])))
    fitted = encoder.composition.token_projection is None
    if fitted:
        encoder = _projecting(encoder, pictures.pixels[learning], folder / PROJECTION)
    net = _net(kind, encoder, options.start)  # before hours of work, should it not fit
    bank, key = _bank(pictures.pixels, encoder, options.views, folder, device)
    if options.labels:
        of = pictures.labels[learning]
        learns, judges = (torch.from_numpy(rows) for rows in split_classes(of.numpy(), seed=3))
        judge = _classmates(bank.take(learning[judges]), of[judges].to(device))
        learning, labels = learning[learns], of[learns].to(device)
    else:
        judge, labels = _copies(bank.take(judging)), None
    trained: dict[str, Any] = {"pictures": len(learning), "views": bank.views}
    trained |= {"first stage": judged(judge.first, judge), "maxsim": judged(maxsim(judge), judge)}
    _say(f"before: {trained}")
    gpu = device.type == "cuda"  # where a run makes many more steps
    shortest = min(Mining().shortest, bank.tokens.shape[2])
    mining = Mining(queries=options.queries or (128 if gpu else 24), rate=RATES[kind], shortest=shortest)
    average = 0.999 if gpu else 0.99
    pace = Pace(steps=10**7, seconds=options.seconds, rounds=16, patience=8, average=average, seed=1)
    key = f"{key} {kind} {options.labels} {options.start}"
    learned = bank.take(learning)
    outcome = train_reranker(
        net, learned, judge, pace=pace, device=device, mining=mining, labels=labels, work=work, key=key, follow=_follow
    )
    trained |= {"validation": judged(scored(net.eval(), judge), judge), "steps": outcome.step}
    if options.start is not None:
        trained["started from"] = options.start.name
    made_here = work / "made"
    shutil.rmtree(made_here, ignore_errors=True)
    save_reranker(net, made_here, _specs(encoder), name=f"{kind}-classes" if options.labels else kind, trained=trained)
    if fitted:
        shutil.copyfile(folder / PROJECTION, made_here / PROJECTION)
    place(made_here, target)
    _say(f"{kind}:{target}: {trained['validation']}")


def _encoder(reference: str) -> ComposedEncoder:
    encoder: Any = load(reference)
    if not isinstance(encoder, ComposedEncoder) or not encoder.composition.tokens:
        raise ConfigError(f"{reference} makes no tokens of local descriptors: give mini, or hf:FOLDER")
    composition, size = encoder.composition, encoder.trunk.preprocess.size
    if composition.token_choice is not Choice.DIVERSE or composition.token_coding is not Coding.INT8:
        raise ConfigError(f"{reference}: tokens are learned from as token_by=diverse and token_dtype=int8 make them")
    if size[0] != size[1]:
        raise ConfigError(f"{reference} takes pictures of {size[0]}x{size[1]}: views are squares")
    return encoder


def _projecting(encoder: ComposedEncoder, pixels: Tensor, file: Path) -> ComposedEncoder:
    """The encoder with the projection of the file, which is fitted if it isn't there."""
    if not file.is_file():
        few = pixels[torch.from_numpy(np.random.default_rng(11).permutation(len(pixels))[:FITTED])]
        trunk, size = _trunk(encoder), encoder.trunk.preprocess.size[0]
        cells = torch.cat([trunk(plain(part, size))[0] for part in torch.split(few, 64)])
        projection = fit_projection(cells.numpy(), min(WIDTH, encoder.trunk.dim))
        _write(file, projection.save)
    return _on(encoder, replace(encoder.composition, token_projection=Projection.load(file)))


def _on(encoder: ComposedEncoder, composition: Composition) -> ComposedEncoder:
    return ComposedEncoder(encoder.trunk, composition, name=encoder.name, reference=encoder.reference)


def _specs(encoder: ComposedEncoder) -> list[TokenSpec]:
    """Its tokens, and fewer of them."""
    many = encoder.composition.tokens
    counts = sorted({max(1, many * quarters // 4) for quarters in (1, 2, 3, 4)}, reverse=True)
    specs = [_on(encoder, replace(encoder.composition, tokens=count)).token_spec for count in counts]
    return [spec for spec in specs if spec is not None]


def _trunk(encoder: ComposedEncoder) -> Trunk:
    """The encoder's network for views, which it gets as it gets pictures: in uint8."""
    network, composition = encoder.trunk, encoder.composition

    def trunk(views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = (views * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        made = network.forward(pixels.contiguous().cpu().numpy())
        pooled = unit(composition.pool(made))
        cells, guide, vectors = (
            torch.from_numpy(array).to(views.device)
            for array in (made.cells, composition.guide(made, pooled), composition.project(pooled))
        )
        return cells, guide, vectors

    return trunk


def _bank(pixels: Tensor, encoder: ComposedEncoder, views: int, folder: Path, device: torch.device) -> tuple[Bank, str]:
    """Views of all pictures, and what tells them from others. Those in the folder are not made again."""
    projection, spec = cast("Projection", encoder.composition.token_projection), _specs(encoder)[0]
    mean, basis = torch.from_numpy(projection.mean), torch.from_numpy(projection.basis)
    recipe = Recipe(count=spec.count, mean=mean, basis=basis)
    size, trunk, parts = encoder.trunk.preprocess.size[0], _trunk(encoder), []
    digests = (spec.fingerprint.digest, encoder.fingerprint.digest, tensors_digest({"pixels": pixels.numpy()}))
    key = " ".join((*digests, str(views)))
    for start in range(0, len(pixels), PART):
        file, some = folder / f"{start:06d}.pt", pixels[start : start + PART]
        if not file.is_file():
            _say(f"views of pictures {start} to {start + len(some)} of {len(pixels)}")
            bank = bank_of(some, trunk, recipe, views=views, size=size, device=device, seed=start)
            values = {"key": key, **{name: getattr(bank, name).cpu() for name in Bank.__slots__}}
            _write(file, partial(torch.save, values))
        part = torch.load(file, map_location=device, weights_only=True)
        if part["key"] != key:
            raise ConfigError(f"{folder} holds views of other pictures or of another encoder: name another folder")
        parts.append(part)
    return Bank(*(torch.cat([part[name] for part in parts]) for name in Bank.__slots__)), key


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Whole or not at all."""
    unfinished = file.with_suffix(".unfinished")
    write(unfinished)
    unfinished.replace(file)


def _copies(bank: Bank) -> Judged:
    """Views of some of the pictures, to be found by these among views and other pictures."""
    asked, edits = max(1, 2 * len(bank) // 5), min(EDITS, bank.views - 1)
    rows = torch.arange(len(bank), device=bank.tokens.device)
    shown = torch.cat([rows[:asked].repeat_interleave(edits), rows[asked:]])
    view = torch.zeros_like(shown)
    view[: asked * edits] = torch.arange(1, 1 + edits, device=view.device).repeat(asked)
    vectors, tokens = bank.vectors[shown, view], bank.tokens[shown, view]
    return shortlists(bank.vectors[:asked, 0], bank.tokens[:asked, 0], rows[:asked], vectors, tokens, shown)


def _classmates(bank: Bank, labels: Tensor) -> Judged:
    """Pictures that are to be found by some others of their class."""
    asked = torch.linspace(0, len(bank) - 1, min(ASKED, len(bank)), device=labels.device).long()
    vectors, tokens = bank.vectors[:, 0].float(), bank.tokens[:, 0]
    cosines = (vectors[asked] @ vectors.T).scatter_(1, asked[:, None], -torch.inf)
    first, lists = cosines.topk(min(100, len(bank) - 1), dim=1)
    alike = labels[asked, None] == labels
    return Judged(lists, tokens[asked], tokens, first, alike.gather(1, lists), alike.sum(dim=1) - 1)


def _net(kind: str, encoder: ComposedEncoder, start: Path | None) -> PairNet:
    width = _specs(encoder)[0].dim
    if start is None:
        torch.manual_seed(5)
        return made(kind, {"token_dim": width, **SHAPES[kind]})
    net = read_net(start)
    if described(net)["kind"] != kind or net.shape.token_dim != width:
        raise ConfigError(f"{start} is no reranker of the kind {kind} for tokens of {width} values")
    return net


def _follow(facts: Mapping[str, Any]) -> None:
    if facts["step"] % 50 == 1:
        _say(", ".join(f"{name} {value:.4g}" for name, value in facts.items() if value is not None))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
