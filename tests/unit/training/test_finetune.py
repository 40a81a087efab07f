"""Fine-tuning, on a tiny network: what comes out, what is kept, what a kill and Ctrl-C leave."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
import tuning_toys
from torch import nn

from pixdex import encoders
from pixdex.encoders.compose import ComposedEncoder
from pixdex.encoders.heads import LinearHead
from pixdex.errors import AlreadyExists, ConfigError
from pixdex.pictures import Item
from pixdex.training import lora
from pixdex.training._batches import generator_of
from pixdex.training._device import described
from pixdex.training._loop import Pace
from pixdex.training._network import Embedder, choose, depths, groups, mixed
from pixdex.training._pictures import hold
from pixdex.training.augment import Augmentation
from pixdex.training.data import Labelled, split_classes
from pixdex.training.finetune import Recipe, finetune, koleo

PLAIN = Augmentation(size=32, scale=(0.8, 1.0), rotate=0, colour=0, grey=0, blur=0)
RECIPE = Recipe(rate=1e-3, classes_per_batch=4, per_class=3, validation=0.4, augmentation=PLAIN, mixes=(0.5, 1.0))
PACE = Pace(steps=24, rounds=2, device="cpu")


@pytest.fixture
def encoder(model: str) -> ComposedEncoder:
    found = encoders.load(model)
    assert isinstance(found, ComposedEncoder)
    return found


@pytest.mark.parametrize("what", ["all", "blocks:1", "lora:4"])
def test_the_result_is_an_encoder_that_loads_and_is_no_worse_than_the_frozen_one(
    model: str, encoder: ComposedEncoder, data: Labelled, tmp_path: Path, what: str
) -> None:
    recipe = replace(RECIPE, what=what, keep=0.1, towards_start=0.1, checkpointing=what == "blocks:1")
    tuned = finetune(data, tmp_path / "shoes", encoder=model, recipe=recipe, pace=PACE)
    loaded = encoders.load(str(tmp_path / "shoes"))
    assert loaded.name == "shoes"
    assert loaded.fingerprint == tuned.encoder.fingerprint
    pictures = tuning_toys.fitted(data)
    np.testing.assert_allclose(loaded.encode(pictures).vectors, tuned.encoder.encode(pictures).vectors, atol=1e-6)
    report = orjson.loads((tmp_path / "shoes" / "report.json").read_bytes())
    assert report == orjson.loads(orjson.dumps(dict(tuned.report)))
    by_name = {row["name"]: row for row in report["candidates"]}
    assert set(by_name) == {"frozen", "trained x 0.5", "trained x 1"}
    chosen = by_name[report["chosen"]]
    assert chosen["map@r"]["mean"] == max(row["map@r"]["mean"] for row in by_name.values())
    assert (loaded.fingerprint == replace(encoder.fingerprint, encoder="shoes")) == (report["chosen"] == "frozen")
    assert not (tmp_path / "shoes.partial").exists()
    page = (tmp_path / "shoes" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") > 8
    assert f"{report['steps']} steps" in page


def test_training_helps_on_classes_that_were_kept_back(model: str, data: Labelled, tmp_path: Path) -> None:
    report = finetune(data, tmp_path / "out", encoder=model, recipe=RECIPE, pace=replace(PACE, steps=60)).report
    best = max(report["candidates"], key=lambda row: row["map@r"]["mean"])
    assert report["chosen"] != "frozen"
    assert best["over frozen"]["mean"] > 0.02


def test_what_is_no_better_is_not_taken(model: str, encoder: ComposedEncoder, tmp_path: Path) -> None:
    """Pictures of a class that are all the same: nothing can be better than the frozen network."""
    data = tuning_toys.coloured(noise=0.0)
    tuned = finetune(data, tmp_path / "out", encoder=model, recipe=RECIPE, pace=replace(PACE, steps=6))
    assert tuned.report["chosen"] == "frozen"
    assert tuned.encoder.fingerprint.digest == encoder.fingerprint.digest


def test_only_the_last_blocks_change(model: str, data: Labelled, tmp_path: Path) -> None:
    recipe = replace(RECIPE, what="blocks:1", validation=0.0)
    tuned = finetune(data, tmp_path / "out", encoder=model, recipe=recipe, pace=replace(PACE, steps=3))
    before = encoders.load(model).trunk.tower.state_dict()
    after = tuned.encoder.trunk.tower.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("model.layers.1.", "model.encoder.layer.1.", "model.layernorm.")) for name in changed)


def test_it_is_trained_again_on_all_classes(model: str, data: Labelled, tmp_path: Path) -> None:
    recipe = replace(RECIPE, retrain=True)
    once = finetune(data, tmp_path / "once", encoder=model, recipe=RECIPE, pace=PACE)
    tuned = finetune(data, tmp_path / "again", encoder=model, recipe=recipe, pace=PACE)
    assert once.report["chosen"] == tuned.report["chosen"] != "frozen"
    assert tuned.report["retrain"]["steps"] == PACE.steps
    assert once.encoder.fingerprint.digest != tuned.encoder.fingerprint.digest


def test_a_linear_head_is_trained_too(
    encoder: ComposedEncoder, data: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixdex.training._device._pays", lambda: False)  # to compare vectors to five digits
    head = LinearHead(np.eye(32, 16, dtype=np.float32), np.zeros(16, dtype=np.float32), (8,))
    headed = ComposedEncoder(encoder.trunk, replace(encoder.composition, head=head), name="headed", reference="headed")
    assert np.allclose(
        Embedder(headed).embed(torch.from_numpy(np.stack(tuning_toys.fitted(data))).permute(0, 3, 1, 2)),
        headed.encode(tuning_toys.fitted(data)).vectors,
        atol=1e-5,
    )
    recipe = replace(RECIPE, validation=0.0)
    finetune(data, tmp_path / "out", encoder=headed, recipe=recipe, pace=replace(PACE, steps=4))
    loaded = encoders.load(str(tmp_path / "out"))
    assert loaded.dim == 16
    assert loaded.composition.head.prefixes == (8,)
    assert not np.allclose(loaded.composition.head.weight, head.weight)


@pytest.mark.parametrize("name", ["lora", "checkpointing"])
def test_killed_at_any_moment_it_goes_on_to_the_same_result(
    model: str, data: Labelled, tmp_path: Path, name: str
) -> None:
    """Another process, ended by SIGKILL in the middle of the run."""
    script = (
        "import os, signal, sys\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "import test_finetune as t, tuning_toys\n"
        "def follow(facts):\n"
        "    if facts['step'] > 10: os.kill(os.getpid(), signal.SIGKILL)\n"
        "t.finetune(tuning_toys.coloured(), sys.argv[2], encoder=sys.argv[1], recipe=t.KILLED[sys.argv[4]], pace=t.KILLED_PACE, follow=follow)\n"
    )
    out = tmp_path / "out"
    here = str(Path(__file__).parent)
    line = [sys.executable, "-c", script, model, str(out), here, name]
    done = subprocess.run(line, check=False, stderr=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "out.partial" / "checkpoint.pt").is_file()
    assert not out.exists()
    steps = []
    resumed = finetune(
        data,
        out,
        encoder=model,
        recipe=KILLED[name],
        pace=KILLED_PACE,
        follow=lambda facts: steps.append(facts["step"]),
    )
    assert min(steps) > 10
    straight = finetune(data, tmp_path / "straight", encoder=model, recipe=KILLED[name], pace=KILLED_PACE)
    assert resumed.encoder.fingerprint.digest == straight.encoder.fingerprint.digest
    assert resumed.report["history"][-1]["score"] == straight.report["history"][-1]["score"]


KILLED = {
    "lora": replace(RECIPE, what="lora:2", mixes=(1.0,), validation=0.3),
    "checkpointing": replace(RECIPE, checkpointing=True, mixes=(1.0,), validation=0.3),
}
KILLED_PACE = replace(PACE, keep_seconds=0, rounds=3)


def test_ctrl_c_keeps_what_was_learned(model: str, data: Labelled, tmp_path: Path) -> None:
    def stop(facts: Mapping[str, Any]) -> None:
        signal.getsignal(signal.SIGINT)(signal.SIGINT, None)  # as Ctrl-C does, but without a signal that may come late

    with pytest.raises(KeyboardInterrupt):
        finetune(data, tmp_path / "out", encoder=model, recipe=RECIPE, pace=PACE, follow=stop)
    assert (tmp_path / "out.partial" / "checkpoint.pt").is_file()
    with pytest.raises(ConfigError, match="other pictures, encoder or options"):
        finetune(data, tmp_path / "out", encoder=model, recipe=replace(RECIPE, keep=0.5), pace=PACE)
    assert finetune(data, tmp_path / "out", encoder=model, recipe=RECIPE, pace=PACE).report["steps"] == PACE.steps


def test_pictures_that_cannot_be_used_are_named_and_left_out(model: str, data: Labelled, tmp_path: Path) -> None:
    broken = Item("broken", b"\xff\xd8\xff not a picture")
    given = Labelled((broken, *data.items), np.concatenate([[0], data.labels]), data.names)
    report = finetune(
        given, tmp_path / "out", encoder=model, recipe=replace(RECIPE, validation=0.0), pace=replace(PACE, steps=2)
    ).report
    assert [label for label, _ in report["unusable"]] == ["broken"]
    assert report["steps"] == 2


def test_pictures_that_should_validate_and_cannot_be_used_are_named_too(
    model: str, data: Labelled, tmp_path: Path
) -> None:
    _, validates = split_classes(data.labels, RECIPE.validation, PACE.seed)
    items = list(data.items)
    items[validates[0]] = Item("broken", b"\xff\xd8\xff not a picture")
    given = Labelled(tuple(items), data.labels, data.names)
    for retrain in (False, True):
        recipe = replace(RECIPE, retrain=retrain)
        report = finetune(
            given, tmp_path / str(retrain), encoder=model, recipe=recipe, pace=replace(PACE, steps=2)
        ).report
        assert [label for label, _ in report["unusable"]] == ["broken"]


@pytest.mark.parametrize("wrong", [{"loss": "supcorn"}, {"what": "blocks"}])
def test_wrong_names_show_before_anything_is_decoded(
    model: str, data: Labelled, tmp_path: Path, wrong: dict[str, str]
) -> None:
    decoded: list[tuple[str, int, int]] = []
    with pytest.raises(ConfigError, match=next(iter(wrong.values()))):
        finetune(
            data,
            tmp_path / "out",
            encoder=model,
            recipe=replace(RECIPE, **wrong),  # type: ignore[arg-type]
            pace=PACE,
            count=lambda *given: decoded.append(given),
        )
    assert decoded == []


def test_what_is_left_out_moves_no_label(encoder: ComposedEncoder, data: Labelled, tmp_path: Path) -> None:
    broken = Item("broken", b"no picture")
    items = [data.items[0], broken, data.items[1], broken, data.items[2]]
    held = hold(items, encoder.trunk.preprocess, work=tmp_path, name="some")
    assert held.rows.tolist() == [0, 2, 4]
    expected = np.stack(tuning_toys.fitted(data.take(np.arange(3))))
    np.testing.assert_array_equal(held.pixels.permute(0, 2, 3, 1).numpy(), expected)
    with pytest.raises(ConfigError, match="none of 2 pictures can be used"):
        hold([broken, broken], encoder.trunk.preprocess, work=tmp_path, name="none")


def test_more_than_fits_into_memory_goes_to_a_file(
    encoder: ComposedEncoder, data: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixdex.training._pictures._MEMORY", 1000)
    held = hold(data.items[:4], encoder.trunk.preprocess, work=tmp_path, name="some")
    assert (tmp_path / "pictures-some.npy").stat().st_size > held.pixels.nbytes
    expected = np.stack(tuning_toys.fitted(data.take(np.arange(4))))
    np.testing.assert_array_equal(held.pixels.permute(0, 2, 3, 1).numpy(), expected)


def test_every_step_draws_its_own_views(
    model: str, data: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def note(seed: int, step: int) -> torch.Generator:
        drawn.append((seed, step))
        return generator_of(seed, step)

    monkeypatch.setattr("pixdex.training.finetune.generator_of", note)
    pace = replace(PACE, steps=3, seed=5)
    finetune(data, tmp_path / "out", encoder=model, recipe=replace(RECIPE, validation=0.0), pace=pace)
    assert drawn == [(5, 0), (5, 1), (5, 2)]


def test_it_refuses_before_it_works(model: str, data: Labelled, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(AlreadyExists):
        finetune(data, tmp_path / "full", encoder=model)
    with pytest.raises(ConfigError, match="no network that could be trained"):
        finetune(data, tmp_path / "out", encoder="classic")
    with pytest.raises(ConfigError, match=r"blocks:N .* lora:RANK"):
        finetune(data, tmp_path / "out", encoder=model, recipe=replace(RECIPE, what="blocks"), pace=PACE)
    with pytest.raises(ConfigError, match="device"):
        finetune(data, tmp_path / "out", encoder=model, pace=replace(PACE, device="cuda:99"))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


# --- parts ------------------------------------------------------------------------------------------


def test_rates_fall_a_block_at_a_time(encoder: ComposedEncoder) -> None:
    network = Embedder(encoder)
    depth, last = depths(network.tower)
    assert last == 3
    assert sorted(set(depth.values())) == [0, 1, 2, 3]
    choose(network, "all")
    made = groups(network, rate=1.0, decay=0.5, weight_decay=0.1, head_rate=9.0)
    assert sum(len(group["params"]) for group in made) == len(list(network.parameters()))
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in made for p in group["params"]}
    named = dict(network.named_parameters())
    patches = next(p for name, p in named.items() if "patch_embeddings" in name and p.ndim == 4)
    token = next(p for name, p in named.items() if name.endswith("cls_token"))
    norm = named["tower.model.layernorm.weight"]
    assert rates[id(patches)] == (0.125, 0.1)
    assert rates[id(token)] == (0.125, 0.0)
    assert rates[id(norm)] == (1.0, 0.0)


def test_lora_starts_as_nothing_and_is_merged_exactly() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))
    x = torch.randn(5, 6)
    before = network(x).detach()
    assert lora.inject(network, 2) == 2
    assert torch.equal(network(x), before)
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trained == ["0.down", "0.up", "2.down", "2.up"]
    with torch.no_grad():
        network[0].up.normal_()
        network[2].up.normal_()
    adapted = network(x).detach()
    assert not torch.allclose(adapted, before)
    lora.merge(network)
    assert [type(layer) for layer in network] == [nn.Linear, nn.GELU, nn.Linear]
    torch.testing.assert_close(network(x).detach(), adapted)
    with pytest.raises(ConfigError, match="no"):
        lora.inject(nn.Conv2d(3, 3, 1), 4)


def test_without_activations_blocks_run_twice_and_gradients_stay(encoder: ComposedEncoder) -> None:
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients, calls = [], []
    for frugal in (False, True):
        network = Embedder(encoder).train()
        if frugal:
            network.save_memory()
        count = 0

        def note(*_: object) -> None:
            nonlocal count
            count += 1

        blocks = next(module for module in network.modules() if isinstance(module, nn.ModuleList))
        next(module for module in blocks[0].modules() if isinstance(module, nn.Linear)).register_forward_pre_hook(note)
        network(pictures)[:, 0].sum().backward()
        calls.append(count)
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert calls == [1, 2]
    assert len(gradients[0]) == len(gradients[1]) > 10
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


@pytest.mark.parametrize("pays", [True, False])
def test_a_processor_that_is_faster_in_bfloat16_computes_in_it(
    encoder: ComposedEncoder, monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    monkeypatch.setattr("pixdex.training._device._pays", lambda: pays)
    network = Embedder(encoder)
    seen: list[torch.dtype] = []
    layer = next(module for module in network.modules() if isinstance(module, nn.Linear))
    layer.register_forward_hook(lambda _module, _given, made: seen.append(made.dtype))
    vectors = network(torch.rand(2, 3, 32, 32))
    assert seen == [torch.bfloat16 if pays else torch.float32]
    assert vectors.dtype == torch.float32
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert described(torch.device("cpu")) == ("cpu, bfloat16" if pays else "cpu, float32")


def test_mixing_and_spreading() -> None:
    start = {"w": torch.tensor([0.0, 4.0]), "n": torch.tensor(3)}
    end = {"w": torch.tensor([4.0, 0.0]), "n": torch.tensor(5)}
    assert mixed(start, end, 0.25)["w"].tolist() == [1.0, 3.0]
    assert int(mixed(start, end, 0.25)["n"]) == 3
    near = nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.9, 0.0]]), dim=1)
    far = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
    assert float(koleo(far)) == pytest.approx(-np.log(3**0.5), abs=1e-4)
    assert koleo(near) > koleo(far)


def test_the_start_pulls(model: str, data: Labelled, tmp_path: Path) -> None:
    def moved(pull: float) -> float:
        recipe = replace(RECIPE, validation=0.0, weight_decay=0.0, towards_start=pull)
        tuned = finetune(data, tmp_path / f"out-{pull}", encoder=model, recipe=recipe, pace=replace(PACE, steps=8))
        before, after = encoders.load(model).trunk.tower.state_dict(), tuned.encoder.trunk.tower.state_dict()
        return float(sum((before[name] - after[name]).square().sum() for name in before))

    assert moved(1000.0) < 0.5 * moved(0.0)


def test_draws_follow_from_seed_and_step() -> None:
    first, again, other = (torch.rand(3, generator=generator_of(*pair)) for pair in ((1, 5), (1, 5), (1, 6)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
