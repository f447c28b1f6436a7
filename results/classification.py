"""Sentence classifiers on CR, SUBJ, MR and TREC: accuracy, and seconds of training.

    python results/classification.py tune FOLDER [PART]   six trials a model
    python results/classification.py run FOLDER [PART]    three folds (TREC: seeds) a model and set
    python results/classification.py time FOLDER          three epochs a model and set, five times
    python results/classification.py table                docs/tasks/classification.md, its figure
    python results/classification.py all FOLDER           all of these

FOLDER holds the sets in their published files; the vectors are those of torchsru[train,glove]. The
first three append their rows to results/classification.jsonl and leave out what is there already.
Accuracy is the same whatever else runs: `OMP_NUM_THREADS=1 ... run FOLDER 1/2` beside `2/2` keeps
two cores busy. `time` wants a quiet machine.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rows import (
    DOCS,
    Reached,
    Rows,
    at_edge,
    best_of,
    command,
    curve,
    find_at,
    mean_curve,
    put,
    share,
    spread,
    table,
    trained,
)

from torchsru.data.words import GLOVE
from torchsru.recipes import get_recipe
from torchsru.recipes.classification import MODELS, ClassificationRecipe
from torchsru.recipes.run import evaluate_run

ROWS = Rows("classification.jsonl")
PAGE = DOCS / "tasks" / "classification.md"
SETS = {"cr": "CR", "subj": "SUBJ", "mr": "MR", "trec": "TREC"}
ABLATIONS = {  # of "sru": name, what it is, the fields that differ
    "sru-no-v": ("SRU without v", {"state_weights": False}),
    "sru-no-highway": ("SRU without highway", {"highway": False}),
    "sru-alpha": ("SRU with alpha", {"rescale": True}),
}
NAMES = {name: said for name, (said, _) in (MODELS | ABLATIONS).items()}
# learning rate and dropout; the paper has 1e-3 and 0.5, with vectors of 300 dimensions
TRIALS = ((1e-3, 0.2), (2e-3, 0.2), (4e-3, 0.2), (8e-3, 0.2), (2e-3, 0.5), (4e-3, 0.5))
TUNED_ON = "mr"
TUNED_FOLD = 8  # chooses by fold 9, which like 8 itself is not among the folds that are reported
REPEATS = 3
TIMED_EPOCHS, TIMES = 3, 5


def recipe_of(model: str) -> ClassificationRecipe:
    """A model's recipe."""
    if model not in ABLATIONS:
        return get_recipe(f"classify-{model}")  # type: ignore[return-value]
    whole = recipe_of("sru")
    return replace(whole, model=replace(whole.model, **ABLATIONS[model][1]))


def recipe_for(key: dict[str, Any], folder: str = "") -> ClassificationRecipe:
    """The recipe that a row is measured by.

    Args:
        key: kind ("tune", "run" or "time"), set, model, lr, dropout, fold, seed.
    """
    recipe = recipe_of(key["model"])
    data = replace(recipe.data, source=key["set"], paths=(folder,), vectors=GLOVE, fold=key["fold"])
    training = replace(recipe.training, lr=key["lr"], seed=key["seed"], checkpoints=0)
    if key["kind"] == "time":
        training = replace(training, epochs=TIMED_EPOCHS, evaluations=1)
    model = replace(recipe.model, dropout=key["dropout"])
    return replace(recipe, model=model, data=data, training=training)


def fill(keys: Sequence[dict[str, Any]], folder: str, part: str = "1/1") -> None:
    """Measure what is not yet there; `keys`: see `recipe_for`."""
    ROWS.fill(share(keys, part), lambda key: recipe_for(key, folder), measure)


def measure(key: dict[str, Any], recipe: Any) -> dict[str, Any]:
    """Train and test."""
    with trained(f"classify-{key['model']}", recipe) as (result, run):
        epochs = recipe.training.epochs
        row = {**result, "epochs": epochs, "seconds_an_epoch": result["seconds"] / epochs}
        if key["kind"] != "time":
            test = evaluate_run(run, split="test")
            row["test_accuracy"], row["test_sentences"] = test["accuracy"], test["sentences"]
            row["curve"] = curve(run.folder, "accuracy")
    return row


def found(kind: str) -> list[dict]:
    """The newest rows of today's recipes."""
    return ROWS.current(recipe_for, "model", "set", "lr", "dropout", "fold", "seed", kind=kind)


def tune(folder: str, part: str = "1/1") -> None:
    """Try as many learning rates and dropouts for each model, on one set."""
    keys = [
        {"kind": "tune", "set": TUNED_ON, "model": m, "lr": lr, "dropout": dropout}
        | {"fold": TUNED_FOLD, "seed": 0}
        for lr, dropout in TRIALS
        for m in MODELS
    ]
    fill(keys, folder, part)


def best_trial(model: str) -> dict[str, float]:
    """The rate and the dropout of most accuracy; the ablations have the whole model's."""
    tuned = "sru" if model in ABLATIONS else model
    found_of = {(row["lr"], row["dropout"]): row for row in found("tune") if row["model"] == tuned}
    tried = [found_of[trial] for trial in TRIALS if trial in found_of]
    best = best_of(tried, len(TRIALS), model, lambda row: row["accuracy"])
    return {"lr": best["lr"], "dropout": best["dropout"]}


