"""`torchsru compare RECIPE`: a language model with one kind of layer after the other in it.

OUT/compare.json      what was asked for
    KIND              a run of each
    results.json      a row each: numbers, machine, versions, commit
    curves.png        held out over seconds of training, and over steps where those are the budget
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import torchsru
from torchsru.cli import Refused
from torchsru.cli.arguments import (
    WHOLE,
    add_recipe_options,
    language_model,
    make_parser,
    options_of,
    parse,
    recipe_from,
    with_given,
)
from torchsru.cli.train import run
from torchsru.data import DataError, load_corpus
from torchsru.models.language_model import KINDS
from torchsru.recipes import LanguageModelRecipe, from_json, get_recipe
from torchsru.recipes.comparison import DEFAULT, count_parameters, nearest_width, with_kind
from torchsru.recipes.run import check_resumable, open_run
from torchsru.train import RunError
from torchsru.train.checkpoint import check_format
from torchsru.train.folder import RECIPE, make_folder, read_json, write_file
from torchsru.train.language_model import NAMES
from torchsru.train.log import read_log
from torchsru.train.ranks import launched

DESCRIPTION = (
    "Train a language model's recipe once for each kind of layer, one after the other, on the same "
    "data, loop and budget, and at as many parameters: the width is chosen for that. Ctrl-C saves "
    "and says how to go on. Every field of the recipe is an option, as for train, for all kinds; "
    "what a kind does not take is dropped."
)
FILE, FORMAT = "compare.json", 1
FAR = 0.02  # of the parameters wanted; what is further off is said
WIDTH = 120  # characters, least, so that no number of the table is cut
COLUMNS = {  # heading: how a row of results.json is written below it; the data's own follow
    "kind": "{model}",
    "width": "{width:,}",
    "parameters": "{parameters:,}",
    "learning rate": "{lr:g}",
    "steps": "{steps:,}",
    "seconds": "{seconds:,.1f}",
}
COLORS = [
    *("tab:red", "tab:blue", "tab:green", "tab:orange", "tab:purple"),
    *("tab:brown", "tab:pink", "tab:gray", "tab:olive", "tab:cyan"),
]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was asked for."""

    name: str
    """Of the recipe."""
    recipe: LanguageModelRecipe
    """With the fields that were given for all kinds."""
    rnn: tuple[str, ...] = ()
    """Kinds of layers; none: the recipe's own and those of `DEFAULT`."""
    parameters: int | None = None
    """How many each is to have; None: as the recipe's own model."""
    changes: tuple[str, ...] = ()
    """Fields of one kind alone: KIND.FIELD=VALUE."""

    def __post_init__(self) -> None:
        if unknown := [kind for kind in self.rnn if kind not in KINDS]:
            raise ValueError(f"rnn must be of {', '.join(KINDS)}, got {unknown[0]!r}")
        if self.parameters is not None and not 1 <= self.parameters <= 2**40:
            raise ValueError(f"parameters must lie in [1, 2^40], got {self.parameters}")
        for change in self.changes:
            kind, _, field = change.partition(".")
            if kind not in KINDS or "=" not in field:
                raise ValueError(
                    f"set must be KIND.FIELD=VALUE, such as lstm.training.lr=2e-3, got {change!r}"
                )

    @property
    def kinds(self) -> list[str]:
        """What is compared, in order."""
        return list(dict.fromkeys(self.rnn or (self.recipe.model.rnn, *DEFAULT)))


@dataclass(frozen=True)
class Planned:
    """A kind's part in the comparison."""

    recipe: LanguageModelRecipe
    parameters: int
    dropped: list[str]
    """Fields of the comparison's recipe that the kind does not take."""


def main(argv: Sequence[str]) -> int:
    """Train all, then show table and curves; returns 0, 1 if a loss is not finite, or 130 after
    Ctrl-C."""
    parser = make_parser("compare", DESCRIPTION)
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="name of the recipe")
    kinds = f"of {', '.join(KINDS)} (default: the recipe's own, {', '.join(DEFAULT)})"
    parser.add_argument("--rnn", metavar="KIND", nargs="+", help=kinds)
    parser.add_argument(
        "--parameters",
        type=WHOLE,
        metavar="N",
        help="how many each is to have (default: as the recipe's own model)",
    )
    parser.add_argument(
        "--set",
        metavar="KIND.FIELD=VALUE",
        nargs="+",
        help="fields of one kind alone, such as lstm.training.lr=2e-3 transformer-xl.model.heads=4",
    )
    parser.add_argument("--out", metavar="DIR", help="new folder (default: runs/compare-RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on where it stopped")
    add_recipe_options(parser, LanguageModelRecipe)
    parsed = parse(parser, argv)
    if parsed.recipe is None:
        raise Refused(
            "compare needs a recipe; not right after --rnn, --set or --data, which take every word "
            "up to the next option"
        )
    try:
        out = Path(parsed.out or f"runs/compare-{parsed.recipe}")
        return compare(asked_for(parsed, out), out)
    except (DataError, RunError) as error:
        raise Refused(str(error)) from error


