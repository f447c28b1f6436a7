"""Checkpoints: written whole or not at all, read without running code.

    RUN/checkpoints/step-000001200/model.safetensors     the weights
                                   training.safetensors  optimiser, recurrent states, random states
                                   training.json         step, seconds, shape of the state, sums
    RUN/best/step-000001000/       model.safetensors, training.json: of the best evaluation
Atomic   written beside its place, flushed to disk, then renamed
Ranks    rank 0 writes; weights and optimiser are whole, whatever the strategy, and the states are
         those of all rows, so that a run may go on with another strategy or number of processes
Kept     the newest two, or as many as the run averages; older ones go last. One that was saved
         out of turn, as a run was stopped, has no part in a mean, and goes when the next is saved:
         what a run gives does not depend on where it was stopped
Safe     tensors and JSON; no pickle, nothing names code
Damage   sizes and SHA-256 sums tell; errors say what was found and what was expected. Of several
         processes one on each machine computes the sums (`check_newest`)
Memory   files are mapped: a process reads what it takes, its shards and the states of its rows,
         and the processes of a machine share what they read
Check    tests/train/test_checkpoint.py
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import torchsru
from torchsru.data.cache import summary as summary_of_file
from torchsru.train.folder import RunError, naming, read_json, remove_folder, write_folder
from torchsru.train.ranks import ALONE, Ranks, part_here

T = TypeVar("T")

FORMAT = 2
KEPT = 2  # the newest may be bad: weights go wrong before the loss is NaN
NAME = re.compile(r"step-(\d+)")
WEIGHTS, TRAINING, FACTS = "model.safetensors", "training.safetensors", "training.json"


@dataclass(frozen=True)
class Saved:
    """A checkpoint's content, mapped from its files: what is to outlive it must be copied."""

    path: Path
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    """{"INDEX.NAME": value} for the parameter of that index."""
    state: Any
    random: dict[str, Tensor]
    """{"cpu" | "cuda": state} of rank 0, {"RANK.cpu" | "RANK.cuda": state} of the others."""
    facts: dict[str, Any]


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Any,
    facts: dict[str, Any],
    kept: int = KEPT,
    ranks: Ranks = ALONE,
) -> Path:
    """Write `folder`/step-N, N = facts["step"]; remove all but it and those before it to be kept.
    facts["extra"] is true of one that is saved out of turn.

    Args:
        state: recurrent state, a pytree of tensors and None; of several ranks, a list of states.
        facts: JSON-ready; position and counters of the loop.
        kept: how many of the newest are kept; KEPT at least.
        ranks: all of them call this together.

    Returns: its path.
    Raises: RunError if it can't be written; the older ones are left then.
    """
    final = folder / name_of(facts["step"])
    # it may have been saved a moment ago, at this very step
    if not ranks.share(final.exists()):
        weights = gathered(model.state_dict(), ranks)
        training = gathered(
            {
                f"optimizer.{index}.{name}": value
                for index, values in optimizer.state_dict()["state"].items()
                for name, value in values.items()
            },
            ranks,
        )
        if ranks.size > 1:
            state = ranks.gather_states(state)
        leaves: list[Tensor] = []
        shape = to_shape(state, leaves)
        training |= {f"state.{i}": leaf for i, leaf in enumerate(leaves)}
        for rank, random in enumerate(ranks.gather(random_states())):
            training |= {f"random.{random_name(rank, kind)}": v for kind, v in random.items()}

        def write() -> None:
            files = {WEIGHTS: to_bytes(weights), TRAINING: to_bytes(training)}
            about = {
                "format": FORMAT,
                "torchsru": torchsru.__version__,
                "files": {name: summary(content) for name, content in files.items()},
                "state_shape": shape,
                **facts,
            }
            write_folder(final, {**files, FACTS: json.dumps(about, indent=1).encode()})

        ranks.first(write)
    ranks.first(lambda: tidy(folder, kept))
    return final


