"""What the scripts beside this one share: rows of measurements, and the pages that show them."""

import hashlib
import inspect
import json
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torchsru.recipes import Recipe, to_json
from torchsru.recipes.base import Run
from torchsru.recipes.run import open_run, train
from torchsru.train.folder import RECIPE
from torchsru.train.log import read_log
from torchsru.train.loop import Interrupted

DOCS = Path(__file__).parents[1] / "docs"
LOCAL = Path(__file__).with_name("local")  # what is not committed
Item = TypeVar("Item")


class Reached(NamedTuple):
    """What a model is, its score, and its seconds of a part of training that is the same for all
    models of a task."""

    said: str
    score: float
    seconds: float


class Rows:
    """Rows of measurements in a file beside this one, one JSON table a line."""

    def __init__(self, name: str):
        self.file = Path(__file__).with_name(name)

    def find(self, **fields: Any) -> list[dict]:
        """The rows that hold these values, oldest first."""
        if not self.file.exists():
            return []
        return find_at(
            map(json.loads, self.file.read_text(encoding="utf-8").splitlines()), **fields
        )

    def newest(self, *fields: str, **known: Any) -> dict[tuple, dict]:
        """The newest of the rows that are alike in these fields, by their values."""
        return {tuple(row.get(name) for name in fields): row for row in self.find(**known)}

    def current(
        self, recipe_for: Callable[[dict[str, Any]], Recipe], *fields: str, **known: Any
    ) -> list[dict]:
        """The newest rows that are measured by today's recipes, of those that are alike in these
        fields.

        Args:
            recipe_for: from a row to the recipe that would measure it today.
        """
        newest = self.newest(*fields, **known).values()
        return [row for row in newest if row["recipe"] == identity(recipe_for(row))]

    def add(self, row: dict) -> dict:
        """Append a row, with the date. Returns it."""
        row = {**row, "date": str(date.today())}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def fill(
        self,
        keys: Iterable[dict[str, Any]],
        recipe_for: Callable[[dict[str, Any]], Recipe],
        measure: Callable[[dict[str, Any], Recipe], dict[str, Any]],
    ) -> None:
        """Append the rows of these keys that today's recipes have not measured yet.

        Args:
            recipe_for: from a key to the recipe that measures it.
            measure: from both to what is found; the row holds the key too.
        """
        for key in keys:
            recipe = recipe_for(key)
            key = {**key, "recipe": identity(recipe)}
            if not self.find(**key):
                self.add({**measure(key, recipe), **key})

    def about(self, rows: Iterable[dict]) -> str:
        """What rows were measured on, at which commits, and where they are. Exits if they are of
        several machines, numbers of threads or releases of PyTorch."""
        places, kinds, commits = set(), set(), set()
        for row in rows:
            machine, versions = row["environment"]["machine"], row["environment"]["versions"]
            threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
            place = f"{machine['cpu']}, {threads}, torch {versions['torch']}"
            places.add(place)
            # processors of one name are told apart by what they can do
            kinds.add(f"{place} ({machine.get('isa_torch')}, caches {machine.get('caches')})")
            commits.add((row["environment"].get("commit") or "unknown")[:7])
        if len(kinds) > 1:
            mixed = places if len(places) > 1 else kinds
            sys.exit(f"{self.file} mixes {' and '.join(sorted(mixed))}: measure all on one")
        said = f"commit{'s' if len(commits) > 1 else ''} {', '.join(sorted(commits))}"
        return f"{places.pop()}, {said}; rows: `results/{self.file.name}`."


def identity(recipe: Any) -> str:
    """A hash of all of a recipe but where its data are."""
    about = to_json(recipe)
    for name in recipe.data.locations:
        del about["data"][name]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def find_at(rows: Iterable[dict], **fields: Any) -> list[dict]:
    """The rows that hold these values."""
    return [row for row in rows if fields.items() <= row.items()]


def best_of(tried: Sequence[dict], count: int, what: str, by: Callable[[dict], float]) -> dict:
    """The row of the most `by`. Exits if there are not as many trials as that."""
    if len(tried) < count:
        sys.exit(f"{what} is not tuned: `python {sys.argv[0]} tune ...` comes first")
    return max(tried, key=by)


