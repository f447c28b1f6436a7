"""Language models as a task: the recipe, and what a run of one is opened and evaluated with.

RUN/vocabulary.json  what the model's symbols stand for
"""

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torchsru.data import ByteVocabulary, DataError, TextData, Vocabulary, load_corpus, load_side
from torchsru.data.vocabulary import from_json as vocabulary_from_json
from torchsru.models import LanguageModel, LanguageModelConfig
from torchsru.recipes.base import Prepared, Recipe, Run
from torchsru.train.config import Training
from torchsru.train.folder import RunError, read_json
from torchsru.train.language_model import HeldOut, LanguageModelling
from torchsru.train.strategy import make_fabric

VOCABULARY = "vocabulary.json"
#: What learns in sixty steps; RAdam hardly adapts so early.
RATES = {"sgd": 1.0, "radam": 5e-2}


@dataclass(frozen=True, kw_only=True)
class LanguageModelRecipe(Recipe):
    """A language model: its shape, its data, its training."""

    model: LanguageModelConfig
    data: TextData
    training: Training

    task: ClassVar[str] = "language-model"

    def __post_init__(self) -> None:
        if self.data.batch % self.training.accumulate:
            raise ValueError(
                f"training.accumulate must divide data.batch = {self.data.batch}, "
                f"got {self.training.accumulate}"
            )
        if self.data.eval_memory and not self.model.attends:
            raise ValueError(
                "data.eval_memory must be 0 for a model without attention, "
                f"got {self.data.eval_memory}"
            )

    def prepare(self) -> Prepared:
        """Read the corpus; the model's size is its vocabulary's. Raises DataError."""
        corpus = load_corpus(self.data)
        return Prepared(
            LanguageModelling(corpus, self.data, self.training.seed),
            partial(LanguageModel, self.model, corpus.vocabulary.size),
            {VOCABULARY: json.dumps(corpus.vocabulary.to_json()) + "\n"},
        )

    def evaluate(
        self, run: Run, *, paths: tuple[str, ...], split: str, layout: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The task's numbers, how many symbols they are a mean of, and the seconds it took.

        Args:
            paths: what counts is all their text; the run's data are not needed.
            layout: eval_batch, eval_unroll and eval_memory to use in place of the run's.
        """
        data = replace(self, data=replace(self.data, **layout)).data
        vocabulary = load_vocabulary(run)
        model, facts = load_model_and_facts(run)
        if paths:
            held = load_side(paths, vocabulary)
        else:
            corpus = load_corpus(data)
            run.check_content(facts, corpus.content)
            if split not in corpus.sides:
                raise DataError(f"{corpus.name} has no {split!r}; it has {', '.join(corpus.sides)}")
            held = corpus.sides[split]
        heldout = HeldOut(held, vocabulary, data, count=0)
        on_device = make_fabric(self.training, alone=True).setup(model)
        started = time.perf_counter()
        found = heldout.numbers(on_device)
        units = {f"{vocabulary.unit}s": heldout.count}
        return {**found, **units, "seconds": time.perf_counter() - started}

    def debug(self) -> "LanguageModelRecipe":
        """The same layers, optimiser and schedule: a small model, few steps, bytes, on the sources
        of the Python that runs."""
        model, training, width = self.model, self.training, 32
        return replace(
            self,
            model=replace(
                model,
                width=width,
                layers=2,
                embedding=min(model.embedding, 16),
                cutoffs=(32, 96) if model.cutoffs else (),
                projection=min(model.projection, 8),
                head_size=min(model.head_size, 8),
                feedforward=min(model.feedforward, 64),
                heads=min(model.heads, 2),
                memory=32 if model.attends else model.memory,
                attention_every=min(model.attention_every, 2),
                attention_last=None if model.attention_last is None else 1,
                dropout=min(model.dropout, 0.1),
                output_dropout=smaller(model.output_dropout),
                embedding_dropout=smaller(model.embedding_dropout),
                state_dropout=min(model.state_dropout, 0.1),
                input_dropout=min(model.input_dropout, 0.1),
                adaptive_dropout=min(model.adaptive_dropout, 0.1),
                init_range=None if model.init_range is None else math.sqrt(3 / width),
            ),
            data=replace(
                self.data,
                source="text",
                unroll=16,
                batch=4,
                eval_tokens=2048,
                eval_batch=32,
                eval_unroll=256,
                eval_memory=min(self.data.eval_memory, 64),
            ),
            training=replace(
                training,
                lr=RATES.get(training.optimizer, 1e-2),
                steps=60,
                seconds=None,
                warmup_steps=None if training.warmup_steps is None else 12,
                devices=1,
                evaluations=2,
                log_every=10,
                checkpoints=2,
            ),
        )

    def with_absolute_paths(self) -> "LanguageModelRecipe":
        """The same from any folder; what is not there is left, it may be a name on the hub."""
        data = self.data
        if data.source == "hub" and not any(map(os.path.exists, data.paths)):
            return self
        return super().with_absolute_paths()

    def next_command(self, run: str) -> str:
        """Evaluate and generate."""
        return f"torchsru eval {run}; torchsru generate {run} --prompt 'def '"


def smaller(dropout: float | None) -> float | None:
    """What leaves a small model something to learn."""
    return None if dropout is None else min(dropout, 0.1)


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
    """The run's weights in its model, in evaluation mode. Raises RunError."""
    return load_model_and_facts(run)[0]


def load_model_and_facts(run: Run) -> tuple[LanguageModel, dict[str, Any]]:
    """The same, and what the checkpoint says of the training; the optimiser is not read."""
    model = LanguageModel(run.recipe.model, load_vocabulary(run).size)
    facts = run.load_weights(model)
    return model.eval(), facts
