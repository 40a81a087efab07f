"""Distillation: a small network learns, from nothing, to see pictures as a frozen teacher does.

Patient and consistent (Beyer et al.: Knowledge distillation: A good teacher is patient and consistent, CVPR 2022): teacher
and student see the very same view, strongly augmented and often mixed of two pictures, for as long as there is time. What
is matched: the teacher's maps at four depths, cell by cell (Romero et al.: FitNets, ICLR 2015), its vector after a linear map
(``Target``), and which pictures of a batch are alike. Besides, two views of one picture are to be found among all others, and
labels, where there are any, are to be told apart.

Several students can learn side by side from one teacher, whose work is then done once. Importing this imports torch and
nothing else of pixdex.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what everybody calls it

from pixdex.training.augment import resized
from pixdex.training.matching import alike, apart, other_view_found, told_apart
from pixdex.training.networks import Maps, MiniNet, MiniShape
from pixdex.training.recipes import EDITS, Pictures, Recipe
from pixdex.training.teachers import Lesson, Target, Teacher, in_parts, map_at_r

__all__ = ["distil"]

M = TypeVar("M", bound=nn.Module)


def distil(
    pictures: Pictures,
    teacher: Teacher,
    shapes: Mapping[str, MiniShape],
    recipe: Recipe,
    *,
    out: Path,
    state: Path,
    say: Callable[[str], None] = print,
) -> None:
    """Train a network of each shape and write ``out/NAME.pt`` (float16 weights, see ``save``) and ``out/log.json``.

    ``state`` is a file of all that is needed to go on; where it exists, training goes on from it, after Ctrl-C too. It runs
    on the device of the pictures; on a GPU in bfloat16.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(pictures, teacher, shapes, recipe, say)
    if state.exists():
        run.restore(torch.load(state, map_location=pictures.pixels.device, weights_only=True))
        say(f"goes on after {run.spent:.0f} s")
    else:
        run.prepare()
    try:
        _learn(run, out, state)
    except KeyboardInterrupt:
        _replace(state, run.state())
        raise


def _learn(run: _Run, out: Path, state: Path) -> None:
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
            _replace(state, run.state())
            looked = time.monotonic()
            begun += looked - now


class _Student(nn.Module):
    """A network, what translates its maps into the teacher's, and a vector for each class."""

    def __init__(self, shape: MiniShape, widths: tuple[int, ...], last: int, classes: int) -> None:
        super().__init__()
        self.network = MiniNet(shape)
        self.stages = nn.ModuleList(nn.Conv2d(w, t, 1) for w, t in zip(shape.widths, widths, strict=True))
        self.last = nn.Conv2d(shape.last, last, 1)
        self.cells = nn.Conv2d(shape.cells, last + widths[2], 1)
        self.classes = nn.Parameter(torch.randn(classes, shape.dim) * shape.dim**-0.5)

    def forward(self, pictures: Tensor) -> tuple[Maps, list[Tensor], Tensor, Tensor]:
        maps: Maps = self.network(pictures)
        stages = [translate(made) for translate, made in zip(self.stages, maps.stages, strict=True)]
        return maps, stages, self.last(maps.last), self.cells(maps.cells)


