"""Readers on XQuAD's English questions: exact match, F1, and seconds in the recurrent layers.

    python results/reading.py tune FILE [PART]    five learning rates a model, judged on the last
                                                  fold
    python results/reading.py run FILE [PART]     the other folds of the articles: each of their
                                                  questions is answered once, by a reader that has
                                                  not seen its article, at a rate that it had no
                                                  part in
    python results/reading.py time FILE           passes over the training questions, layers and all
    python results/reading.py table               docs/tasks/reading.md and its figure
    python results/reading.py all FILE            all of these

FILE is xquad.en.json; the vectors are those of torchsru[train,glove]. The first three append their
rows to results/reading.jsonl and leave out what is there already. F1 is the same whatever else
runs: `OMP_NUM_THREADS=1 ... run FILE 1/2` beside `2/2` keeps two cores busy. `time` wants a quiet
machine.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
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
    table,
    trained,
)

from torchsru.data.words import GLOVE
from torchsru.recipes import get_recipe
from torchsru.recipes.reading import MODELS, ReadingRecipe, TextReader
from torchsru.train import environment
from torchsru.train.optimizer import make_optimizer
from torchsru.train.reading import means

ROWS = Rows("reading.jsonl")
PAGE = DOCS / "tasks" / "reading.md"
BASELINE = "lstm-3"
FOLDS, EPOCHS, REPEATS = 5, 12, 3
TESTED = range(FOLDS - 1)  # the last one is what the learning rates are judged on
FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0)  # of the recipe's rate, which is that of far more questions
DROPOUT = {"embedding_dropout": 0.2, "dropout": 0.1}  # of all models, for the same reason
RESAMPLED = 10_000


def recipe_of(model: str) -> ReadingRecipe:
    """A model's recipe."""
    return get_recipe(f"answer-{model}")  # type: ignore[return-value]


def recipe_for(key: dict[str, Any], file: str = "") -> ReadingRecipe:
    """The recipe that a row is measured by.

    Args:
        key: kind ("tune", "run" or "time"), model, lr, fold.
    """
    recipe = recipe_of(key["model"])
    data = replace(recipe.data, paths=(file,), vectors=GLOVE, folds=FOLDS, fold=key["fold"])
    training = replace(
        recipe.training, lr=key["lr"], epochs=EPOCHS, evaluations=EPOCHS, checkpoints=0
    )
    return replace(recipe, model=replace(recipe.model, **DROPOUT), data=data, training=training)


def fill(keys: Sequence[dict[str, Any]], file: str, part: str = "1/1") -> None:
    """Measure what is not yet there; `keys`: see `recipe_for`."""
    ROWS.fill(share(keys, part), lambda key: recipe_for(key, file), measure)


def measure(key: dict[str, Any], recipe: Any) -> dict[str, Any]:
    """Train and test, or time."""
    if key["kind"] == "time":
        return {**time_pass(recipe), "environment": environment.describe()}
    with trained(f"answer-{key['model']}", recipe) as (row, run):
        row["curve"] = curve(run.folder, "f1")
        if key["kind"] == "run":
            reader = TextReader(run)
            scored = reader.score(reader.paragraphs("test"), 32)
            row["scores"] = [(s.article, s.id, s.exact_match, s.f1) for s in scored]
            row["test"] = means(scored)
    return row


def rates_of(model: str) -> list[float]:
    """Those that are tried."""
    return [factor * recipe_of(model).training.lr for factor in FACTORS]


def tune(file: str, part: str = "1/1") -> None:
    """Try as many learning rates for each model, on a fold that is not tested on: that which
    chooses the weights is the one after that which is held out to test on."""
    keys = [
        {"kind": "tune", "model": m, "fold": TESTED[-1]} | {"lr": rates_of(m)[i]}
        for i in range(len(FACTORS))
        for m in MODELS
    ]
    fill(keys, file, part)


def found(kind: str) -> list[dict]:
    """The newest rows of today's recipes."""
    return ROWS.current(recipe_for, "model", "lr", "fold", "repeat", kind=kind)


def best_rate(model: str) -> float:
    """The tuned rate of most F1."""
    tried = [row for row in found("tune") if row["model"] == model]
    return best_of(tried, len(FACTORS), model, lambda row: row["f1"])["lr"]


def run(file: str, part: str = "1/1") -> None:
    """All models in turn on each fold, so that a slow hour meets all."""
    keys = [
        {"kind": "run", "model": model, "lr": best_rate(model), "fold": fold}
        for fold in TESTED
        for model in MODELS
    ]
    fill(keys, file, part)


def time_models(file: str) -> None:
    """A pass of each model in turn, REPEATS times."""
    keys = [
        {"kind": "time", "model": model, "lr": best_rate(model), "fold": TESTED[0]}
        | {"repeat": repeat}
        for repeat in range(REPEATS)
        for model in MODELS
    ]
    fill(keys, file)


