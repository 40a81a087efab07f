"""Adaptation without labels, on a tiny network: the pretexts, what comes out, the commands."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
import tuning_toys
from torch import Tensor, nn
from typer.testing import CliRunner

from pixdex import encoders
from pixdex.encoders.images import thumbnail_jpeg
from pixdex.errors import ConfigError
from pixdex.training._batches import generator_of
from pixdex.training._loop import Pace
from pixdex.training._network import Embedder
from pixdex.training.augment import Augmentation
from pixdex.training.data import Labelled
from pixdex.training.pretexts import MoCo, RelativePosition, Rotation, SimCLR
from pixdex.training.ssl import PRETEXTS, Adaptation, adapt

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
import tiny_duals

PLAIN = Augmentation(size=32, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0, rotate=0, colour=0, grey=0, blur=0)
PACE = Pace(steps=12, rounds=2, device="cpu")
QUICK = Adaptation(batch=16, augmentation=replace(PLAIN, scale=(0.7, 1.0), flip=0.5))


class Watching(nn.Module):
    """Stands for a network: keeps what it is shown, and gives vectors of three values, the mean colours."""

    pooled_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.weight = nn.Parameter(torch.ones(3))

    def pooled(self, pictures: Tensor) -> Tensor:
        self.seen.append(pictures)
        return nn.functional.normalize(pictures.mean(dim=(2, 3)) * self.weight + 1e-3, dim=1)


@pytest.mark.parametrize("name", PRETEXTS)
def test_every_pretext_makes_an_encoder(model: str, data: Labelled, tmp_path: Path, name: str) -> None:
    adaptation = replace(QUICK, pretext=name, keep=0.1 if name == "rotation" else 0.0)
    tuned = adapt(data.items, tmp_path / "out", encoder=model, adaptation=adaptation, pace=PACE)
    loaded = encoders.load(str(tmp_path / "out"))
    assert loaded.fingerprint == tuned.encoder.fingerprint
    assert loaded.fingerprint.digest != encoders.load(model).fingerprint.digest
    assert tuned.report["chosen"] == "trained"  # nothing could tell
    assert all(np.isfinite(row["loss"]) for row in tuned.report["history"])


def test_labelled_pictures_judge_with_the_frozen_encoder_among_the_candidates(
    model: str, data: Labelled, tmp_path: Path
) -> None:
    tuned = adapt(data.items, tmp_path / "out", encoder=model, adaptation=QUICK, pace=PACE, validation=data)
    rows = {row["name"]: row["map@r"]["mean"] for row in tuned.report["candidates"]}
    assert "frozen" in rows
    assert rows[tuned.report["chosen"]] == max(rows.values())


@pytest.mark.parametrize("name", ["moco", "rotation"])
def test_it_goes_on_where_it_was_cut_off(model: str, data: Labelled, tmp_path: Path, name: str) -> None:
    """With the queue and the slow network as they were."""
    adaptation = replace(QUICK, pretext=name)
    pace = replace(PACE, steps=16, keep_seconds=0)

    def fail(facts: dict[str, float]) -> None:
        if facts["step"] > 10:
            raise RuntimeError("the power is off")

    with pytest.raises(RuntimeError, match="power"):
        adapt(data.items, tmp_path / "cut", encoder=model, adaptation=adaptation, pace=pace, follow=fail)
    resumed = adapt(data.items, tmp_path / "cut", encoder=model, adaptation=adaptation, pace=pace)
    straight = adapt(data.items, tmp_path / "whole", encoder=model, adaptation=adaptation, pace=pace)
    assert resumed.encoder.fingerprint.digest == straight.encoder.fingerprint.digest


def test_a_pretext_of_ones_own(model: str, data: Labelled, tmp_path: Path) -> None:
    """The least that one is: here, are vectors of a picture those of its mirror image?"""

    class Mirrored(nn.Module):
        lasting = False

        def loss(self, network: Embedder, pictures: Tensor, augment: Augmentation, draw: torch.Generator) -> Tensor:
            views = augment(pictures, draw)
            return (network.pooled(views) - network.pooled(views.flip(3))).square().mean()

        def stepped(self, network: Embedder) -> None:
            pass

    tuned = adapt(data.items, tmp_path / "out", encoder=model, adaptation=QUICK, pace=PACE, pretext=Mirrored())
    first, last = tuned.report["history"][0], tuned.report["history"][-1]
    assert last["loss"] <= first["loss"]


# --- the pretexts -----------------------------------------------------------------------------------


def test_moco_prefers_the_same_picture_and_moves_slowly() -> None:
    torch.manual_seed(0)
    network = Watching()
    moco = MoCo(network, length=8, momentum=0.9, width=4)  # type: ignore[arg-type]
    before = moco.queue.clone()
    pictures = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    value = moco.loss(network, pictures, PLAIN, generator_of(0, 0))  # type: ignore[arg-type]
    value.backward()
    assert network.weight.grad is not None
    assert int(moco.place) == 6
    assert torch.equal(moco.queue[6:], before[6:])
    keys = nn.functional.normalize(moco.slow_projector(moco.slow.pooled(pictures.float() / 255)), dim=1)
    torch.testing.assert_close(moco.queue[:6], keys, atol=1e-4, rtol=0)
    moco.loss(network, pictures, PLAIN, generator_of(0, 1))  # type: ignore[arg-type]
    assert int(moco.place) == 4  # it goes round
    with torch.no_grad():
        network.weight.add_(1.0)
    moco.stepped(network)  # type: ignore[arg-type]
    torch.testing.assert_close(moco.slow.weight.detach(), torch.full((3,), 1.1))
    assert all(not p.requires_grad for p in moco.slow.parameters())


def test_simclr_is_the_softmax_over_all_other_views() -> None:
    torch.manual_seed(0)
    network = Watching()
    pretext = SimCLR(3, temperature=0.5)
    pictures = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    value = pretext.loss(network, pictures, replace(PLAIN, scale=(0.3, 0.6)), generator_of(0, 0))  # type: ignore[arg-type]
    views = nn.functional.normalize(pretext.projector(network.pooled(network.seen[0])), dim=1)
    likeness = (views @ views.T / 0.5).fill_diagonal_(-torch.inf)
    partner = (torch.arange(10) + 5) % 10
    torch.testing.assert_close(value, nn.functional.cross_entropy(likeness, partner))


def test_rotation_turns_by_what_it_asks_for() -> None:
    network, pretext = Watching(), Rotation(3)
    pictures = torch.zeros(40, 3, 32, 32, dtype=torch.uint8)
    pictures[:, :, :8] = 255  # white above
    asked: list[Tensor] = []
    cross_entropy = nn.functional.cross_entropy

    def note(scores: Tensor, target: Tensor) -> Tensor:
        asked.append(target)
        return cross_entropy(scores, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pixdex.training.pretexts.F.cross_entropy", note)
        pretext.loss(network, pictures, PLAIN, generator_of(0, 0))  # type: ignore[arg-type]
    seen = network.seen[0].mean(dim=1)
    edges = torch.stack([seen[:, 1].mean(1), seen[:, :, 1].mean(1), seen[:, -2].mean(1), seen[:, :, -2].mean(1)], dim=1)
    assert torch.equal(edges.argmax(dim=1), asked[0])  # a quarter turns what is above to the left
    assert set(asked[0].tolist()) == {0, 1, 2, 3}


def test_relative_position_shows_the_pieces_that_it_asks_about() -> None:
    network, pretext = Watching(), RelativePosition(3)
    ramp = torch.linspace(0, 255, 96)
    picture = torch.stack([ramp[:, None].expand(96, 96), ramp[None].expand(96, 96), torch.zeros(96, 96)])
    pictures = picture.to(torch.uint8).expand(50, 3, 96, 96)
    asked: list[Tensor] = []
    cross_entropy = nn.functional.cross_entropy

    def note(scores: Tensor, target: Tensor) -> Tensor:
        asked.append(target)
        return cross_entropy(scores, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pixdex.training.pretexts.F.cross_entropy", note)
        pretext.loss(network, pictures, replace(PLAIN, size=96), generator_of(0, 0))  # type: ignore[arg-type]
    middle, other = network.seen[0].mean(dim=(2, 3)).chunk(2)  # red is how far down, green how far right
    cells = (other[:, :2] * 3).floor().long()
    assert ((middle[:, :2] * 3).floor() == 1).all()
    numbers = {(0, 0): 0, (0, 1): 1, (0, 2): 2, (1, 0): 3, (1, 2): 4, (2, 0): 5, (2, 1): 6, (2, 2): 7}
    assert [numbers[(int(row), int(column))] for row, column in cells] == asked[0].tolist()


# --- dual encoders and commands ---------------------------------------------------------------------


def test_of_a_dual_encoder_the_side_of_the_pictures_comes_out(data: Labelled, tmp_path: Path) -> None:
    source = tiny_duals.save("clip", tmp_path / "clip")
    dual = encoders.load(f"hf:{source}")
    assert hasattr(dual, "encode_text")
    adapt(data.items, tmp_path / "out", encoder=f"hf:{source}", adaptation=replace(QUICK, rate=1e-2), pace=PACE)
    loaded = encoders.load(str(tmp_path / "out"))
    assert not hasattr(loaded, "encode_text")
    pictures = tuning_toys.fitted(data)[:4]
    likeness = (loaded.encode(pictures).vectors * dual.encode(pictures).vectors).sum(axis=1)
    assert (likeness < 1 - 1e-5).all()
    assert (likeness > 0.5).all()


def test_the_commands(model: str, data: Labelled, tmp_path: Path) -> None:
    from pixdex.cli import app

    root = tmp_path / "pictures"
    for item, label in zip(data.items, data.labels, strict=True):
        file = root / data.names[label] / f"{item.id.replace('/', '-')}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(thumbnail_jpeg(item.picture))
    run = CliRunner()
    common = ["--encoder", model, "--steps", "4", "--device", "cpu"]
    tuned = run.invoke(
        app,
        ["train", "finetune", str(root), "-o", str(tmp_path / "a"), *common, "--what", "lora:2", "--validation", "0.4"],
    )
    assert tuned.exit_code == 0, tuned.output
    assert "frozen" in tuned.stdout
    assert "<- chosen" in tuned.stdout
    adapted = run.invoke(
        app,
        [
            "train",
            "ssl",
            str(root),
            "-o",
            str(tmp_path / "b"),
            *common,
            "--batch",
            "8",
            "--validate",
            str(root),
            "--json",
        ],
    )
    assert adapted.exit_code == 0, adapted.output
    assert orjson.loads(adapted.stdout)["pixdex"] == "ssl"
    assert {encoders.load(str(tmp_path / name)).name for name in "ab"} == {"a", "b"}


def test_ctrl_c_in_a_command_says_what_stays(
    model: str, data: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pixdex.cli import app
    from pixdex.training import ssl

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ssl, "adapt", stopped)
    done = CliRunner().invoke(app, ["train", "ssl", str(tmp_path), "-e", model, "-o", str(tmp_path / "out")])
    assert done.exit_code == 130
    assert f"stays in {tmp_path / 'out'}.partial, run the same again" in done.stderr


def test_what_it_cannot_do_is_said(model: str, tmp_path: Path, data: Labelled) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no pictures in"):
        adapt(tmp_path / "empty", tmp_path / "out", encoder=model)
    with pytest.raises(ConfigError, match="did you mean 'moco'"):
        adapt(data.items, tmp_path / "out", encoder=model, adaptation=replace(QUICK, pretext="mocco"), pace=PACE)


@pytest.mark.parametrize("wrong", [{"pretext": "mocco"}, {"what": "blocks"}])
def test_wrong_names_show_before_anything_is_decoded(
    model: str, data: Labelled, tmp_path: Path, wrong: dict[str, str]
) -> None:
    decoded: list[tuple[str, int, int]] = []
    with pytest.raises(ConfigError, match=next(iter(wrong.values()))):
        adapt(
            data.items,
            tmp_path / "out",
            encoder=model,
            adaptation=replace(QUICK, **wrong),  # type: ignore[arg-type]
            pace=PACE,
            count=lambda *given: decoded.append(given),
        )
    assert decoded == []


def test_numbers_without_a_meaning() -> None:
    for wrong in ({"rate": 0.0}, {"keep": -1.0}, {"batch": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            replace(QUICK, **wrong)  # type: ignore[arg-type]
