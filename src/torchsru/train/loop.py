"""The training loop, of every task: one step after the other, until the budget is used.

    batch -> loss of each part of its rows -> gradient -> clip -> step; now and then log,
    evaluate, save

Devices, precision and scale come from Lightning Fabric; all else is here or one call away.
Exact    with a budget in steps, on one CPU process, a run that was stopped and resumed ends bit
         for bit where an uninterrupted one ends
Clock    `seconds` counts training steps alone, not evaluation, saving or start-up
Check    tests/train/test_loop.py
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning_utilities.core import rank_zero
from torch import nn

from torchsru.nn.state import detach
from torchsru.train import environment
from torchsru.train.checkpoint import checkpoints, load_checkpoint, restore, save_checkpoint
from torchsru.train.config import Training
from torchsru.train.folder import (
    CHECKPOINTS,
    RECIPE,
    RESULT,
    RunError,
    check_free,
    hold,
    naming,
    read_json,
    write_file,
)
from torchsru.train.interrupt import Interrupt
from torchsru.train.log import Log
from torchsru.train.progress import Live
from torchsru.train.schedule import budget_used, is_due, learning_rate
from torchsru.train.task import Task

ADVICE = (
    "Try --resume with a lower --training.lr, a smaller --training.clip, "
    "--training.precision float32, or --training.skip_nonfinite 3 to leave out such steps"
)


class Interrupted(Exception):
    """The run was asked to stop, has saved, and can be resumed."""


class NotFinite(RuntimeError):
    """The loss, its gradient or the weights are not finite; the message says what is saved."""


@dataclass
class Position:
    """How far the run is; saved with each checkpoint."""

    step: int = 0
    units: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    # Since the last row of the log:
    row_steps: int = 0
    row_skipped: int = 0
    row_seconds: float = 0.0
    row_units: int = 0
    row_loss: float = 0.0
    row_norm: float = 0.0


def read_position(saved: Any, folder: Path) -> Position:
    """The position in a checkpoint's facts. Raises RunError if it is none of this version."""
    expected = asdict(Position())
    if not isinstance(saved, dict) or {k: type(v) for k, v in saved.items()} != {
        k: type(v) for k, v in expected.items()
    }:
        raise RunError(f"{folder}: found position {saved!r}, expected the fields of {expected}")
    return Position(**saved)


def make_fabric(training: Training) -> Fabric:
    """The device and precision that `training` asks for; "auto" is settled here."""
    rank_zero.log.setLevel(logging.WARNING)  # it announces each precision on stderr
    has_gpu = torch.cuda.is_available()
    if training.device == "cuda" and not has_gpu:
        raise RunError("device 'cuda' was asked for, but torch sees no CUDA device")
    kind = training.device if training.device != "auto" else ("cuda" if has_gpu else "cpu")
    precision = training.precision
    if precision == "auto":
        fast = environment.computes_in_bfloat16(torch.device(kind))
        precision = "bfloat16" if fast else "float32"
    plugin = {"float32": "32-true", "bfloat16": "bf16-mixed"}[precision]
    return Fabric(accelerator=kind, devices=1, precision=plugin)  # type: ignore[arg-type]


