"""Distillation with a teacher of four convolutions: it learns, goes on, and keeps held classes to itself."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pixdex.errors import ConfigError
from pixdex.training import distil as distilling
from pixdex.training import mini
from pixdex.training.augment import resized
from pixdex.training.distil import distil
from pixdex.training.matching import alike, apart, means_apart
from pixdex.training.muon import Muon, even
from pixdex.training.networks import MiniNet, MiniShape, folded
from pixdex.training.recipes import Pictures, Recipe
from pixdex.training.teachers import Target, Teacher, map_at_r

SHAPE = MiniShape(
    size=64,
    stem=8,
    widths=(8, 12, 16, 20, 24),
    depths=(1, 1, 1, 1, 1),
    inner=(16, 16, 16, 16, 24),
    waist=24,
    last=32,
    cells=8,
    dim=16,
)
RECIPE = Recipe(
    seconds=3,
    batch=16,
    kept=64,
    fresh=8,
    every=100,
    views=replace(Recipe().views, size=64),
    close=replace(Recipe().close, size=32),
    bfloat16=False,
    rate=5e-3,
    average=0.9,
)


class Trunk(nn.Module):
    """What a MobileNetV2 of transformers gives: maps at a quarter to a thirty-second of the size."""

    def __init__(self):
        super().__init__()
        sizes = ((3, 8, 4), (8, 12, 2), (12, 16, 2), (16, 20, 1), (20, 24, 2))
        self.stages = nn.ModuleList(nn.Conv2d(i, o, 3, s, 1) for i, o, s in sizes)
        self.last = nn.Conv2d(24, 32, 1)
        self.seen = []

    def forward(self, *, pixel_values, output_hidden_states):
        assert output_hidden_states
        self.seen.append(pixel_values)
        states = [pixel_values]
        for stage in self.stages:
            states.append(torch.tanh(2 * stage(states[-1])))
        return SimpleNamespace(hidden_states=tuple(states[1:]), last_hidden_state=self.last(states[-1]).clamp(0, 6))


@pytest.fixture
def teacher():
    torch.manual_seed(3)
    return Teacher(Trunk(), SHAPE.widths)


@pytest.fixture
def pictures():
    """Six classes of ten pictures, each class of two colours; the last two classes are held."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(10)
    colours = torch.rand(6, 2, 3, 1, 1, generator=generator)[labels]
    halves = torch.cat([colours[:, 0].expand(-1, -1, 48, 24), colours[:, 1].expand(-1, -1, 48, 24)], dim=3)
    noise = 0.1 * torch.rand(60, 3, 48, 48, generator=generator)
    return Pictures((halves * 200 + noise * 255).byte(), labels, torch.zeros(60, dtype=torch.long), labels >= 4)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a step moves by an eighth of a second, so that a run has the same number of steps on any machine."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(distilling.time, "monotonic", lambda: now.seconds)
    step = distilling._Run.step

    def counted(self):
        step(self)
        now.seconds += 0.125

    monkeypatch.setattr(distilling._Run, "step", counted)
    return now


def run(pictures, teacher, folder, recipe=RECIPE, said=None):
    said = [] if said is None else said
    distil(pictures, teacher, SHAPE, recipe, out=folder, state=folder / "state.pt", say=said.append)
    log = json.loads((folder / "log.json").read_text())["log"]
    return torch.load(folder / "mini.pt", weights_only=True), log, said


def test_the_student_comes_to_see_pictures_as_the_teacher_does(pictures, teacher, tmp_path, clock):
    # Long enough for any number of threads, which order sums differently.
    values, log, said = run(pictures, teacher, tmp_path, replace(RECIPE, seconds=9))
    assert said[0].startswith("the teacher on held classes")
    assert MiniShape.from_json(values["shape"]) == SHAPE
    assert values["weights"]["stages.0.1.0.weight"].dtype == torch.float16
    assert log[-1]["steps"] == 72
    assert log[-1]["map@r"] > 0.8
    network = MiniNet(SHAPE).eval()
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in values["weights"].items()})
    before, after = (_agreement(net, pictures, teacher) for net in (MiniNet(SHAPE).eval(), network))
    assert after > max(before + 0.1, 0.85)


def _agreement(network, pictures, teacher):
    """Correlation of the likenesses of pictures to the student and to the teacher."""
    known = pictures.pixels[~pictures.held] / 255
    with torch.no_grad():
        vectors = [network(resized(known, 64)).own, teacher(resized(known, 64)).pooled]
    likenesses = [torch.corrcoef(v - v.mean(dim=0)).flatten() for v in vectors]
    return float(torch.corrcoef(torch.stack(likenesses))[0, 1])


