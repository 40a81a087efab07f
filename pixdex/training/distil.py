"""Distillation: a small network learns, from nothing, to see pictures as a frozen teacher does, stage by stage.

Blockwise (Wang et al.: Progressive Blockwise Knowledge Distillation, IJCAI 2018; Li et al.: Blockwisely Supervised Neural
Architecture Search with Knowledge Distillation, CVPR 2020): the teacher is cut where its maps change their width. Each
stage of the student gets the teacher's map before the cut and learns to give the one after it, cell by cell: a shallow
network with hundreds of targets a picture, so that few pictures teach much, of things that none of them shows too. Later
more and more of what a stage gets is made by the student's stages before it, in the end all, so that
they learn to make up for one another. Above them stand the vector, which learns the teacher's after a linear map
(``Target``) and which pictures of a batch are alike, and the local descriptors.

The first stages, which see little at a time and work most, learn from small close views of their own. What the others
learn from is kept for a while, as it costs more to make than to learn from. Importing this imports torch.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

from pixdex.encoders._digest import digest_of, tensors_digest
from pixdex.errors import ConfigError
from pixdex.training._device import autocast
from pixdex.training._workplace import saved
from pixdex.training.augment import resized
from pixdex.training.matching import alike, apart, means_apart
from pixdex.training.muon import Muon
from pixdex.training.networks import Maps, MiniNet, MiniShape
from pixdex.training.recipes import EDITS, Pictures, Recipe
from pixdex.training.teachers import Lesson, Target, Teacher, in_parts, map_at_r

__all__ = ["distil"]

M = TypeVar("M", bound=nn.Module)
_TOGETHER = 32
"""Pictures that go through a network at once where nothing is learned."""


def distil(
    pictures: Pictures,
    teacher: Teacher,
    shape: MiniShape,
    recipe: Recipe,
    *,
    out: Path,
    state: Path,
    say: Callable[[str], None] = print,
) -> None:
    """Train a network and write ``out/mini.pt`` (its shape, and float16 weights) and ``out/log.json``.

    ``state`` is a file of all that is needed to go on; where it exists, training goes on from it, after Ctrl-C too. It runs
    on the device of the pictures.

    Raises:
        ConfigError: the state is damaged, or of other pictures, another teacher, shape or recipe; of this, ``seconds`` and
            ``every`` may be others.
    """
    out.mkdir(parents=True, exist_ok=True)
    key = _identity(pictures, teacher, shape, recipe)
    begun = _begun(state, key)
    run = _Run(pictures, teacher, shape, recipe, say)
    if begun is None:
        run.prepare()
    else:
        run.restore(begun)
        say(f"goes on after {run.spent:.0f} s")
    try:
        _learn(run, out, state, key)
    except KeyboardInterrupt:
        saved(state, {"key": key, **run.state()})
        raise


def _identity(pictures: Pictures, teacher: Teacher, shape: MiniShape, recipe: Recipe) -> str:
    """What a run must share with one that it goes on from."""
    told = {name: value for name, value in asdict(recipe).items() if name not in ("seconds", "every")}
    tensors = {name: getattr(pictures, name) for name in ("pixels", "labels", "groups", "held")} | teacher.state_dict()
    arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    return digest_of({"recipe": told, "shape": shape.to_json(), "tensors": tensors_digest(arrays)})


def _begun(state: Path, key: str) -> dict[str, Any] | None:
    """What the file holds, on the processor, where states of random numbers stay; None where there is none."""
    if not state.exists():
        return None
    try:
        values: dict[str, Any] = torch.load(state, map_location="cpu", weights_only=True)
        found = values.pop("key", None)
    except Exception as error:  # torch raises anything on a damaged file
        raise ConfigError(f"{state} is damaged: remove it to begin anew") from error
    if found != key:
        raise ConfigError(
            f"{state} was begun with other pictures, another teacher, shape or recipe: give the same to go on, or remove it "
            "to begin anew"
        )
    return values


def _learn(run: _Run, out: Path, state: Path, key: str) -> None:
    """Step after step until the time is over; looking and writing do not count."""
    looked = time.monotonic()
    begun = looked - run.spent
    while run.spent < run.recipe.seconds:
        run.step()
        now = time.monotonic()
        run.spent = now - begun
        if now - looked > run.recipe.every or run.spent >= run.recipe.seconds:
            run.look()
            run.write(out)
            saved(state, {"key": key, **run.state()})
            looked = time.monotonic()
            begun += looked - now


class _Student(nn.Module):
    """A network, and what translates its local descriptors into the teacher's maps."""

    def __init__(self, shape: MiniShape) -> None:
        super().__init__()
        self.network = MiniNet(shape)
        self.cells = nn.Conv2d(shape.cells, shape.last + shape.widths[-2], 1)


