"""Killed anywhere and resumed, a run ends bit for bit where an uninterrupted one ends.

The children come from a fork server that has imported torch once. Most kill themselves at a line
drawn from the seed, so that a failure can be repeated; some are killed by the clock, so that it can
happen inside a line: a write, a flush, a kernel.
"""

import errno
import io
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.train.dying import NAME, child, hold_until_killed, run, small_recipe

from torchsru.recipes.language_model import load_model
from torchsru.recipes.run import evaluate_run, open_run, train
from torchsru.train import RunError
from torchsru.train.checkpoint import load_checkpoint, summary
from torchsru.train.folder import hold
from torchsru.train.log import read_log

if sys.platform == "win32":
    pytest.skip("Windows has neither fork nor SIGKILL", allow_module_level=True)

KILLS = 20
CLOCK_KILLS = 40
PHASES = ("step", "evaluation", "checkpoint writing", "start")
CLOCK = {"seconds", "row_seconds", "eval_seconds", "bytes_per_second"}
TEXT = b"to be, or not to be, that is the question: " * 60

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.train.dying"])


def in_child(*arguments, seconds=None) -> int:
    """The exit code of `child`; -9 if it was killed, by itself or after so many seconds."""
    process = processes.Process(target=child, args=arguments)
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def timeless(value):
    """Nested values without what a clock measured."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in CLOCK}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def all_of(folder):
    """All that a run leaves, but for what a clock measured: tensors as bytes."""
    saved = sorted((folder / "checkpoints").iterdir())
    facts = {path.name: json.loads((path / "training.json").read_text()) for path in saved}
    tensors = ("model.safetensors", "training.safetensors")
    curves = EventAccumulator(str(folder / "tensorboard")).Reload()
    tags = [tag for tag in curves.Tags()["scalars"] if tag.partition("/")[2] not in CLOCK]
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe.pop("resumed", None)
    return {
        "names": {path.name for path in folder.iterdir()} - {".lock"},
        **{name: [(path / name).read_bytes() for path in saved] for name in tensors},
        "facts": timeless(facts),
        "log": timeless(read_log(folder)),
        "curves": {tag: [(e.step, e.value) for e in curves.Scalars(tag)] for tag in tags},
        "recipe": recipe,
        "result": timeless(json.loads((folder / "result.json").read_text())),
    }


def snapshot(folder):
    """Every file and its content, but for the lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in files}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("survival") / "text"
    file.write_bytes(TEXT)
    return file


@pytest.fixture(scope="module")
def whole(text):
    """An uninterrupted run: what it leaves, and how many lines each phase had."""
    folder, counts = text.parent / "whole", text.parent / "counts.json"
    assert in_child(folder, text, "", 0, counts) == 0
    return all_of(folder), json.loads(counts.read_text())


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_twice_anywhere_and_resumed(tmp_path, text, whole, seed):
    expected, lines = whole
    draw, folder = random.Random(seed), tmp_path / "run"
    first = PHASES[seed % len(PHASES)]
    moment = draw.randint(1, lines[first])
    assert in_child(folder, text, first, moment) == -signal.SIGKILL, (first, moment)
    second = draw.choice(PHASES)
    moment = draw.randint(1, lines[second])  # may lie past the end of what is left
    assert in_child(folder, text, second, moment) in (-signal.SIGKILL, 0)
    assert in_child(folder, text) == 0
    assert all_of(folder) == expected


@pytest.fixture(scope="module")
def whole_seconds(text, whole):
    """What an untraced run takes, its process included."""
    started = time.monotonic()
    assert in_child(text.parent / "timed", text) == 0
    return time.monotonic() - started


