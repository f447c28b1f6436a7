"""Checkpoints: written whole or not at all, read without running code.

    RUN/checkpoints/step-000001200/model.safetensors     the weights
                                   training.safetensors  optimiser, recurrent state, random state
                                   training.json         step, seconds, shape of the state
Atomic   written to a temporary folder, flushed to disk, then renamed; older ones go last
Safe     tensors and JSON; no pickle, nothing names code
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

FORMAT = 1
PREFIX = "step-"


class RunError(RuntimeError):
    """A run folder that is missing, foreign, damaged or in the way; the message names it."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint's content, tensors on the CPU."""

    model: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    state: Any
    random: dict[str, Tensor]
    facts: dict[str, Any]


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Any,
    facts: dict[str, Any],
) -> Path:
    """Write `folder`/step-N, N = facts["step"], and remove the older ones. Returns its path.

    Args:
        state: recurrent state, a pytree of tensors and None.
        facts: JSON-ready; position and counters of the loop.
    """
    final = folder / f"{PREFIX}{facts['step']:09d}"
    if final.exists():  # saved a moment ago, at this very step
        return final
    leaves: list[Tensor] = []
    shape = to_shape(state, leaves)
    training = {
        f"optimizer.{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    training |= {f"state.{i}": leaf for i, leaf in enumerate(leaves)}
    training["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        training["random.cuda"] = torch.cuda.get_rng_state()
    about = {
        "format": FORMAT,
        "state_shape": shape,
        **facts,
    }
    write_folder(
        final,
        {
            "model.safetensors": to_bytes(model.state_dict()),
            "training.safetensors": to_bytes(training),
            "training.json": json.dumps(about, indent=1).encode(),
        },
    )
    for old in [*folder.glob(f"{PREFIX}*"), *folder.glob(f".{PREFIX}*")]:
        if old != final:
            shutil.rmtree(old, ignore_errors=True)  # another process may be reading it
    return final


def load_checkpoint(folder: Path) -> Saved | None:
    """Read the newest checkpoint below `folder`; None if none was written yet.

    Raises: RunError if it is damaged.
    """
    newest = max(folder.glob(f"{PREFIX}*"), default=None)
    if newest is None:
        return None
    try:
        facts = json.loads((newest / "training.json").read_text())
        model = load_file(newest / "model.safetensors")
        tensors = load_file(newest / "training.safetensors")
        if facts["format"] != FORMAT:
            raise RunError(f"{newest} has format {facts['format']}, this version reads {FORMAT}")
        state = from_shape(facts["state_shape"], tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"checkpoint {newest} is damaged or incomplete: {error}") from error
    optimizer: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            optimizer.setdefault(int(index), {})[name] = value
    random = {k.removeprefix("random."): v for k, v in tensors.items() if k.startswith("random.")}
    return Saved(model, optimizer, state, random, facts)


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


def restore(saved: Saved, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put weights, optimiser and random states back. Raises RunError if the weights don't fit."""
    load_weights(saved, model)
    optimizer.load_state_dict(
        {"state": saved.optimizer, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    torch.set_rng_state(saved.random["cpu"])
    if "cuda" in saved.random and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved.random["cuda"])


def load_weights(saved: Saved, model: nn.Module) -> None:
    """Put the weights back. Raises RunError naming what does not fit."""
    try:
        model.load_state_dict(saved.model)
    except RuntimeError as error:
        raise RunError(f"the checkpoint's weights do not fit the recipe: {error}") from error


def to_bytes(tensors: dict[str, Tensor]) -> bytes:
    """The tensors in safetensors' format; shared memory is written out for each name."""
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def write_folder(final: Path, files: dict[str, bytes]) -> None:
    """Create a new folder with these files: after a crash it is there whole, or not at all."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name, content in files.items():
        with open(temporary / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(temporary)
    temporary.rename(final)
    sync_folder(final.parent)


def write_file(final: Path, content: str) -> None:
    """Replace a file's content: after a crash it holds the old one or the new one."""
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
