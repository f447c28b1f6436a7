"""Translators on Multi30k, English to German: BLEU, chrF, speed of training and of decoding.

    python results/translation.py tune FOLDER [PART]    four learning rates a model, one seed
    python results/translation.py run FOLDER [PART]     two seeds a model at its rate
    python results/translation.py time FOLDER           half a minute of training, then the test
                                                        set, a model, twice
    python results/translation.py table                 docs/tasks/translation.md and its figure
    python results/translation.py all FOLDER            all of these

FOLDER holds the set in its published files: train, val and test_2016_flickr, .en and .de, plain or
.gz. The first three append their rows to results/translation.jsonl and leave out what is there.
BLEU is the same whatever else runs: `OMP_NUM_THREADS=1 ... run FOLDER 1/2` beside `2/2` keeps two
cores busy. `time` wants a quiet machine; the weights that it decodes with, those of the first seed,
are kept by `run` below results/local.
"""

import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rows import (
    DOCS,
    LOCAL,
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

from torchsru.recipes import get_recipe
from torchsru.recipes.run import evaluate_run, open_run
from torchsru.recipes.translation import TranslationRecipe

ROWS = Rows("translation.jsonl")
PAGE = DOCS / "tasks" / "translation.md"
NAMES = {
    "transformer": "Transformer, 3 layers",
    "sru": "with SRU in its feed-forward sub-layers, 2 layers",
    "ssru": "with SSRU in place of the decoder's self-attention, 3 layers",
}
FACTORS = (0.5, 1.0, 2.0, 4.0)  # of the recipe's learning rate
TUNING_EPOCHS = 2
REPEATS = 2
BEAMS = (1, 5)
TIMES, TIMED_SECONDS = 2, 30
KEPT = LOCAL / "translation"  # runs of the first seed, a folder a model


def recipe_of(model: str) -> TranslationRecipe:
    """A model's recipe."""
    return get_recipe(f"multi30k-{model}")  # type: ignore[return-value]


def recipe_for(key: dict[str, Any], folder: str = "") -> TranslationRecipe:
    """The recipe that a row is measured by.

    Args:
        key: kind ("tune", "run" or "time"), model, lr, seed.
    """
    recipe = recipe_of(key["model"])
    training = replace(recipe.training, lr=key["lr"], seed=key["seed"], checkpoints=0)
    if key["kind"] == "tune":
        training = replace(training, epochs=TUNING_EPOCHS)
    if key["kind"] == "time":
        training = replace(training, epochs=None, seconds=TIMED_SECONDS, evaluations=1)
    return replace(recipe, data=replace(recipe.data, paths=(folder,)), training=training)


def fill(keys: Sequence[dict[str, Any]], folder: str, part: str = "1/1") -> None:
    """Measure what is not yet there; `keys`: see `recipe_for`."""
    ROWS.fill(share(keys, part), lambda key: recipe_for(key, folder), measure)


def measure(key: dict[str, Any], recipe: Any) -> dict[str, Any]:
    """Train and test."""
    with trained(f"multi30k-{key['model']}", recipe) as (row, run):
        if key["kind"] == "time":
            run = open_run(KEPT / key["model"])
        else:
            row["curve"] = curve(run.folder, "bleu")
        if key["kind"] != "tune":
            row["test"] = {
                beam: evaluate_run(run, split="test", layout={"eval_beam": beam}) for beam in BEAMS
            }
        if key["kind"] == "run" and key["seed"] == 0:
            shutil.rmtree(KEPT / key["model"], ignore_errors=True)
            shutil.copytree(run.folder, KEPT / key["model"])
    return row


def found(kind: str) -> list[dict]:
    """The newest rows of today's recipes."""
    return ROWS.current(recipe_for, "model", "lr", "seed", kind=kind)


def rates_of(model: str) -> list[float]:
    """Those that are tried."""
    return [factor * recipe_of(model).training.lr for factor in FACTORS]


def tune(folder: str, part: str = "1/1") -> None:
    """Try as many learning rates for each model."""
    keys = [
        {"kind": "tune", "model": m, "lr": rates_of(m)[i], "seed": 0}
        for i in range(len(FACTORS))
        for m in NAMES
    ]
    fill(keys, folder, part)


def best_rate(model: str) -> float:
    """The tuned rate with the fewest held-out nats: BLEU is noisier after few epochs."""
    tried = [row for row in found("tune") if row["model"] == model]
    return best_of(tried, len(FACTORS), model, lambda row: -row["nats"])["lr"]


def run(folder: str, part: str = "1/1") -> None:
    """All models in turn with each seed."""
    keys = [
        {"kind": "run", "model": model, "lr": best_rate(model), "seed": seed}
        for seed in range(REPEATS)
        for model in NAMES
    ]
    fill(keys, folder, part)


def time(folder: str) -> None:
    """Speeds, all models in turn, so that a slow hour meets all."""
    keys = [
        {"kind": "time", "model": model, "lr": best_rate(model), "seed": seed}
        for seed in range(TIMES)
        for model in NAMES
    ]
    fill(keys, folder)


def measured() -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    """The newest rows of runs, at the best rate, and of times by model. Exits where some are
    missing."""
    runs = {m: find_at(found("run"), model=m, lr=best_rate(m)) for m in NAMES}
    times = {m: find_at(found("time"), model=m) for m in NAMES}
    if any(len(of) < REPEATS for of in runs.values()) or not all(times.values()):
        sys.exit(f"{ROWS.file} lacks runs or times: `run FOLDER` and `time FOLDER` come first")
    return runs, times


def reached(model: str) -> Reached:
    """BLEU of the widest beam, and seconds of a training step, which are as many as the others'."""
    runs, times = measured()
    bleu = statistics.mean(row["test"][str(max(BEAMS))]["bleu"] for row in runs[model])
    return Reached(NAMES[model], bleu, a_step(times[model]))


def a_step(times: list[dict]) -> float:
    """Seconds of a training step."""
    return statistics.median(row["seconds"] / row["steps"] for row in times)


def show() -> None:
    """Write the newest rows into the page, and draw BLEU against seconds."""
    runs, times = measured()
    greedy, best = map(str, BEAMS)
    cells = []
    for model, of in runs.items():
        tests = {beam: [row["test"][beam] for row in of] for beam in (greedy, best)}
        speed = {
            beam: statistics.median(r["test"][beam]["subwords_per_second"] for r in times[model])
            for beam in (greedy, best)
        }
        cells.append([
            NAMES[model],
            f"{of[0]['parameters']:,}",
            f"{of[0]['lr']:g}",
            spread([test["bleu"] for test in tests[best]]),
            spread([test["chrf"] for test in tests[best]]),
            spread([test["bleu"] for test in tests[greedy]]),
            f"{statistics.median(r['subwords_per_second'] for r in times[model]):,.0f}",
            f"{speed[best]:,.0f}",
            f"{speed[greedy]:,.0f}",
        ])  # fmt: skip
    headings = [
        *("model", "parameters", "rate", f"BLEU, beam {best}", f"chrF, beam {best}"),
        *("BLEU, greedy", "trained at", f"decoded at, beam {best}", "greedy"),
    ]
    edge = at_edge({NAMES[m]: (of[0]["lr"], rates_of(m)) for m, of in runs.items()})
    lines = [
        *table(headings, cells),
        "",
        f"Test set of 2016, mean and standard deviation of {REPEATS} seeds; rate: the best of "
        f"{len(FACTORS)}{edge}; speeds are subwords of the target per second, decoding in batches, "
        f"the median of {TIMES} measurements. sacreBLEU `{of[0]['test'][best]['signature']}`. "
        f"{ROWS.about(row for some in times.values() for row in some)}",
        "",
        "![BLEU of held-out sentences against seconds of training](../figures/translation.png)",
    ]
    put(PAGE, "table", lines)
    draw(
        "translation.png",
        {
            NAMES[m]: [
                [(a_step(times[m]) * step, bleu) for step, bleu in row["curve"]] for row in of
            ]
            for m, of in runs.items()
        },
        "seconds of training",
        "BLEU of held-out sentences, greedy",
    )


if __name__ == "__main__":
    command({"tune": tune, "run": run, "time": time, "table": show})
