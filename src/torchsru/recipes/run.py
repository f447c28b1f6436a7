"""A recipe in a folder: start it, resume it, open what it made.

RUN/recipe.json      name, settings, where it was started; the same of each resumption, in "resumed"
    vocabulary.json  what the model's symbols stand for
    log.jsonl        one row each few steps and each evaluation; tensorboard/ shows the same
    checkpoints/     the newest two states of weights and training
    result.json      numbers of a finished run, with machine, versions and commit
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torchsru
from torchsru.data import ByteVocabulary, DataError, TextData, Vocabulary, load_corpus, load_side
from torchsru.data.vocabulary import from_json as vocabulary_from_json
from torchsru.models import LanguageModel
from torchsru.recipes.base import LanguageModelRecipe, from_json, to_json
from torchsru.train import environment
from torchsru.train.checkpoint import check_format, load_weights
from torchsru.train.folder import (
    CHECKPOINTS,
    RECIPE,
    RESULT,
    RunError,
    check_free,
    naming,
    read_json,
)
from torchsru.train.language_model import HeldOut, LanguageModelling
from torchsru.train.loop import fit
from torchsru.train.strategy import make_fabric

FORMAT = 1  # of recipe.json
VOCABULARY = "vocabulary.json"


@dataclass(frozen=True)
class Run:
    """A run folder that holds a recipe."""

    folder: Path
    name: str
    recipe: LanguageModelRecipe
    """As it was last resumed."""

    @property
    def result(self) -> dict[str, Any] | None:
        """The numbers of a finished run, None before. Raises RunError if they can't be read."""
        file = self.folder / RESULT
        return read_json(file) if file.exists() else None


def open_run(folder: Path) -> Run:
    """The run in a folder. Raises RunError if there is none or its recipe can't be read."""
    file = folder / RECIPE
    with naming(folder, "read"):
        if not file.exists():
            raise RunError(f"{folder} is not a run: it holds no {RECIPE}")
    about = read_json(file)
    if not isinstance(about, dict):
        raise RunError(f"{file} is damaged: expected a table, found {type(about).__name__}")
    check_format(file, about, FORMAT)
    try:
        name, resumed = about["name"], about.get("resumed", [])
        recipe = from_json(LanguageModelRecipe, (resumed or [about])[-1]["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file}, written by torchsru {about.get('torchsru')!r}, is no recipe of torchsru "
            f"{torchsru.__version__}: {error}"
        ) from error
    return Run(folder, str(name), recipe)


def check_resumable(run: Run, name: str, recipe: LanguageModelRecipe) -> None:
    """Raise RunError if `recipe` can't go on where the run stopped.

    Training may differ but for the seed, which places the streams that the state was read from;
    so may data.paths: that the data are the same is checked by their content.
    """
    if run.name != name:
        raise RunError(f"{run.folder} holds a run of {run.name}, got {name}")
    for part in ("model", "data", "training"):
        before, now = to_json(run.recipe)[part], to_json(recipe)[part]
        for field in ["seed"] if part == "training" else before:
            if before[field] != now[field] and field != "paths":
                raise RunError(
                    f"{part}.{field} was {before[field]!r} in {run.folder}, got {now[field]!r}"
                )


def train(
    name: str, recipe: LanguageModelRecipe, folder: Path, *, resume: bool = False
) -> dict[str, Any]:
    """Run a recipe in a folder; see `torchsru.train.loop.fit` for what it returns and raises.

    Nothing is written before the recipe, the data and the folder have been checked, but for data
    that are prepared in the cache. Relative paths of data are those of the current folder; the run
    keeps them absolute.
    """
    recipe = replace(recipe, data=with_absolute_paths(recipe.data))
    if resume:
        check_resumable(open_run(folder), name, recipe)
    else:
        check_free(folder)
    corpus = load_corpus(recipe.data)
    task = LanguageModelling(corpus, recipe.data, recipe.training.seed)
    about = {
        "format": FORMAT,
        "torchsru": torchsru.__version__,
        "name": name,
        "recipe": to_json(recipe),
        "environment": environment.describe(),
    }
    return fit(
        folder,
        task,
        partial(LanguageModel, recipe.model, corpus.vocabulary.size),
        recipe.training,
        about=about,
        kept={VOCABULARY: json.dumps(corpus.vocabulary.to_json()) + "\n"},
        resume=resume,
    )


def with_absolute_paths(data: TextData) -> TextData:
    """The same data from any folder; what is not there is left, it may be a name on the hub."""
    there = data.source != "hub" or any(map(os.path.exists, data.paths))
    return replace(data, paths=tuple(map(os.path.abspath, data.paths))) if there else data


def load_vocabulary(run: Run) -> Vocabulary:
    """What the symbols of a run's model stand for. Raises RunError if it can't be read."""
    file = run.folder / VOCABULARY
    data = run.recipe.data
    if not file.exists() and data.source == "text" and data.vocabulary in ("auto", "bytes"):
        return ByteVocabulary()  # a run of a version that had no other
    try:
        return vocabulary_from_json(read_json(file))
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}") from error


def load_model(run: Run) -> LanguageModel:
    """The run's newest weights in its model, in evaluation mode. Raises RunError."""
    return load_model_and_facts(run)[0]


def load_model_and_facts(run: Run) -> tuple[LanguageModel, dict[str, Any]]:
    """The same, and what the checkpoint says of the training; the optimiser is not read."""
    model = LanguageModel(run.recipe.model, load_vocabulary(run).size)
    facts = load_weights(run.folder / CHECKPOINTS, model)
    if facts is None:
        raise RunError(f"{run.folder} has saved no weights yet")
    return model.eval(), facts


def evaluate_run(
    run: Run,
    *,
    paths: tuple[str, ...] = (),
    split: str = "valid",
    layout: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Numbers of a run's newest weights on a split of its own data, or on other files.

    On the device that the run was trained on; if that was a GPU and none is there, on the CPU.

    Args:
        paths: other files and folders, all of which counts; neither the run's data nor the cache
            is needed then.
        split: "valid", or "test" where the data have one; all its symbols count.
        layout: eval_batch, eval_unroll and eval_memory to use in place of the run's.

    Returns: the task's numbers, how many symbols they are a mean of, and the seconds it took.
    Raises: RunError, DataError; ValueError naming a field of the layout.
    """
    data = replace(run.recipe.data, **(layout or {}))
    vocabulary = load_vocabulary(run)
    model, facts = load_model_and_facts(run)
    if paths:
        held = load_side(paths, vocabulary)
    else:
        corpus = load_corpus(data)
        if facts.get("content") != corpus.content:
            raise RunError(
                f"{run.folder} was trained on other data than what is there now: what is held out "
                "now may have been trained on; name files of your own with --data"
            )
        if split not in corpus.sides:
            raise DataError(f"{corpus.name} has no {split!r}; it has {', '.join(corpus.sides)}")
        held = corpus.sides[split]
    heldout = HeldOut(held, vocabulary, data, count=0)
    on_device = make_fabric(run.recipe.training, alone=True).setup(model)
    started = time.perf_counter()
    found = heldout.numbers(on_device)
    units = {f"{vocabulary.unit}s": heldout.count}
    return {**found, **units, "seconds": time.perf_counter() - started}
