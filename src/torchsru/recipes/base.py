"""A recipe: a run as a named, typed value. Saved as JSON, it can name no code.

Each task has a subclass, in a module of its own, listed in torchsru.recipes.tasks; all share the
loop, the run's folder and the commands `train`, `eval` and `recipes`.
"""

import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import nn

from torchsru.train.checkpoint import checkpoints, load_weights
from torchsru.train.config import Training
from torchsru.train.folder import BEST, CHECKPOINTS, RESULT, RunError, read_json
from torchsru.train.task import Task

T = TypeVar("T")
R = TypeVar("R", bound="Recipe")
D = TypeVar("D")

DATA = "TORCHSRU_DATA"  # the environment variable


@dataclass(frozen=True)
class Prepared:
    """What a recipe needs to be trained, its data read and checked."""

    task: Task
    make_model: Callable[[], nn.Module]
    kept: Mapping[str, str | bytes] = field(default_factory=dict)
    """{name: content} of files that the run's folder holds beside the recipe."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model's shape, its data, its training; subclasses say of what types, and of what task."""

    model: Any
    data: Any
    training: Training

    task: ClassVar[str] = "any"
    """The task's name, in a run's recipe.json."""

    def prepare(self) -> Prepared:
        """Read and check the data. Raises DataError."""
        raise NotImplementedError

    def evaluate(
        self, run: "Run", *, paths: tuple[str, ...], split: str, layout: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Numbers of a run of this recipe; see `torchsru.recipes.run.evaluate_run`."""
        raise NotImplementedError

    def debug(self) -> "Recipe":
        """The same in seconds, small: what the twin NAME_debug is."""
        raise NotImplementedError

    def with_absolute_paths(self: R) -> R:
        """The same from any folder; see `located`."""
        return replace(self, data=located(self.data))

    def next_command(self, run: str) -> str:
        """What to type once a run is done; `run`: its folder, quoted."""
        raise NotImplementedError


def located(data: D) -> D:
    """The same data from any folder: whatever is in their `locations`; a name that is no file, as
    vectors may have, stays. A published set without a path is looked for in the folder
    TORCHSRU_DATA, under its source's name."""
    about: Any = data
    changed = {name: absolute(getattr(about, name)) for name in about.locations}
    kept, source = os.environ.get(DATA), getattr(about, "source", "")
    if kept and source and not about.paths and source not in getattr(about, "inside", ()):
        shelf = os.path.join(kept, source)
        changed["paths"] = absolute((shelf,)) if os.path.exists(shelf) else ()
    return replace(about, **changed)


def absolute(where: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Paths from any folder; a single one stays if no file is there."""
    if isinstance(where, tuple):
        return tuple(map(os.path.abspath, where))
    return os.path.abspath(where) if os.path.exists(where) else where


@dataclass(frozen=True)
class Run:
    """A run folder that holds a recipe."""

    folder: Path
    name: str
    recipe: Any
    """A `Recipe`, as it was last resumed."""

    @property
    def result(self) -> dict[str, Any] | None:
        """The numbers of a finished run, None before. Raises RunError if they can't be read."""
        file = self.folder / RESULT
        return read_json(file) if file.exists() else None

    def load_weights(self, model: nn.Module) -> dict[str, Any]:
        """Put the run's weights into a model, those of the best evaluation where the recipe keeps
        them, else the newest, or the mean of so many as the recipe averages. Returns what the
        checkpoint says of the training.

        Raises: RunError if there are none yet, or they are damaged or do not fit.
        """
        best = self.folder / BEST
        keeps = self.recipe.training.keep == "best" and checkpoints(best)
        average = 1 if keeps else self.recipe.training.average
        facts = load_weights(best if keeps else self.folder / CHECKPOINTS, model, average)
        if facts is None:
            raise RunError(f"{self.folder} has saved no weights yet")
        return facts

    def check_content(self, facts: Mapping[str, Any], content: str, instead: str = "files") -> None:
        """Raise RunError if the run's data are not what it was trained on.

        Args:
            facts: what the checkpoint says of the training.
            content: digest of the data as they are now.
            instead: what --data takes in their place; empty: nothing.
        """
        if facts.get("content") != content:
            hint = f"; name {instead} of your own with --data" if instead else ""
            raise RunError(
                f"{self.folder} was trained on other data than what is there now: what is held out "
                f"now may have been trained on{hint}"
            )


def described(make: Callable[..., R], said: str, *arguments: Any) -> Callable[[], R]:
    """make(*arguments) as a named recipe, of which `torchsru recipes` says this."""
    named = partial(make, *arguments)
    named.__doc__ = said
    return named


def to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested JSON-ready dicts; `from_json` reads them back."""
    return asdict(recipe)


def from_json(kind: type[T], values: Any, where: str = "") -> T:
    """Build a dataclass, and those nested in it, from dicts.

    Args:
        kind: the dataclass.
        values: {field: value}; fields left out take their default, those that another name was
            for in an earlier version (`renamed` of the dataclass) are known by it too.
        where: dotted name of the field that holds it, for errors.

    Raises: ValueError naming the field: unknown, missing, of a wrong type or with a value that
        the dataclass refuses.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where or 'recipe'} must be a table of fields, got {values!r}")
    renamed = getattr(kind, "renamed", {})
    values = {renamed.get(name, name): value for name, value in values.items()}
    hints = typing.get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{prefix}{unknown[0]} is unknown; fields are {', '.join(sorted(known))}")
    built: dict[str, Any] = {}
    for name, value in values.items():
        if is_dataclass(hint := hints[name]):
            built[name] = from_json(hint, value, prefix + name)  # type: ignore[arg-type]
        else:
            built[name] = tuple(value) if isinstance(value, list) else value
            if not fits(built[name], hint):
                raise ValueError(f"{prefix}{name} must be {type_name(hint)}, got {value!r}")
    try:
        return kind(**built)
    except TypeError as error:
        raise ValueError(f"{where or 'recipe'}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; an int may stand for a float, a bool for nothing."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if origin is tuple:
        kinds = [args[0]] * len(value) if args[-1] is ... else args
        return len(kinds) == len(value) and all(map(fits, value, kinds))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def type_name(hint: Any) -> str:
    """A field's type as a user would write it."""
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
