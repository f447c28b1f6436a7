"""Spoken digits: recognisers' error rates, denoisers' SI-SDR improvement, on a speaker never heard.

    python results/speech.py tune FOLDER    three learning rates a model
    python results/speech.py run FOLDER     three speakers a model, each tested on in turn
    python results/speech.py table          docs/tasks/speech.md and its figures

FOLDER is the Free Spoken Digit Dataset's. Run the first two on a quiet machine, for one task with
its name behind FOLDER; they append their rows to results/speech.jsonl and leave out what is there.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from torchsru.recipes import denoising, get_recipe, recognition
from torchsru.recipes.run import evaluate_run, open_run, train
from torchsru.train.log import read_log

ROWS = Path(__file__).with_name("speech.jsonl")
PAGE = Path(__file__).parents[1] / "docs" / "tasks" / "speech.md"
FIGURES = PAGE.parents[1] / "figures"
FACTORS = (0.5, 1.0, 2.0)  # of the recipe's learning rate
SPEAKERS = ("george", "lucas", "theo")  # tested on; the ones after them by name choose the models
TUNED_ON = "george"  # by the numbers of the speaker who chooses then, whom none is tested on


@dataclass(frozen=True)
class Task:
    """What is measured of a task, and how it is shown."""

    prefix: str
    models: dict[str, tuple[str, Any]]
    judged: str
    """The number that chooses; of the test's, with `scale`, the figure's axis too."""
    best: Callable
    scale: float
    axis: str
    columns: dict[str, Callable[[dict], float]]
    """{heading: from a test's numbers}."""


TASKS = {
    "recognition": Task(
        "digits",
        recognition.MODELS,
        "wer",
        min,
        100,
        "validation word error rate, %",
        {
            "words": lambda test: 100 * test["wer"],
            "characters": lambda test: 100 * test["cer"],
            "words, beam": lambda test: 100 * test["beam_wer"],
        },
    ),
    "denoising": Task(
        "denoise",
        denoising.MODELS,
        "si_sdr_improvement_db",
        max,
        1,
        "validation SI-SDR improvement, dB",
        {
            "improvement": lambda test: test["si_sdr_improvement_db"],
            **{
                name: lambda test, name=name: test["improvement_under"][name]
                for name in ("white", "pink", "speakers")
            },
            **{
                f"at {level:g} dB": lambda test, level=level: test["improvement_at_snr_db"][
                    str(level)
                ]
                for level in (-5.0, 0.0, 5.0, 10.0)
            },
        },
    ),
}


def rows() -> list[dict]:
    """What was measured so far."""
    if not ROWS.exists():
        return []
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def measure(task: str, kind: str, model: str, lr: float, speaker: str, folder: str) -> None:
    """Train, test and append the row, unless it is there."""
    key: dict = {"task": task, "kind": kind, "model": model, "lr": lr, "speaker": speaker}
    if any(key.items() <= row.items() for row in rows()):
        return
    name = f"{TASKS[task].prefix}-{model}"
    recipe = get_recipe(name)
    data = replace(recipe.data, paths=(folder,), speaker=speaker)
    training = replace(recipe.training, lr=lr, checkpoints=0)
    with tempfile.TemporaryDirectory() as parent:
        where = Path(parent, "run")
        result = train(name, replace(recipe, data=data, training=training), where)
        test = {} if kind == "tune" else evaluate_run(open_run(where), split="test")
        log = [row for row in read_log(where) if row["kind"] == "eval"]
    row = {
        **result,
        **key,
        "test": test,
        "seconds_an_epoch": result["seconds"] / training.epochs,
        "curve": [(row["seconds"], row[TASKS[task].judged]) for row in log],
        "date": str(date.today()),
    }
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def tune(task: str, folder: str) -> None:
    """Try as many learning rates for each model."""
    for factor in FACTORS:
        for model in TASKS[task].models:
            lr = factor * get_recipe(f"{TASKS[task].prefix}-{model}").training.lr
            measure(task, "tune", model, lr, TUNED_ON, folder)


def best_rate(task: str, model: str) -> float:
    """The tuned rate of the best number."""
    tried = [r for r in found(task, "tune") if r["model"] == model]
    if len(tried) < len(FACTORS):
        sys.exit(f"{model} is not tuned: run `python {sys.argv[0]} tune FOLDER {task}` first")
    return TASKS[task].best(tried, key=lambda row: row[TASKS[task].judged])["lr"]


def found(task: str, kind: str) -> list[dict]:
    """The newest row of each model, rate and speaker."""
    newest = {
        (r["model"], r["lr"], r["speaker"]): r
        for r in rows()
        if (r["task"], r["kind"]) == (task, kind)
    }
    return list(newest.values())


def run(task: str, folder: str) -> None:
    """All models in turn for each speaker, so that a slow hour meets all."""
    for speaker in SPEAKERS:
        for model in TASKS[task].models:
            measure(task, "run", model, best_rate(task, model), speaker, folder)


def table() -> None:
    """Write the newest rows into the page, and draw them."""
    shown = [task for task in TASKS if show(task)]
    if not shown:
        sys.exit(f"{ROWS} holds no run yet")


def show(name: str) -> bool:
    """The same of one task; False if there are no runs of it."""
    task = TASKS[name]
    runs = {m: [r for r in found(name, "run") if r["model"] == m] for m in task.models}
    runs = {model: some for model, some in runs.items() if some}
    if not runs:
        return False
    lines = [
        f"| model | parameters | rate | {' | '.join(task.columns)} | s / epoch |",
        "|---" * (4 + len(task.columns)) + "|",
    ]
    for model, some in runs.items():
        cells = [spread([cell(r["test"]) for r in some]) for cell in task.columns.values()]
        seconds = statistics.mean(r["seconds_an_epoch"] for r in some)
        lines.append(
            f"| {task.models[model][0]} | {some[0]['parameters']:,} | {some[0]['lr']:g} "
            f"| {' | '.join(cells)} | {seconds:.1f} |"
        )
    about = some[0]["environment"]
    lines += [
        "",
        f"Mean and standard deviation over {len(SPEAKERS)} speakers that are tested on "
        f"({', '.join(SPEAKERS)}). {about['machine']['cpu']}, {about['machine']['threads']} "
        f"threads, torch {about['versions']['torch']}; rows: `results/{ROWS.name}`.",
        "",
        f"![{task.axis}, against seconds of training](../figures/speech-{name}.png)",
    ]
    begin = f"<!-- begin {name}, generated by `python results/speech.py table` -->"
    end = f"<!-- end {name} -->"
    before, rest = PAGE.read_text(encoding="utf-8").split(begin)
    text = "\n".join([begin, "", *lines, "", end])
    PAGE.write_text(before + text + rest.split(end)[1], encoding="utf-8")
    draw(name, runs)
    return True


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    more = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{more}"


def draw(name: str, runs: dict[str, list[dict]]) -> None:
    """The number that chooses the model, mean over speakers, against seconds of training."""
    import matplotlib.pyplot as plt

    task = TASKS[name]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for model, some in runs.items():
        points = list(zip(*(r["curve"] for r in some), strict=True))
        seconds = [statistics.mean(s for s, _ in point) for point in points]
        values = [task.scale * statistics.mean(v for _, v in point) for point in points]
        axes.plot(seconds, values, label=task.models[model][0])
    axes.set(xlabel="seconds of training", ylabel=task.axis)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(FIGURES / f"speech-{name}.png", dpi=150)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["table"]:
            table()
        case ["tune" | "run" as action, folder, *names] if set(names) <= TASKS.keys():
            for task in names or TASKS:
                {"tune": tune, "run": run}[action](task, folder)
        case _:
            sys.exit(f"usage: python {sys.argv[0]} tune FOLDER|run FOLDER|table")
