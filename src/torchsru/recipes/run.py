"""A recipe in a folder: start it, resume it, open what it made.

RUN/recipe.json   name, settings, where it was started
    log.jsonl     one row each few steps and each evaluation; tensorboard/ shows the same
    checkpoints/  the newest state of weights and training
    result.json   numbers of a finished run, with machine, versions and commit
"""

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torchsru.data import load_corpus, load_text
from torchsru.models import LanguageModel
from torchsru.recipes.base import LanguageModelRecipe, from_json, to_json
from torchsru.train import environment
from torchsru.train.checkpoint import RunError, load_checkpoint, load_weights
from torchsru.train.language_model import HeldOut, LanguageModelling, bits_per_byte
from torchsru.train.loop import CHECKPOINTS, RECIPE, RESULT, fit, make_fabric


@dataclass(frozen=True)
class Run:
    """A run folder that holds a recipe."""

    folder: Path
    name: str
    recipe: LanguageModelRecipe

    @property
    def result(self) -> dict[str, Any] | None:
        """The numbers of a finished run, None before."""
        file = self.folder / RESULT
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def open_run(folder: Path) -> Run:
    """The run in a folder. Raises RunError if there is none or its recipe can't be read."""
    file = folder / RECIPE
    if not file.exists():
        raise RunError(f"{folder} is not a run: it holds no {RECIPE}")
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        recipe = from_json(LanguageModelRecipe, saved["recipe"])
        return Run(folder, str(saved["name"]), recipe)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def check_free(folder: Path) -> None:
    """Raise RunError if a new run in this folder would meet anything that is there already."""
    if (folder / RECIPE).exists():
        raise RunError(f"{folder} holds a run already; add --resume, or name another --out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} is not an empty folder; name another --out")


def check_resumable(run: Run, name: str, recipe: LanguageModelRecipe) -> None:
    """Raise RunError if `recipe` can't go on where the run stopped: only training may differ."""
    if run.name != name:
        raise RunError(f"{run.folder} holds a run of {run.name}, got {name}")
    for part in ("model", "data"):
        before, now = to_json(run.recipe)[part], to_json(recipe)[part]
        for field in before:
            if before[field] != now[field]:
                raise RunError(
                    f"{part}.{field} was {before[field]!r} in {run.folder}, got {now[field]!r}"
                )


def train(
    name: str, recipe: LanguageModelRecipe, folder: Path, *, resume: bool = False
) -> dict[str, Any]:
    """Run a recipe in a folder; see `torchsru.train.loop.fit` for what it returns and raises.

    Nothing is written before the recipe, the data and the folder have been checked.
    """
    if resume:
        check_resumable(open_run(folder), name, recipe)
    else:
        check_free(folder)
    corpus = load_corpus(recipe.data.paths, recipe.data.heldout)
    task = LanguageModelling(corpus, recipe.data, recipe.training.seed)
    about = {"name": name, "recipe": to_json(recipe), "environment": environment.describe()}
    model = partial(LanguageModel, recipe.model)
    return fit(folder, task, model, recipe.training, about=about, resume=resume)


def load_model(run: Run) -> LanguageModel:
    """The run's newest weights in its model, in evaluation mode. Raises RunError."""
    saved = load_checkpoint(run.folder / CHECKPOINTS)
    if saved is None:
        raise RunError(f"{run.folder} has saved no weights yet")
    model = LanguageModel(run.recipe.model)
    load_weights(saved, model)
    return model.eval()


def evaluate_run(run: Run, *, paths: tuple[str, ...] = ()) -> dict[str, Any]:
    """Held-out numbers of a run's newest weights, on its own data or on other files.

    Args:
        paths: other files and folders, all of whose bytes count; none: all held-out bytes of the
            run's own data.

    Returns: the task's numbers, how many bytes they are a mean of, and the seconds it took.
    """
    data = run.recipe.data
    if paths:
        text = load_text(paths)
    else:
        corpus = load_corpus(data.paths, data.heldout)
        saved = load_checkpoint(run.folder / CHECKPOINTS)
        if saved is not None and saved.facts["content"] != corpus.content:
            raise RunError(
                f"{run.folder} was trained on other data than what is there now: what is held out "
                "now may have been trained on; name files of your own with --data"
            )
        text = corpus.heldout
    heldout = HeldOut(text, 0, data.eval_batch)
    model = make_fabric(run.recipe.training).setup(load_model(run))
    started = time.perf_counter()
    found = bits_per_byte(heldout.loss(model))
    return {**found, "bytes": heldout.count, "seconds": time.perf_counter() - started}
