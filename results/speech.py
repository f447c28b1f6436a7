"""Spoken digits: recognisers' error rates, denoisers' SI-SDR improvement, on a speaker never heard.

    python results/speech.py tune TASK FOLDER [PART]    three learning rates a model
    python results/speech.py run TASK FOLDER [PART]     three speakers a model, each tested on in
                                                        turn
    python results/speech.py time TASK FOLDER           an epoch a model, twice
    python results/speech.py table                      docs/tasks/speech.md and its figures
    python results/speech.py all TASK FOLDER            all of these

TASK is recognition or denoising, FOLDER the Free Spoken Digit Dataset's. The first three append
their rows to results/speech.jsonl and leave out what is there already. What is reached is the same
whatever else runs: `OMP_NUM_THREADS=1 ... run TASK FOLDER 1/2` beside `2/2` keeps two cores busy.
`time` wants a quiet machine.
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rows import (
    DOCS,
    Reached,
    Rows,
    at_edge,
    best_of,
    command,
    curve,
    draw,
    find_at,
    put,
    share,
    spread,
    table,
    trained,
)

from torchsru.recipes import denoising, get_recipe, recognition
from torchsru.recipes.run import evaluate_run

ROWS = Rows("speech.jsonl")
PAGE = DOCS / "tasks" / "speech.md"
FACTORS = (0.5, 1.0, 2.0)  # of the recipe's learning rate
SPEAKERS = ("george", "lucas", "theo")  # tested on; the ones after them by name choose the models
TIMES = 2
TUNED_ON = "george"  # by the numbers of the speaker who chooses then, whom none is tested on


@dataclass(frozen=True)
class Task:
    """What is measured of a task, and how it is shown."""

    prefix: str
    models: dict[str, tuple[str, Any]]
    judged: str
    """The number that chooses; of the test's, with `scale`, the figure's axis too."""
    sign: int
    """1 if more of it is better, else -1."""
    scale: float
    axis: str
    columns: dict[str, Callable[[dict], float]]
    """{heading: from a test's numbers}."""


TASKS = {
    "recognition": Task(
        "digits",
        recognition.MODELS,
        "wer",
        -1,
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
        1,
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


def recipe_for(key: dict[str, Any], folder: str = "") -> Any:
    """The recipe that a row is measured by.

    Args:
        key: task, kind ("tune", "run" or "time"), model, lr, speaker, seed.
    """
    recipe = get_recipe(f"{TASKS[key['task']].prefix}-{key['model']}")
    data = replace(recipe.data, paths=(folder,), speaker=key["speaker"])
    training = replace(recipe.training, lr=key["lr"], seed=key["seed"], checkpoints=0)
    if key["kind"] in ("tune", "time"):
        short = training.epochs // 2 if key["kind"] == "tune" else 1
        training = replace(training, epochs=short, evaluations=short)
    return replace(recipe, data=data, training=training)


def fill(keys: Sequence[dict[str, Any]], folder: str, part: str = "1/1") -> None:
    """Measure what is not yet there; `keys`: see `recipe_for`."""
    ROWS.fill(share(keys, part), lambda key: recipe_for(key, folder), measure)


def measure(key: dict[str, Any], recipe: Any) -> dict[str, Any]:
    """Train and test."""
    task = TASKS[key["task"]]
    with trained(f"{task.prefix}-{key['model']}", recipe) as (row, run):
        if key["kind"] != "time":
            row["curve"] = curve(run.folder, task.judged)
        if key["kind"] == "run":
            row["test"] = evaluate_run(run, split="test")
    return row


def found(task: str, kind: str, model: str) -> list[dict]:
    """The newest rows of today's recipes."""
    alike = ("lr", "speaker", "seed")
    return ROWS.current(recipe_for, *alike, task=task, kind=kind, model=model)


def find_task(name: str) -> Task:
    """The task of that name."""
    if name not in TASKS:
        sys.exit(f"TASK must be {' or '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def rates_of(task: str, model: str) -> list[float]:
    """Those that are tried."""
    usual = get_recipe(f"{find_task(task).prefix}-{model}").training.lr
    return [factor * usual for factor in FACTORS]


def tune(task: str, folder: str, part: str = "1/1") -> None:
    """Try as many learning rates for each model."""
    models = find_task(task).models
    keys = [
        {"task": task, "kind": "tune", "model": m}
        | {"lr": rates_of(task, m)[i], "speaker": TUNED_ON, "seed": 0}
        for i in range(len(FACTORS))
        for m in models
    ]
    fill(keys, folder, part)


def best_rate(task: str, model: str) -> float:
    """The tuned rate of the best number."""
    sign, judged = TASKS[task].sign, TASKS[task].judged
    tried = found(task, "tune", model)
    return best_of(tried, len(FACTORS), model, lambda row: sign * row[judged])["lr"]


def run(task: str, folder: str, part: str = "1/1") -> None:
    """All models in turn for each speaker."""
    keys = [
        {"task": task, "kind": "run", "model": model}
        | {"lr": best_rate(task, model), "speaker": speaker, "seed": 0}
        for speaker in SPEAKERS
        for model in find_task(task).models
    ]
    fill(keys, folder, part)


def time(task: str, folder: str) -> None:
    """Seconds an epoch, all models in turn, so that a slow hour meets all."""
    keys = [
        {"task": task, "kind": "time", "model": model}
        | {"lr": best_rate(task, model), "speaker": TUNED_ON, "seed": seed}
        for seed in range(TIMES)
        for model in find_task(task).models
    ]
    fill(keys, folder)


def show() -> None:
    """Write the newest rows into the page, and draw them."""
    if not [name for name in TASKS if show_task(name)]:
        sys.exit(f"{ROWS.file} holds no runs of all models and speakers yet")


def measured(name: str) -> tuple[dict[str, list[dict]], dict[str, list[dict]]] | None:
    """The newest rows of runs, at the best rate, and of times by model; None if some are
    missing."""
    models = TASKS[name].models
    if any(len(found(name, "tune", m)) < len(FACTORS) for m in models):
        return None
    runs = {m: find_at(found(name, "run", m), lr=best_rate(name, m)) for m in models}
    times = {m: found(name, "time", m) for m in models}
    if any(len(of) < len(SPEAKERS) for of in runs.values()) or not all(times.values()):
        return None
    return runs, times


def reached(name: str, model: str) -> Reached:
    """The first of a task's columns, mean over speakers, and seconds of an epoch."""
    if (rows := measured(name)) is None:
        sys.exit(f"{ROWS.file} lacks runs or times of {name}")
    task, (runs, times) = TASKS[name], rows
    first = next(iter(task.columns.values()))
    mean = statistics.mean(first(row["test"]) for row in runs[model])
    return Reached(task.models[model][0], mean, an_epoch(times[model]))


def an_epoch(times: list[dict]) -> float:
    """Its seconds."""
    return statistics.median(row["seconds"] for row in times)


def show_task(name: str) -> bool:
    """The same of one task; False if there are not all rows of it."""
    if (rows := measured(name)) is None:
        return False
    task, (runs, times) = TASKS[name], rows
    took = {m: an_epoch(of) for m, of in times.items()}
    cells = [
        [
            task.models[model][0],
            f"{of[0]['parameters']:,}",
            f"{of[0]['lr']:g}",
            *(spread([cell(row["test"]) for row in of]) for cell in task.columns.values()),
            f"{took[model]:.1f}",
        ]
        for model, of in runs.items()
    ]
    epochs = get_recipe(f"{task.prefix}-{min(runs)}").training.epochs
    assert epochs is not None
    edge = at_edge({task.models[m][0]: (of[0]["lr"], rates_of(name, m)) for m, of in runs.items()})
    lines = [
        *table(["model", "parameters", "rate", *task.columns, "s / epoch"], cells),
        "",
        f"Mean and standard deviation over {len(SPEAKERS)} speakers that are tested on "
        f"({', '.join(SPEAKERS)}), {epochs} epochs; rate: the best of {len(FACTORS)} after half as "
        f"many{edge}; seconds of an epoch, drawing and mixing its sound among them: the median of "
        f"{TIMES}. "
        f"{ROWS.about(row for of in times.values() for row in of)}",
        "",
        f"![{task.axis}, against seconds of training](../figures/speech-{name}.png)",
    ]
    put(PAGE, name, lines)
    a_step = {m: took[m] / times[m][0]["steps"] for m in times}
    curves = {
        task.models[m][0]: [[(a_step[m] * at, task.scale * v) for at, v in r["curve"]] for r in of]
        for m, of in runs.items()
    }
    draw(f"speech-{name}.png", curves, "seconds of training", task.axis)
    return True


if __name__ == "__main__":
    command({"tune": tune, "run": run, "time": time, "table": show})