def fit(
    folder: Path,
    task: Task,
    make_model: Callable[[], nn.Module],
    training: Training,
    *,
    about: dict[str, Any],
    kept: Mapping[str, str] | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train until the budget is used; write log, checkpoints and result below `folder`.

    Args:
        folder: the run's own; created here, held against other processes until the end.
        task: batches, loss and evaluation.
        make_model: called once, after seeding.
        about: JSON-ready, "name" among it; written to RUN/recipe.json, once. A resumption is added
            to the list "resumed" in it, with the step and the `about` it went on with.
        kept: {name: content} of more files that are written beside it, once.
        resume: go on from the newest checkpoint, if there is one.

    Returns: the result, as written to RUN/result.json.
    Raises: Interrupted after SIGINT or SIGTERM; NotFinite; RunError if the folder is not free, in
        use or can't be written, or if the checkpoint is damaged or does not fit; once training has
        begun, it names the newest checkpoint.
    """
    fabric = make_fabric(training)
    fabric.launch()
    environment.keep_freed_memory()
    torch.manual_seed(training.seed)
    raw_model = make_model()
    raw_optimizer = torch.optim.AdamW(
        parameter_groups(raw_model, training.embedding_lr),
        lr=training.lr,
        betas=training.betas,
        weight_decay=training.weight_decay,
        fused=True,
    )
    model, optimizer = fabric.setup(raw_model, raw_optimizer)
    parts = training.accumulate
    states: list[Any] = [None] * parts
    at = Position()
    found: dict[str, float] = {}
    model.train()
    with ExitStack() as stack:
        stack.enter_context(hold(folder))
        if not resume:
            check_free(folder)
        elif saved := load_checkpoint(folder / CHECKPOINTS):
            at = read_position(saved.facts.get("position"), folder)
            if saved.facts.get("content") != task.content:
                raise RunError(f"{folder} was trained on other data than what is there now")
            if not isinstance(saved.state, list) or len(saved.state) != parts:
                was = len(saved.state) if isinstance(saved.state, list) else saved.state
                raise RunError(f"accumulate was {was} in {folder}, got {parts}")
            restore(saved, raw_model, raw_optimizer)
            states = fabric.to_device(saved.state)
        elif (folder / RESULT).exists():
            raise RunError(f"{folder} holds a {RESULT} but no checkpoint: found none to go on from")
        if (folder / RESULT).exists() and budget_used(training, at.step, at.seconds) == 1:
            return read_json(folder / RESULT)
        stack.enter_context(naming_newest(folder))
        keep_record(folder, about, at.step, kept)
        log = stack.enter_context(Log(folder, at.step))
        live = stack.enter_context(Live(about["name"], task.unit))
        interrupt = stack.enter_context(Interrupt())

        def save() -> None:
            if not all(p.isfinite().all() for p in raw_model.parameters()):
                raise NotFinite(
                    f"step {at.step:,}: the weights are not finite any more, at learning rate "
                    f"{learning_rate(training, used):.3g}; they are not saved, "
                    f"{newest(folder)}. {ADVICE}"
                )
            facts = {"step": at.step, "content": task.content, "position": asdict(at)}
            try:
                log.sync()
                save_checkpoint(
                    folder / CHECKPOINTS,
                    model=raw_model,
                    optimizer=raw_optimizer,
                    state=states,
                    facts=facts,
                )
            except RunError as error:
                raise RunError(f"step {at.step:,} can't be saved: {error}") from error

        while (used := budget_used(training, at.step, at.seconds)) < 1:
            started = time.perf_counter()
            lr = learning_rate(training, used)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            batch = task.batch(at.step)
            loss, new_states = 0.0, []
            for i, part in enumerate(task.split(fabric.to_device(batch), parts)):
                state = None if batch.fresh else detach(states[i])
                with fabric.no_backward_sync(model, enabled=i + 1 < parts):
                    part_loss, state = task.loss(model, part, state)
                    fabric.backward(part_loss / parts)
                new_states.append(state)
                loss += part_loss.item() / parts
            norm = clip(fabric, model, optimizer, training.clip)
            finite = math.isfinite(loss) and math.isfinite(norm)
            if finite:
                optimizer.step()
                states = new_states
                at.skipped_in_a_row = 0
            elif at.skipped_in_a_row < training.skip_nonfinite:
                states = [None] * parts
                at.skipped, at.skipped_in_a_row = at.skipped + 1, at.skipped_in_a_row + 1
            else:
                save()
                there = " and ".join(path.name for path in checkpoints(folder / CHECKPOINTS))
                raise NotFinite(
                    f"step {at.step + 1:,}: loss {loss}, gradient norm {norm}, at learning rate "
                    f"{lr:.3g}, after {at.skipped_in_a_row} skipped in a row; the state before "
                    f"this step is saved; there is {there}. {ADVICE}"
                )
            optimizer.zero_grad()
            took = time.perf_counter() - started

            units = task.units(batch)
            at.step, at.units, at.seconds = at.step + 1, at.units + units, at.seconds + took
            at.row_steps, at.row_units = at.row_steps + 1, at.row_units + units
            at.row_seconds += took
            if finite:
                at.row_loss, at.row_norm = at.row_loss + loss, at.row_norm + norm
            else:
                at.row_skipped += 1
            now_used = budget_used(training, at.step, at.seconds)
            left = at.seconds * (1 - now_used) / now_used
            live.update(at.step, now_used, left, units / took, task.numbers(loss) if finite else {})
            if at.step % training.log_every == 0 or now_used == 1:
                log.write("train", at.step, at.seconds, row_of(at, task, lr))
                at.row_steps = at.row_units = at.row_skipped = 0
                at.row_seconds = at.row_loss = at.row_norm = 0.0
            if is_due(training.evaluations, used, now_used) or now_used == 1:
                found, eval_seconds = evaluate(task, model)
                log.write("eval", at.step, at.seconds, {**found, "eval_seconds": eval_seconds})
                live.evaluated(at.step, at.seconds, found)
            stop = interrupt.asked  # read once: a signal may come between the two lines
            if stop or is_due(training.checkpoints, used, now_used):
                save()
            if stop and now_used < 1:
                raise Interrupted(f"stopped at step {at.step:,} and saved")

        save()
        result = {
            **(found or evaluate(task, model)[0]),
            "parameters": sum(p.numel() for p in raw_model.parameters()),
            "steps": at.step,
            "skipped_steps": at.skipped,
            "seconds": at.seconds,
            f"{task.unit}s": at.units,
            f"{task.unit}s_per_second": at.units / at.seconds,
            "precision": fabric._precision.precision,
            "device": str(fabric.device),
            "environment": environment.describe(),
        }
        write_file(folder / RESULT, json.dumps(result, indent=1) + "\n")
    return result


def keep_record(
    folder: Path, about: dict[str, Any], step: int, kept: Mapping[str, str] | None = None
) -> None:
    """Write RUN/recipe.json, or add to it that the run goes on from `step` with this `about`; and
    the files of `kept` that are not there yet.

    The result of a run that goes on is no result any more: it moves into the record.
    """
    file, result = folder / RECIPE, folder / RESULT
    if file.exists():
        record = read_json(file)
        entry = {"step": step, **about}
        if result.exists():
            entry["result_before"] = read_json(result)
        record["resumed"] = [*record.get("resumed", []), entry]
        about = record
    write_file(file, json.dumps(about, indent=1) + "\n")
    for name, content in (kept or {}).items():
        if not (folder / name).exists():
            write_file(folder / name, content)
    with naming(result):
        result.unlink(missing_ok=True)


@contextmanager
def naming_newest(folder: Path) -> Iterator[None]:
    """Add to a RunError of the block what is saved."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{error}; {newest(folder)}") from error


