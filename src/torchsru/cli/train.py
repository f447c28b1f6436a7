"""`torchsru train RECIPE`: every field of the recipe is an option.

With several devices it starts a process for each; under torchrun it is one of them.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from torchsru.cli import Refused
from torchsru.cli.arguments import (
    add_recipe_options,
    kind_of,
    make_parser,
    parse,
    recipe_from,
)
from torchsru.data import DataError
from torchsru.recipes import Recipe, find_recipes, get_recipe
from torchsru.recipes.run import open_run, train
from torchsru.train import RunError
from torchsru.train.folder import RECIPE
from torchsru.train.launch import launch
from torchsru.train.loop import Interrupted, NotFinite, newest
from torchsru.train.ranks import is_watched, launched, speaks
from torchsru.train.strategy import processes_here

DESCRIPTION = (
    f"Train a recipe: {', '.join(find_recipes())}. Ctrl-C saves and says how to resume. Fields "
    "that are not given keep the recipe's value, or the run's when it is resumed; "
    "`torchsru recipes RECIPE` shows them."
)


def main(argv: Sequence[str]) -> int:
    """Train; returns 0, 1 if the loss is not finite, or 130 after Ctrl-C."""
    parser = make_parser("train", DESCRIPTION)
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="name of the recipe")
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on where the run stopped")
    add_recipe_options(parser, kind_of(argv))
    parsed = parse(parser, argv)
    name = parsed.recipe
    if name is None:
        raise Refused(
            f"train needs a recipe: {', '.join(find_recipes())}; not right after --data, which "
            "takes every word up to the next option"
        )
    folder = Path(parsed.out or f"runs/{name}")
    try:
        base = get_recipe(name)
        if parsed.resume:  # what the run was started with stands, unless it is overridden
            base = open_run(folder).recipe
    except (ValueError, RunError) as error:
        raise Refused(str(error)) from error
    return run(name, recipe_from(base, parsed), folder, resume=parsed.resume, argv=argv)


def run(
    name: str,
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool,
    argv: Sequence[str] = (),
    quiet: bool = False,
    again: Sequence[str] = (),
) -> int:
    """Train, in so many processes as the recipe asks for; say how to go on if interrupted, else
    where the model is unless quiet.

    Args:
        argv: what `torchsru train` trains the same by, in each of several processes.
        again: the command that goes on. Default: `torchsru train`'s.

    Returns: the exit code. Raises: Refused.
    """
    try:
        processes, nodes = processes_here(recipe.training), recipe.training.nodes
        if launched() is None and processes * nodes > 1:
            code = launch("torchsru.cli", ["train", *argv], processes=processes, nodes=nodes)
            if code == 130 and (folder / RECIPE).exists():
                say_stopped(f"stopped; {newest(folder)}", name, folder, again)
            return code
        result = train(name, recipe, folder, resume=resume)
    except (DataError, RunError) as error:
        if speaks():
            raise Refused(str(error)) from error
        return 2  # the first process of this machine says it
    except NotFinite as error:
        if speaks():
            print(f"torchsru: {folder}: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        if speaks() and not is_watched():
            say_stopped(str(stop), name, folder, again)
        return 130
    if quiet or not speaks():
        return 0
    where = shlex.quote(str(folder))
    judged, value = next(iter(result.items()))  # the number that a run is judged by comes first
    print(
        f"held-out {judged.replace('_', ' ')} {value:.3f}, saved in {folder}\n"
        f"next: {recipe.next_command(where)}"
    )
    return 0


def say_stopped(what: str, name: str, folder: Path, again: Sequence[str] = ()) -> None:
    """One line on stderr: what was stopped, and how to go on."""
    again = again or ["torchsru", "train", name, "--out", str(folder), "--resume"]
    print(f"torchsru: {what} in {folder}; go on with: {shlex.join(again)}", file=sys.stderr)
