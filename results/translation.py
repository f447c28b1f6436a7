"""Translators on Multi30k, English to German: BLEU, chrF, speed of training and of decoding.

    python results/translation.py tune FOLDER [PART]    three learning rates a model, one seed
    python results/translation.py run FOLDER [PART]     two seeds a model at its rate
    python results/translation.py table                 docs/tasks/translation.md and its figure

FOLDER holds the set in its published files: train, val and test_2016_flickr, .en and .de, plain or
.gz. Run the first two on a quiet machine, on two cores best as `OMP_NUM_THREADS=1 ... run FOLDER
1/2` beside `2/2`; they append their rows to results/translation.jsonl and leave out what is there.
"""

import statistics
import sys
from dataclasses import replace
from typing import Any

from rows import DOCS, Rows, command, curve, draw, put, share, spread, table, trained

from torchsru.recipes import get_recipe
from torchsru.recipes.run import evaluate_run
from torchsru.recipes.translation import TranslationRecipe

ROWS = Rows("translation.jsonl")
PAGE = DOCS / "tasks" / "translation.md"
NAMES = {
    "transformer": "Transformer, 3 layers",
    "sru": "with SRU in its feed-forward sub-layers, 2 layers",
    "ssru": "with SSRU in place of the decoder's self-attention, 3 layers",
}
FACTORS = (0.5, 1.0, 2.0)  # of the recipe's learning rate
TUNING_EPOCHS = 4
REPEATS = 2
BEAMS = (1, 5)


def recipe_of(model: str) -> TranslationRecipe:
    """A model's recipe."""
    return get_recipe(f"multi30k-{model}")  # type: ignore[return-value]


def measure(key: dict[str, Any], folder: str) -> None:
    """Train, test and append the row, unless it is there.

    Args:
        key: kind ("tune" or "run"), model, lr, seed.
    """
    if ROWS.find(**key):
        return
    recipe = recipe_of(key["model"])
    training = replace(recipe.training, lr=key["lr"], seed=key["seed"], checkpoints=0)
    if key["kind"] == "tune":
        training = replace(training, epochs=TUNING_EPOCHS)
    recipe = replace(recipe, data=replace(recipe.data, paths=(folder,)), training=training)
    with trained(f"multi30k-{key['model']}", recipe) as (result, run):
        row = {**result, **key, "curve": curve(run.folder, "bleu")}
        if key["kind"] == "run":
            row["test"] = {
                beam: evaluate_run(run, split="test", layout={"eval_beam": beam}) for beam in BEAMS
            }
    ROWS.add(row)


def tune(folder: str, part: str = "1/1") -> None:
    """Try as many learning rates for each model."""
    keys = [
        {"kind": "tune", "model": m, "lr": factor * recipe_of(m).training.lr, "seed": 0}
        for factor in FACTORS
        for m in NAMES
    ]
    for key in share(keys, part):
        measure(key, folder)


def best_rate(model: str) -> float:
    """The tuned rate with the fewest held-out nats: BLEU is noisier after few epochs."""
    tried = ROWS.newest("lr", kind="tune", model=model)
    if len(tried) < len(FACTORS):
        sys.exit(f"{model} is not tuned: run `python {sys.argv[0]} tune FOLDER` first")
    return min(tried.values(), key=lambda row: row["nats"])["lr"]


def run(folder: str, part: str = "1/1") -> None:
    """All models in turn with each seed, so that a slow hour meets all."""
    keys = [
        {"kind": "run", "model": model, "lr": best_rate(model), "seed": seed}
        for seed in range(REPEATS)
        for model in NAMES
    ]
    for key in share(keys, part):
        measure(key, folder)


def show() -> None:
    """Write the newest rows into the page, and draw BLEU against seconds."""
    newest = ROWS.newest("model", "seed", kind="run")
    found = {m: [newest[m, s] for s in range(REPEATS) if (m, s) in newest] for m in NAMES}
    if lacking := [m for m, runs in found.items() if len(runs) < REPEATS]:
        sys.exit(f"{ROWS.file} lacks runs of {', '.join(lacking)}: `run FOLDER` comes first")
    greedy, best = map(str, BEAMS)
    cells = []
    for model, runs in found.items():
        tests = {beam: [r["test"][beam] for r in runs] for beam in (greedy, best)}
        speed = {
            beam: statistics.mean(test["subwords_per_second"] for test in of)
            for beam, of in tests.items()
        }
        cells.append([
            NAMES[model],
            f"{runs[0]['parameters']:,}",
            f"{runs[0]['lr']:g}",
            spread([test["bleu"] for test in tests[best]]),
            spread([test["chrf"] for test in tests[best]]),
            spread([test["bleu"] for test in tests[greedy]]),
            f"{statistics.mean(r['subwords_per_second'] for r in runs):,.0f}",
            f"{speed[best]:,.0f}",
            f"{speed[greedy]:,.0f}",
        ])  # fmt: skip
    headings = [
        *("model", "parameters", "rate", f"BLEU, beam {best}", f"chrF, beam {best}"),
        *("BLEU, greedy", "trained at", f"decoded at, beam {best}", "greedy"),
    ]
    lines = [
        *table(headings, cells),
        "",
        f"Test set of 2016, mean and standard deviation of {REPEATS} seeds; rate: the best of "
        f"{len(FACTORS)}; speeds are subwords of the target per second, decoding in batches. "
        f"sacreBLEU `{runs[0]['test'][best]['signature']}`. {ROWS.about(runs[0])}",
        "",
        "![BLEU of held-out sentences against seconds of training](../figures/translation.png)",
    ]
    put(PAGE, "table", lines)
    draw(
        "translation.png",
        {NAMES[model]: [r["curve"] for r in runs] for model, runs in found.items()},
        "seconds of training",
        "BLEU of held-out sentences, greedy",
    )


if __name__ == "__main__":
    command({"tune": tune, "run": run, "table": show})
