"""Where results of training go: whole or not at all, and one training at a time."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pixdex.errors import AlreadyExists, ConfigError
from pixdex.training._workplace import place, put, saved, workplace, written

BUSY = "out is being trained by another process"


def test_a_result_takes_its_place_and_nothing_else_stays(tmp_path: Path) -> None:
    with workplace(tmp_path / "a" / "out") as (target, work):
        put(lambda folder: folder.mkdir(), {"x": 1}, "<p>", target, work)
    assert sorted(file.name for file in target.iterdir()) == ["report.html", "report.json"]
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(AlreadyExists), workplace(target):
        pass


def test_a_second_training_into_a_folder_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with workplace(tmp_path / "out") as (target, work):
        with pytest.raises(ConfigError, match=BUSY), workplace(tmp_path / "out"):
            pass
        with workplace(tmp_path / "other"):  # which is nobody's business
            pass
        put(lambda folder: folder.mkdir(), {}, None, target, work)
    assert target.is_dir()


def test_one_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pixdex.training._workplace import workplace\n"
        "with workplace(sys.argv[1]) as (_, work):\n"
        "    (work / 'checkpoint').touch()\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "out")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        try:
            with pytest.raises(ConfigError, match=BUSY), workplace(tmp_path / "out"):
                pass
        finally:
            os.kill(other.pid, signal.SIGKILL)
    with workplace(tmp_path / "out") as (_, work):
        assert (work / "checkpoint").is_file()


def test_what_finished_meanwhile_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another training ends between a look at the folder and the lock, and takes the place of work with it."""
    mkdir, done = Path.mkdir, []

    def late(path: Path, *given: object, **named: object) -> None:
        mkdir(path, *given, **named)  # type: ignore[arg-type]
        if not done:
            done.append(path)
            path.rmdir()
            mkdir(tmp_path / "out")
            (tmp_path / "out" / "pixdex.json").touch()

    monkeypatch.setattr(Path, "mkdir", late)
    with pytest.raises(AlreadyExists), workplace(tmp_path / "out"):
        pass
    assert not (tmp_path / "out.partial").exists()


def test_what_goes_wrong_leaves_checkpoints_but_no_half_of_a_result(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        folder.mkdir()
        (folder / "pixdex.json").touch()
        raise OSError(28, "No space left on device")

    def train() -> None:
        with workplace(tmp_path / "out") as (target, work):
            (work / "checkpoint").touch()
            put(half, {}, None, target, work)

    with pytest.raises(ConfigError, match="out cannot be written: No space left"):
        train()
    assert [file.name for file in (tmp_path / "out.partial").iterdir()] == ["checkpoint"]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_filled_up_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter").touch()
    with pytest.raises(OSError, match="not empty"):
        place(tmp_path / "made", tmp_path / "out")
    assert (tmp_path / "out" / "letter").is_file()


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        path.write_text("ha")
        raise RuntimeError("the power is off")

    file = tmp_path / "state"
    written(file, lambda path: path.write_text("old") and None)
    with pytest.raises(RuntimeError):
        written(file, fails)
    assert file.read_text() == "old"
    written(file, lambda path: path.write_text("new") and None)
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_named_and_takes_nothing_that_was_there(tmp_path: Path) -> None:
    def train(values: torch.Tensor) -> None:
        with workplace(tmp_path / "out") as (_, work):
            saved(work / "state", {"weights": values})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(torch.ones(3))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            ConfigError, match=r"out\.partial cannot be written: File too large\. Make room: the same call"
        ):
            train(torch.ones(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = torch.load(tmp_path / "out.partial" / "state", weights_only=True)
    assert torch.equal(kept["weights"], torch.ones(3))
