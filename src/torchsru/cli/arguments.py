"""A recipe's fields as command-line options: `--model.width 512`, typed by the dataclasses."""

import ast
import inspect
import math
import re
import textwrap
import typing
from argparse import SUPPRESS, ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from torchsru.cli import Refused
from torchsru.recipes import RECIPES, LanguageModelRecipe, Recipe, from_json, get_recipe, to_json

R = TypeVar("R", bound=Recipe)

PATHS = "--data.paths"  # also written --data PATH ...
PARTS = ("model", "data", "training")


def kind_of(argv: Sequence[str]) -> type[Recipe]:
    """The kind of the recipe that is named first; a language model's if none is."""
    words = [word for before, word in zip(["", *argv], argv, strict=False) if before != "--out"]
    named = next((word for word in words if word in RECIPES), None)
    return type(get_recipe(named)) if named else LanguageModelRecipe


def add_recipe_options(parser: ArgumentParser, recipe: type[Recipe]) -> None:
    """Add an option for each field; what is not given is not in the parsed values either."""
    for part in PARTS:
        kind = typing.get_type_hints(recipe)[part]
        hints, described = typing.get_type_hints(kind), dict(field_docs(kind))
        for field in fields(kind):
            option, about = f"--{part}.{field.name}", described[field.name].replace("%", "%%")
            more: dict[str, Any] = {"type": hints[field.name]}
            if option == PATHS:
                more = {"type": str, "nargs": "+", "metavar": "PATH"}
                about += " Short: --data PATH ..."
            parser.add_argument(option, default=SUPPRESS, help=about, **more)


def recipe_from(base: R, parsed: Namespace) -> R:
    """`base` with the fields that were given. Raises Refused naming field, rule, value."""
    values = to_json(base)
    for part in values:
        if given := parsed.get(part):
            values[part] |= given.as_dict()
    training = parsed.get("training")
    budgets = {"steps", "epochs"} & (training.as_dict().keys() if training else set())
    if len(budgets) == 1:  # the one that is given stands in the place of the recipe's other
        values["training"][({"steps", "epochs"} - budgets).pop()] = None
    try:
        return from_json(type(base), values)
    except ValueError as error:
        raise Refused(str(error)) from error


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse; unknown options and wrong types raise Refused instead of printing the usage."""
    try:
        return parser.parse_args([spelt_out(argument) for argument in argv])
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
    """Each field of a dataclass with the string that stands below it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, " ".join(text.split())


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each field of nested tables."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
