"""What every kind of training shares: labelled pictures, batches, losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixdex.errors import ConfigError
from pixdex.training import losses
from pixdex.training.data import labelled, numbered, split_classes
from pixdex.training.sampling import PxK, Shuffled

LABELS = np.repeat(np.arange(10), [1, 2, 3, 5, 8, 9, 10, 12, 20, 30])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat/a.png", "cat/deep/b.png", "dog/a.png", "dog/notes.txt"):
        file = tmp_path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file) if file.suffix == ".png" else file.write_text("-")
    return tmp_path / "pets"


def test_folders_are_classes(folder: Path) -> None:
    found = labelled(folder)
    assert found.names == ("cat", "dog")
    assert found.labels.tolist() == [0, 0, 1]
    assert [item.id for item in found.items] == ["pets/cat/a.png", "pets/cat/deep/b.png", "pets/dog/a.png"]
    Image.new("RGB", (8, 8)).save(folder / "stray.png")
    with pytest.raises(ConfigError, match=r"stray\.png lies in no folder of its class"):
        labelled(folder)


def test_tables_name_classes(folder: Path) -> None:
    table = folder / "list.csv"
    rows = ["path,label,kind,part", "cat/a.png,7,felis,a", "dog/a.png,8,canis,a", "cat/deep/b.png,7,felis,b"]
    table.write_text("\n".join(rows))
    assert labelled(table).names == ("7", "8")
    assert labelled(table, label="kind").names == ("canis", "felis")
    assert len(labelled(table, where='part == "a"')) == 2
    for options, message in (
        ({"label": "knd"}, "did you mean 'kind'"),
        ({"where": 'part == "c"'}, "no pictures"),
        ({"where": 'part == "b"'}, "one class only"),
    ):
        with pytest.raises(ConfigError, match=message):
            labelled(table, **options)
    table.write_text("\n".join([*rows, "dog/a.png,,,"]))
    with pytest.raises(ConfigError, match="has no label"):
        labelled(table)


def test_classes_of_validation_are_nobody_elses() -> None:
    trains, validates = split_classes(LABELS, 0.3, seed=1)
    assert not set(LABELS[trains]) & set(LABELS[validates])
    assert sorted([*trains, *validates]) == list(range(len(LABELS)))
    assert len(set(LABELS[validates])) == 3
    assert 0 in LABELS[trains]  # a single picture validates nothing
    assert np.array_equal(split_classes(LABELS, 0.3, seed=1)[1], validates)
    assert not np.array_equal(split_classes(LABELS, 0.3, seed=2)[1], validates)
    turns = [set(LABELS[split_classes(LABELS, 0.3, seed=1, turn=number)[1]]) for number in range(3)]
    assert set.union(*turns) == set(range(1, 10))
    with pytest.raises(ConfigError, match="four"):
        split_classes(np.array([0, 0, 1, 1, 2, 2, 3]))


def test_batches_hold_p_classes_with_k_pictures() -> None:
    batches = list(PxK(LABELS, 4, 3, seed=0))
    for batch in batches:
        classes, counts = np.unique(LABELS[batch], return_counts=True)
        assert (len(classes), set(counts)) == (4, {3})
    assert len(batches) == round(99 / 12)
    seen = [set(LABELS[batch]) for batch in batches]
    assert set().union(*seen[:3]) == set(range(1, 10))  # in turns; what has no partner takes no part
    assert all(np.array_equal(a, b) for a, b in zip(batches, PxK(LABELS, 4, 3, seed=0), strict=True))
    with pytest.raises(ConfigError, match="per_class"):
        PxK(LABELS, 4, 1, seed=0)


def test_every_row_is_seen_once_a_pass() -> None:
    batches = Shuffled(9, 4, seed=0)
    assert [len(batch) for batch in batches] == [4, 5]
    assert sorted(np.concatenate(list(batches))) == list(range(9))


@pytest.mark.parametrize("name", losses.NAMES)
def test_a_loss_falls_where_classes_come_together(name: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(16) % 4
    loss = losses.named(name, dim=8, classes=4)
    points = torch.nn.functional.normalize(torch.randn(16, 8), dim=1).requires_grad_()
    optimizer = torch.optim.Adam([{"params": [points]}, {"params": loss.proxies, "lr": 0.5}], lr=0.05)
    values = []
    for _ in range(60):
        value = loss(points, labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < values[0]
    scores = (
        torch.nn.functional.normalize(points.detach(), dim=1) @ torch.nn.functional.normalize(points.detach(), dim=1).T
    )
    own = labels[:, None] == labels
    assert scores[own].mean() > scores[~own].mean() + 0.5


def test_nested_losses_teach_the_prefix_too() -> None:
    loss = losses.Nested("cosine", widths=(2, 6), classes=3)
    points = torch.randn(9, 6, requires_grad=True)
    loss(points, torch.arange(9) % 3).backward()
    assert points.grad is not None
    assert points.grad.abs().sum(dim=0).min() > 0
    assert [tuple(p.shape) for p in loss.proxies] == [(2, 3), (6, 3)]


def test_an_unknown_loss_names_the_next() -> None:
    with pytest.raises(ConfigError, match="did you mean 'triplet'"):
        losses.named("tripled", dim=2, classes=2)


def test_classes_are_numbered_by_name() -> None:
    labels, names = numbered(["b", "a", "b"])
    assert (labels.tolist(), names) == ([1, 0, 1], ("a", "b"))