def save_best(
    folder: Path,
    *,
    model: nn.Module,
    facts: dict[str, Any],
    resumable: Sequence[int] = (),
    ranks: Ranks = ALONE,
) -> None:
    """Write the weights alone to `folder`/step-N; remove all but it and what a run that goes on
    from an older step needs: the best up to then.

    Args:
        facts: JSON-ready; "step", and "numbers", those of the evaluation.
        resumable: steps that the run may go on from, those of its checkpoints.
        ranks: all of them call this together.

    Raises: RunError if it can't be written.
    """
    weights = gathered(model.state_dict(), ranks)

    def write() -> None:
        content = to_bytes(weights)
        about = {
            "format": FORMAT,
            "torchsru": torchsru.__version__,
            "files": {WEIGHTS: summary(content)},
            **facts,
        }
        files = {WEIGHTS: content, FACTS: json.dumps(about, indent=1).encode()}
        remove_folder(final := folder / name_of(facts["step"]))  # of a run that was resumed before
        write_folder(final, files)
        clean(folder)
        found = checkpoints(folder)
        needed = [[p for p in found if step_of(p) <= step][-1:] for step in resumable]
        for path in found:
            if path != final and [path] not in needed:
                remove_folder(path)

    ranks.first(write)


def find_best(folder: Path, step: int) -> dict[str, Any] | None:
    """The facts of the best evaluation up to a step; None if there was none. Later ones, from which
    a run does not go on, are removed.

    Raises: RunError if it is damaged, or of another version.
    """
    clean(folder)
    for path in checkpoints(folder):
        if step_of(path) > step:
            remove_folder(path)
    found = checkpoints(folder)
    return read_facts(found[-1]) if found else None


def tidy(folder: Path, kept: int = KEPT) -> None:
    """Remove what is half written, and all but the newest checkpoint and those before it that were
    saved in turn."""
    clean(folder)
    found = checkpoints(folder)
    kept_paths = {*found[-1:], *in_turn(found)[-max(kept, KEPT) :]}
    for old in found:
        if old not in kept_paths:
            remove_folder(old)


def in_turn(found: Sequence[Path]) -> list[Path]:
    """Those that were not saved out of turn."""

    def is_extra(path: Path) -> bool:
        try:
            return read_facts(path).get("extra") is True
        except RunError:
            return False  # who reads it tells

    return [path for path in found if not is_extra(path)]


