"""How the rerankers in pixdex/rerankers/data are made: ``make rerankers``, or ``python -m pixdex.training.rerankers --help``.

Pictures: those that ``mini`` learns from, see ``pixdex.training.mini``. Some of them only judge; with labels whole classes do.
Everything else is as of ``pixdex train reranker``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixdex.errors import PixdexError
from pixdex.training._device import device_named
from pixdex.training._loop import Pace
from pixdex.training._workplace import partial_of, workplace
from pixdex.training.mini import gathered
from pixdex.training.pairing import KINDS, Prepared, RerankerRecipe, build, started_net
from pixdex.training.pairnets import FORMS
from pixdex.training.reranking import Mining
from pixdex.training.tokenviews import PROJECTION, projecting, specs_of, token_encoder, views_of

__all__ = ["main"]

HELD = 500  # pictures that judge, a fifth of them at most
WIDTH = 64  # values of a token where the encoder says nothing


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or go on, and write the reranker's folder."""
    parser = argparse.ArgumentParser(prog="python -m pixdex.training.rerankers", description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--encoder", required=True, help="whose tokens: mini, or hf:FOLDER with options")
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--form", choices=sorted(FORMS), default="query", help="of cross")
    parser.add_argument("--labels", action="store_true", help="find pictures of the same class instead of copies")
    parser.add_argument(
        "--teacher", choices=("none", "full"), default="none", help="learn from uncompressed tokens too"
    )
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
    device = device_named(options.device)
    gpu = device.type == "cuda"  # where a run makes many more steps
    encoder, folder = token_encoder(options.encoder), options.bank or work / "bank"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = gathered(options.pictures)
    held = min(HELD / len(pictures.pixels), 0.2)
    recipe = RerankerRecipe(
        kind=options.kind,
        form=options.form,
        teacher=options.teacher,
        held=0.2 if options.labels else held,
        mining=Mining(queries=options.queries or (128 if gpu else 24)),
    )
    fitted = encoder.composition.token_projection is None
    if fitted:
        encoder = projecting(encoder, pictures.pixels, WIDTH, folder / PROJECTION)
    specs = specs_of(encoder)
    started_net(recipe, specs[0].dim, options.start, 0)  # before hours of work, should it not fit
    bank, key = views_of(
        pictures.pixels,
        encoder,
        views=options.views,
        folder=folder,
        device=device,
        fine=options.teacher == "full",
        count=_count,
    )
    ready = Prepared(
        bank=bank,
        key=key,
        labels=pictures.labels.to(device) if options.labels else None,
        specs=specs,
        encoder=encoder,
        projection=folder / PROJECTION if fitted else None,
    )
    average = 0.999 if gpu else 0.99
    pace = Pace(steps=10**7, seconds=options.seconds, rounds=16, patience=8, average=average, seed=1)
    made = build(ready, target, work, recipe=recipe, pace=pace, start=options.start, follow=_follow)
    for line in (*made.summary(), made.reference):
        _say(line)


def _count(done: int, total: int) -> None:
    _say(f"{done} of {total} views")


def _follow(facts: Mapping[str, Any]) -> None:
    if facts["step"] % 50 == 1:
        _say(", ".join(f"{name} {value:.4g}" for name, value in facts.items() if value is not None))


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