def asked_for(parsed: Namespace, out: Path) -> Comparison:
    """What the words say; on what was asked for before, if it is resumed.

    Raises: Refused, RunError.
    """
    name = parsed.recipe
    try:
        if parsed.resume:
            base = read_comparison(out)
            if base.name != name:
                raise Refused(f"{out} compares {base.name}, got {name}")
        elif out.exists():
            raise Refused(f"{out} is there already; add --resume, or name another --out")
        else:
            base = Comparison(name=name, recipe=language_model(name))
        asked = Comparison(
            name=name,
            recipe=recipe_from(base.recipe, parsed).with_absolute_paths(),
            rnn=tuple(parsed.rnn or base.rnn),
            parameters=base.parameters if parsed.parameters is None else parsed.parameters,
            changes=(*base.changes, *(parsed.set or ())),
        )
        for change in parsed.set or ():
            if change.partition(".")[0] not in asked.kinds:
                raise ValueError(f"set must be of {', '.join(asked.kinds)}, got {change!r}")
        return asked
    except ValueError as error:
        raise Refused(str(error)) from error


def read_comparison(out: Path) -> Comparison:
    """What was asked for in a folder. Raises RunError if it holds none."""
    if not (file := out / FILE).exists():
        raise RunError(f"{out} is not a comparison: it holds no {FILE}")
    about = read_json(file)
    if not isinstance(about, dict):
        raise RunError(f"{file} is damaged: expected a table, found {type(about).__name__}")
    check_format(file, about, FORMAT)
    try:
        return from_json(Comparison, about.get("asked"))
    except ValueError as error:
        raise RunError(
            f"{file}, written by torchsru {about.get('torchsru')!r}, is no comparison of torchsru "
            f"{torchsru.__version__}: {error}"
        ) from error


def compare(asked: Comparison, out: Path) -> int:
    """Train what is not trained yet, then show all; returns the exit code.

    Raises: Refused, DataError or RunError, before anything starts if that can be known.
    """
    if launched() or asked.recipe.training.nodes > 1:
        raise Refused(
            "compare runs on one machine, not under torchrun: it starts the processes that "
            "--training.devices asks for itself"
        )
    corpus = load_corpus(asked.recipe.data)
    symbols = corpus.vocabulary.size
    try:
        wanted = asked.parameters or count_parameters(asked.recipe.model, symbols)
    except ValueError as error:
        raise Refused(str(error)) from error
    planned = {kind: plan(asked, kind, symbols, wanted) for kind in asked.kinds}
    for kind, its in planned.items():
        if (out / kind / RECIPE).exists():
            check_resumable(open_run(out / kind), asked.name, its.recipe)
    make_folder(out)
    record = {"format": FORMAT, "torchsru": torchsru.__version__, "asked": asdict(asked)}
    write_file(out / FILE, json.dumps(record, indent=1) + "\n")

    console = Console()
    console.width = max(console.width, WIDTH)
    said = escape(f"{asked.name} on {corpus}")
    console.print(f"[bold]torchsru compare[/] {said}", soft_wrap=True)
    for kind, its in planned.items():
        console.print(line(kind, its, wanted), highlight=False, soft_wrap=True)
    for kind, its in planned.items():
        console.print(f"[bold]{kind}[/]")
        if code := train_kind(asked.name, its.recipe, kind, out):
            return code
    rows = collect(out, {kind: facts(out / kind, its, wanted) for kind, its in planned.items()})
    in_steps = asked.recipe.training.seconds is None
    draw_curves(
        out,
        {kind: kind for kind in planned},
        NAMES[corpus.vocabulary.name],
        corpus.name,
        ["seconds", "step"] if in_steps else ["seconds"],
    )
    unit = corpus.vocabulary.unit
    columns = COLUMNS | {f"{unit}s/s": f"{{{unit}s_per_second:,.0f}}"}
    for number in held_out(out / asked.kinds[0]):
        columns[f"held-out {number.replace('_', ' ')}"] = f"{{{number}:.3f}}"
    console.print(table(escape(f"{asked.name}, {corpus.name}"), columns, rows))
    where = escape(f"curves: {out / 'curves.png'}    rows: {out / 'results.json'}")
    console.print(where, soft_wrap=True)
    return 0


def train_kind(name: str, recipe: LanguageModelRecipe, kind: str, out: Path) -> int:
    """Train a kind, or go on with it; returns the exit code. Raises Refused."""
    folder, base = out / kind, get_recipe(name)
    words = [name, "--out", str(folder)]
    if resume := (folder / RECIPE).exists():
        words, base = [*words, "--resume"], open_run(folder).recipe
    return run(
        name,
        recipe,
        folder,
        resume=resume,
        argv=[*words, *options_of(recipe, base)],
        quiet=True,
        again=["torchsru", "compare", name, "--out", str(out), "--resume"],
    )


