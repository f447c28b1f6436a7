"""`torchsru demo`: SRU and nn.LSTM, as many parameters, as many seconds, one after the other.

OUT/python-bytes, OUT/python-bytes-lstm   the two runs
    results.json                          a row each: numbers, machine, versions, commit
    curves.png                            bits per byte over seconds of training, from the logs
"""

import io
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from torchsru.cli import Refused
from torchsru.cli.arguments import make_parser, parse
from torchsru.cli.train import run
from torchsru.data import ByteVocabulary, DataError, load_corpus
from torchsru.models.generate import Sampling, generate_text
from torchsru.recipes import Recipe, get_recipe
from torchsru.recipes.language_model import load_model
from torchsru.recipes.run import open_run
from torchsru.train import RunError
from torchsru.train.folder import write_file
from torchsru.train.log import read_log

NAMES = {"python-bytes": "SRU", "python-bytes-lstm": "nn.LSTM"}
PROMPT = "def read_lines(path"
SAMPLE_BYTES = 600


def main(argv: Sequence[str]) -> int:
    """Train both, then show table, curves and a sample; returns 0, or 130 after Ctrl-C."""
    try:
        return demo(argv)
    except (DataError, RunError) as error:
        raise Refused(str(error)) from error


def demo(argv: Sequence[str]) -> int:
    """The same, raising what was wrong."""
    parser = make_parser("demo", "Train SRU, then nn.LSTM, on this Python's own source code.")
    parser.add_argument("--seconds", type=float, default=None, help="of training for each model")
    parser.add_argument("--out", type=str, default=None, help="new folder (default: runs/demo-N)")
    parser.add_argument("--debug", action="store_true", help="tiny models, in seconds")
    parsed = parse(parser, argv)
    out = Path(parsed.out) if parsed.out else unused(Path("runs"))
    if out.exists():
        raise Refused(f"{out} is there already; name another --out")

    recipes = {}
    for name in NAMES:
        full_name = f"{name}_debug" if parsed.debug else name
        recipes[name] = full_name, with_budget(get_recipe(full_name), parsed.seconds)

    console = Console()
    console.print(f"[bold]torchsru demo[/]: {load_corpus()}")
    rows = []
    for name, (full_name, recipe) in recipes.items():
        if code := run(full_name, recipe, out / name, resume=False, quiet=True):
            return code
        rows.append(
            {"case": full_name, "model": NAMES[name], **(open_run(out / name).result or {})}
        )
    write_file(out / "results.json", json.dumps(rows, indent=1) + "\n")
    draw_curves(out)

    console.print(table(rows))
    console.print(f"curves over time: {out / 'curves.png'}    rows: {out / 'results.json'}")
    console.print(f"\n[bold]The SRU model goes on after[/] {PROMPT!r}:\n")
    model = load_model(open_run(out / "python-bytes"))
    sampling = Sampling(temperature=0.7)
    for piece in generate_text(
        model, ByteVocabulary(), [PROMPT], SAMPLE_BYTES, sampling=sampling, echo=True
    ):
        sys.stdout.write(piece.text)
        sys.stdout.flush()
    where = shlex.quote(str(out / "python-bytes"))
    console.print(
        f"\n\n[bold]The SRU model is saved in[/] {out / 'python-bytes'}. Next:\n"
        f"  torchsru generate {where} --prompt 'class Parser'\n"
        f"  torchsru eval {where}\n"
        f"  torchsru train {rows[0]['case']} --data YOUR_FOLDER --out runs/mine\n"
        f"  tensorboard --logdir {shlex.quote(str(out))}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def with_budget(recipe: Recipe, seconds: float | None) -> Recipe:
    """The recipe with a budget of so many seconds; None: its own. Raises Refused."""
    if seconds is None:
        return recipe
    try:
        return replace(recipe, training=replace(recipe.training, seconds=seconds, steps=None))
    except ValueError as error:
        raise Refused(str(error)) from error


def unused(parent: Path) -> Path:
    """The first of demo-1, demo-2, ... that is not there yet."""
    return next(p for n in count(1) if not (p := parent / f"demo-{n}").exists())


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line per model."""
    shown = Table(title="held-out source code, never trained on")
    for heading in ("model", "parameters", "seconds", "bytes/s", "held-out bits per byte"):
        shown.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        shown.add_row(
            row["model"],
            f"{row['parameters']:,}",
            f"{row['seconds']:.0f}",
            f"{row['bytes_per_second']:,.0f}",
            f"{row['bits_per_byte']:.3f}",
        )
    return shown


def draw_curves(out: Path) -> None:
    """OUT/curves.png: a line of training and points of held-out bits per byte for each run."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    highest = 0.0
    for (name, label), color in zip(NAMES.items(), ("tab:red", "tab:blue"), strict=True):
        rows = read_log(out / name)
        train, held = ([row for row in rows if row["kind"] == kind] for kind in ("train", "eval"))
        end = held[-1]
        axes.plot(*xy(train), color=color, alpha=0.35, linewidth=1)
        axes.plot(*xy(held), color=color, marker="o", label=f"{label}: {end['bits_per_byte']:.2f}")
        highest = max(highest, *(row["bits_per_byte"] for row in held))
    axes.set_ylim(top=min(8.0, highest + 1))
    axes.set(xlabel="seconds of training", ylabel="bits per byte")
    axes.set_title("Python source code: held-out (points), training (thin line)", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150)
    write_file(out / "curves.png", drawn.getvalue())


def xy(rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Seconds and bits per byte of rows of a log; a row of skipped steps alone has none."""
    rows = [row for row in rows if "bits_per_byte" in row]
    return [row["seconds"] for row in rows], [row["bits_per_byte"] for row in rows]
