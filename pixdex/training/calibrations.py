"""What makes probabilities of a trained network's log-odds: fitted on pictures that were kept back, kept with the reranker.

``pixdex train reranker`` does it by itself. ``python -m pixdex.training.calibrations --help`` does it for rerankers that lie
there, made as those in pixdex/rerankers/data were.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from pixdex.errors import ConfigError, PixdexError
from pixdex.evaluation.reliability import calibration_error
from pixdex.rerankers.choosing import Choice, Lists, fit, folds
from pixdex.rerankers.learned import CONFIG_FILE
from pixdex.training.pairfolder import note, read_net
from pixdex.training.reranking import Judged, scored

if TYPE_CHECKING:
    from pixdex.training.pairnets import PairNet

__all__ = ["calibrate_folder", "lists_of", "main"]

HELD = 500  # pictures that chose the weights of those in pixdex/rerankers/data
ASKED = 200
VIEWS = 7


def lists_of(net: PairNet, data: Judged, groups: NDArray[np.int64] | None = None) -> Lists:
    """What the first stage and the network say of shortlists. ``groups`` int64 ``[q]`` are the classes of the queries; None:
    each is a group of its own.
    """
    return Lists(
        first=data.first.double().cpu().numpy(),
        scores=scored(net, data).double().cpu().numpy(),
        match=data.match.cpu().numpy(),
        positives=data.positives.cpu().numpy(),
        groups=np.arange(len(data.lists)) if groups is None else groups,
    )


def calibrate_folder(folder: Path, lists: Lists, *, seed: int = 0) -> dict[str, Any] | None:
    """Fit a calibration to lists of what was kept back, and write it into the folder's ``reranker.json``, with how it does
    on lists that it was not fitted to. It depends on the pair alone, as lists are of any length where the reranker is used.

    None, and the folder as it was, where the lists are too few or the first stage's order is the better one: its scores stay
    log-odds.
    """
    try:
        learned = fit(lists, by_list=False, seed=seed)
        parts = [(held, fit(lists.take(~held), by_list=False, seed=seed)) for held in folds(lists.groups, seed=seed)]
    except ConfigError:
        return None
    if learned.choice is Choice.FIRST:
        return None
    pairs = [lists.take(held).pairs(each.calibration) for held, each in parts]
    said, true = (np.concatenate(each) for each in zip(*pairs, strict=True))
    facts = {
        "queries": len(lists),
        "pairs": len(true),
        "share of matches": float(true.mean()),
        "ece": calibration_error(said, true),
        "over the first stage": {choice.value: asdict(each) for choice, each in learned.over.items()},
        "choice": learned.choice.value,
    }
    note(folder, {"calibration": {**learned.calibration.to_json(), "fit": facts}})
    return facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate rerankers for the tokens of one encoder."""
    parser = argparse.ArgumentParser(prog="python -m pixdex.training.calibrations", description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--encoder", required=True, help="whose tokens: mini, or hf:FOLDER with options")
    parser.add_argument("--views", type=Path, required=True, help="where views of the pictures are kept")
    parser.add_argument("folders", type=Path, nargs="+", help="rerankers; those of the name ...-classes by classes")
    options = parser.parse_args(arguments)
    try:
        _make(options)
    except KeyboardInterrupt:
        _say("stopped: the same command goes on")
        return 130
    except PixdexError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _make(options: argparse.Namespace) -> None:
    from pixdex.training.data import split_classes
    from pixdex.training.mini import gathered
    from pixdex.training.tokenviews import classmates, copies, token_encoder, views_of

    encoder, device = token_encoder(options.encoder), torch.device("cpu")
    pictures = gathered(options.pictures)
    order = np.random.default_rng(11).permutation(len(pictures.pixels))
    for folder in options.folders:
        name = orjson.loads((folder / CONFIG_FILE).read_bytes())["name"]
        net, by_class = read_net(folder).eval(), name.endswith("-classes")
        if by_class:
            learning = np.sort(order[HELD:])
            kept = learning[split_classes(pictures.labels.numpy()[learning], seed=3)[1]]
        else:
            kept = order[:HELD]
        rows = torch.from_numpy(kept)
        where = options.views / ("classes" if by_class else "copies")
        bank, _ = views_of(pictures.pixels[rows], encoder, views=1 if by_class else VIEWS, folder=where, device=device)
        if by_class:
            labels = pictures.labels[rows]
            data = classmates(bank, labels, asking=ASKED)
            lists = lists_of(net, data, labels[data.asked].numpy())
        else:
            lists = lists_of(net, copies(bank, torch.arange(ASKED)))
        _say(f"{folder}: {calibrate_folder(folder, lists) or 'stays as it is: the first stage orders better'}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
