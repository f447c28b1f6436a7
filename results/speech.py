"""Spoken digits: recognisers' error rates, denoisers' SI-SDR improvement, on a speaker never heard.

    python results/speech.py tune TASK FOLDER [PART]    three learning rates a model
    python results/speech.py run TASK FOLDER [PART]     three speakers a model, each tested on in
                                                        turn
    python results/speech.py table                      docs/tasks/speech.md and its figures

TASK is recognition or denoising, FOLDER the Free Spoken Digit Dataset's. Run the first two on a
quiet machine, on two cores best as `OMP_NUM_THREADS=1 ... run TASK FOLDER 1/2` beside `2/2`; they
append their rows to results/speech.jsonl and leave out what is there.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rows import DOCS, Rows, command, curve, draw, put, share, spread, table, trained

from torchsru.recipes import denoising, get_recipe, recognition
from torchsru.recipes.run import evaluate_run

ROWS = Rows("speech.jsonl")
PAGE = DOCS / "tasks" / "speech.md"
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


def measure(key: dict[str, Any], folder: str) -> None:
    """Train, test and append the row, unless it is there.

    Args:
        key: task, kind ("tune" or "run"), model, lr, speaker.
    """
    if ROWS.find(**key):
        return
    task = TASKS[key["task"]]
    name = f"{task.prefix}-{key['model']}"
    recipe = get_recipe(name)
    data = replace(recipe.data, paths=(folder,), speaker=key["speaker"])
    training = replace(recipe.training, lr=key["lr"], checkpoints=0)
    with trained(name, replace(recipe, data=data, training=training)) as (result, run):
        row = {
            **result,
            **key,
            "seconds_an_epoch": result["seconds"] / training.epochs,
            "curve": curve(run.folder, task.judged),
        }
        if key["kind"] == "run":
            row["test"] = evaluate_run(run, split="test")
    ROWS.add(row)


def find_task(name: str) -> Task:
    """The task of that name."""
    if name not in TASKS:
        sys.exit(f"TASK must be {' or '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def tune(task: str, folder: str, part: str = "1/1") -> None:
    """Try as many learning rates for each model."""
    prefix = find_task(task).prefix
    keys = [
        {"task": task, "kind": "tune", "model": m}
        | {"lr": factor * get_recipe(f"{prefix}-{m}").training.lr, "speaker": TUNED_ON}
        for factor in FACTORS
        for m in TASKS[task].models
    ]
    for key in share(keys, part):
        measure(key, folder)


def best_rate(task: str, model: str) -> float:
    """The tuned rate of the best number."""
    tried = ROWS.newest("lr", task=task, kind="tune", model=model)
    if len(tried) < len(FACTORS):
        sys.exit(f"{model} is not tuned: run `python {sys.argv[0]} tune {task} FOLDER` first")
    return TASKS[task].best(tried.values(), key=lambda row: row[TASKS[task].judged])["lr"]


def run(task: str, folder: str, part: str = "1/1") -> None:
    """All models in turn for each speaker, so that a slow hour meets all."""
    keys = [
        {"task": task, "kind": "run", "model": model}
        | {"lr": best_rate(task, model), "speaker": speaker}
        for speaker in SPEAKERS
        for model in find_task(task).models
    ]
    for key in share(keys, part):
        measure(key, folder)


def show() -> None:
    """Write the newest rows into the page, and draw them."""
    if not [name for name in TASKS if show_task(name)]:
        sys.exit(f"{ROWS.file} holds no runs of all models and speakers yet")


def show_task(name: str) -> bool:
    """The same of one task; False if there are not all runs of it."""
    task = TASKS[name]
    newest = ROWS.newest("model", "speaker", task=name, kind="run")
    if any((m, s) not in newest for m in task.models for s in SPEAKERS):
        return False
    runs = {m: [newest[m, s] for s in SPEAKERS] for m in task.models}
    cells = [
        [
            task.models[model][0],
            f"{of[0]['parameters']:,}",
            f"{of[0]['lr']:g}",
            *(spread([cell(row["test"]) for row in of]) for cell in task.columns.values()),
            f"{statistics.mean(row['seconds_an_epoch'] for row in of):.1f}",
        ]
        for model, of in runs.items()
    ]
    lines = [
        *table(["model", "parameters", "rate", *task.columns, "s / epoch"], cells),
        "",
        f"Mean and standard deviation over {len(SPEAKERS)} speakers that are tested on "
        f"({', '.join(SPEAKERS)}); rate: the best of {len(FACTORS)}. "
        f"{ROWS.about(next(iter(newest.values())))}",
        "",
        f"![{task.axis}, against seconds of training](../figures/speech-{name}.png)",
    ]
    put(PAGE, name, lines)
    curves = {
        task.models[model][0]: [[(s, task.scale * v) for s, v in row["curve"]] for row in of]
        for model, of in runs.items()
    }
    draw(f"speech-{name}.png", curves, "seconds of training", task.axis)
    return True


if __name__ == "__main__":
    command({"tune": tune, "run": run, "table": show})