def time_pass(recipe: ReadingRecipe) -> dict[str, float]:
    """Seconds of a pass over the training questions that is not the first: in the encoders alone,
    forward and backward, and of whole training steps; and words per second of the latter."""
    prepared = recipe.prepare()
    task = prepared.task
    torch.manual_seed(0)
    model = prepared.make_model().train()
    optimizer = make_optimizer(recipe.training, model)
    clip = recipe.training.clip
    assert clip is not None

    def step(at: int) -> None:
        task.loss(model, task.batch(at), None)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()

    def encode(at: int) -> None:
        for encoder, x, lengths in inputs[at]:
            encoder(x, lengths).sum().backward()
            encoder.zero_grad()
            x.grad = None

    inputs, words = [], 0
    for at in range(task.steps_per_pass):
        b = task.batch(at)
        words += int(b.context_lengths.sum() + b.question_lengths.sum())
        found = []
        for encoder, ids, lengths in (
            (model.context, b.context, b.context_lengths),
            (model.question, b.question, b.question_lengths),
        ):
            x = torch.randn(*ids.shape, encoder.layers[0].input_size, requires_grad=True)
            found.append((encoder, x, lengths))
        inputs.append(found)
    steps, seconds = task.steps_per_pass, {}
    for name, work in (("rnn_seconds", encode), ("seconds", step)):
        timed(work, steps)  # makes what is made once for each shape: much, for an LSTM
        seconds[name] = timed(work, steps)
    return {
        **seconds,
        "steps": steps,
        "words": words,
        "words_per_second": words / seconds["seconds"],
    }


def timed(work: Callable[[int], None], times: int) -> float:
    """Seconds of work(0) to work(times - 1)."""
    started = time.perf_counter()
    for at in range(times):
        work(at)
    return time.perf_counter() - started


def intervals(scores: dict[str, dict]) -> Callable[[Callable[[dict], np.ndarray]], str]:
    """From what is scored to "mean (low to high)" of 95%, articles resampled: questions on one
    article are not independent.

    Args:
        scores: {model: {question: (article, exact match, F1)}}, all of the same questions.
    """
    questions = sorted(scores[BASELINE])
    articles = [scores[BASELINE][q][0] for q in questions]
    titles = sorted(set(articles))
    place = np.array([titles.index(article) for article in articles])
    drawn = np.random.default_rng(0).integers(len(titles), size=(RESAMPLED, len(titles)))
    times = np.stack([np.bincount(draw, minlength=len(titles)) for draw in drawn])
    counts = np.bincount(place)

    def interval(value: Callable[[dict], np.ndarray]) -> str:
        values = 100 * value(
            {m: np.array([s[q][1:] for q in questions]) for m, s in scores.items()}
        )
        sums = np.bincount(place, values)
        low, high = np.percentile(times @ sums / (times @ counts), [2.5, 97.5])
        return f"{values.mean():.1f} ({low:.1f} to {high:.1f})"

    return interval


def measured() -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    """The newest rows of runs, at the best rate, and of times by model. Exits where some are
    missing."""
    runs = {m: find_at(found("run"), model=m, lr=best_rate(m)) for m in MODELS}
    times = {m: find_at(found("time"), model=m) for m in MODELS}
    if any(len(of) < len(TESTED) for of in runs.values()) or not all(times.values()):
        sys.exit(f"{ROWS.file} lacks runs or times: `run FILE` and `time FILE` come first")
    return runs, times


def reached(model: str) -> Reached:
    """F1 of all questions in %, and seconds of an epoch."""
    runs, times = measured()
    f1 = statistics.mean(f1 for row in runs[model] for *_, f1 in row["scores"])
    seconds = statistics.median(row["seconds"] for row in times[model])
    return Reached(MODELS[model][0], 100 * f1, seconds)


def show() -> None:
    """Write the newest rows into the page, and draw F1 against seconds."""
    runs, times = measured()
    scores = {
        m: {name: (article, em, f1) for row in of for article, name, em, f1 in row["scores"]}
        for m, of in runs.items()
    }
    interval = intervals(scores)
    cells = []
    for m, (said, _) in MODELS.items():
        exact = interval(lambda s, m=m: s[m][:, 0])
        f1 = interval(lambda s, m=m: s[m][:, 1])
        more = interval(lambda s, m=m: s[m][:, 1] - s[BASELINE][:, 1]) if m != BASELINE else ""
        rnn, all_, words = (
            statistics.median(row[name] for row in times[m])
            for name in ("rnn_seconds", "seconds", "words_per_second")
        )
        one = runs[m][0]
        first = [said, f"{one['parameters']:,}", f"{one['lr']:g}", exact, f1, more]
        cells.append([*first, f"{rnn:.2f}", f"{all_:.2f}", f"{words:,.0f}"])
    headings = [
        *("model", "parameters", "rate", "exact match", "F1", "F1 - LSTM's"),
        *("RNN s / epoch", "s / epoch", "words / s"),
    ]
    edge = at_edge({MODELS[m][0]: (of[0]["lr"], rates_of(m)) for m, of in runs.items()})
    articles = {article for article, *_ in scores[BASELINE].values()}
    lines = [
        *table(headings, cells),
        "",
        f"In %, of {len(scores[BASELINE]):,} questions, with 95% intervals from {RESAMPLED:,} "
        f"resamples of the {len(articles)} articles; {EPOCHS} epochs; rate: the best of "
        f"{len(FACTORS)}, on articles that are not tested on{edge}; seconds and words, the median "
        f"of {REPEATS} passes over a fold's training questions. "
        f"{ROWS.about(row for of in times.values() for row in of)}",
        "",
        "![F1 that chooses the weights against seconds of training](../figures/reading.png)",
    ]
    put(PAGE, "table", lines)
    a_step = {
        m: statistics.median(row["seconds"] / row["steps"] for row in of) for m, of in times.items()
    }
    draw(
        "reading.png",
        {
            MODELS[m][0]: [[(a_step[m] * step, f1) for step, f1 in row["curve"]] for row in of]
            for m, of in runs.items()
        },
        "seconds of training",
        "validation F1, %",
    )


if __name__ == "__main__":
    command({"tune": tune, "run": run, "time": time_models, "table": show})