@pytest.mark.parametrize("seed", range(CLOCK_KILLS // 4))
def test_killed_by_the_clock_and_resumed(tmp_path, text, whole, whole_seconds, seed):
    draw, folder = random.Random(seed), tmp_path / "run"
    for _ in range(4):
        in_child(folder, text, seconds=draw.uniform(0, whole_seconds))
    assert in_child(folder, text) == 0
    assert all_of(folder) == whole[0]


def test_the_comparison_can_fail(tmp_path, text, whole):
    recipe = small_recipe(text)
    other = replace(recipe, training=replace(recipe.training, seed=1))
    train(NAME, other, tmp_path / "run")
    expected, got = whole[0], all_of(tmp_path / "run")
    same = {part for part in expected if expected[part] == got[part]}
    assert same == {"names"}


def test_every_phase_has_moments_to_die_in(whole):
    assert set(whole[1]) == set(PHASES) and min(whole[1].values()) > 20
    kinds = [row["kind"] for row in whole[0]["log"]]
    assert kinds.count("eval") == 3 and kinds.count("train") == 3


class Disk:
    """Full from the n-th write or flush on: half of what is written then gets through."""

    def __init__(self, left):
        self.left = left

    def is_full(self):
        self.left -= 1
        return self.left < 0

    def flush(self, handle, honest=os.fsync):
        if self.is_full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(handle)

    def open(self, path, mode):
        return File(self, open(path, mode))


class File:
    """An open file on such a disk."""

    def __init__(self, disk, file):
        self.disk, self.file = disk, file

    def write(self, content):
        if self.disk.is_full():
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_disk_full_at_any_moment_loses_nothing(tmp_path, text, whole, monkeypatch):
    moment, cut, told = 0, 0, None
    while moment == 0 or told:
        folder, told = tmp_path / str(moment), None
        with monkeypatch.context() as patched:
            disk = Disk(moment)
            patched.setattr("torchsru.train.folder.os.fsync", disk.flush)
            for module in ("folder", "log"):
                patched.setattr(f"torchsru.train.{module}.open", disk.open, raising=False)
            try:
                run(folder, text)
            except RunError as error:
                told = str(error)
        assert not [p for p in folder.rglob("*.new")], "half-written files stay"
        if told:
            saved = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
            newest = f"{saved[-1]} is the newest checkpoint" if saved else "there is no checkpoint"
            assert "No space left on device" in told and str(folder) in told
            assert newest in told or not (folder / "recipe.json").exists()
            rows = folder / "log.jsonl"
            cut += rows.exists() and not (rows.read_bytes() or b"\n").endswith(b"\n")
            run(folder, text)
        assert all_of(folder) == whole[0]
        moment += 1
    assert moment > 60  # a checkpoint takes ten
    assert cut == 6  # the rows


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own: mounted, so that root meets its limits too."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root's rights")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_real_disk_that_is_full_then_read_only(disk, text, whole, monkeypatch):
    folder, filler = disk / "run", disk / "filler"
    honest = Path.rename

    def fill_after(path, target):
        moved = honest(path, target)
        if not filler.exists():  # the first checkpoint is there
            with pytest.raises(OSError, match="No space"), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1024))
                    file.flush()
        return moved

    with monkeypatch.context() as patched:
        patched.setattr("torchsru.train.folder.Path.rename", fill_after)
        with pytest.raises(RunError, match="No space left on device"):
            run(folder, text)
    before = snapshot(folder)
    with pytest.raises(RunError, match="No space left on device"):
        run(folder, text)
    assert not list(folder.rglob("*.new"))
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(RunError, match=rf"{folder} can't be written: Read-only file system"):
        run(folder, text)
    after = {name: content for name, content in snapshot(folder).items() if name in before}
    assert after == before
    assert evaluate_run(open_run(folder))["bytes"] > 0  # reading needs no lock
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    run(folder, text)
    assert all_of(folder) == whole[0]


def test_a_read_only_folder_is_named_and_left_alone(tmp_path, text, monkeypatch):
    """Simulated below the lock: root may write where the mode forbids it."""
    run(tmp_path / "run", text)
    before, honest = snapshot(tmp_path), os.open

    def read_only(path, flags, *arguments, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return honest(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(RunError, match=r"run can't be written: Read-only file system"):
        run(tmp_path / "run", text)
    assert snapshot(tmp_path) == before
    load_model(open_run(tmp_path / "run"))


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path, text, whole):
    folder = tmp_path / "run"
    run(folder, text)
    before = snapshot(folder)
    here, there = processes.Pipe()
    first = processes.Process(target=hold_until_killed, args=(folder, there))
    first.start()
    pid = here.recv()
    with pytest.raises(RunError, match=rf"{folder} is in use by process {pid} on "):
        run(folder, text)
    assert snapshot(folder) == before
    evaluate_run(open_run(folder))  # may be read all the while
    first.kill()
    first.join()
    run(folder, text)
    assert all_of(folder) == whole[0]


def test_two_new_runs_in_one_folder_do_not_mix(tmp_path, text):
    in_use = f"in use by process {os.getpid()} on "
    with hold(tmp_path / "run"), pytest.raises(RunError, match=in_use):
        run(tmp_path / "run", text)
    run(tmp_path / "run", text)  # a lock alone is an empty folder
    with pytest.raises(RunError, match="holds a run already; add --resume"):
        train(NAME, small_recipe(text), tmp_path / "run")


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.fixture(scope="module")
def finished(text):
    folder = text.parent / "finished"
    run(folder, text)
    return folder


PICKLED = ("recipe.json", "log.jsonl", "result.json", ".lock")
IN_CHECKPOINT = ("model.safetensors", "training.safetensors", "training.json")


@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
@pytest.mark.parametrize("name", [*PICKLED, *IN_CHECKPOINT])
def test_a_pickle_is_never_executed(tmp_path, finished, name, kind, text):
    folder, bomb = tmp_path / "run", Bomb(tmp_path / "executed")
    shutil.copytree(finished, folder)
    checkpoint = max((folder / "checkpoints").iterdir())
    file = (checkpoint if name in IN_CHECKPOINT else folder) / name
    if kind == "pickle":
        file.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, stream := io.BytesIO())
        file.write_bytes(stream.getvalue())
    facts = checkpoint / "training.json"
    if name.endswith("safetensors"):  # the sums vouch for it
        about = json.loads(facts.read_text())
        facts.write_text(
            json.dumps({**about, "files": {**about["files"], name: summary(file.read_bytes())}})
        )
    recipe = small_recipe(text)
    longer = replace(recipe, training=replace(recipe.training, steps=9))
    refusals = []
    for use in (
        lambda: open_run(folder).result,
        lambda: load_model(open_run(folder)),
        lambda: evaluate_run(open_run(folder)),
        lambda: read_log(folder),
        lambda: load_checkpoint(folder / "checkpoints"),
        lambda: train(NAME, longer, folder, resume=True),
    ):
        try:
            use()
        except RunError as error:
            refusals.append(str(error))
    assert not bomb.place.exists()
    assert (len(refusals) > 0) == (name != ".lock")
    assert all(name in refusal for refusal in refusals)
    pickle.loads(pickle.dumps(bomb))  # it would have
    assert bomb.place.exists()