class _Run:
    """Training as it goes."""

    def __init__(
        self,
        pictures: Pictures,
        teacher: Teacher,
        shapes: Mapping[str, MiniShape],
        recipe: Recipe,
        say: Callable[[str], None],
    ) -> None:
        device = pictures.pixels.device
        self.device, self.recipe, self.say = device, recipe, say
        self.fast = device.type == "cuda"
        self.half = self.fast if recipe.bfloat16 is None else recipe.bfloat16
        if self.fast:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        torch.manual_seed(recipe.seed)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.pictures = pictures
        self.learned = (~pictures.held).nonzero()[:, 0]
        self.teacher = _placed(teacher, device)
        lesson = self._lesson(resized(pictures.pixels[:2], teacher.size) / 255)
        widths, last = tuple(stage.shape[1] for stage in lesson.stages), lesson.last.shape[1]
        classes = int(pictures.labels[self.learned].max()) + 1
        self.names = list(shapes)
        made = [_Student(shape, widths, last, classes) for shape in shapes.values()]
        self.students = [_placed(student, device) for student in made]
        self.averages = [MiniNet(shape).to(device).eval() for shape in shapes.values()]
        for average, student in zip(self.averages, self.students, strict=True):
            average.load_state_dict(student.network.state_dict())
        self.optimizers = [_optimizer(student, recipe, fused=self.fast) for student in self.students]
        self.spent, self.steps = 0.0, 0
        self.log: list[dict[str, Any]] = []
        self.target: Target | None = None
        self.norms: list[tuple[Tensor, Tensor]] = []

    def prepare(self) -> None:
        """Measure the teacher's maps and teach its vector: what ``restore`` would bring back."""
        self._measure_maps()
        self._teach_target()

    def _lesson(self, views: Tensor) -> Lesson:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            lesson: Lesson = self.teacher(views.contiguous(memory_format=torch.channels_last))
        return lesson

    def _views(self, index: Tensor) -> Tensor:
        return self.recipe.views(self.pictures.pixels[index.to(self.device)], self.generator)

    def _draw(self, count: int) -> Tensor:
        """Pictures to learn from, as a new order of all of them is cut into batches."""
        return self.learned[torch.randint(len(self.learned), (count,), generator=self.generator).to(self.device)]

    def _measure_maps(self) -> None:
        """Mean and deviation of each channel: what is matched is how far a value is from the usual."""
        count = min(len(self.learned), 8 * self.recipe.batch)
        sums: list[list[Tensor]] = []
        for part in torch.split(self._draw(count), self.recipe.batch):
            lesson = self._lesson(self._views(part))
            maps = [*lesson.stages, lesson.last]
            sums.append([torch.stack([m.float().mean((0, 2, 3)), m.float().square().mean((0, 2, 3))]) for m in maps])
        for parts in zip(*sums, strict=True):
            mean, square = torch.stack(parts).mean(dim=0)
            self.norms.append((mean, (square - mean.square()).clamp(min=1e-6).sqrt()))

    def _teach_target(self) -> None:
        """Most of the way from whitening the teacher's vectors to all that labels teach a linear map of them."""
        pixels, labels, groups, held = (getattr(self.pictures, name) for name in ("pixels", "labels", "groups", "held"))
        size = self.teacher.size
        mild = replace(self.recipe.views, scale=(0.5, 1.0), blur=0.1, jpeg=0.1, patch=0.0)
        plain = in_parts(pixels, 256, lambda part: self._lesson(resized(part, size) / 255).pooled)
        more = [
            in_parts(pixels[self.learned], 256, lambda part: self._lesson(mild(part, self.generator)).pooled)
            for _ in range(self.recipe.target_views)
        ]
        rows = torch.cat([plain[self.learned], *more])
        of = labels[self.learned].repeat(1 + len(more))
        start = Target.whitened(plain[self.learned], self.students[0].network.shape.dim)
        taught = start.taught(rows[of >= 0], of[of >= 0], generator=self.generator)
        self.target = start.toward(taught, self.recipe.target_share)
        ways = {"frozen": plain, "whitened": start(plain), "taught": taught(plain), "target": self.target(plain)}
        found = {name: round(map_at_r(v[held], labels[held], groups[held]), 4) for name, v in ways.items()}
        self.log.append({"teacher": found})
        self.say(f"the teacher on held classes: {json.dumps(found)}")

    def step(self) -> None:
        """One batch, for each student."""
        assert self.target is not None  # noqa: S101 - prepare or restore came before
        index = self._draw(self.recipe.batch)
        one, two = self._views(index), self._views(index)
        mixed = self.recipe.mixing(two, self.generator)
        clean = mixed is two
        views = torch.cat([one, mixed])
        lesson = self._lesson(views)
        goal = self.target(lesson.pooled)
        truths = [
            (made.float() - mean[:, None, None]) / deviation[:, None, None]
            for made, (mean, deviation) in zip([*lesson.stages, lesson.last], self.norms, strict=True)
        ]
        labels = self.pictures.labels[index]
        rate = self._rate()
        small: dict[int, Tensor] = {}
        for student, average, optimizer in zip(self.students, self.averages, self.optimizers, strict=True):
            size = student.network.shape.size
            if size not in small:
                small[size] = resized(views, size).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                made = student(small[size])
            loss = self._loss(student, made, truths, goal, labels, clean=clean)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimizer.step()
            _follow(average, student.network, min(self.recipe.average, (1 + self.steps) / (10 + self.steps)))
        self.steps += 1
        if self.steps % 50 == 1:
            self.say(f"step {self.steps}, {self.spent:.0f} s, rate {rate:.1e}, loss {float(loss.detach()):.4f}")

    def _done(self) -> float:
        return min(1.0, self.spent / self.recipe.seconds)

    def _rate(self) -> float:
        done = self._done()
        if done < self.recipe.warmup:
            return self.recipe.rate * max(done, 0.01 * self.recipe.warmup) / self.recipe.warmup
        fallen = (done - self.recipe.warmup) / (1 - self.recipe.warmup)
        return self.recipe.rate * max(0.5 * (1 + math.cos(math.pi * fallen)), 1e-3)

    def _loss(
        self,
        student: _Student,
        made: tuple[Maps, list[Tensor], Tensor, Tensor],
        truths: list[Tensor],
        goal: Tensor,
        labels: Tensor,
        *,
        clean: bool,
    ) -> Tensor:
        recipe = self.recipe
        maps, stages, last, cells = made
        total = recipe.last * apart(last, truths[-1])
        guided = recipe.stages * (1 - 0.8 * self._done())
        total = total + guided / 4 * sum(
            (apart(stage, truth) for stage, truth in zip(stages, truths[:-1], strict=True)), torch.zeros_like(total)
        )
        fine, coarse = truths[2].shape[1], truths[-1].shape[1]
        by_cell = apart(cells[:, :coarse], truths[-1]) + 0.5 * apart(cells[:, coarse : coarse + fine], truths[2])
        own = F.normalize(maps.own.float(), dim=1)
        total = total + recipe.cells * by_cell + recipe.own * (1 - (own * goal).sum(dim=1)).mean()
        total = total + recipe.alike * alike(own, goal, recipe.heat)
        count = len(labels)
        total = total + recipe.classes * told_apart(own[:count], labels, student.classes)
        if clean:
            total = total + recipe.copies * other_view_found(own[:count], own[count:], labels, recipe.copies_heat)
        return total

    @torch.no_grad()
    def look(self) -> None:
        """How well held classes and edited copies of held pictures are found, for the log."""
        held = self.pictures.held.nonzero()[:, 0]
        labels, groups = self.pictures.labels[held], self.pictures.groups[held]
        edits = [EDITS(self.pictures.pixels[held], torch.Generator().manual_seed(seed)) for seed in range(3)]
        entry: dict[str, Any] = {"seconds": round(self.spent, 1), "steps": self.steps}
        for name, average in zip(self.names, self.averages, strict=True):
            size = average.shape.size
            vectors = self._own(average, resized(self.pictures.pixels[held], size) / 255)
            copies = [self._own(average, resized(edit, size)) for edit in edits]
            alone = torch.arange(len(held), device=held.device)
            again = map_at_r(
                torch.cat([vectors, *copies]), alone.repeat(1 + len(copies)), torch.zeros_like(alone).repeat(4)
            )
            entry[name] = {"map@r": round(map_at_r(vectors, labels, groups), 4), "copies": round(again, 4)}
            entry[name] |= {
                f"map@r of {int(g)}": round(map_at_r(vectors[groups == g], labels[groups == g], groups[groups == g]), 4)
                for g in torch.unique(groups)
            }
        self.log.append(entry)
        self.say(json.dumps(entry))

    def _own(self, network: MiniNet, pictures: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return in_parts(pictures, 256, lambda part: network(part).own).float()

    def write(self, out: Path) -> None:
        """The averaged weights as float16, and the log."""
        for name, average in zip(self.names, self.averages, strict=True):
            weights = {key: t.half() if t.is_floating_point() else t for key, t in average.state_dict().items()}
            values = {"shape": average.shape.to_json(), "weights": {key: t.cpu() for key, t in weights.items()}}
            _replace(out / f"{name}.pt", values)
        recipe = asdict(self.recipe)
        (out / "log.json").write_text(json.dumps({"recipe": recipe, "log": self.log}, indent=1))

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        assert self.target is not None  # noqa: S101
        return {
            "students": [student.state_dict() for student in self.students],
            "averages": [average.state_dict() for average in self.averages],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "progress": (self.spent, self.steps, self.log),
            "target": self.target.state(),
            "norms": self.norms,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for kind in ("students", "averages", "optimizers"):
            for part, values in zip(getattr(self, kind), state[kind], strict=True):
                part.load_state_dict(values)
        self.generator.set_state(state["generator"].cpu())
        self.spent, self.steps, self.log = state["progress"]
        self.target = Target(**{name: tensor.to(self.device) for name, tensor in state["target"].items()})
        self.norms = [(mean.to(self.device), std.to(self.device)) for mean, std in state["norms"]]


def _placed(module: M, device: torch.device) -> M:
    moved: Any = module.to(device)
    placed: M = moved.to(memory_format=torch.channels_last)
    return placed


def _optimizer(student: _Student, recipe: Recipe, *, fused: bool) -> torch.optim.Optimizer:
    """Without decay for what has one dimension: biases and normalizations."""
    parameters = list(student.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.99), fused=fused)


@torch.no_grad()
def _follow(average: MiniNet, network: MiniNet, keep: float) -> None:
    ours, theirs = average.state_dict(), network.state_dict()
    floats = [name for name, tensor in ours.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1 - keep)


def _replace(file: Path, values: Any) -> None:
    """Write at once or not at all."""
    unfinished = file.with_suffix(".unfinished")
    torch.save(values, unfinished)
    unfinished.replace(file)