def test_it_goes_on_where_it_stopped(pictures, teacher, tmp_path, clock):
    run(pictures, teacher, tmp_path, replace(RECIPE, seconds=1))
    values, log, said = run(pictures, teacher, tmp_path, replace(RECIPE, seconds=2))
    assert [entry["steps"] for entry in log if "steps" in entry] == [8, 16]
    assert said[0] == "goes on after 1 s"
    again, _, _ = run(pictures, teacher, tmp_path, replace(RECIPE, seconds=2))  # nothing is left to do
    assert torch.equal(again["weights"]["own.weight"], values["weights"]["own.weight"])


def test_a_stopped_run_loses_nothing(pictures, teacher, tmp_path, clock, monkeypatch):
    step = distilling._Run.step

    def stopped(self):
        step(self)
        if self.steps == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(distilling._Run, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, teacher, tmp_path, replace(RECIPE, seconds=1))
    _, log, _ = run(pictures, teacher, tmp_path, replace(RECIPE, seconds=1))
    assert [entry["steps"] for entry in log if "steps" in entry] == [9]  # the fifth was not counted as time


def test_what_a_killed_run_has_written_is_whole(pictures, teacher, tmp_path, clock, monkeypatch):
    run(pictures, teacher, tmp_path, replace(RECIPE, seconds=1))
    before = (tmp_path / "state.pt").read_bytes()
    monkeypatch.setattr(distilling.torch, "save", lambda values, file: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        run(pictures, teacher, tmp_path, replace(RECIPE, seconds=2))
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_run_goes_on_with_what_it_was_begun_with_only(pictures, teacher, tmp_path, clock):
    run(pictures, teacher, tmp_path, replace(RECIPE, seconds=1))
    before = (tmp_path / "state.pt").read_bytes()
    longer = replace(RECIPE, seconds=2, every=50)
    turned = replace(pictures, pixels=pictures.pixels.flip(3))
    renamed = replace(pictures, labels=pictures.labels.flip(0))
    other = Teacher(Trunk(), SHAPE.widths)
    for given in (
        (turned, teacher, longer),
        (renamed, teacher, longer),
        (pictures, other, longer),
        (pictures, teacher, replace(longer, batch=12)),
        (pictures, teacher, replace(longer, views=replace(longer.views, hue=0.2))),
    ):
        with pytest.raises(ConfigError, match=r"state\.pt was begun with other pictures, another teacher, .*remove it"):
            run(*given[:2], tmp_path, given[2])
    assert (tmp_path / "state.pt").read_bytes() == before
    run(pictures, teacher, tmp_path, longer)
    (tmp_path / "state.pt").write_bytes(before[:100])
    with pytest.raises(ConfigError, match=r"state\.pt is damaged: remove it to begin anew"):
        run(pictures, teacher, tmp_path, longer)


def test_no_stage_but_the_last_pulls_at_those_before_it(pictures, teacher):
    run = distilling._Run(pictures, teacher, SHAPE, RECIPE, print)
    run.prepare()
    run.spent = RECIPE.seconds  # so that stages are fed by those before them alone
    views = run._views(4)
    lesson = run._lesson(views)
    maps, _ = run._staged(0, [views, *run._truths([*lesson.stages, lesson.last])], views)
    stages = run.student.network.stages
    assert len(maps) == len(stages)
    reached = []
    for made in maps:
        weights = [next(stage.parameters()) for stage in stages]
        pulls = torch.autograd.grad(made.sum(), weights, retain_graph=True, allow_unused=True)
        reached.append([place for place, pull in enumerate(pulls) if pull is not None])
    assert reached == [[0], [1], [2], [3], [4], [4, 5]]


def test_nothing_is_learned_from_held_classes(pictures, teacher, tmp_path, clock):
    """Held pictures of pure noise: whatever they show, the weights are the same."""
    first, log, _ = run(pictures, teacher, tmp_path / "a", replace(RECIPE, seconds=1))
    others = torch.where(pictures.held[:, None, None, None], 255 - pictures.pixels, pictures.pixels)
    changed = Pictures(others, pictures.labels, pictures.groups, pictures.held)
    second, other_log, _ = run(changed, teacher, tmp_path / "b", replace(RECIPE, seconds=1))
    assert all(torch.equal(tensor, second["weights"][name]) for name, tensor in first["weights"].items())
    assert log != other_log


def test_folded_networks_give_the_same(pictures):
    network = MiniNet(SHAPE)
    network.train()
    for _ in range(3):
        network(torch.rand(8, 3, 64, 64))  # so that the normalizations have something to fold
    network.eval()
    views = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        plain, made = network(views), folded(network)(views)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded(network).modules())
    assert torch.allclose(plain.own, made.own, atol=1e-4)
    assert torch.allclose(plain.cells, made.cells, atol=1e-4)
    assert made.cells.shape == (2, 8, 4, 4)