def run(folder: str, part: str = "1/1") -> None:
    """All models in turn on each set, fold by fold."""
    best = {model: best_trial(model) for model in NAMES}
    keys = [
        {"kind": "run", "set": source, "model": model, **best[model]}
        | ({"fold": 0, "seed": repeat} if source == "trec" else {"fold": repeat, "seed": 0})
        for repeat in range(REPEATS)
        for source in SETS
        for model in NAMES
    ]
    fill(keys, folder, part)


def time(folder: str) -> None:
    """Seconds an epoch, all models in turn on each set, so that a slow hour meets all."""
    best = {model: best_trial(model) for model in NAMES}
    keys = [
        {"kind": "time", "set": source, "model": model, **best[model], "fold": 0, "seed": repeat}
        for repeat in range(TIMES)
        for source in SETS
        for model in NAMES
    ]
    fill(keys, folder)


Cases = dict[tuple[str, str], Any]  # by model and set


def measured() -> tuple[Cases, Cases, list[dict]]:
    """The newest rows of runs at the best trial by case, the seconds of an epoch by case, and the
    rows of those. Exits where some are missing."""
    rows, times, runs = found("run"), found("time"), {}
    for model in NAMES:
        best = find_at(rows, model=model, **best_trial(model))
        runs |= {(model, source): find_at(best, set=source) for source in SETS}
    seconds: Cases = {}
    for row in times:
        seconds.setdefault((row["model"], row["set"]), []).append(row["seconds_an_epoch"])
    cases = [(model, source) for model in NAMES for source in SETS]
    if any(len(runs[case]) < REPEATS or case not in seconds for case in cases):
        sys.exit(f"{ROWS.file} lacks runs or times: `run FOLDER` and `time FOLDER` come first")
    return runs, {case: statistics.median(some) for case, some in seconds.items()}, times


def accuracies(runs: Cases, model: str) -> list[list[float]]:
    """In %, of each set's repeats."""
    return [[100 * r["test_accuracy"] for r in runs[model, source]] for source in SETS]


def an_epoch(took: Cases, model: str) -> float:
    """Seconds of one of each set."""
    return sum(took[model, source] for source in SETS)


def reached(model: str) -> Reached:
    """Mean accuracy of the sets in %, and seconds of an epoch of all."""
    runs, took, _ = measured()
    mean = statistics.mean(map(statistics.mean, accuracies(runs, model)))
    return Reached(NAMES[model], mean, an_epoch(took, model))


def show() -> None:
    """Write the newest rows into the page, and draw accuracy against seconds."""
    runs, took, times = measured()
    cells = []
    for model, said in NAMES.items():
        scores = accuracies(runs, model)
        mean = statistics.mean(map(statistics.mean, scores))
        epoch = an_epoch(took, model)
        faster = an_epoch(took, "lstm") / epoch
        one = runs[model, "mr"][0]
        first = [said, f"{one['parameters']:,}", f"{one['lr']:g}", one["dropout"]]
        last = [f"{mean:.1f}", over_lstm(runs, model), f"{epoch:.1f}", f"{faster:.2f}"]
        cells.append([*first, *map(spread, scores), *last])
    headings = [
        "model",
        "parameters",
        "rate",
        "dropout",
        *SETS.values(),
        "mean",
        "over LSTM",
        "s / epoch",
    ]
    headings.append("LSTM's / its")
    tried = [lr for lr, _ in TRIALS]
    edge = at_edge({NAMES[m]: (runs[m, "mr"][0]["lr"], tried) for m in MODELS})
    lines = [
        *table(headings, cells),
        "",
        f"Test accuracy in %, mean and standard deviation of {REPEATS} folds (TREC: seeds); over "
        "LSTM: mean and standard error of the differences fold by fold, of all sets. Rate "
        f"and dropout: the best of {len(TRIALS)} trials on a fold of {SETS[TUNED_ON]} that is not "
        f"tested on{edge}; the ablations have those of SRU. Seconds: of an epoch of each of the "
        f"four sets together, the median of {TIMES} measurements. {ROWS.about(times)}",
        "",
        "![Validation accuracy against seconds of training](../figures/classification.png)",
    ]
    put(PAGE, "table", lines)
    draw(runs, took)


def over_lstm(runs: Cases, model: str) -> str:
    """By how much a model is better than LSTM, in points, with the standard error."""
    if model == "lstm":
        return ""

    def scores(name: str) -> dict[tuple, float]:
        rows = [row for source in SETS for row in runs[name, source]]
        return {(r["set"], r["fold"], r["seed"]): 100 * r["test_accuracy"] for r in rows}

    of_lstm = scores("lstm")
    more = [score - of_lstm[where] for where, score in scores(model).items()]
    error = statistics.stdev(more) / len(more) ** 0.5
    return f"{statistics.mean(more):+.1f} ± {error:.1f}"


def draw(runs: Cases, took: Cases) -> None:
    """Accuracy that chooses the model against seconds of training, the mean over repeats."""
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    for (source, title), axes in zip(SETS.items(), grid.flat, strict=True):
        for model in MODELS:
            some = runs[model, source]
            steps, accuracy = mean_curve([r["curve"] for r in some])
            a_step = took[model, source] * some[0]["epochs"] / some[0]["steps"]
            axes.plot(
                [a_step * step for step in steps], [100 * a for a in accuracy], label=NAMES[model]
            )
        axes.set(title=title, xlabel="seconds of training", ylabel="validation accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
    lines, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(DOCS / "figures" / "classification.png", dpi=150)


if __name__ == "__main__":
    command({"tune": tune, "run": run, "time": time, "table": show})
