"""A recipe's fields as command-line options: `--model.width 512`, typed by the dataclasses."""

import ast
import inspect
import json
import math
import re
import textwrap
import typing
from argparse import SUPPRESS, ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from torchsru.cli import Refused
from torchsru.recipes import RECIPES, LanguageModelRecipe, Recipe, from_json, get_recipe, to_json

R = TypeVar("R", bound=Recipe)

PATHS = "--data.paths"  # also written --data PATH ...
PARTS = ("model", "data", "training")
BUDGET = ("steps", "epochs", "seconds")


def kind_of(argv: Sequence[str]) -> type[Recipe]:
    """The kind of the recipe that is named first; a language model's if none is."""
    words = [word for before, word in zip(["", *argv], argv, strict=False) if before != "--out"]
    named = next((word for word in words if word in RECIPES), None)
    return type(get_recipe(named)) if named else LanguageModelRecipe


def language_model(name: str) -> LanguageModelRecipe:
    """The recipe of that name. Raises ValueError if there is none, or it is of another task."""
    recipe = get_recipe(name)
    if not isinstance(recipe, LanguageModelRecipe):
        raise ValueError(f"recipe must be a language model's, got {name!r} of {recipe.task}")
    return recipe


def add_recipe_options(parser: ArgumentParser, recipe: type[Recipe]) -> None:
    """Add an option for each field; what is not given is not in the parsed values either."""
    for part in PARTS:
        kind = typing.get_type_hints(recipe)[part]
        hints, described = typing.get_type_hints(kind), dict(field_docs(kind))
        for field in fields(kind):
            option, about = f"--{part}.{field.name}", described[field.name].replace("%", "%%")
            more = words_of(hints[field.name])
            if option == PATHS:
                more |= {"nargs": "+", "metavar": "PATH"}
                about += " Short: --data PATH ..."
            parser.add_argument(option, default=SUPPRESS, help=about, **more)


def words_of(hint: Any) -> dict[str, Any]:
    """How a field of this type is written: a tuple as several words."""
    if typing.get_origin(hint) is not tuple:
        return {"type": hint}
    first, *others = typing.get_args(hint)
    return {"type": first, "nargs": "*" if others == [...] else 1 + len(others)}


def recipe_from(base: R, parsed: Namespace) -> R:
    """`base` with the fields that were given. Raises Refused naming field, rule, value."""
    try:
        return from_json(type(base), with_given(to_json(base), parsed))
    except ValueError as error:
        raise Refused(str(error)) from error


def with_given(values: dict[str, Any], parsed: Namespace) -> dict[str, Any]:
    """A recipe's fields, nested as `to_json` has them, with those that were given in them."""
    for part in values:
        if given := parsed.get(part):
            values[part] |= given.as_dict()
    training = parsed.get("training")
    asked = training.as_dict() if training else {}
    if any(asked.get(name) is not None for name in ("steps", "epochs")):
        # in the place of the recipe's own budget, whatever that counts
        values["training"] |= {name: asked.get(name) for name in BUDGET}
    return values


def options_of(recipe: Recipe, base: Recipe) -> list[str]:
    """The words that make `base` the recipe, which `recipe_from` reads."""
    before, words = dict(flat(to_json(base))), list[str]()
    for name, value in flat(to_json(recipe)):
        if isinstance(value, tuple):
            if value != before[name]:
                words += [f"--{name}", *map(str, value)]
        elif value != before[name] or name.removeprefix("training.") in BUDGET:
            words.append(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
    return words


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse; unknown options and wrong types raise Refused instead of printing the usage."""
    if any(PATHS in action.option_strings for action in parser._actions):
        argv = [spelt_out(argument) for argument in argv]
    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        # the parser puts "argument --count/--bytes: " before what `Number` says
        raise Refused(re.sub(r"^argument ([^/:]+)\S*: must ", r"\1 must ", str(error))) from error


@dataclass(frozen=True)
class Number:
    """Type of an option; its error names option, rule and value.

    Attributes:
        read: the number that a text stands for; raises ValueError.
        rule: what is asked for; as --help shows it, too.
    """

    read: Callable[[str], float]
    rule: str

    def __call__(self, text: str) -> float:
        """The number. Raises ArgumentTypeError."""
        try:
            return self.read(text)
        except ValueError:
            raise ArgumentTypeError(f"must be {self.rule}, got {text!r}") from None

    def __str__(self) -> str:
        return self.rule


def finite(text: str) -> float:
    """The number. Raises ValueError, for nan and inf too."""
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


WHOLE = Number(int, "a whole number")
FINITE = Number(finite, "a finite number")


def spelt_out(argument: str) -> str:
    """`--data` as the field's full name; a plain "data" would clash with the other data fields."""
    name, equals, value = argument.partition("=")
    return PATHS + equals + value if name == "--data" else argument


def make_parser(command: str, description: str) -> ArgumentParser:
    """A parser for one command that raises instead of leaving the process."""
    return ArgumentParser(prog=f"torchsru {command}", description=description, exit_on_error=False)


def field_docs(kind: type) -> Iterator[tuple[str, str]]:
    """Each field of a dataclass, those it inherits first, with the string that stands below it in
    the source."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if not is_dataclass(part):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = " ".join(text.split())
    yield from found.items()


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each field of nested tables."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
