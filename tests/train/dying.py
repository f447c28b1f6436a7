"""Runs that are killed, for test_survival: what a child process does."""

import json
import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch

import torchsru
from torchsru.recipes import get_recipe
from torchsru.recipes.run import train
from torchsru.train import checkpoint, log, loop

NAME = "python-bytes_debug"
PACKAGE = str(Path(torchsru.__file__).parent)
PHASES = {  # the innermost of these functions that runs
    loop.evaluate.__code__: "evaluation",
    checkpoint.save_checkpoint.__code__: "checkpoint writing",
    loop.keep_record.__code__: "start",
    log.Log.__init__.__code__: "start",
    loop.fit.__code__: "step",
}


def small_recipe(text: Path):
    """A run of eight steps with dropout, accumulation and all that is saved."""
    recipe = get_recipe(NAME)
    return replace(
        recipe,
        model=replace(recipe.model, width=8, layers=2, dropout=0.1, state_dropout=0.1),
        data=replace(recipe.data, paths=(str(text),), unroll=8, eval_tokens=600),
        training=replace(
            recipe.training,
            steps=8,
            evaluations=3,
            checkpoints=5,  # at steps 2, 4, 5, 7, 8; rows of the log at 3, 6, 8
            log_every=3,
            accumulate=2,
            device="cpu",
            precision="float32",
        ),
    )


def run(folder: Path, text: Path):
    """Start the run, or go on where it was killed."""
    torch.set_num_threads(1)
    return train(NAME, small_recipe(text), folder, resume=(folder / "recipe.json").exists())


class Lines:
    """Counts the lines of the package run in each phase; kills the process at a given one."""

    def __init__(self, phase: str = "", moment: int = 0):
        self.phase, self.moment = phase, moment
        self.counts: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, _):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line" and (phase := phase_of(frame)):
            self.counts[phase] += 1
            if (phase, self.counts[phase]) == (self.phase, self.moment):
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def phase_of(frame: FrameType | None) -> str | None:
    while frame is not None:
        if frame.f_code in PHASES:
            return PHASES[frame.f_code]
        frame = frame.f_back
    return None


def child(folder: Path, text: Path, phase: str = "", moment: int = 0, counts: Path | None = None):
    """Train; die at the `moment`-th line of the phase, or note how many lines there were.

    Without either nothing is traced: the run is as fast as any.
    """
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())  # the progress of fifty runs
    lines = Lines(phase, moment)
    if phase or counts:
        sys.settrace(lines)
    run(folder, text)
    sys.settrace(None)
    if counts:
        counts.write_text(json.dumps(lines.counts))


def hold_until_killed(folder: Path, told):
    """Hold a folder's lock as a training does."""
    from torchsru.train.folder import hold

    with hold(folder), suppress(EOFError):
        told.send(os.getpid())
        told.recv()
