"""`torchsru train RECIPE`: every field of the recipe is an option."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from torchsru.cli import Refused
from torchsru.cli.arguments import add_recipe_options, make_parser, parse, recipe_from
from torchsru.data import DataError
from torchsru.recipes import LanguageModelRecipe, find_recipes, get_recipe
from torchsru.recipes.run import open_run, train
from torchsru.train import RunError
from torchsru.train.loop import Interrupted, NotFinite

DESCRIPTION = (
    f"""Train a recipe: {", ".join(find_recipes())}. Ctrl-C saves and says how to resume."""
)


def main(argv: Sequence[str]) -> int:
    """Train; returns 0, 1 if the loss is not finite, or 130 after Ctrl-C."""
    arguments = list(argv)
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if name is None and not {"-h", "--help"} & set(arguments):
        raise Refused(f"train needs a recipe: {', '.join(find_recipes())}")
    try:
        recipe = get_recipe(name or find_recipes()[0])
    except ValueError as error:
        raise Refused(str(error)) from error
    resume = "--resume" in arguments
    folder = Path(_value_of("--out", arguments) or f"runs/{name}")
    if resume:  # what the run was started with stands, unless it is overridden
        try:
            recipe = open_run(folder).recipe
        except RunError as error:
            raise Refused(str(error)) from error

    parser = make_parser("train", DESCRIPTION)
    parser.add_argument("recipe", metavar="RECIPE", help="name of the recipe")
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on where the run stopped")
    add_recipe_options(parser, recipe)
    parsed = parse(parser, arguments)
    return run(parsed.recipe, recipe_from(parsed), folder, resume=resume)


def run(
    name: str, recipe: LanguageModelRecipe, folder: Path, *, resume: bool, quiet: bool = False
) -> int:
    """Train; say how to go on if interrupted, else where the model is unless quiet.

    Returns: the exit code.
    """
    try:
        result = train(name, recipe, folder, resume=resume)
    except (DataError, RunError) as error:
        raise Refused(str(error)) from error
    except NotFinite as error:
        print(f"torchsru: {error}; saved in {folder}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        again = shlex.join(["torchsru", "train", name, "--out", str(folder), "--resume"])
        print(f"torchsru: {stop} in {folder}; go on with: {again}", file=sys.stderr)
        return 130
    if quiet:
        return 0
    where = shlex.quote(str(folder))
    print(
        f"held-out bits per byte {result['bits_per_byte']:.3f}, saved in {folder}\n"
        f"next: torchsru eval {where}; torchsru generate {where} --prompt 'def '"
    )
    return 0


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value of an option that must be known before the parser can be built."""
    for i, argument in enumerate(arguments):
        if argument == option and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(option + "="):
            return argument.partition("=")[2]
    return None
