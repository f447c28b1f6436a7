"""A recipe in a folder: start it, resume it, open what it made.

RUN/recipe.json      name, settings, where it was started; the same of each resumption, in "resumed"
    vocabulary.json  what the model's symbols stand for
    log.jsonl        one row each few steps and each evaluation; tensorboard/ shows the same
    checkpoints/     the newest states of weights and training, two at least
    best/            the weights of the best evaluations, where the recipe keeps those
    result.json      numbers of a finished run, with machine, versions and commit
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torchsru
from torchsru.recipes.base import Prepared, Recipe, Run, from_json, to_json
from torchsru.recipes.language_model import LanguageModelRecipe
from torchsru.recipes.tasks import TASKS
from torchsru.train import environment
from torchsru.train.checkpoint import check_format
from torchsru.train.folder import RECIPE, RunError, check_free, naming, read_json
from torchsru.train.loop import fit
from torchsru.train.strategy import meet

FORMAT = 1  # of recipe.json


def open_run(folder: Path, kind: type[Recipe] = Recipe) -> Run:
    """The run in a folder. Raises RunError if there is none, if its recipe can't be read, or if it
    is not of this kind."""
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
        written = TASKS[about.get("task", LanguageModelRecipe.task)]  # once there was no other
        recipe = from_json(written, (resumed or [about])[-1]["recipe"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{file}, written by torchsru {about.get('torchsru')!r}, is no recipe of torchsru "
            f"{torchsru.__version__}: {error}"
        ) from error
    if not isinstance(recipe, kind):
        raise RunError(f"{folder} must be a run of task {kind.task}, got one of {recipe.task}")
    return Run(folder, str(name), recipe)


def check_resumable(run: Run, name: str, recipe: Recipe) -> None:
    """Raise RunError if `recipe` can't go on where the run stopped.

    Training may differ but for the seed, which places the streams that the state was read from;
    so may data.paths, and whatever else is in the data's `locations`: that they hold the same is
    checked by their content.
    """
    if run.name != name:
        raise RunError(f"{run.folder} holds a run of {run.name}, got {name}")
    free = {"data": recipe.data.locations}
    for part in ("model", "data", "training"):
        before, now = to_json(run.recipe)[part], to_json(recipe)[part]
        for field in ["seed"] if part == "training" else before:
            if before[field] != now[field] and field not in free.get(part, ()):
                raise RunError(
                    f"{part}.{field} was {before[field]!r} in {run.folder}, got {now[field]!r}"
                )


def train(name: str, recipe: Recipe, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Run a recipe in a folder; see `torchsru.train.loop.fit` for what it returns and raises.

    Nothing is written before the recipe, the data and the folder have been checked, but for data
    that are prepared in the cache; of several processes, what one of them can't read stops all.
    Relative paths of data are those of the current folder; the run keeps them absolute.
    """
    recipe = recipe.with_absolute_paths()

    def prepare() -> Prepared:
        if resume:
            check_resumable(open_run(folder), name, recipe)
        else:
            check_free(folder)
        return recipe.prepare()

    met = meet(recipe.training)
    with met[1].naming_lost():
        prepared = met[1].all(prepare)
    about = {
        "format": FORMAT,
        "torchsru": torchsru.__version__,
        "name": name,
        "task": recipe.task,
        "recipe": to_json(recipe),
        "environment": environment.describe(),
    }
    return fit(
        folder,
        prepared.task,
        prepared.make_model,
        recipe.training,
        about=about,
        kept=prepared.kept,
        resume=resume,
        met=met,
    )


def evaluate_run(
    run: Run,
    *,
    paths: tuple[str, ...] = (),
    split: str = "valid",
    layout: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Numbers of a run's weights on a split of its own data, or on other files.

    On the device that the run was trained on; if that was a GPU and none is there, on the CPU.

    Args:
        paths: other files and folders, all of which counts.
        split: "valid", or "test" where the data have one; all of it counts.
        layout: fields of the run's data that do not change what is evaluated.

    Returns: the task's numbers, how many units they are a mean of, and the seconds it took.
    Raises: RunError, DataError; ValueError naming a field of the layout.
    """
    known = {field.name for field in fields(run.recipe.data)}
    for name in layout or {}:
        if name not in known:
            owner = "translators and recognisers" if name == "eval_beam" else "language models"
            raise ValueError(f"{name} is of {owner}; {run.folder} holds none")
    return run.recipe.evaluate(run, paths=paths, split=split, layout=layout or {})
