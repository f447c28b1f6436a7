"""The training loop, of every task: one step after the other, until the budget is used.

    batch -> loss of each part of its rows -> gradient -> clip -> step; now and then log,
    evaluate, save

Devices, precision and strategy come from Lightning Fabric; all else is here or one call away.
Ranks    every process runs this loop over its own rows of each batch; gradients are averaged, and
         what decides (loss, norm, clock, Ctrl-C) is the same on all; rank 0 writes
Exact    with a budget in steps, on CPU processes, a run that was stopped and resumed with as many
         ends bit for bit where an uninterrupted one ends
Result   of the weights that the run gives: the last, the best evaluation's, or a mean
Clock    `seconds` counts training steps alone, not evaluation, saving or start-up
Check    tests/train/test_loop.py
"""

import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from torchsru.data.texts import DataError
from torchsru.nn.state import detach
from torchsru.train import environment
from torchsru.train.checkpoint import (
    check_newest,
    checkpoints,
    find_best,
    load_checkpoint,
    load_weights,
    restore,
    save_best,
    save_checkpoint,
    step_of,
)
from torchsru.train.config import Training
from torchsru.train.folder import (
    BEST,
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
from torchsru.train.log import Log, read_evaluation
from torchsru.train.optimizer import make_optimizer
from torchsru.train.progress import Live
from torchsru.train.ranks import Ranks, deal, speaks
from torchsru.train.schedule import budget_used, is_due, learning_rate
from torchsru.train.strategy import meet, prepare
from torchsru.train.task import Task

ADVICE = (
    "Try --resume with a lower --training.lr, a smaller --training.clip, "
    "--training.precision float32, or --training.skip_nonfinite 3 to leave out such steps"
)


class Interrupted(Exception):
    """The run was asked to stop, has saved, and can be resumed; the message names what is saved."""


class Asked(Exception):
    """An evaluation was asked to stop."""


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


def fit(
    folder: Path,
    task: Task,
    make_model: Callable[[], nn.Module],
    training: Training,
    *,
    about: dict[str, Any],
    kept: Mapping[str, str | bytes] | None = None,
    resume: bool = False,
    met: tuple[Fabric, Ranks] | None = None,
) -> dict[str, Any]:
    """Train until the budget is used; write log, checkpoints and result below `folder`.

    Args:
        folder: the run's own; created here, held against other processes until the end.
        task: batches, loss and evaluation; by its passes, `training.epochs` become steps.
        make_model: called once on each rank, after seeding.
        about: JSON-ready, "name" among it; written to RUN/recipe.json, once. A resumption is added
            to the list "resumed" in it, with the step and the `about` it went on with.
        kept: {name: content} of more files that are written beside it, once.
        resume: go on from the newest checkpoint, if there is one.
        met: what `meet` gave if the processes have met already, by the same `training`.

    Returns: the result, as written to RUN/result.json.
    Raises: Interrupted after SIGINT or SIGTERM; NotFinite; RunError if the folder is not free, in
        use or can't be written, if the model does not fit the data, or if the checkpoint is damaged
        or does not fit; once training has begun, it names the newest checkpoint.
    """
    if training.epochs is not None:
        in_steps = math.ceil(training.epochs * task.steps_per_pass)
        training = replace(training, steps=in_steps, epochs=None)
    fabric, ranks = met or meet(training)
    environment.keep_freed_memory()
    torch.manual_seed(training.seed)  # the same weights on every rank
    is_sharded = isinstance(fabric.strategy, ModelParallelStrategy)

    def make() -> nn.Module:
        try:
            made = make_model()
        except ValueError as error:
            raise RunError(f"the model can't be made for these data: {error}") from error
        prepare(made, training, fabric.device.type, is_sharded)
        return made

    with ranks.naming_lost():
        raw_model = ranks.all(make)
    model = fabric.setup_module(raw_model)
    raw_optimizer = make_optimizer(training, raw_model)
    optimizer: Any = fabric.setup_optimizers(raw_optimizer)
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    parameters = [p for group in raw_optimizer.param_groups for p in group["params"]]
    parts = training.accumulate
    mine = slice(ranks.rank * parts, (ranks.rank + 1) * parts)  # of ranks.size * parts
    states: list[Any] = [None] * parts
    at = Position()
    found: dict[str, float] = {}
    best: dict[str, Any] | None = None  # facts of the best evaluation, with Training.keep "best"
    to_evaluate = False  # an evaluation was due at the last step, and is yet to be done
    if ranks.rank:
        torch.manual_seed(own_seed(training.seed, ranks.rank, 0))  # another dropout on each rank
    model.train()

    def go_on() -> None:
        nonlocal at, states, to_evaluate
        if (saved := load_checkpoint(folder / CHECKPOINTS, checked=True)) is None:
            if (folder / RESULT).exists():
                raise RunError(
                    f"{folder} holds a {RESULT} but no checkpoint: found none to go on from"
                )
            return
        at = read_position(saved.facts.get("position"), folder)
        to_evaluate = saved.facts.get("to_evaluate") is True
        if saved.facts.get("content") != task.content:
            raise RunError(f"{folder} was trained on other data than what is there now")
        was = saved.facts.get("optimizer", "adamw")  # before there was a choice
        if was != training.optimizer:
            raise RunError(f"optimizer was {was!r} in {folder}, got {training.optimizer!r}")
        if not isinstance(saved.state, list):
            raise RunError(f"{folder}: found state {saved.state!r}, expected a list of states")
        if not restore(saved, raw_model, raw_optimizer, ranks):
            torch.manual_seed(own_seed(training.seed, ranks.rank, at.step))
        if scaler is not None and (scale := saved.facts.get("scaler")):
            scaler.load_state_dict(scale)
        own = deal(saved.state, ranks.size * parts)[mine]
        copied: list[Any] = tree_map_only(Tensor, Tensor.clone, own)
        states = fabric.to_device(copied)
        if (before := saved.facts.get("ranks", 1)) != ranks.size and ranks.is_first:
            print(
                f"torchsru: {saved.path.name} was saved by {before} processes; {ranks.size} go on "
                "with its weights, optimiser and states, but another dropout",
                file=sys.stderr,
            )

    with ExitStack() as stack:
        stack.enter_context(ranks.naming_lost())
        if ranks.size * parts > 1:
            check_parts(task, ranks, parts)
        ranks.first(lambda: stack.enter_context(hold(folder)))
        if resume:
            checks = speaks() or ranks.size == 1  # one process of each machine
            ranks.all(lambda: check_newest(folder / CHECKPOINTS) if checks else None)
            ranks.all(go_on)
            if len(set(steps := ranks.gather(at.step, everywhere=True))) > 1:
                raise RunError(
                    f"the processes find checkpoints of steps {steps}, by rank: {folder} must be "
                    "one folder on all machines"
                )
        else:
            ranks.first(lambda: check_free(folder))
        if training.keep == "best":
            best = ranks.share(ranks.first(lambda: find_best(folder / BEST, at.step)))
        is_done = (folder / RESULT).exists() and budget_used(training, at.step, at.seconds) == 1
        if ranks.share(is_done):
            return ranks.all(lambda: read_json(folder / RESULT))
        stack.enter_context(naming_newest(folder))
        stack.enter_context(ranks.naming_lost())  # again, so that the newest is named with it
        if resume:
            found = ranks.share(ranks.first(lambda: read_evaluation(folder, at.step)) or {})
        ranks.first(lambda: keep_record(folder, about, at.step, kept))
        log = ranks.first(lambda: stack.enter_context(Log(folder, at.step)))
        live = stack.enter_context(Live(about["name"], task.unit, quiet=not ranks.is_first))
        interrupt = stack.enter_context(Interrupt())

        def save(*, extra: bool = False) -> None:
            """Save here; `extra`: out of turn."""
            here = (p.to_local() if isinstance(p, DTensor) else p for p in parameters)
            if any(ranks.sum(float(not all(p.isfinite().all() for p in here)))):
                raise NotFinite(
                    f"step {at.step:,}: the weights are not finite any more, at learning rate "
                    f"{learning_rate(training, used):.3g}; they are not saved, "
                    f"{newest(folder)}. {ADVICE}"
                )
            facts = {
                "step": at.step,
                "extra": extra,
                "to_evaluate": to_evaluate,
                "content": task.content,
                "optimizer": training.optimizer,
                "ranks": ranks.size,
                "position": asdict(at),
            }
            if scaler is not None:
                facts["scaler"] = scaler.state_dict()
            try:
                ranks.first(lambda: log.sync() if log else None)
                save_checkpoint(
                    folder / CHECKPOINTS,
                    model=raw_model,
                    optimizer=raw_optimizer,
                    state=states,
                    facts=facts,
                    kept=training.average,
                    ranks=ranks,
                )
            except RunError as error:
                raise RunError(f"step {at.step:,} can't be saved: {error}") from error

        def asked() -> bool:
            """Whether any process was asked to stop: all of them call this, and get one answer."""
            return any(ranks.sum(interrupt.asked))

        def hold_out() -> None:
            """Evaluate, unless asked to stop."""
            nonlocal best, found, to_evaluate
            try:
                found, eval_seconds = evaluate(task, model, asked)
            except Asked:
                to_evaluate = True
                return
            to_evaluate = False
            if training.keep == "best" and ranks.share(is_better(task, found, best)):
                best = {"step": at.step, "content": task.content, "numbers": found}
                steps = [step_of(path) for path in checkpoints(folder / CHECKPOINTS)]
                save_best(folder / BEST, model=raw_model, facts=best, resumable=steps, ranks=ranks)
            if log:  # last: what it holds is not done again
                log.write("eval", at.step, at.seconds, {**found, "eval_seconds": eval_seconds})
            live.evaluated(at.step, at.seconds, found)

        def leave_off(*, extra: bool = True) -> NoReturn:
            """Save, and say so."""
            save(extra=extra)
            raise Interrupted(f"stopped at step {at.step:,} and saved; {newest(folder)}")

        used = budget_used(training, at.step, at.seconds)
        if (to_evaluate or used == 1) and not found:  # else that row of the log is there
            hold_out()
            if to_evaluate:
                leave_off()
        to_evaluate = False

        while (used := budget_used(training, at.step, at.seconds)) < 1:
            started = time.perf_counter()
            lr = learning_rate(training, used)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            batch = task.batch(at.step)
            losses, new_states = [], []
            for i, part in enumerate(task.split(batch, ranks.size * parts)[mine]):
                state = None if batch.fresh else detach(states[i])
                with fabric.no_backward_sync(model, enabled=i + 1 < parts):
                    part_loss, state = task.loss(model, fabric.to_device(part), state)
                    fabric.backward(part_loss / parts)
                losses.append(part_loss.detach())
                new_states.append(state)
            if scaler is not None:
                scaler.unscale_(raw_optimizer)
            norm = clip(parameters, training.clip)
            loss = ranks.sum(sum(value.item() / parts for value in losses))[0] / ranks.size
            finite = math.isfinite(loss) and math.isfinite(norm)
            scale = scaler.get_scale() if scaler is not None else 1.0
            if finite:
                optimizer.step()
                states = new_states
                at.skipped_in_a_row = 0
            elif math.isfinite(loss) and scale > 1:
                states = new_states  # the scaled gradient left float16's range, not the model
                at.skipped += 1
            elif at.skipped_in_a_row < training.skip_nonfinite:
                states = [None] * parts
                at.skipped, at.skipped_in_a_row = at.skipped + 1, at.skipped_in_a_row + 1
            else:
                save(extra=True)
                there = " and ".join(path.name for path in checkpoints(folder / CHECKPOINTS))
                raise NotFinite(
                    f"step {at.step + 1:,}: loss {loss}, gradient norm {norm}, at learning rate "
                    f"{lr:.3g}, after {at.skipped_in_a_row} skipped in a row; the state before "
                    f"this step is saved; there is {there}. {ADVICE}"
                )
            if scaler is not None and not finite:
                scaler.update(scale * scaler.get_backoff_factor())
                # the steps without overflow, after which it grows, are counted anew
                scaler.load_state_dict({**scaler.state_dict(), "_growth_tracker": 0})
            optimizer.zero_grad()
            took = ranks.share(time.perf_counter() - started)

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
                if log:
                    log.write("train", at.step, at.seconds, row_of(at, task, lr))
                at.row_steps = at.row_units = at.row_skipped = 0
                at.row_seconds = at.row_loss = at.row_norm = 0.0
            if is_due(training.evaluations, used, now_used) or now_used == 1:
                hold_out()
            in_turn = now_used == 1 or is_due(training.checkpoints, used, now_used)
            if to_evaluate or (asked() and now_used < 1):
                leave_off(extra=not in_turn)
            if in_turn:
                save()

        save()
        if best:
            found = {**best["numbers"], "best_step": best["step"]}
        elif training.average > 1:
            ranks.all(lambda: load_weights(folder / CHECKPOINTS, raw_model, training.average))
            try:
                found, _ = evaluate(task, model, asked)
            except Asked:
                leave_off()
        result = {
            **found,
            "parameters": sum(p.numel() for p in parameters if p.requires_grad),
            "steps": at.step,
            "skipped_steps": at.skipped,
            "seconds": at.seconds,
            f"{task.unit}s": at.units,
            f"{task.unit}s_per_second": at.units / at.seconds,
            "precision": fabric.strategy.precision.precision,
            "device": str(fabric.device),
            "devices": ranks.size,
            "strategy": type(fabric.strategy).__name__,
            "environment": environment.describe(),
        }
        ranks.first(lambda: write_file(folder / RESULT, json.dumps(result, indent=1) + "\n"))
        return ranks.share(result)


def is_better(task: Task, found: dict[str, float], best: dict[str, Any] | None) -> bool:
    """Whether an evaluation is at least as good as the best one before, by its first number: of
    equal ones the last counts, which has been trained for longest. NaN is worse than any other."""
    name = next(iter(found))
    if best is None or math.isnan(before := best["numbers"][name]):
        return True
    return found[name] >= before if task.higher_is_better else found[name] <= before


def own_seed(seed: int, rank: int, step: int) -> int:
    """The seed of a rank's dropout from this step on."""
    return random.Random(f"{seed}/{rank}/{step}").getrandbits(63)


def check_parts(task: Task, ranks: Ranks, parts: int) -> None:
    """Raise RunError unless all ranks have the same data, and a batch can be dealt out to them."""
    if len(set(ranks.gather(task.content, everywhere=True))) > 1:
        raise RunError("the processes of this run see different data: compare what data.paths name")
    count = ranks.size * parts
    batch = task.batch(0)
    try:
        units = [task.units(part) for part in task.split(batch, count)]
    except RuntimeError as error:
        raise RunError(f"a batch can't be cut into {count} parts: {error}") from error
    if len(units) != count or len(set(units)) != 1:
        raise RunError(
            f"data.batch must be a multiple of processes * training.accumulate = {ranks.size} * "
            f"{parts}: a batch gives {len(units)} parts of {units} {task.unit}s"
        )


def keep_record(
    folder: Path, about: dict[str, Any], step: int, kept: Mapping[str, str | bytes] | None = None
) -> None:
    """Write RUN/recipe.json, or add to it that the run goes on from `step` with this `about`; and
    the files of `kept`; once training has begun, those that are not there yet.

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
        if not step or not (folder / name).exists():
            write_file(folder / name, content)
    with naming(result):
        result.unlink(missing_ok=True)


@contextmanager
def naming_newest(folder: Path) -> Iterator[None]:
    """Add to an error of the block, in the run's folder or in the data, what is saved."""
    try:
        yield
    except (RunError, DataError) as error:
        raise type(error)(f"{error}; {newest(folder)}") from error


def newest(folder: Path) -> str:
    """What is saved, in words."""
    saved = checkpoints(folder / CHECKPOINTS)
    return f"{saved[-1].name} is the newest checkpoint" if saved else "there is no checkpoint yet"


def clip(parameters: list[nn.Parameter], largest: float | None) -> float:
    """Scale the gradient down to this norm if it is larger; returns the norm it had."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, largest or math.inf)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()


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


def evaluate(
    task: Task, model: nn.Module, asked: Callable[[], bool]
) -> tuple[dict[str, float], float]:
    """The task's numbers on held-out data, and the seconds they took.

    Args:
        asked: whether to stop; it is called before each of the model's forward passes, and says
            the same on all ranks.

    Raises: Asked if it says so.
    """

    def look(*_: object) -> None:
        if asked():
            raise Asked

    started = time.perf_counter()
    was_training = model.training
    model.eval()
    hook = model.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            found = task.evaluate(model)
    finally:
        hook.remove()
        model.train(was_training)
    return found, time.perf_counter() - started
