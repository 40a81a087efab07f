"""``train_head``: from pictures with classes to an encoder with a head, and a report of whether it is any better."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from pixdex import encoders
from pixdex._progress import Steps, steps
from pixdex.collection import Collection
from pixdex.connectors import connect
from pixdex.encoders.backbones import Trunk
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.decoding import PATIENCE, Decoding
from pixdex.encoders.export import export
from pixdex.encoders.kernelmaps import FeatureMap
from pixdex.encoders.runtimes.network import GraphNetwork
from pixdex.encoders.tokens import unit
from pixdex.errors import ConfigError
from pixdex.report import Quarantined
from pixdex.sources.addresses import scheme_of
from pixdex.training import losses
from pixdex.training._workplace import put, workplace
from pixdex.training.choosing import DECIDES, METRICS, NO_HEAD, Chosen, choose
from pixdex.training.collected import rows_of
from pixdex.training.data import LABEL, Labelled, labelled, numbered
from pixdex.training.features import FeatureSet, encoded, widened
from pixdex.training.fitting import Recipe
from pixdex.training.kernels import fit_map
from pixdex.training.report import Comparison, compared, page, sheets

if TYPE_CHECKING:
    from pixdex.encoders.port import Encoder
    from pixdex.report import Progress

__all__ = ["HeadKind", "TrainedHead", "train_head"]

HeadKind = Literal["linear", "mlp", "polynomial", "gaussian", "chi2"]
_HIDDEN = 512
_FILE = "pixdex-head"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedHead:
    """What came of it.

    Attributes:
        encoder: to use from now on: with the head, or as it was where no head is better.
        chosen: which candidate that is, in words.
        metrics: on the classes that were kept back, before and after.
        candidates: means of metrics of all candidates by name, in the order in which they were considered.
        classes: how many, and how many of them were kept back in the first turn.
        pictures: how many were used.
        recipe: how it was trained.
        curves: by title, the lines of each figure by name: a value an epoch.
        seconds: of CPU time, for ``encoding`` and ``training``.
        unusable: pictures that were left out, and why.
    """

    encoder: ComposedEncoder
    chosen: str
    metrics: Mapping[str, Comparison]
    candidates: Mapping[str, Mapping[str, float]]
    classes: tuple[int, int]
    pictures: int
    recipe: Recipe
    curves: Mapping[str, Mapping[str, Sequence[float]]]
    seconds: Mapping[str, float]
    unusable: tuple[Quarantined, ...] = ()

    @property
    def improved(self) -> bool:
        """Whether a head was chosen."""
        return self.chosen != NO_HEAD

    def to_json(self) -> dict[str, Any]:
        """As ``report.json`` holds it."""
        recipe = {name: getattr(self.recipe, name) for name in self.recipe.__dataclass_fields__}
        return {
            "encoder": {
                "name": self.encoder.name,
                "dim": self.encoder.dim,
                "fingerprint": self.encoder.fingerprint.digest,
            },
            "chosen": self.chosen,
            "metrics": {name: one.to_json() for name, one in self.metrics.items()},
            "candidates": {name: dict(values) for name, values in self.candidates.items()},
            "classes": {"all": self.classes[0], "kept_back": self.classes[1]},
            "pictures": self.pictures,
            "recipe": recipe,
            "curves": {
                title: {name: list(line) for name, line in lines.items()} for title, lines in self.curves.items()
            },
            "cpu_seconds": dict(self.seconds),
            "unusable": [{"path": row.path, "reason": row.reason} for row in self.unusable],
        }

    def summary(self) -> list[str]:
        """A few lines for people."""
        lines = [
            f"{self.pictures} pictures of {self.classes[0]} classes, {self.classes[1]} of them kept back to validate",
            f"chosen: {self.chosen}; {self.encoder.dim} values",
        ]
        for name in ("recall@1", DECIDES):
            one = self.metrics[name]
            lines.append(
                f"{name:9} {one.frozen.mean:.3f} -> {one.head.mean:.3f} "
                f"({one.gain.mean:+.3f}, 95 % {one.gain.low:+.3f} to {one.gain.high:+.3f})"
            )
        if not self.improved:
            lines.append("no head was better than the encoder as it is: the folder holds the encoder without one")
        return lines


def train_head(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    encoder: Encoder | str | None = None,
    label: str | None = None,
    column: str | None = None,
    where: str | None = None,
    loss: str | Sequence[str] | None = None,
    head: HeadKind = "linear",
    dim: int | None = None,
    prefixes: tuple[int, ...] | None = None,
    epochs: int | None = None,
    seed: int = 0,
    recipe: Recipe = Recipe(),
    share: float = 0.2,
    turns: int = 3,
    retrain: bool = True,
    mirrored: bool = False,
    widen: bool = True,
    cache: str | os.PathLike[str] | None = None,
    decoding: Decoding = Decoding(),
    workers: int | None = None,
    patience: float = PATIENCE,
    progress: Progress | bool | None = None,
) -> TrainedHead:
    """Train a head on the frozen vectors of an encoder, and write an encoder folder with a report.

    Classes, a ``share`` of them, are kept back; the head is used only if it is better for those. The folder is an
    encoder reference: ``pixdex.open(url, encoder=folder)``. ``report.json`` and ``report.html`` lie in it.

    Args:
        source: a folder of class folders, a table with paths and classes, or the URL of a collection with a field of
            classes, whose vectors are then used as they are.
        output: a new or empty folder.
        encoder: an encoder of a network, or its reference, such as ``hf:FOLDER``; of a collection by default its own.
        label: the column or field with the class; default ``label``.
        column: the column of a table that names or holds the pictures.
        where: a filter over columns or fields: only what it holds for is learned from.
        loss: one of ``losses.NAMES``, or several: a head is trained by each, and they are averaged; default
            ``losses.DEFAULT``.
        head: ``linear``; ``mlp``, a linear map with a correction; or a kernel's feature map and a linear map of that.
        dim: width of the new vectors.
        prefixes: widths that shall serve alone: ``FOLDER?dim=64``.
        epochs: passes through the pictures at most.
        seed: of everything that is drawn.
        recipe: the finer points of training; what has an argument of its own is taken from there.
        share: of the classes that are kept back.
        turns: how often, with other classes each time.
        retrain: at the end train on all classes, also those that were kept back.
        mirrored: learn from the mirrored pictures too, which takes twice the encoding.
        widen: of an encoder that pools by the class token, use the average of the other tokens too.
        cache, decoding, workers, patience, progress: as of ``features.encoded``.

    Raises:
        AlreadyExists: there is something in the folder.
        ConfigError: no such source, column or loss; no class for a picture; fewer than four classes with two pictures;
            another training writes to the folder at this moment.
        Unsupported: the encoder is not composed of a network and a pooling.
        MissingDependency: what the encoder or training needs is not installed.
    """
    named = recipe.losses if loss is None else (loss,) if isinstance(loss, str) else tuple(loss)
    chosen_recipe = replace(
        recipe,
        losses=named,
        hidden=_HIDDEN if head == "mlp" else 0,
        dim=recipe.dim if dim is None else dim,
        prefixes=recipe.prefixes if prefixes is None else prefixes,
        epochs=recipe.epochs if epochs is None else epochs,
        seed=seed,
    )
    for name in named:
        losses.needs_pairs(name)  # a wrong one shows before anything is encoded
    with workplace(output) as (target, work):
        began = _cpu_seconds()
        if scheme_of(str(source)) not in (None, "file"):
            base, used, features = _from_collection(str(source), encoder, label, where)
        else:
            encode = partial(
                encoded,
                mirrored=mirrored,
                cache=cache,
                decoding=decoding,
                workers=workers,
                patience=patience,
                progress=progress,
            )
            data = labelled(source, label=label, column=column, where=where)
            base, used, features = _from_pictures(data, encoder, encode, widen=widen)
        encoded_at = _cpu_seconds()
        before = _kernel(head, features, chosen_recipe)
        with steps() if progress is None else nullcontext(Steps()) as bars:
            found = choose(
                features.vectors,
                features.frozen,
                features.data.labels,
                chosen_recipe,
                before=before,
                share=share,
                turns=turns,
                retrain=retrain,
                progress=bars.count,
            )
        result = (
            base
            if found.head is None
            else used.with_head(found.head, name=f"{used.name}-head", reference=str(target.resolve()))
        )
        done_at = _cpu_seconds()
        turn = found.turns[0]
        trained = TrainedHead(
            encoder=result,
            chosen=found.candidate.name,
            metrics=compared(found.frozen, found.after, METRICS),
            candidates={one.name: dict(one.metrics) for one in found.candidates},
            classes=(len(np.unique(features.data.labels)), len(np.unique(features.data.labels[turn.rows]))),
            pictures=len(features.data),
            recipe=chosen_recipe,
            curves=_curves(found),
            seconds={"encoding": encoded_at - began, "training": done_at - encoded_at},
            unusable=features.unusable,
        )
        _write(target, work, trained, found, features)
    return trained


# --- where vectors come from ---------------------------------------------------------------------------------------


def _from_pictures(
    data: Labelled, encoder: Encoder | str | None, encode: Callable[..., FeatureSet], *, widen: bool
) -> tuple[ComposedEncoder, ComposedEncoder, FeatureSet]:
    if encoder is None:
        raise ConfigError("say which encoder a head is for: encoder= (--encoder), such as hf:FOLDER")
    loaded = encoders.load(encoder) if isinstance(encoder, str) else encoder
    base, used = widened(loaded, widen=False), widened(loaded, widen=widen)
    return base, used, encode(data, used, base=base.dim)


def _from_collection(
    url: str, encoder: Encoder | str | None, label: str | None, where: str | None
) -> tuple[ComposedEncoder, ComposedEncoder, FeatureSet]:
    """The vectors of a collection as they are."""
    from pixdex._encoders_of import encoder_for

    connector, name = connect(url)
    try:
        collection = Collection.open(connector, name)
        base = widened(encoder_for(collection, encoder), widen=False)
        field = label or LABEL
        rows = rows_of(collection, where=where, field=field)
    finally:
        connector.close()
    if not rows:
        raise ConfigError(
            f"no record of {url} has a field {field!r} with one class: name the field with label= (--label)"
        )
    labels, names = numbered([row.label for row in rows])
    data = Labelled(tuple(row.item for row in rows), labels, names)
    vectors = unit(np.stack([row.vector for row in rows]).astype(np.float32))
    return base, base, FeatureSet(data, vectors[:, None], base.dim)


def _cpu_seconds() -> float:
    """Of this process and those that it waited for: pictures are decoded in processes of their own."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _kernel(head: HeadKind, features: FeatureSet, recipe: Recipe) -> FeatureMap | None:
    if head in ("linear", "mlp"):
        return None
    if head not in ("polynomial", "gaussian", "chi2"):
        raise ConfigError(f"head {head!r}: one of linear, mlp, polynomial, gaussian, chi2")
    return fit_map(head, features.vectors[:, 0], width=1024, seed=recipe.seed)


