"""Nine stacks of layers at four million parameters: held-out bits per byte against seconds.

    python results/python_4m.py tune    four trials a model, 40 s each: 30 min
    python results/python_4m.py run     three seeds a model, 180 s each, at its best trial: 100 min
    python results/python_4m.py table   draw the newest rows into docs/results.md and its figure

Run the first two on a quiet machine with torchsru[train] installed. They append their rows to
results/python-4m.jsonl and leave out what is there already of models of the same shape.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import DOCS, Reached, Rows, command, curve, draw, mean_curve, put, table

from torchsru.recipes.python_4m import MODELS

ROWS = Rows("python-4m.jsonl")
PAGE = DOCS / "results.md"
UNROLLS = (128, 64)  # steps of a segment
TRIALS = 4
NOT_FINITE = 1  # the command's exit code where training diverged
SEEDS = (0, 1, 2)


def train(kind: str, model: str, lr: float, unroll: int, seed: int, seconds: int) -> dict:
    """Train once and append the row, unless it is there. Returns the row."""
    key: dict = {"kind": kind, "model": model, "said": MODELS[model][0]}
    key |= {"lr": lr, "unroll": unroll, "seed": seed, "budget": seconds}
    if found := ROWS.find(**key):
        return found[0]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        words = [
            *(sys.executable, "-m", "torchsru.cli", "train", f"python-4m-{model}"),
            *("--out", str(run), f"--training.lr={lr}", f"--training.seed={seed}"),
            *(f"--training.seconds={seconds}", f"--data.unroll={unroll}"),
        ]
        if kind == "tune":
            words += ["--training.evaluations=1", "--training.checkpoints=0"]
        child = subprocess.Popen(words)
        _, status, used = os.wait4(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == NOT_FINITE and kind == "tune":
            return ROWS.add({**key, "bits_per_byte": None})
        if code:
            sys.exit(f"training ended with {code}: {' '.join(words)}")
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        points = curve(run, "bits_per_byte", by="seconds")
    memory = {"peak_memory_bytes": used.ru_maxrss * 1024}
    return ROWS.add({**result, **key, "curve": points, **memory})


def tune() -> None:
    """Give each model as many trials: a usual learning rate, twice that, then four times or half,
    whichever way it got better, and the best of them with segments half as long. The recipes hold
    what was best."""
    for model in MODELS:
        lr = 1e-3 if model == "transformer-xl" else 2e-3
        tried = [train("tune", model, factor * lr, UNROLLS[0], 0, 40) for factor in (1, 2)]
        factor = 4 if bits(tried[1]) < bits(tried[0]) else 0.5
        tried.append(train("tune", model, factor * lr, UNROLLS[0], 0, 40))
        train("tune", model, min(tried, key=bits)["lr"], UNROLLS[1], 0, 40)


def bits(row: dict) -> float:
    """Held-out bits per byte; infinite where training diverged."""
    return math.inf if row["bits_per_byte"] is None else row["bits_per_byte"]


def best_trial(model: str) -> dict:
    """The trial of least bits. Exits if the model was not tuned."""
    tried = ROWS.find(kind="tune", said=MODELS[model][0])
    if len(tried) < TRIALS:
        sys.exit(f"{model} is not tuned: run `python {sys.argv[0]} tune` first")
    return min(tried, key=bits)


def run() -> None:
    """Train every model with every seed, models in turn, so that a slow hour meets all."""
    for seed in SEEDS:
        for model in MODELS:
            best = best_trial(model)
            train("run", model, best["lr"], best["unroll"], seed, 180)


def measured() -> dict[str, list[dict]]:
    """The newest rows by model. Exits where some are missing."""
    newest = ROWS.newest("said", "seed", kind="run")
    found = {
        model: [newest[said, seed] for seed in SEEDS if (said, seed) in newest]
        for model, (said, *_) in MODELS.items()
    }
    if lacking := [model for model, runs in found.items() if len(runs) < len(SEEDS)]:
        sys.exit(f"{ROWS.file} lacks runs of {', '.join(lacking)}: `run` comes first")
    return found


def reached(model: str) -> Reached:
    """Mean bits per byte, and seconds a byte of training."""
    runs = measured()[model]
    mean = statistics.mean(row["bits_per_byte"] for row in runs)
    return Reached(label(model), mean, 1 / statistics.mean(r["bytes_per_second"] for r in runs))


def show() -> None:
    """Write the newest rows into the page, and draw the curves."""
    found = measured()
    about = ROWS.about(row for runs in found.values() for row in runs)
    cells = []
    for model, runs in found.items():
        reached = [r["bits_per_byte"] for r in runs]
        speed = statistics.mean(r["bytes_per_second"] for r in runs)
        memory = max(r["peak_memory_bytes"] for r in runs) / 2**30
        between = f" ({min(reached):.3f} to {max(reached):.3f})" if len(reached) > 1 else ""
        cells.append([
            MODELS[model][0],
            f"{runs[0]['parameters']:,}",
            f"{runs[0]['lr']:g}",
            runs[0]["unroll"],
            f"{statistics.mean(reached):.3f}{between}",
            f"{speed:,.0f}",
            f"{memory:.1f} GiB",
        ])  # fmt: skip
    headings = [
        *("model", "parameters", "learning rate", "segment", "bits per byte", "bytes/s", "memory"),
    ]
    lines = [
        *table(headings, cells),
        "",
        f"Mean of {len(SEEDS)} seeds, in brackets the least and the most. {about}",
        "",
        *findings(found),
    ]
    put(PAGE, "table", lines)
    draw(
        "python-4m.png",
        {label(model): [r["curve"] for r in runs] for model, runs in found.items()},
        "seconds of training",
        "held-out bits per byte",
        marker="o",
        markersize=3,
    )


def label(model: str) -> str:
    """A model's name without its sizes: "SRU++, attention in the last alone"."""
    name, _, *more = MODELS[model][0].split(", ")
    return ", ".join([name, *more])


def findings(found: dict[str, list[dict]]) -> list[str]:
    """What the curves say of the two expectations on the page."""
    mean = {model: mean_curve([r["curve"] for r in runs])[1] for model, runs in found.items()}
    rows = []
    for model, bits in mean.items():
        cells = [label(model), f"{bits[-1]:.3f}"]
        for other in ("transformer-xl", "sru"):
            below = sum(ours < theirs for ours, theirs in zip(bits, mean[other], strict=True))
            difference = bits[-1] - mean[other][-1]
            said = f"{below} of {len(bits)} evaluations, {difference:+.3f} at the end"
            cells.append("" if model == other else said)
        rows.append(cells)
    said = "mean bits per byte, less is better"
    return table([said, "at the end", "below Transformer-XL", "below SRU"], rows)


if __name__ == "__main__":
    command({"tune": tune, "run": run, "table": show})