def share(items: Sequence[Item], part: str) -> Sequence[Item]:
    """Those that one of several scripts beside each other measures; part: "1/2" for the first of
    two."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", part)
    if not found or int(found[1]) > int(found[2]):
        sys.exit(f"PART must be like 1/2, the first of two, got {part!r}")
    return items[int(found[1]) - 1 :: int(found[2])]


@contextmanager
def trained(name: str, recipe: Recipe) -> Iterator[tuple[dict[str, Any], Run]]:
    """The numbers of a run of the recipe, and the run, which is removed at the end. One that was
    stopped, by Ctrl-C, goes on."""
    folder = LOCAL / "runs" / identity(recipe)
    result = train(name, recipe, folder, resume=(folder / RECIPE).exists())
    yield result, open_run(folder)
    shutil.rmtree(folder)


def curve(folder: Path, number: str, by: str = "step") -> list[tuple[float, float]]:
    """Step, or seconds of training, and a number of each evaluation in a run's folder."""
    return [(row[by], row[number]) for row in read_log(folder) if row["kind"] != "train"]


def command(actions: dict[str, Callable[..., None]]) -> None:
    """Run the action that the command line names, with what stands behind its name; "all": all of
    them, in order, with what the first needs. Ctrl-C saves the run in the making."""
    steps = list(actions.values())

    def run_all(*arguments: str) -> None:
        for action in steps:
            action(*arguments[: len(needed(action))])

    def needed(action: Callable) -> list[inspect.Parameter]:
        found = inspect.signature(action).parameters.values()
        return [p for p in found if p.default is p.empty]

    run_all.__signature__ = inspect.Signature(needed(steps[0]))  # type: ignore[attr-defined]
    actions = {**actions, "all": run_all}
    usage = []
    for name, action in actions.items():
        words = inspect.signature(action).parameters.values()
        told = [w.name.upper() if w.default is w.empty else f"[{w.name.upper()}]" for w in words]
        usage.append(" ".join([name, *told]))
    name, *arguments = sys.argv[1:] or [""]
    try:
        inspect.signature(actions[name]).bind(*arguments)
    except (KeyError, TypeError):
        sys.exit(f"usage: python {sys.argv[0]} {' | '.join(usage)}")
    try:
        actions[name](*arguments)
    except Interrupted as stop:
        print(f"{stop}; the same command goes on", file=sys.stderr)
        sys.exit(130)


# -- pages -----------------------------------------------------------------------------------------


def put(page: Path, name: str, lines: Iterable[str]) -> None:
    """Write lines between a page's comments "begin NAME, ..." and "end NAME"."""
    text = page.read_text(encoding="utf-8")
    parts = re.split(rf"(<!-- (?:begin {name}, .*|end {name}) -->)", text)
    if len(parts) != 5:
        raise ValueError(f"{page} must hold one part {name!r}, got {len(parts) // 4}")
    parts[2] = "\n".join(["", "", *lines, "", ""])
    page.write_text("".join(parts), encoding="utf-8")


def table(headings: Sequence[str], cells: Iterable[Sequence[object]]) -> list[str]:
    """A table's lines."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (headings, *cells)]
    return [lines[0], "|---" * len(headings) + "|", *lines[1:]]


def at_edge(rates: Mapping[str, tuple[float, Sequence[float]]]) -> str:
    """What to say in brackets of models whose best rate is the highest that was tried, or "".

    Args:
        rates: {a model's name: (its best rate, all that were tried)}.
    """
    found = [name for name, (best, tried) in rates.items() if best == max(tried)]
    return f" (the highest that was tried: {'; '.join(found)})" if found else ""


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and standard deviation."""
    more = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{more}"


def mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> tuple[list[float], list[float]]:
    """Two lists: what repeated curves are at, evaluation by evaluation."""
    points = [list(zip(*point, strict=True)) for point in zip(*curves, strict=True)]
    x, y = zip(*((statistics.mean(x), statistics.mean(y)) for x, y in points), strict=True)
    return list(x), list(y)


def draw(name: str, curves: dict[str, Sequence], xlabel: str, ylabel: str, **style: Any) -> None:
    """Save docs/figures/NAME: a line a label, the mean of its curves."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for label, repeated in curves.items():
        axes.plot(*mean_curve(repeated), label=label, **style)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(DOCS / "figures" / name, dpi=150)
