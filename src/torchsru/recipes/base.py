"""A recipe: a run as a named, typed value. Saved as JSON, it can name no code."""

import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, TypeVar

from torchsru.data import TextData
from torchsru.models import LanguageModelConfig
from torchsru.train.config import Training

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LanguageModelRecipe:
    """A language model: its shape, its data, its training."""

    model: LanguageModelConfig
    data: TextData
    training: Training

    def __post_init__(self) -> None:
        if self.data.batch % self.training.accumulate:
            raise ValueError(
                f"training.accumulate must divide data.batch = {self.data.batch}, "
                f"got {self.training.accumulate}"
            )


def to_json(recipe: LanguageModelRecipe) -> dict[str, Any]:
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
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
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