def test_labels_teach_a_linear_map_to_overlook_what_they_do_not_tell():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(30)
    told = torch.randn(8, 4, generator=generator)[labels]
    rows = torch.cat(
        [told + 0.3 * torch.randn(240, 4, generator=generator), 2 * torch.randn(240, 12, generator=generator)], 1
    )
    start = Target.whitened(rows, 8)
    taught = start.taught(rows, labels, generator=generator, epochs=100, rate=1e-2)
    groups = torch.zeros(240, dtype=torch.long)
    before, after = (map_at_r(target(rows), labels, groups) for target in (start, taught))
    assert after > before + 0.1
    assert torch.equal(start.toward(taught, 0.0).weight, start.weight)
    assert torch.allclose(start(rows).norm(dim=1), torch.ones(240))


def test_map_at_r_of_a_case_by_hand():
    # From the first: right, wrong | R = 2 -> 1/2 * 1; the other two of its class find both first.
    angles = torch.tensor([0.0, 0.1, 0.25, 0.15, 3.0])
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([0, 0, 0, 1, 2])
    # 0: .1 right, .15 wrong -> .5; .1: .15 wrong, 0 right -> .25; .25: .15 wrong, .1 right -> .25
    assert map_at_r(vectors, labels, torch.zeros(5)) == pytest.approx((0.5 + 0.25 + 0.25) / 3)


def test_the_losses_are_least_for_what_is_right():
    torch.manual_seed(0)
    goal = nn.functional.normalize(torch.randn(8, 4), dim=1)
    other = nn.functional.normalize(torch.randn(8, 4), dim=1)
    assert alike(goal, goal, 0.1) == pytest.approx(0, abs=1e-6)
    assert alike(other, goal, 0.1) > 0.1
    maps = torch.rand(2, 3, 4, 4)
    assert apart(maps, maps) == means_apart(maps, maps) == 0
    assert apart(maps + 1, maps) == pytest.approx(0.5)
    turned = maps.flip(2)  # other places, the same means
    assert apart(turned, maps) > 0
    assert means_apart(turned, maps) == pytest.approx(0, abs=1e-6)


def test_muon_moves_a_layer_evenly_in_all_directions():
    torch.manual_seed(0)
    favoured = torch.diag(torch.tensor([100.0, 1.0, 0.5, 0.3]))
    assert torch.linalg.svdvals(even(favoured)).min() > 0.5
    assert torch.linalg.svdvals(even(torch.randn(20, 6))).max() < 1.4
    weight = nn.Parameter(torch.zeros(4, 1, 2, 2))
    weight.grad = favoured.view(4, 1, 2, 2)
    Muon([weight], lr=0.1).step()
    assert torch.linalg.svdvals(weight.detach().flatten(1)).max() < 0.13
    assert (weight.detach().flatten(1).diagonal() < -0.05).all()


def test_what_mini_learns_from(tmp_path):
    """Training rows of the three sets only, without what other sets were made of."""
    rows = {
        "caltech101": ["path,label,split", *(f"images/{c}{i}.jpg,{c},{s}" for c, s in zip("abcdefg", ["train"] * 6 + ["test"], strict=True) for i in range(2))],
        "caltech101_more": ["path,label,split", "images/a9.jpg,a,train"],
        "grocery_store": ["path,label,split,zero_shot_split", *(f"images/{c}.jpg,{c},train,{s}" for c, s in zip("uvwxyz", ["train"] * 5 + ["test"], strict=True))],
        "copies": ["path,source", "images/q.jpg,caltech101/images/a1.jpg"],
        "smoke": ["path,source", "images/s.jpg,grocery_store/images/u.jpg"],
    }  # fmt: skip
    for name, lines in rows.items():
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "labels.csv").write_text("\n".join(lines) + "\n")
        for line in lines[1:]:
            Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / name / line.partition(",")[0])
    found = [(file.relative_to(tmp_path).as_posix(), name) for file, name, _ in mini._rows(tmp_path)]
    assert len(found) == 12 - 1 + 1 + 5 - 1
    assert not any(name.endswith(("/g", "/z")) for _, name in found)
    assert "caltech101/images/a1.jpg" not in dict(found)
    assert dict(found)["caltech101_more/images/a9.jpg"] == "caltech101/a"  # the same class
    pictures = mini.gathered(tmp_path)
    assert pictures.pixels.shape == (16, 3, 224, 224)
    held = {int(label) for label in pictures.labels[pictures.held]}
    assert held == set(range(2, 10))  # four of each, with the last numbers
    assert not held & {int(label) for label in pictures.labels[~pictures.held]}


def test_what_is_missing_is_named_with_what_to_give(tmp_path, monkeypatch, capsys):
    teacher, pictures = tmp_path / "teacher", tmp_path / "pictures"
    teacher.mkdir()
    line = ["mini", "--pictures", str(pictures), "--teacher", str(teacher), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", line)
    assert mini.main() == 1
    assert "make TEACHER=" in capsys.readouterr().err
    (teacher / "config.json").touch()
    assert mini.main() == 1
    assert f"{pictures / 'copies'} holds no labels.csv: --pictures (make PICTURES=FOLDER)" in capsys.readouterr().err