def gathered(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Sharded tensors put together, one after the other; rank 0 keeps them, on the CPU."""
    found = {}
    for name, value in sorted(tensors.items()):  # safetensors reads in another order on each rank
        if isinstance(value, DTensor):
            value = value.full_tensor().cpu()
        if ranks.is_first:
            found[name] = value
    return found


def random_states() -> dict[str, Tensor]:
    """The states of the random generators of this process."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def random_name(rank: int, kind: str) -> str:
    """What a rank's random state is called; rank 0's is called as that of a process alone."""
    return f"{rank}.{kind}" if rank else kind


def check_newest(folder: Path) -> None:
    """Raise RunError if a file of the newest checkpoint below `folder` is damaged."""

    def check(path: Path) -> None:
        facts = read_facts(path)
        for name in (WEIGHTS, TRAINING):
            check_sum(path / name, facts)

    of_newest(folder, check)


def load_checkpoint(folder: Path, *, checked: bool = False) -> Saved | None:
    """Read the newest checkpoint below `folder`; None if none was written yet.

    Args:
        checked: `check_newest` was called for it, here or by another process of this machine.

    Raises: RunError if it is damaged, or of another version.
    """
    return of_newest(folder, partial(read_checkpoint, checked=checked))


def load_weights(folder: Path, model: nn.Module, average: int = 1) -> dict[str, Any] | None:
    """Put the newest weights below `folder` into the model; nothing else is read but the facts.

    Args:
        average: the mean of so many of the newest that were saved in turn, or of all if there are
            fewer; the newest one alone if there is none.

    Returns: the facts of the newest one that is read; None if no checkpoint was written yet.
    Raises: RunError if one is damaged, of another version, or does not fit the model.
    """

    def read(path: Path) -> dict[str, Any]:
        facts = read_facts(path)
        check_sum(path / WEIGHTS, facts)
        put_weights(map_tensors(path / WEIGHTS), model, path)
        return facts

    def read_mean(newest: Path) -> dict[str, Any]:
        *others, last = in_turn(checkpoints(folder))[-average:] or [newest]
        facts = read(last)
        total = {name: value.double() for name, value in model.state_dict().items()}
        for path in others:
            read(path)
            for name, value in model.state_dict().items():
                total[name] += value
        for name, value in model.state_dict().items():
            value.copy_(total[name] / (len(others) + 1))
        return facts

    return of_newest(folder, read_mean if average > 1 else read)


def restore(
    saved: Saved, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks = ALONE
) -> bool:
    """Put weights, optimiser and random states back; every rank does.

    Returns: whether it held the random state of this rank; more ranks than saved it have none.
    Raises: RunError if they don't fit.
    """
    put_weights(saved.model, model, saved.path)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = {key.partition(".")[0] for key in saved.optimizer}
    kinds = {key.partition(".")[2] for key in saved.optimizer}
    expected = {
        f"{i}.{kind}": torch.empty(() if kind == "step" else p.shape, device="meta")
        for i, p in enumerate(parameters)
        if str(i) in kept  # nothing is of a parameter that had no gradient
        for kind in sorted(kinds)
    }
    check_fit(saved.optimizer, expected, f"the optimiser in {saved.path}")
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.optimizer.items():
        index, kind = key.split(".")
        if kind != "step":
            value = part_here(value, parameters[int(index)])
        state.setdefault(int(index), {})[kind] = value.clone()  # the optimiser takes it as it is
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    mine = {
        kind: saved.random[name]
        for kind in ("cpu", "cuda")
        if (name := random_name(ranks.rank, kind)) in saved.random
    }
    if ranks.rank and not mine:
        return False
    try:
        torch.set_rng_state(mine["cpu"])
        if "cuda" in mine and torch.cuda.is_available():
            torch.cuda.set_rng_state(mine["cuda"])
    except (KeyError, RuntimeError, TypeError) as error:
        found = {name: describe(value) for name, value in saved.random.items()}
        raise RunError(
            f"{saved.path} holds no random state of this torch {torch.__version__}: found {found}, "
            f"expected cpu {describe(torch.get_rng_state())}"
        ) from error
    return True


def put_weights(weights: dict[str, Tensor], model: nn.Module, path: Path) -> None:
    """Load weights read from `path`. Raises RunError naming what does not fit."""
    places = model.state_dict()
    check_fit(weights, places, f"the weights in {path} do not fit the recipe")
    model.load_state_dict({name: part_here(w, places[name]) for name, w in weights.items()})


def check_fit(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise RunError unless names, shapes and types agree; it names the first that does not."""
    names = [*expected, *(name for name in found if name not in expected)]
    wrong = [name for name in names if describe(found.get(name)) != describe(expected.get(name))]
    if wrong:
        more = f"; {len(wrong) - 1} more differ" if wrong[1:] else ""
        raise RunError(
            f"{what}: {wrong[0]}: found {describe(found.get(wrong[0]))}, "
            f"expected {describe(expected.get(wrong[0]))}{more}"
        )


def describe(tensor: Tensor | None) -> str:
    """A tensor's shape and type: "[256, 32] float32"."""
    if tensor is None:
        return "nothing"
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def checkpoints(folder: Path) -> list[Path]:
    """All whole checkpoints below `folder`, the newest last."""
    with naming(folder, "read"):
        found = folder.iterdir() if folder.exists() else ()
        return sorted((p for p in found if NAME.fullmatch(p.name)), key=step_of)


def name_of(step: int) -> str:
    """A checkpoint's name."""
    return f"step-{step:09d}"


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name states."""
    return int(checkpoint.name.removeprefix("step-"))


def clean(folder: Path) -> None:
    """Remove what a process that was killed may have left half written or half removed."""
    for left in folder.glob(".step-*"):
        remove_folder(left)


def of_newest(folder: Path, read: Callable[[Path], T]) -> T | None:
    """What `read` finds in the newest checkpoint; again if a training replaced it, or those before
    it, meanwhile."""
    while found := checkpoints(folder):
        try:
            return read(found[-1])
        except RunError:
            if checkpoints(folder) == found:
                raise
    return None


def read_checkpoint(path: Path, *, checked: bool) -> Saved:
    """Open one checkpoint; its sums are computed unless they were `checked`. Raises RunError."""
    facts = read_facts(path)
    if not checked:
        for name in (WEIGHTS, TRAINING):
            check_sum(path / name, facts)
    model, tensors = (map_tensors(path / name) for name in (WEIGHTS, TRAINING))
    try:
        state = from_shape(facts.get("state_shape"), tensors)
    except (ValueError, KeyError, RecursionError) as error:
        raise RunError(f"{path / FACTS} is damaged: state_shape: {error}") from error

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    return Saved(path, model, part("optimizer."), state, part("random."), facts)


def read_facts(path: Path) -> dict[str, Any]:
    """training.json of one checkpoint. Raises RunError if it is damaged or of another version."""
    facts = read_json(path / FACTS)
    if not isinstance(facts, dict):
        raise RunError(f"{path / FACTS} is damaged: expected a table, found {type(facts).__name__}")
    check_format(path, facts, FORMAT)
    if facts.get("step") != step_of(path):
        raise RunError(f"{path} is damaged: found step {facts.get('step')!r} in it")
    return facts


def check_format(path: Path, about: dict[str, Any], expected: int) -> None:
    """Raise RunError, naming both, if `path` is of a format that this version does not read."""
    if (format := about.get("format")) != expected:
        raise RunError(
            f"{path}: found format {format!r}, written by torchsru {about.get('torchsru')!r}; "
            f"expected {expected}, which torchsru {torchsru.__version__} reads"
        )


def check_sum(file: Path, facts: dict[str, Any]) -> None:
    """Raise RunError unless a file is as its checkpoint's facts state."""
    files = facts.get("files")
    expected = files.get(file.name) if isinstance(files, dict) else None
    with naming(file, "read"):
        found = summary_of_file(file)
    if found != expected:
        raise RunError(f"{file} is damaged: found {found}, expected {expected}")


def map_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, read when they are used. Raises RunError."""
    try:
        with naming(file, "read"):
            return load_file(file)
    except (SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{file} is no safetensors file: {error}") from error


def summary(content: bytes) -> str:
    """Size and sum of a file's content."""
    return f"{len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}"


def to_shape(state: Any, leaves: list[Tensor]) -> Any:
    """Describe a pytree in JSON: numbers of leaves, null, and ["tuple" | "list" | "dict", parts].

    Appends the leaves. A closed set of kinds: what is read back can name nothing else.
    Raises: TypeError if the pytree holds anything else.
    """
    if state is None:
        return None
    if isinstance(state, Tensor):
        leaves.append(state)
        return len(leaves) - 1
    if type(state) in (tuple, list):
        return [type(state).__name__, [to_shape(part, leaves) for part in state]]
    if type(state) is dict and all(isinstance(name, str) for name in state):
        return ["dict", {name: to_shape(part, leaves) for name, part in state.items()}]
    raise TypeError(f"state must hold tensors, tuples, lists, dicts and None, got {type(state)}")


def from_shape(shape: Any, tensors: dict[str, Tensor]) -> Any:
    """Build the pytree that `to_shape` described. Raises ValueError or KeyError if it can't be."""
    match shape:
        case None:
            return None
        case int():
            return tensors[f"state.{shape}"]
        case ["tuple", list(parts)]:
            return tuple(from_shape(part, tensors) for part in parts)
        case ["list", list(parts)]:
            return [from_shape(part, tensors) for part in parts]
        case ["dict", dict(parts)]:
            return {name: from_shape(part, tensors) for name, part in parts.items()}
    raise ValueError(f"the state's shape is not one that this version writes: {shape!r}")


def to_bytes(tensors: dict[str, Tensor]) -> bytes:
    """The tensors in safetensors' format; shared memory is written out for each name."""
    own: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        own[name] = value.clone() if place in taken else value
        taken.add(place)
    return save(own)