def facts(folder: Path, its: Planned, wanted: int) -> dict[str, Any]:
    """What a row says of a finished run beside its result."""
    done = open_run(folder)  # which may have been finished at another rate than it has now
    return {
        "case": done.name,
        "model": done.recipe.model.rnn,
        "width": done.recipe.model.width,
        "lr": done.recipe.training.lr,
        "parameters_wanted": wanted,
        "dropped": its.dropped,
    }


def plan(asked: Comparison, kind: str, symbols: int, wanted: int) -> Planned:
    """A kind's recipe: that of the comparison, its own changes in it, as wide as it must be.

    Args:
        symbols: of the vocabulary.
        wanted: parameters.

    Raises: Refused naming the kind, and the field that it refuses.
    """
    changes = (change.partition(".") for change in asked.changes)
    given = Namespace()
    if own := [f"--{field}" for owner, _, field in changes if owner == kind]:
        parser = make_parser("compare --set", "")
        add_recipe_options(parser, LanguageModelRecipe)
        given = parse(parser, own)
    values, dropped = with_kind(asked.recipe, kind)
    model = with_given(values, given)["model"]
    try:
        if model["rnn"] != kind:
            raise ValueError(f"model.rnn must be {kind!r}, got {model['rnn']!r}")
        if "width" not in (given.get("model") or ()):
            model["width"] = nearest_width(model, symbols, wanted)
        recipe = from_json(LanguageModelRecipe, values)
        return Planned(recipe, count_parameters(recipe.model, symbols), dropped)
    except ValueError as error:
        raise Refused(f"{kind}: {error}") from error


def line(kind: str, its: Planned, wanted: int) -> str:
    """What a kind will be trained with."""
    off, far = its.parameters / wanted - 1, ""
    if abs(off) > FAR:
        far = f" ({abs(off):.1%} {'more' if off > 0 else 'fewer'} than the {wanted:,} wanted)"
    without = f"; without {', '.join(its.dropped)}" if its.dropped else ""
    return (
        f"  {kind:<14} width {its.recipe.model.width:,}, {its.parameters:,} parameters{far}, "
        f"learning rate {its.recipe.training.lr:g}{without}"
    )


# -- of finished runs beside each other; the demo's, too -------------------------------------------


def collect(out: Path, about: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows {what is said about a run, its result}, {folder of OUT: about}; OUT/results.json."""
    rows = [{**said, **(open_run(out / name).result or {})} for name, said in about.items()]
    write_file(out / "results.json", json.dumps(rows, indent=1) + "\n")
    return rows


def table(title: str, columns: Mapping[str, str], rows: Sequence[dict[str, Any]]) -> Table:
    """A line for each row; {heading: how a row is written there}."""
    shown = Table(title=title)
    for i, heading in enumerate(columns):
        shown.add_column(heading, justify="right" if i else "left")
    for row in rows:
        shown.add_row(*(cell.format_map(row) for cell in columns.values()))
    return shown


def held_out(folder: Path) -> list[str]:
    """Names of the numbers that a run was evaluated by."""
    evaluation = [row for row in read_log(folder) if row["kind"] == "eval"][-1]
    return [name for name in evaluation if name not in ("kind", "step", "seconds", "eval_seconds")]


def draw_curves(
    out: Path, runs: Mapping[str, str], number: str, title: str, over: Sequence[str] = ("seconds",)
) -> None:
    """OUT/curves.png: a line of training and points of held-out numbers for each run.

    Args:
        runs: {label: folder in OUT}, ten at most.
        number: of the logs.
        over: "seconds", "step" or both, a panel each.
    """
    logs = {label: read_log(out / name) for label, name in runs.items()}
    figure = Figure(figsize=(7 * len(over), 4.2), layout="constrained")
    for axes, x in zip(figure.subplots(1, len(over), squeeze=False)[0], over, strict=True):
        highest = 0.0
        for (label, rows), color in zip(logs.items(), COLORS, strict=False):
            train, held = ([r for r in rows if r["kind"] == kind] for kind in ("train", "eval"))
            axes.plot(*xy(train, x, number), color=color, alpha=0.35, linewidth=1)
            label = f"{label}: {held[-1][number]:.2f}"
            axes.plot(*xy(held, x, number), color=color, marker="o", label=label)
            highest = max(highest, *(row[number] for row in held))
        if number == "perplexity":
            axes.set_yscale("log")
            axes.set_ylim(top=2 * highest)  # a bit more, as below
        else:
            axes.set_ylim(top=max(highest, min(8.0, highest + 1)))
        axes.set(xlabel="seconds of training" if x == "seconds" else "steps")
        axes.set(ylabel=number.replace("_", " "))
        axes.set_title(f"{title}: held-out (points), training (thin line)", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150)
    write_file(out / "curves.png", drawn.getvalue())


def xy(rows: Sequence[dict[str, Any]], x: str, number: str) -> tuple[list[float], list[float]]:
    """The numbers of rows of a log, and where they are; a row of skipped steps alone has none."""
    rows = [row for row in rows if number in row]
    return [row[x] for row in rows], [row[number] for row in rows]
