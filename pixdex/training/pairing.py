"""``train_reranker``: from pictures to a reranker for the tokens of an encoder, and a report of whether it is any better."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import orjson
import torch
from torch import Tensor

from pixdex.encoders._digest import digest_of, tensors_digest
from pixdex.encoders.compose import ComposedEncoder
from pixdex.errors import ConfigError
from pixdex.rerankers.calibration import Calibration
from pixdex.rerankers.learned import CONFIG_FILE, shipped
from pixdex.spec import TokenSpec
from pixdex.training._device import device_named
from pixdex.training._judging import facts
from pixdex.training._loop import Follow, Pace
from pixdex.training._pictures import Count, hold, larger, named_count
from pixdex.training._workplace import REPORT, place, workplace
from pixdex.training.calibrations import calibrate_folder, lists_of
from pixdex.training.lessons import Lesson, divided, figures, lesson_of, values_of, verdict
from pixdex.training.pairfolder import note, read_net, require_export, save_reranker
from pixdex.training.pairnets import FORMS, PairNet, described, made
from pixdex.training.pairsources import PairSource, pair_source
from pixdex.training.reranking import Mining, fit
from pixdex.training.tokenbank import Bank
from pixdex.training.tokenviews import PROJECTION, projecting, specs_of, views_of

__all__ = ["RerankerRecipe", "TrainedReranker", "build", "started_net", "train_reranker"]

KINDS: Mapping[str, Mapping[str, Any]] = {"cross": {"before": 2}, "transport": {}}
"""Values of the shapes."""
RATES = {"cross": 5e-4, "transport": 2e-3}
VIEWS = {"copies": 8, "classes": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerRecipe:
    """What is trained, and on what.

    Attributes:
        kind: ``cross`` or ``transport``.
        form: of ``cross``: ``query``, ``self+cross`` or ``symmetric``, see ``pairnets.FORMS``.
        teacher: ``full``: first train a network of the same kind on descriptors as they were before projection and coding,
            which the other then learns from too; twice the time and more.
        views: of each picture, itself among them; default: 8 without classes, 2 with them, 1 with the tokens of a
            collection.
        project: fit a projection of the descriptors to so many values first, for an encoder that has none; it lies beside the
            reranker afterwards, for ``hf:FOLDER?token_projection=``.
        held: share of the pictures, or of the classes, that only judge.
        pictures: how many are used at most; drawn at random.
        rate: the highest of AdamW; default: 5e-4 for ``cross``, 2e-3 for ``transport``.
        mining: how pairs are drawn.
    """

    kind: Literal["cross", "transport"] = "cross"
    form: Literal["query", "self+cross", "symmetric"] = "query"
    teacher: Literal["none", "full"] = "none"
    views: int | None = None
    project: int | None = None
    held: float = 0.3
    pictures: int = 10_000
    rate: float | None = None
    mining: Mining = field(default_factory=Mining)

    def __post_init__(self) -> None:
        for name, known in (("kind", tuple(KINDS)), ("form", tuple(FORMS)), ("teacher", ("none", "full"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}={getattr(self, name)!r}: {', '.join(known)}")
        if self.kind == "transport" and self.form != "query":
            raise ConfigError(f"form={self.form!r}: transport has one form only, forms are those of cross")
        if not 0 < self.held < 1:
            raise ConfigError(f"held={self.held}: a share between 0 and 1")
        for name in ("views", "project", "pictures"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: 1 or more")
        if self.rate is not None and not self.rate > 0:
            raise ConfigError(f"rate={self.rate}: more than 0")

    def net(self, token_dim: int, seed: int) -> PairNet:
        """A network to begin with."""
        torch.manual_seed(seed)
        return made(self.kind, {"token_dim": token_dim, **KINDS[self.kind], **FORMS[self.form]})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedReranker:
    """What came of it.

    Attributes:
        folder: where the reranker was saved, with ``report.json``.
        reference: what ``search(rerank=...)`` and ``--rerank`` take.
        report: what ``report.json`` holds.
    """

    folder: Path
    reference: str
    report: Mapping[str, Any]

    @property
    def better(self) -> bool:
        """Whether it was better than the first stage on the pictures kept back, beyond the choice of queries."""
        return bool(self.report["better"])

    def summary(self) -> list[str]:
        """A few lines for people."""
        report = self.report
        lines = [report["learned from"], *report["notes"]]
        for name, row in report["figures"].items():
            one, average = row["recall@1"], row["map"]
            lines.append(
                f"{name:12} R@1 {one['mean']:.3f}  mAP {average['mean']:.3f} [{average['low']:.3f}, {average['high']:.3f}]"
            )
        fitted = report["calibration"]
        if fitted is None:
            said = "scores are log-odds: no calibration could be fitted that is better than the first stage alone"
        else:
            said = f"scores are P(match), calibrated by {fitted['queries']} queries: ECE {fitted['ece']:.3f}"
        return [*lines, report["verdict"], said]


def train_reranker(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    encoder: Any = None,
    label: str | None = None,
    copies: bool = False,
    column: str | None = None,
    where: str | None = None,
    recipe: RerankerRecipe = RerankerRecipe(),
    pace: Pace = Pace(steps=1000),
    start: str | os.PathLike[str] | None = None,
    follow: Follow | None = None,
    count: Count | None = None,
) -> TrainedReranker:
    """Train a reranker for the tokens of an encoder on pictures of one's own, and save it as a folder for ``cross:FOLDER`` or
    ``transport:FOLDER``.

    With classes, pictures of a class match and whole classes are kept back to judge; without, edits of a picture match it, and
    pictures are kept back. What was kept back chooses the weights with one half and says how good they are with the other.

    Args:
        source: a folder (of class folders, or not), a table with paths, or the URL of a collection: see ``pair_source``, also
            for ``label``, ``copies``, ``column`` and ``where``.
        output: the reranker's folder, new or empty; until it is there ``<output>.partial`` holds views and checkpoints, and
            the same call goes on from there.
        encoder: whose tokens, or its reference; of a collection by default its own.
        label, copies, column, where: see ``source``.
        recipe: what is trained, and on what.
        pace: how long, how fast, on what device, and the seed.
        start: the folder of a reranker to go on from, or the name of one that comes with pixdex, such as ``mini``.
        follow: hears how the training goes.
        count: hears what is prepared.

    Raises:
        AlreadyExists: there is something in the folder.
        ConfigError: no such source, too few pictures or classes, nothing can be written, or an option without a meaning.
        Unsupported: the encoder makes no tokens.
        MissingDependency: what the encoder or the export needs is not installed.
        KeyboardInterrupt: Ctrl-C; nothing is lost, the same call goes on.
    """
    require_export()
    with workplace(output) as (target, work):
        given = pair_source(source, encoder=encoder, label=label, copies=copies, column=column, where=where)
        whole, given = len(given), given.some(recipe.pictures, pace.seed)
        notes = (
            []
            if len(given) == whole
            else [f"{len(given)} of {whole} pictures, drawn at random: pictures= (--pictures) takes more"]
        )
        ready = _prepared(given, recipe, pace, work, start, count)
        report = {"source": str(source), "notes": notes, "unusable": [list(pair) for pair in ready.unusable]}
        return build(ready, target, work, recipe=recipe, pace=pace, start=start, follow=follow, report=report)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prepared:
    """Pictures as a reranker learns from them.

    Attributes:
        bank: their views.
        key: what tells these from others.
        labels: int64 ``[n]``, or None.
        names: of the classes.
        specs: the tokens that the reranker takes; the first is what ``bank`` holds.
        encoder: whose they are.
        projection: a file that was fitted for them, to be laid beside the reranker.
        unusable: (label, reason) of what was left out.
    """

    bank: Bank
    key: str
    labels: Tensor | None
    specs: list[TokenSpec]
    encoder: ComposedEncoder
    names: tuple[str, ...] = ()
    projection: Path | None = None
    unusable: tuple[tuple[str, str], ...] = ()


def build(
    ready: Prepared,
    target: Path,
    work: Path,
    *,
    recipe: RerankerRecipe,
    pace: Pace,
    start: str | os.PathLike[str] | None = None,
    follow: Follow | None = None,
    report: Mapping[str, Any] | None = None,
) -> TrainedReranker:
    """Train on what is prepared, judge, and put the folder where it belongs, with ``report`` and what there is to say besides; None:
    without one. See ``train_reranker``.
    """
    lesson = lesson_of(ready.bank, ready.labels, share=recipe.held, seed=pace.seed)
    identity = {"views": ready.key, "recipe": asdict(recipe), "pace": pace.identity(), "start": str(start)}
    if ready.labels is not None:
        identity["classes"] = tensors_digest({"labels": ready.labels.cpu().numpy()})
    key = digest_of(orjson.loads(orjson.dumps(identity)))
    mining = replace(recipe.mining, rate=recipe.rate or RATES[recipe.kind])
    device = ready.bank.tokens.device
    learn = partial(fit, pace=pace, device=device, mining=mining, labels=lesson.labels, follow=follow)
    teacher, judges = None, {}
    if recipe.teacher == "full":
        better = lesson_of(ready.bank.finest(), ready.labels, share=recipe.held, seed=pace.seed)
        master = recipe.net(int(better.bank.tokens.shape[3]), pace.seed)
        inner = work / "teacher"
        inner.mkdir(exist_ok=True)
        learn(master, better.bank, better.choosing, work=inner, key=f"{key} teacher")
        teacher, judges = (master.eval(), better.bank), {"teacher": (master, better.telling)}
    net = started_net(recipe, ready.specs[0].dim, start, pace.seed)
    outcome = learn(net, lesson.bank, lesson.choosing, teacher=teacher, work=work, key=key)
    judges[recipe.kind] = (net.eval(), lesson.telling)
    folder = work / "made"
    shutil.rmtree(folder, ignore_errors=True)
    save_reranker(net, folder, ready.specs, name=recipe.kind + ("" if ready.labels is None else "-classes"))
    values = values_of(lesson, judges)
    fitted = calibrate_folder(folder, lists_of(net, lesson.choosing, lesson.chosen_for), seed=pace.seed)
    if fitted is not None:  # what search will order by
        calibration = Calibration.from_json(orjson.loads((folder / CONFIG_FILE).read_bytes())["calibration"])
        values["calibrated"] = lists_of(net, lesson.telling).figures(calibration)
    rows, gain = figures(values, lesson.told_of)
    better_by_much, words = verdict(gain, recipe.kind)
    told = {
        "pixdex": "reranker",
        **(report or {}),
        "encoder": ready.encoder.reference,
        "tokens": {"dim": ready.specs[0].dim, "count": ready.specs[0].count, "dtype": ready.specs[0].dtype},
        "learned from": _learned_from(ready, lesson),
        "notes": [*(report or {}).get("notes", ()), *lesson.notes],
        "figures": rows,
        "gain": asdict(gain),
        "better": better_by_much,
        "verdict": words,
        "calibration": fitted,
        "recipe": asdict(recipe),
        "pace": asdict(pace),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **facts(outcome),
    }
    note(folder, {"trained": _trained(lesson, rows, recipe.kind, outcome.step, start)})
    if ready.projection is not None:
        shutil.copyfile(ready.projection, folder / PROJECTION)
    if report is not None:
        (folder / REPORT).write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    place(folder, target)
    return TrainedReranker(folder=target, reference=f"{recipe.kind}:{target}", report=told)


def started_net(recipe: RerankerRecipe, token_dim: int, start: str | os.PathLike[str] | None, seed: int) -> PairNet:
    """What training starts from: the network of a folder, or of one that comes with pixdex by its name, or a new one.

    Raises:
        ConfigError: the folder is no reranker of the kind, or for tokens of another width.
    """
    if start is None:
        return recipe.net(token_dim, seed)
    net = read_net(shipped(recipe.kind).get(str(start), Path(start).expanduser()))
    if described(net)["kind"] != recipe.kind or net.shape.token_dim != token_dim:
        raise ConfigError(f"{start} is no reranker of the kind {recipe.kind} for tokens of {token_dim} values")
    return net


# --- what is prepared ------------------------------------------------------------------------------


def _prepared(
    given: PairSource,
    recipe: RerankerRecipe,
    pace: Pace,
    work: Path,
    start: str | os.PathLike[str] | None,
    count: Count | None,
) -> Prepared:
    encoder, device = given.encoder, device_named(pace.device)
    labelled = given.labels is not None
    stored = given.tokens is not None and labelled and recipe.project is None and recipe.teacher == "none"
    views = recipe.views or (1 if stored else VIEWS["classes" if labelled else "copies"])
    if views < 2 and not labelled:
        raise ConfigError("views=1: without classes it takes two views of a picture, or more")
    if recipe.project is not None and encoder.composition.token_projection is not None:
        raise ConfigError(f"project={recipe.project}: {encoder.reference} has a projection of its tokens already")
    width = min(recipe.project, encoder.trunk.dim) if recipe.project else specs_of(encoder)[0].dim
    started_net(recipe, width, start, pace.seed)  # before the views, should it not fit
    divided(len(given), given.labels, share=recipe.held, seed=pace.seed)  # too few pictures or classes show before, too
    if stored and views == 1:
        return _from_store(given, device)
    held = hold(
        given.items, larger(encoder.trunk.preprocess), work=work, name="pictures", count=named_count(count, "pictures")
    )
    projection = None
    if recipe.project is not None:
        projection = work / PROJECTION
        encoder = projecting(encoder, held.pixels, recipe.project, projection)
    bank, key = views_of(
        held.pixels,
        encoder,
        views=views,
        folder=work / "views",
        device=device,
        fine=recipe.teacher == "full",
        count=named_count(count, "views"),
    )
    labels = None if given.labels is None else torch.from_numpy(given.labels[held.rows]).to(device)
    return Prepared(
        bank=bank,
        key=key,
        labels=labels,
        names=given.names,
        specs=specs_of(encoder),
        encoder=encoder,
        projection=projection,
        unusable=held.unusable,
    )


def _from_store(given: PairSource, device: torch.device) -> Prepared:
    """A collection's own vectors and tokens. In which order these were chosen nobody knows, so any of them are cut away."""
    if given.vectors is None or given.tokens is None:
        raise ValueError("nothing is stored")
    vectors, tokens = torch.from_numpy(given.vectors), torch.from_numpy(given.tokens)
    drawn = torch.rand(tokens.shape[:2], generator=torch.Generator().manual_seed(0))
    bank = Bank(tokens[:, None], drawn.argsort(dim=1).to(torch.int16)[:, None], vectors.half()[:, None])
    return Prepared(
        bank=bank.to(device),
        key=tensors_digest({"tokens": given.tokens, "vectors": given.vectors}),
        labels=None if given.labels is None else torch.from_numpy(given.labels).to(device),
        names=given.names,
        specs=specs_of(given.encoder)[:1],
        encoder=given.encoder,
    )


def _trained(
    lesson: Lesson, rows: Mapping[str, Any], kind: str, steps: int, start: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """What the reranker's own file says of its training."""
    means = {name: {metric: value["mean"] for metric, value in row.items()} for name, row in rows.items()}
    named = {"validation" if name == kind else name: row for name, row in means.items()}
    begun = {} if start is None else {"started from": Path(start).name}
    return {"pictures": len(lesson.bank), "views": lesson.bank.views, **named, "steps": steps, **begun}


def _learned_from(ready: Prepared, lesson: Lesson) -> str:
    pictures = f"{len(lesson.bank)} of {len(ready.bank)} pictures"
    views = f", {lesson.bank.views} views of each" if lesson.bank.views > 1 else ""
    if lesson.labels is None:
        return f"learned from copies: {pictures}{views}; the others judge"
    learned, every = (len(torch.unique(labels)) for labels in (lesson.labels, ready.labels))
    return f"learned from classes: {pictures} in {learned} of {every} classes{views}; the other classes judge"
