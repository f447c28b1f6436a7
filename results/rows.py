"""What the scripts beside this one share: rows of measurements, and the pages that show them."""

import inspect
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

DOCS = Path(__file__).parents[1] / "docs"
Item = TypeVar("Item")


class Rows:
    """Rows of measurements in a file beside this one, one JSON table a line."""

    def __init__(self, name: str):
        self.file = Path(__file__).with_name(name)

    def find(self, **fields: Any) -> list[dict]:
        """The rows that hold these values, oldest first."""
        if not self.file.exists():
            return []
        rows = map(json.loads, self.file.read_text(encoding="utf-8").splitlines())
        return [row for row in rows if fields.items() <= row.items()]

    def newest(self, *fields: str, **known: Any) -> dict[tuple, dict]:
        """The newest of the rows that are alike in these fields, by their values."""
        return {tuple(row.get(name) for name in fields): row for row in self.find(**known)}

    def add(self, row: dict) -> dict:
        """Append a row, with the date. Returns it."""
        row = {**row, "date": str(date.today())}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def about(self, row: dict) -> str:
        """What a row was measured on, and where the rows are."""
        machine, versions = row["environment"]["machine"], row["environment"]["versions"]
        threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
        rows = f"rows: `results/{self.file.name}`"
        return f"{machine['cpu']}, {threads}, torch {versions['torch']}; {rows}."


def share(items: Sequence[Item], part: str) -> Sequence[Item]:
    """Those that one of several scripts beside each other measures; part: "1/2" for the first of
    two."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", part)
    if not found or int(found[1]) > int(found[2]):
        sys.exit(f"PART must be like 1/2, the first of two, got {part!r}")
    return items[int(found[1]) - 1 :: int(found[2])]


@contextmanager
def trained(name: str, recipe: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """The numbers of a run of the recipe, and the run, which is removed at the end."""
    from torchsru.recipes.run import open_run, train

    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "run")
        result = train(name, recipe, folder)
        yield result, open_run(folder)


def curve(folder: Path, number: str) -> list[tuple[float, float]]:
    """Seconds of training and a number of each evaluation in a run's folder."""
    from torchsru.train.log import read_log

    return [(row["seconds"], row[number]) for row in read_log(folder) if row["kind"] != "train"]


def command(actions: dict[str, Callable[..., None]]) -> None:
    """Run the action that the command line names, with what stands behind its name."""
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
    actions[name](*arguments)


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
