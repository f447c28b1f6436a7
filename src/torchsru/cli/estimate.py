"""`torchsru estimate RECIPE`: parameters, memory, FLOPs and hours, before anything is trained."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from torchsru.cli import Refused
from torchsru.cli.arguments import (
    add_recipe_options,
    language_model,
    make_parser,
    parse,
    recipe_from,
)
from torchsru.data.prepare import expected_symbols
from torchsru.models import LanguageModel
from torchsru.recipes import LanguageModelRecipe, find_recipes, get_recipe
from torchsru.recipes.language_model import load_vocabulary
from torchsru.recipes.run import open_run
from torchsru.train import RunError
from torchsru.train.estimate import Estimate, estimate
from torchsru.train.strategy import processes_here

NAMES = [name for name in find_recipes() if isinstance(get_recipe(name), LanguageModelRecipe)]
DESCRIPTION = (
    f"What a language model's recipe needs: {', '.join(NAMES)}. Every field is an option, as for "
    "train. Nothing is trained and no data are read."
)


def main(argv: Sequence[str]) -> int:
    """Print the estimate; returns 0."""
    parser = make_parser("estimate", DESCRIPTION)
    parser.add_argument("recipe", metavar="RECIPE", help="name of the recipe")
    parser.add_argument(
        "--rate",
        type=float,
        metavar="FLOPS",
        help="matrix-product FLOP/s that one device sustains in training, 2e14 say",
    )
    parser.add_argument(
        "--like", metavar="RUN", help="take the rate that a finished run reached on its devices"
    )
    parser.add_argument(
        "--symbols",
        type=int,
        metavar="N",
        help="how many the vocabulary has, where that is known only once the data are read",
    )
    add_recipe_options(parser, LanguageModelRecipe)
    parsed = parse(parser, argv)
    try:
        recipe = recipe_from(language_model(parsed.recipe), parsed)
        rate = parsed.rate
        if rate is not None and parsed.like:
            raise Refused("rate must be left out beside --like, which measures it")
        if rate is not None and not 0 < rate < math.inf:
            raise Refused(f"rate must be positive and finite, got {rate}")
        if parsed.symbols is not None and parsed.symbols < 1:
            raise Refused(f"symbols must be at least 1, got {parsed.symbols}")
        devices = processes_here(recipe.training) * recipe.training.nodes
        found = estimate_recipe(recipe, devices, parsed.symbols or symbols_of(recipe))
        if parsed.like:
            rate = rate_of(Path(parsed.like))
    except (ValueError, RunError) as error:
        raise Refused(str(error)) from error
    for name, value in rows(recipe, found, devices, rate):
        print(f"{name:<17} {value}")
    return 0


def symbols_of(recipe: LanguageModelRecipe) -> int:
    """How many symbols its data will have. Raises Refused if only they can tell."""
    try:
        return expected_symbols(recipe.data)
    except ValueError as error:
        raise Refused(f"{error}: give --symbols N") from error


def estimate_recipe(recipe: LanguageModelRecipe, devices: int, symbols: int) -> Estimate:
    """The needs of a recipe on so many devices, with a vocabulary of so many symbols.

    Raises: ValueError if its batch can't be dealt.
    """
    training, data = recipe.training, recipe.data
    if data.batch % (parts := devices * training.accumulate):
        raise ValueError(
            f"data.batch must be a multiple of devices * training.accumulate = {devices} * "
            f"{training.accumulate}, got {data.batch}"
        )

    def loss(model, state):
        x = torch.zeros(data.unroll, data.batch // parts, dtype=torch.int64)
        return model.zipf_nats(x, state)

    make_model = partial(LanguageModel, recipe.model, symbols)
    precision = "bfloat16" if training.precision == "auto" else training.precision
    return estimate(make_model, loss, training, precision=precision, devices=devices)


def rate_of(folder: Path) -> float:
    """The FLOP/s of each device in a finished run, with the vocabulary that it has.

    Raises: RunError if it is not finished, or its vocabulary can't be read.
    """
    run = open_run(folder, LanguageModelRecipe)
    result = run.result
    if result is None:
        raise RunError(f"{folder} is not finished: it has no speed to go by")
    devices = result.get("devices", 1)
    found = estimate_recipe(run.recipe, devices, load_vocabulary(run).size)
    return found.step_flops * result["steps"] / result["seconds"] / devices


def rows(
    recipe: LanguageModelRecipe, found: Estimate, devices: int, rate: float | None
) -> list[tuple[str, str]]:
    """What is printed, a name and its words a line."""
    training, data = recipe.training, recipe.data
    units = data.batch * data.unroll
    fixed = {
        "weights": found.weights_bytes,
        "gradients": found.gradients_bytes,
        "optimiser": found.optimizer_bytes,
        "states": found.state_bytes,
        "activations": found.activations_bytes,
    }
    sharing = f" ({training.strategy})" if devices > 1 and training.strategy != "auto" else ""
    lines = [
        ("parameters", f"{found.parameters:,}"),
        (
            "step",
            f"{data.batch} rows of {data.unroll} = {units:,} symbols, on {devices} device"
            f"{'s' if devices > 1 else ''}{sharing}, each in {training.accumulate} part"
            f"{'s' if training.accumulate > 1 else ''}",
        ),
        (
            "memory a device",
            f"{size(found.peak_bytes)}: "
            + ", ".join(f"{name} {size(count)}" for name, count in fixed.items())
            + (", not the LSTM kernel's own workspace" if recipe.model.rnn == "lstm" else ""),
        ),
        (
            "FLOPs a step",
            f"{found.step_flops:.3g} in matrix products, {found.step_flops / units:.3g} a symbol",
        ),
    ]
    if training.steps:
        lines.append(
            (
                "FLOPs in all",
                f"{found.step_flops * training.steps:.3g} in {training.steps:,} steps, "
                f"{units * training.steps:,} symbols",
            )
        )
    if rate is None:
        lines.append(("hours", "give --rate, or --like a finished run"))
        return lines
    step_s = found.step_flops / (rate * devices)
    speed = f"at {rate:.3g} FLOP/s a device: {units / step_s:,.0f} symbols/s"
    if training.steps:
        lines.append(("hours", f"{training.steps * step_s / 3600:.3g} {speed}"))
    if training.epochs:
        lines.append(("hours", f"{speed}; how many steps an epoch has depends on the data"))
    if training.seconds:
        reached = f"{training.seconds / step_s:,.0f} steps"
        lines.append(("in its seconds", f"{reached} in {training.seconds:g} s {speed}"))
    return lines


def size(count: int) -> str:
    """Bytes in words: "1.9 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
