"""Adapting the network of an encoder to pictures that nobody has labelled.

To train a network from nothing this way takes days; to adapt one that is trained takes minutes on a GPU, and whether it
helps depends on the pictures. Where some labelled pictures of the kind are at hand, give them to validate with: then the
frozen encoder is among the candidates, and the result is never worse on them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixdex.encoders._digest import digest_of
from pixdex.encoders.compose import ComposedEncoder
from pixdex.errors import ConfigError
from pixdex.pictures import Item, from_files, is_folder, path_exists, source_of
from pixdex.training._batches import Batches, generator_of
from pixdex.training._device import described, device_named
from pixdex.training._judging import Judge, facts, page_of, selected
from pixdex.training._loop import Follow, Pace, run
from pixdex.training._network import Learning, begun, groups, loaded, trainable_encoder
from pixdex.training._pictures import Count, Held, hold, larger, named_count
from pixdex.training._workplace import workplace
from pixdex.training.augment import Augmentation
from pixdex.training.data import Labelled, labelled
from pixdex.training.finetune import Tuned, augmentation_of, check_numbers, finished
from pixdex.training.pretexts import PRETEXTS, Pretext, pretext_named
from pixdex.training.sampling import Shuffled

__all__ = ["PRETEXTS", "Adaptation", "Pretext", "adapt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """What is trained, and on what.

    Attributes:
        pretext: a name of ``PRETEXTS``.
        what: ``all`` of the network, ``blocks:N`` (its last N) or ``lora:RANK``.
        batch: pictures a step.
        rate: the highest learning rate, at the top of the network.
        layer_decay: what it is multiplied with a block further down.
        own_rate: that of the pretext's own layers.
        weight_decay: of matrices, by AdamW.
        keep: weight of 1 - cosine between the vectors of the network and those of the frozen one.
        augmentation: how views are made; its size is that of the encoder. None: that of contrastive learning.
        mixes: shares of the trained weights in the candidates, where pictures to validate with are given.
        checkpointing: compute activations twice instead of keeping them.
    """

    pretext: str = "moco"
    what: str = "all"
    batch: int = 64
    rate: float = 3e-5
    layer_decay: float = 0.8
    own_rate: float = 1e-3
    weight_decay: float = 0.05
    keep: float = 0.0
    augmentation: Augmentation | None = None
    mixes: tuple[float, ...] = (0.5, 0.75, 1.0)
    checkpointing: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, above=("batch", "rate", "layer_decay", "own_rate"), least=("weight_decay", "keep"))


def adapt(
    pictures: Sequence[Item] | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    encoder: str | ComposedEncoder,
    adaptation: Adaptation = Adaptation(),
    pace: Pace = Pace(),
    validation: Labelled | str | os.PathLike[str] | None = None,
    pretext: Pretext | None = None,
    follow: Follow | None = None,
    count: Count | None = None,
) -> Tuned:
    """Train the network of an encoder on a pretext and save what came of it as an encoder of its own.

    Args:
        pictures: items, or a folder with all pictures below it.
        folder: where the encoder goes, with ``report.json``; until then ``<folder>.partial`` holds checkpoints, and the same
            call goes on from there.
        encoder: what is trained: an encoder on a model of transformers, or its reference.
        adaptation: what is trained, and on what.
        pace: how long, how fast, on what device, and the seed.
        validation: labelled pictures to judge with, as of ``finetune``; None: nothing judges, and the last weights are kept.
        pretext: one of the caller's own, a ``torch.nn.Module`` too, instead of that which ``adaptation`` names.
        follow: hears how the training goes.
        count: hears how many pictures are decoded.

    Raises:
        AlreadyExists: there is something in the folder.
        ConfigError: an encoder that cannot be trained, no pictures, or an option without a meaning.
        MissingDependency: pytorch-metric-learning is not installed, for ``simclr``.
        KeyboardInterrupt: Ctrl-C; nothing is lost, the same call goes on.
    """
    chosen = loaded(encoder)
    items = _items(pictures)
    judges = labelled(validation) if isinstance(validation, str | os.PathLike) else validation
    with workplace(folder) as (target, work):
        key = digest_of(
            {
                "adaptation": asdict(adaptation),
                "pretext": type(pretext).__qualname__,
                "pace": pace.identity(),
                "encoder": chosen.fingerprint.digest,
                "pictures": [item.label for item in items],
                "validation": None if judges is None else [item.label for item in judges.items],
                "classes": None if judges is None else judges.labels.tolist(),
            }
        )
        made, report, page = _adapted(chosen, items, adaptation, pace, judges, pretext, work, key, follow, count)
        return finished(chosen, made, report, page, target, work)


def _items(pictures: Sequence[Item] | str | os.PathLike[str]) -> Sequence[Item]:
    if not isinstance(pictures, str | os.PathLike):
        return pictures
    root = Path(pictures).expanduser()
    if not path_exists(root) or not is_folder(root):
        raise ConfigError(f"{root} is no folder of pictures")
    found = [item for item in from_files(root, source_of(root, None)[0]) if item is not None]
    if not found:
        raise ConfigError(f"no pictures in {root}")
    return found


def _adapted(
    encoder: ComposedEncoder,
    items: Sequence[Item],
    adaptation: Adaptation,
    pace: Pace,
    judges: Labelled | None,
    own: Pretext | None,
    work: Path,
    key: str,
    follow: Follow | None,
    count: Count | None,
) -> tuple[dict[str, Tensor], dict[str, Any], str | None]:
    """The state of the chosen embedder, the report, and a page of it where something judged."""
    device = device_named(pace.device)
    preprocess = trainable_encoder(encoder).preprocess
    augmentation_of(adaptation.augmentation, preprocess.size)  # what is wrong shows before anything is decoded
    net, _, _ = begun(
        encoder,
        adaptation.what,
        seed=pace.seed,
        keep=False,
        checkpointing=adaptation.checkpointing,
        device=torch.device("cpu"),
    )
    if own is None:
        pretext_named(adaptation.pretext, net)
    views = hold(items, larger(preprocess), work=work, name="train", count=named_count(count, "pictures"))
    judge, unusable = None, views.unusable
    if judges is not None:
        fitted = hold(judges.items, preprocess, work=work, name="val", count=named_count(count, "validation"))
        judge = Judge(judges.take(fitted.rows), fitted.placed(device).pixels)
        unusable = (*unusable, *fitted.unusable)
    task = _Adapting(encoder, views.placed(device), adaptation, pace, judge, own, device)
    frozen = None if judge is None else judge(task.module.net)
    outcome = run(task, pace, work=work, key=key, follow=follow)
    selection = selected(task.module.net, task.start, outcome, frozen, judge, adaptation.mixes)
    pretext = adaptation.pretext if own is None else type(own).__name__
    page = None
    if judge is not None:
        note = (
            f"{encoder.name} ({adaptation.what}) adapted by {pretext} for {outcome.step} steps on {len(items)} "
            "pictures without labels; labelled ones judge."
        )
        page = page_of(f"{encoder.name}, adapted", selection, outcome, judge, note, pace.seed)
    report = {
        "pixdex": "ssl",
        "encoder": encoder.reference,
        "pictures": len(items),
        "unusable": [list(pair) for pair in unusable],
        "pretext": pretext,
        "adaptation": asdict(adaptation),
        "pace": asdict(pace),
        "device": described(device),
        "candidates": selection.candidates,
        "chosen": selection.name,
        **facts(outcome),
    }
    return selection.state, report, page


class _Adapting:
    """A ``Task``."""

    averaged = "net."

    def __init__(
        self,
        encoder: ComposedEncoder,
        views: Held,
        adaptation: Adaptation,
        pace: Pace,
        judge: Judge | None,
        own: Pretext | None,
        device: torch.device,
    ) -> None:
        self._adaptation, self._pace, self._judge, self._device = adaptation, pace, judge, device
        net, self.start, self._frozen = begun(
            encoder,
            adaptation.what,
            seed=pace.seed,
            keep=adaptation.keep > 0,
            checkpointing=adaptation.checkpointing,
            device=device,
        )
        if net.head is not None:  # what a head learned from labels stays
            net.head.requires_grad_(requires_grad=False)
        pretext = own if own is not None else pretext_named(adaptation.pretext, net)
        self.module = Learning(net, pretext).to(device).train()
        self._pretext = pretext
        self.lasting: Sequence[str] = ("own.",) if pretext.lasting else ()
        self._pixels = views.pixels
        self._batches = Batches(Shuffled, len(views.rows), min(adaptation.batch, len(views.rows)), pace.seed)
        size = trainable_encoder(encoder).preprocess.size
        self._augment = augmentation_of(adaptation.augmentation or Augmentation(size=size[0]), size)

    def groups(self) -> list[dict[str, Any]]:
        wanted = self._adaptation
        own = [p for p in self.module.own.parameters() if p.requires_grad]
        mine = groups(
            self.module.net,
            rate=wanted.rate,
            decay=wanted.layer_decay,
            weight_decay=wanted.weight_decay,
            head_rate=wanted.rate,
        )
        return [*mine, {"params": own, "lr": wanted.own_rate, "weight_decay": wanted.weight_decay}]

    def loss(self, step: int) -> Tensor:
        rows = torch.from_numpy(self._batches.at(step)).to(self._pixels.device)
        pictures = self._pixels[rows].to(self._device, non_blocking=True)
        value = self._pretext.loss(self.module.net, pictures, self._augment, generator_of(self._pace.seed, step))
        if self._frozen is not None:
            views = self._augment(pictures, generator_of(self._pace.seed + 1, step))
            with torch.no_grad():
                kept = self._frozen.pooled(views)
            value = value + self._adaptation.keep * (1 - (self.module.net.pooled(views) * kept).sum(dim=1)).mean()
        return value

    def stepped(self, rate: float) -> None:
        del rate
        self._pretext.stepped(self.module.net)

    def judge(self) -> float | None:
        return None if self._judge is None else self._judge.round(self.module.net)