# --- what is told --------------------------------------------------------------------------------------------------


def _curves(found: Chosen) -> dict[str, dict[str, list[float]]]:
    turn = found.turns[0]
    level = found.candidates[0].metrics[DECIDES]
    return {
        "loss": {name: list(line) for name, line in turn.losses.items()},
        f"{DECIDES} of the classes kept back": {"head": list(turn.curve), "frozen": [level] * len(turn.curve)},
    }


def _write(target: Path, work: Path, trained: TrainedHead, found: Chosen, features: FeatureSet) -> None:
    turn = found.turns[0]
    data = features.data.take(turn.rows)
    frozen = features.frozen[turn.rows]
    share = found.candidate.share
    after = frozen if share is None else unit(turn.head(found.epochs, share).apply(features.vectors[turn.rows, 0]))
    gains = (found.after[DECIDES] - found.frozen[DECIDES])[: len(turn.rows)]
    text = page(
        f"A head for {trained.encoder.name}",
        [
            *trained.summary(),
            f"losses: {', '.join(trained.recipe.losses)}; {sum(trained.seconds.values()):.0f} s of CPU time",
        ],
        trained.metrics,
        trained.curves,
        [(name, values, name == trained.chosen) for name, values in trained.candidates.items()],
        sheets(frozen, after, data.labels, gains, trained.recipe.seed),
        data.items,
        [data.names[number] for number in data.labels],
    )
    put(partial(save, trained.encoder), trained.to_json(), text, target, work)


def save(encoder: ComposedEncoder, folder: Path) -> None:
    """Write an encoder folder, whatever runs its network.

    Raises:
        AlreadyExists: there is something in the folder.
        Unsupported: its network can be written neither way.
    """
    if isinstance(encoder.trunk, Trunk):
        encoder.save(folder)
    elif isinstance(encoder.trunk, GraphNetwork):
        export(cast("Encoder", encoder), folder, format=encoder.trunk.graph.form)
    else:
        encoder.save(folder)
