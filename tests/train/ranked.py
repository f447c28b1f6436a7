"""Runs of two processes, for test_ranks: what each process under torchrun does.

One start serves all cases: starting a process takes longer than they do.
"""

import json
import math
import os
import random
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch

from torchsru.data import DataError, TextData, byte_corpus
from torchsru.models import LanguageModel, LanguageModelConfig
from torchsru.recipes import get_recipe
from torchsru.recipes.run import train
from torchsru.train import RunError, Training, checkpoint
from torchsru.train.folder import hold
from torchsru.train.language_model import LanguageModelling
from torchsru.train.loop import Interrupted, NotFinite, fit
from torchsru.train.strategy import meet

WORDS = random.Random(0).choices(b"to be or not to be that is the question ".split(b" "), k=400)
TEXT = b" ".join(WORDS)  # no two rows are alike
DATA = TextData(unroll=8, batch=4, eval_tokens=256, eval_batch=2, eval_unroll=16)
MODEL = LanguageModelConfig(rnn="sru", width=16, layers=2)
DROPPING = replace(MODEL, dropout=0.1, state_dropout=0.1)
LSTM = LanguageModelConfig(rnn="lstm", width=16, layers=2)
# The last cluster has the letters u to z: in some steps no row of a process has any
SRUPP = LanguageModelConfig(
    rnn="srupp", width=16, layers=2, memory=12, tie=True, cutoffs=(100, 117), div_value=2
)
TRANSFORMER_XL = LanguageModelConfig(rnn="transformer-xl", width=16, layers=2, heads=2, memory=12)
TRAINING = Training(
    steps=10, lr=1e-2, evaluations=2, checkpoints=2, log_every=1, device="cpu", precision="float32"
)
SHARDED = replace(TRAINING, strategy="fsdp")
ABOUT = {"name": "test"}

CURVES = {  # name: model and training, whose curve is that of one process with the same
    "ddp": (MODEL, TRAINING),
    "fsdp": (MODEL, SHARDED),
    "ddp lstm": (LSTM, replace(TRAINING, optimizer="sgd", lr=0.5)),
    "fsdp lstm": (LSTM, replace(SHARDED, optimizer="radam", clip=0.1)),
    "ddp in parts": (MODEL, replace(TRAINING, accumulate=2)),
    "fsdp in parts": (MODEL, replace(SHARDED, accumulate=2, activation_checkpointing=True)),
    "ddp float16": (MODEL, replace(TRAINING, precision="float16")),
    "fsdp float16": (MODEL, replace(SHARDED, precision="float16", fused=False)),
    "fsdp srupp adaptive": (SRUPP, SHARDED),
    "ddp transformer-xl": (TRANSFORMER_XL, TRAINING),
    "fsdp bfloat16": (MODEL, replace(SHARDED, precision="bfloat16", optimizer="adam")),
}


class Disturbed(LanguageModelling):
    """A task that something happens to, on the rank where it is set."""

    stop_at = -1
    stop_in_evaluation = False
    nan_at = -1

    def batch(self, step):
        self.step = step
        if step == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        return super().batch(step)

    def loss(self, model, batch, state):
        loss, state = super().loss(model, batch, state)
        return loss * (math.nan if model.training and self.step == self.nan_at else 1), state

    def evaluate(self, model):
        self.segments = 0

        def count(*_):
            self.segments += 1
            if self.stop_in_evaluation and self.segments == 3:
                signal.raise_signal(signal.SIGINT)

        hook = model.register_forward_hook(count)
        try:
            return super().evaluate(model)
        finally:
            hook.remove()


def make_task(data=DATA, text=TEXT):
    return Disturbed(byte_corpus(text, text[:600]), data, 0)


def go(folder, model, training, task=None, resume=False):
    make_model = partial(LanguageModel, model)
    return fit(folder, task or make_task(), make_model, training, about=ABOUT, resume=resume)


def go_in_three(folder, model, training, rank):
    """Stopped by a signal to the last rank alone: in an evaluation, then in a step."""
    said = []
    for where in ("stop_in_evaluation", "stop_at"):
        task = make_task()
        if rank:
            setattr(task, where, 6)
        try:
            go(folder, model, training, task, resume=bool(said))
        except Interrupted as stop:
            said.append(str(stop))
        if where == "stop_in_evaluation":
            said.append(task.segments)
    task = make_task()
    go(folder, model, training, task, resume=True)
    return [*said, task.segments]


def what_it_raises(*arguments, **options):
    try:
        go(*arguments, **options)
    except (RunError, NotFinite) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def what_train_raises(folder, text):
    """Of a recipe whose data are in this file."""
    recipe = get_recipe("python-bytes_debug")
    data = replace(recipe.data, paths=(str(text),))
    try:
        train("python-bytes_debug", replace(recipe, data=data, training=TRAINING), folder)
    except (RunError, DataError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def what_all_raise(rank):
    """Where one rank fails in a way that nobody thought of."""
    try:
        meet(TRAINING)[1].all(lambda: [][1] if rank else "done")
    except (RunError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main(out: Path, rank: int) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # fresh memory is NaN
    told = {}
    for name, (model, training) in CURVES.items():
        go(out / name, model, training)
    for name, training in (("ddp", TRAINING), ("fsdp", SHARDED)):
        go(out / f"{name} whole", DROPPING, training)
        told[f"{name} stopped"] = go_in_three(out / f"{name} in three", DROPPING, training, rank)
    # of one process, and of the other strategy
    with patch.object(checkpoint, "check_sum", wraps=checkpoint.check_sum) as check_sum:
        go(out / "one", MODEL, replace(SHARDED, steps=20), resume=True)
    told["sums"] = check_sum.call_count
    go(out / "ddp to fsdp", MODEL, replace(TRAINING, steps=5, schedule="constant"))
    longer = replace(SHARDED, steps=10, schedule="constant")
    go(out / "ddp to fsdp", MODEL, longer, resume=True)

    task = make_task()
    task.nan_at = 3 if rank else -1
    told["nan"] = what_it_raises(out / "nan", MODEL, TRAINING, task)
    odd = make_task(replace(DATA, batch=6))
    parts = replace(TRAINING, accumulate=2)
    told["parts"] = what_it_raises(out / "parts", MODEL, parts, odd)
    other = make_task(text=TEXT[rank:])
    told["data"] = what_it_raises(out / "data", MODEL, TRAINING, other)
    longer = replace(TRAINING, steps=12)
    told["damaged"] = what_it_raises(out / "damaged", MODEL, longer, resume=True)
    told["again"] = what_it_raises(out / "ddp", MODEL, TRAINING)
    told["apart"] = what_it_raises(out / ("nowhere" if rank else "ddp"), MODEL, longer, resume=True)
    if rank == 0:
        with hold(out / "held"):
            told["held"] = what_it_raises(out / "held", MODEL, TRAINING)
    else:
        told["held"] = what_it_raises(out / "held", MODEL, TRAINING)
    missing = out / "nowhere.txt"
    told["missing on one"] = what_train_raises(out / "missing", missing if rank else __file__)
    told["missing on both"] = what_train_raises(out / "missing", missing)
    told["unforeseen"] = what_all_raise(rank)
    (out / f"told-{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["RANK"]))