class _Bank:
    """Maps of the last views, as ``[n, h, w, c]``: the oldest make way."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, 0
        self.maps: list[Tensor] = []

    def add(self, maps: Sequence[Tensor]) -> None:
        rows = [made.permute(0, 2, 3, 1) for made in maps]
        if not self.maps:
            self.maps = [row.new_zeros(self.count, *row.shape[1:]) for row in rows]
        index = torch.arange(self.made, self.made + len(rows[0]), device=rows[0].device) % self.count
        for kept, row in zip(self.maps, rows, strict=True):
            kept[index] = row
        self.made += len(rows[0])

    def draw(self, newest: int, count: int, generator: torch.Generator) -> list[Tensor]:
        """The newest ones and others up to ``count``."""
        others = torch.randint(min(self.made, self.count), (count - newest,), generator=generator)
        index = torch.cat([(self.made - 1 - torch.arange(newest)) % self.count, others]).to(self.maps[0].device)
        return [kept[index].permute(0, 3, 1, 2) for kept in self.maps]


class _Run:
    """Training as it goes."""

    def __init__(
        self, pictures: Pictures, teacher: Teacher, shape: MiniShape, recipe: Recipe, say: Callable[[str], None]
    ) -> None:
        self.device, self.recipe, self.say = pictures.pixels.device, recipe, say
        torch.manual_seed(recipe.seed)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.pictures = pictures
        self.learned = (~pictures.held).nonzero()[:, 0]
        self.teacher = _placed(teacher, self.device)
        self.student = _placed(_Student(shape), self.device)
        self.average = MiniNet(shape).to(self.device).eval()
        self.average.load_state_dict(self.student.network.state_dict())
        self.optimizers = _optimizers(self.student, recipe)
        self.bank = _Bank(recipe.kept)
        self.spent, self.steps = 0.0, 0
        self.log: list[dict[str, Any]] = []
        self.target: Target | None = None
        self.norms: list[tuple[Tensor, Tensor]] = []

    def prepare(self) -> None:
        """Measure the teacher's maps and teach its vector: what ``restore`` would bring back."""
        self._measure_maps()
        self._teach_target()

    def _quick(self) -> torch.autocast:
        if self.recipe.bfloat16 is None:
            return autocast(self.device, processor=True)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bfloat16)

    def _lesson(self, views: Tensor) -> Lesson:
        with self._quick():
            lesson: Lesson = self.teacher(_lasting(views))
        return lesson

    def _drawn(self, count: int) -> Tensor:
        """Pictures to learn from."""
        index = self.learned[torch.randint(len(self.learned), (count,), generator=self.generator).to(self.device)]
        return self.pictures.pixels[index]

    def _views(self, count: int) -> Tensor:
        return self.recipe.mixing(self.recipe.views(self._drawn(count), self.generator), self.generator)

    def _measure_maps(self) -> None:
        """Mean and deviation of each channel: what is matched is how far a value is from the usual."""
        sums: list[list[Tensor]] = []
        for _ in range(16):
            lesson = self._lesson(self.recipe.views(self._drawn(_TOGETHER), self.generator))
            maps = [*lesson.stages, lesson.last]
            sums.append([torch.stack([m.float().mean((0, 2, 3)), m.float().square().mean((0, 2, 3))]) for m in maps])
        for parts in zip(*sums, strict=True):
            mean, square = torch.stack(parts).mean(dim=0)
            deviation = (square - mean.square()).clamp(min=1e-6).sqrt()
            self.norms.append((mean, deviation))
        self.norms[-1][0].zero_()  # the last map has no negative values, the student's either

    def _truths(self, maps: Sequence[Tensor], first: int = 0) -> list[Tensor]:
        """What is to be matched of maps from ``first`` on."""
        norms = self.norms[first : first + len(maps)]
        return [
            (made.float() - mean[:, None, None]) / deviation[:, None, None]
            for made, (mean, deviation) in zip(maps, norms, strict=True)
        ]

    def _teach_target(self) -> None:
        """Most of the way from whitening the teacher's vectors to all that labels teach a linear map of them."""
        pixels, labels, groups, held = (getattr(self.pictures, name) for name in ("pixels", "labels", "groups", "held"))
        size = self.recipe.views.size
        plain = in_parts(pixels, _TOGETHER, lambda part: self._lesson(resized(part, size) / 255).pooled)
        known = pixels[self.learned]
        more = [
            in_parts(known, _TOGETHER, lambda part: self._lesson(self.recipe.views(part, self.generator)).pooled)
            for _ in range(self.recipe.target_views)
        ]
        rows = torch.cat([plain[self.learned], *more])
        of = labels[self.learned].repeat(1 + len(more))
        start = Target.whitened(plain[self.learned], self.average.shape.dim)
        taught = start.taught(rows[of >= 0], of[of >= 0], generator=self.generator)
        self.target = start.toward(taught, self.recipe.target_share)
        ways = {"frozen": plain, "whitened": start(plain), "taught": taught(plain), "target": self.target(plain)}
        found = {name: round(map_at_r(v[held], labels[held], groups[held]), 4) for name, v in ways.items()}
        self.log.append({"teacher": found})
        self.say(f"the teacher on held classes: {json.dumps(found)}")

    def step(self) -> None:
        """A batch of close views for the first stages, another for the others."""
        rise = self._rate()
        for optimizer, rate in zip(self.optimizers, (self.recipe.turn, self.recipe.rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * rise
            optimizer.zero_grad(set_to_none=True)
        self.student.train()
        for loss in (self._first(), self._others()):
            torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.optimizers[1].param_groups[0]["params"], 5.0)
        for optimizer in self.optimizers:
            optimizer.step()
        _follow(self.average, self.student.network, min(self.recipe.average, (1 + self.steps) / (10 + self.steps)))
        self.steps += 1
        if self.steps % 50 == 1:
            self.say(f"step {self.steps}, {self.spent:.0f} s, loss {float(loss.detach()):.4f}")

    def _done(self) -> float:
        return min(1.0, self.spent / self.recipe.seconds)

    def _rate(self) -> float:
        """Of the largest learning rates."""
        done = self._done()
        if done < self.recipe.warmup:
            return max(done / self.recipe.warmup, 0.01)
        fallen = (done - self.recipe.warmup) / (1 - self.recipe.warmup)
        return max(0.5 * (1 + math.cos(math.pi * fallen)), 1e-3)

    def _staged(self, first: int, truths: Sequence[Tensor], made: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps of stages from ``first`` on, and how far they are from ``truths``, the first of which is before them.

        Each is fed with the truth before it, or for some pictures with what the student made: ``made`` before the first. No
        stage but the last pulls at those before it, which would draw them away from the teacher's maps.
        """
        share = min(1.0, self._done() / self.recipe.joined)
        maps: list[Tensor] = []
        total = made.new_zeros((), dtype=torch.float32)
        network = self.student.network
        for stage, before, after in zip(network.stages[first:], truths[:-1], truths[1:], strict=False):
            chosen = torch.rand(len(made), generator=self.generator).to(self.device) < share
            fed = torch.where(chosen[:, None, None, None], made.to(before.dtype), before)
            made = stage(_lasting(fed if stage is network.stages[-1] else fed.detach()))
            maps.append(made)
            total = total + apart(made, after)
        return maps, total

    def _first(self) -> Tensor:
        views = self.recipe.close(self._drawn(self.recipe.batch), self.generator)
        views = self.recipe.mixing(views, self.generator)
        truths = self._truths(self._lesson(views).stages[: self.recipe.early])
        with self._quick():
            _, total = self._staged(0, [views, *truths], views)
        return self.recipe.stages * total

    def _others(self) -> Tensor:
        recipe = self.recipe
        self._fill()
        made, *maps = self.bank.draw(recipe.fresh, recipe.batch, self.generator)
        truths = self._truths(maps, recipe.early - 1)
        with self._quick():
            stages, total = self._staged(recipe.early, truths, made)
            given = self.student.network.headed(stages)
            cells = self.student.cells(
                given.cells[: recipe.fresh]
            )  # the most costly of all, though the least important
        assert self.target is not None  # noqa: S101 - prepare or restore came before
        goal = self.target(maps[-1].float().mean(dim=(2, 3)))
        own = F.normalize(given.own.float(), dim=1)
        last = truths[-1].shape[1]
        fine, coarse = truths[-3][: recipe.fresh], truths[-1][: recipe.fresh]
        by_cell = apart(cells[:, :last], _as_large(coarse, cells)) + 0.5 * apart(cells[:, last:], fine)
        return (
            recipe.stages * total
            + recipe.pooled * means_apart(given.last, truths[-1])
            + recipe.cells * by_cell
            + recipe.own * (1 - (own * goal).sum(dim=1)).mean()
            + recipe.alike * alike(own, goal, recipe.heat)
        )

    @torch.no_grad()
    def _fill(self) -> None:
        """New views for the stages above the first ones: what those make of them now, and the teacher's maps."""
        enough = 2 * self.recipe.batch
        while True:
            views = self._views(self.recipe.fresh)
            lesson = self._lesson(views)
            with self._quick():
                made = _through(self.average.stages[: self.recipe.early], views)
            maps = [made, *lesson.stages[self.recipe.early - 1 :], lesson.last]
            self.bank.add([m.to(lesson.last.dtype) for m in maps])
            if self.bank.made >= enough:
                return

    @torch.no_grad()
    def look(self) -> None:
        """How near held classes come to the teacher's maps, how well they and edited copies of them are found: for the log.

        ``stages`` is the share of the maps' variance that is accounted for, when stages feed one another.
        """
        held = self.pictures.held.nonzero()[:, 0]
        labels, groups = self.pictures.labels[held], self.pictures.groups[held]
        size = self.recipe.views.size
        self.average.eval()
        vectors, sums = [], []
        for part in torch.split(self.pictures.pixels[held], _TOGETHER):
            views = resized(part, size) / 255
            lesson = self._lesson(views)
            with self._quick():
                maps = self.average(_lasting(views))
            vectors.append(maps.own.float())
            truths = self._truths([*lesson.stages, lesson.last])
            pairs = zip([*maps.stages, maps.last], truths, strict=True)
            usual = [(t - t.mean(dim=(0, 2, 3), keepdim=True)).square().sum() for t in truths]
            sums.append(
                torch.stack([torch.stack([(m.float() - t).square().sum() for m, t in pairs]), torch.stack(usual)])
            )
        wrong, usual_of = torch.stack(sums).sum(dim=0)
        found = torch.cat(vectors)
        entry: dict[str, Any] = {"seconds": round(self.spent, 1), "steps": self.steps}
        entry["stages"] = [round(float(share), 3) for share in 1 - wrong / usual_of]
        entry["map@r"] = round(map_at_r(found, labels, groups), 4)
        entry |= {
            f"map@r of {int(g)}": round(map_at_r(found[groups == g], labels[groups == g], groups[groups == g]), 4)
            for g in torch.unique(groups)
        }
        edits = EDITS(self.pictures.pixels[held], torch.Generator().manual_seed(0))
        again = torch.cat([found, in_parts(edits, _TOGETHER, lambda part: self._own(resized(part, size)))])
        alone = torch.arange(len(held), device=held.device).repeat(2)
        entry["copies"] = round(map_at_r(again, alone, torch.zeros_like(alone)), 4)
        self.log.append(entry)
        self.say(json.dumps(entry))

    def _own(self, views: Tensor) -> Tensor:
        with self._quick():
            maps: Maps = self.average(_lasting(views))
        return maps.own.float()

    def write(self, out: Path) -> None:
        """The averaged weights as float16, and the log."""
        weights = {key: t.half() if t.is_floating_point() else t for key, t in self.average.state_dict().items()}
        values = {"shape": self.average.shape.to_json(), "weights": {key: t.cpu() for key, t in weights.items()}}
        saved(out / "mini.pt", values)
        (out / "log.json").write_text(json.dumps({"recipe": asdict(self.recipe), "log": self.log}, indent=1))

    def state(self) -> dict[str, Any]:
        """All that is needed to go on; what the upper stages learn from is made anew."""
        assert self.target is not None  # noqa: S101
        return {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "progress": (self.spent, self.steps, self.log),
            "target": self.target.state(),
            "norms": self.norms,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.generator.set_state(state["generator"])
        self.spent, self.steps, self.log = state["progress"]
        self.target = Target(**{name: tensor.to(self.device) for name, tensor in state["target"].items()})
        self.norms = [(mean.to(self.device), std.to(self.device)) for mean, std in state["norms"]]


def _placed(module: M, device: torch.device) -> M:
    moved: Any = module.to(device)
    placed: M = moved.to(memory_format=torch.channels_last)
    return placed


def _lasting(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _as_large(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[2:], mode="nearest")


def _through(stages: Iterable[nn.Module], pictures: Tensor) -> Tensor:
    made = _lasting(pictures)
    for stage in stages:
        made = stage(made)
    return made


def _optimizers(student: _Student, recipe: Recipe) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Of dense convolutions in stages, and of all else."""
    dense = [p for p in student.network.stages.parameters() if p.ndim == 4 and p.shape[1] > 1]
    chosen = {id(p) for p in dense}
    others = [p for p in student.parameters() if id(p) not in chosen]
    return (
        Muon(dense, lr=recipe.turn, weight_decay=recipe.decay),
        torch.optim.AdamW(others, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.0),
    )


@torch.no_grad()
def _follow(average: MiniNet, network: MiniNet, keep: float) -> None:
    ours, theirs = average.state_dict(), network.state_dict()
    floats = [name for name, tensor in ours.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1 - keep)
