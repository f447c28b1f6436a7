"""`torchsru demo`: SRU and nn.LSTM, as many parameters, as many seconds, one after the other.

OUT/python-bytes, OUT/python-bytes-lstm   the two runs
    results.json                          a row each: numbers, machine, versions, commit
    curves.png                            bits per byte over seconds of training, from the logs
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from torchsru.cli import Refused
from torchsru.cli.arguments import make_parser, parse
from torchsru.cli.compare import collect, draw_curves, table
from torchsru.cli.train import run
from torchsru.data import ByteVocabulary, DataError, load_corpus
from torchsru.models.generate import Sampling, generate_text
from torchsru.recipes import Recipe, get_recipe
from torchsru.recipes.language_model import load_model
from torchsru.recipes.run import open_run
from torchsru.train import RunError

NAMES = {"python-bytes": "SRU", "python-bytes-lstm": "nn.LSTM"}
PROMPT = "def read_lines(path"
SAMPLE_BYTES = 600
COLUMNS = {  # heading: how a row of results.json is written below it
    "model": "{model}",
    "parameters": "{parameters:,}",
    "seconds": "{seconds:.0f}",
    "bytes/s": "{bytes_per_second:,.0f}",
    "held-out bits per byte": "{bits_per_byte:.3f}",
}


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
    console.print(f"[bold]torchsru demo[/]: {escape(str(load_corpus()))}")
    for name, (full_name, recipe) in recipes.items():
        if code := run(full_name, recipe, out / name, resume=False, quiet=True):
            return code
    rows = collect(
        out, {name: {"case": recipes[name][0], "model": model} for name, model in NAMES.items()}
    )
    runs = {model: name for name, model in NAMES.items()}
    draw_curves(out, runs, "bits_per_byte", "Python source code")

    console.print(table("held-out source code, never trained on", COLUMNS, rows))
    where = escape(f"curves over time: {out / 'curves.png'}    rows: {out / 'results.json'}")
    console.print(where, soft_wrap=True)
    console.print(f"\n[bold]The SRU model goes on after[/] {PROMPT!r}:\n")
    model = load_model(open_run(out / "python-bytes"))
    sampling = Sampling(temperature=0.7)
    for piece in generate_text(
        model, ByteVocabulary(), [PROMPT], SAMPLE_BYTES, sampling=sampling, echo=True
    ):
        sys.stdout.write(piece.text)
        sys.stdout.flush()
    where = escape(shlex.quote(str(out / "python-bytes")))
    console.print(
        f"\n\n[bold]The SRU model is saved in[/] {escape(str(out / 'python-bytes'))}. Next:\n"
        f"  torchsru generate {where} --prompt 'class Parser'\n"
        f"  torchsru eval {where}\n"
        f"  torchsru train {rows[0]['case']} --data YOUR_FOLDER --out runs/mine\n"
        f"  tensorboard --logdir {escape(shlex.quote(str(out)))}",
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