def newest(folder: Path) -> str:
    """What is saved, in words."""
    saved = checkpoints(folder / CHECKPOINTS)
    return f"{saved[-1].name} is the newest checkpoint" if saved else "there is no checkpoint yet"


def parameter_groups(model: nn.Module, embedding_lr: float) -> list[dict[str, Any]]:
    """The parameters in two groups, embedding tables last, each with the scale of its rate."""
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    is_table = {id(table) for table in tables}
    others = [p for p in model.parameters() if id(p) not in is_table]
    return [
        {"params": others, "lr_scale": 1.0},
        {"params": tables, "lr_scale": embedding_lr},
    ]


def clip(fabric: Fabric, model: Any, optimizer: Any, largest: float | None) -> float:
    """Scale the gradient down to this norm if it is larger; returns the norm it had."""
    norm = fabric.clip_gradients(
        model, optimizer, max_norm=largest or math.inf, error_if_nonfinite=False
    )
    assert norm is not None  # clipping by norm returns it
    return norm.item()


def row_of(at: Position, task: Task, lr: float) -> dict[str, float]:
    """Means since the last row of the log, over the steps that were not skipped."""
    good = at.row_steps - at.row_skipped
    means = {**task.numbers(at.row_loss / good), "grad_norm": at.row_norm / good} if good else {}
    return {
        **means,
        "lr": lr,
        "skipped": at.row_skipped,
        f"{task.unit}s_per_second": at.row_units / at.row_seconds,
    }


def evaluate(task: Task, model: nn.Module) -> tuple[dict[str, float], float]:
    """The task's numbers on held-out data, and the seconds they took."""
    started = time.perf_counter()
    was_training = model.training
    model.eval()
    with torch.no_grad():
        found = task.evaluate(model)
    model.train(was_training)
    return found, time.perf_counter() - started
