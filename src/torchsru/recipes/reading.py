"""Question answering: the recipe, the paper's readers, and what a run of one is used with.

RUN/words.json  the words that the model has vectors of
"""

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from torchsru.data.cache import tell
from torchsru.data.squad import (
    Cut,
    Paragraph,
    ReadingData,
    Tagger,
    count_unanswerable,
    cut_texts,
    load_reading,
    load_squad,
)
from torchsru.data.words import load_vectors
from torchsru.models.reader import Reader, ReaderConfig, best_spans
from torchsru.recipes.base import Prepared, Recipe, Run, described
from torchsru.recipes.known_words import KnownWords, content_with, describe, learned
from torchsru.train.config import Training
from torchsru.train.folder import RunError, read_json
from torchsru.train.reading import (
    Encoding,
    Example,
    Questions,
    Reading,
    Scored,
    batch_of,
    count_features,
    means,
    moved,
    score,
)
from torchsru.train.strategy import make_fabric

WORDS = "words.json"


@dataclass(frozen=True, kw_only=True)
class ReadingRecipe(Recipe):
    """A reader: its shape, its data, its training."""

    model: ReaderConfig
    data: ReadingData
    training: Training

    task: ClassVar[str] = "reading"

    def prepare(self) -> Prepared:
        """Read questions and vectors. Raises DataError."""
        found = load_reading(self.data)
        if left := sum(map(count_unanswerable, found.sides.values())):
            tell(f"{left:,} questions without an answer are left out")
        if found.inexact:
            tell(f"{found.inexact:,} answers begin or end inside a word: they are widened to words")
        vectors = load_vectors(self.data.vectors) if self.data.vectors else None
        if vectors:
            words = by_frequency(found.sides)
            table = vectors.find(words)
        else:
            cuts = [
                c
                for p in found.sides["train"]
                for c in (p.context, *(q.words for q in p.questions))
            ]
            words, table = learned([word.lower() for word in cut.words] for cut in cuts), None
        place = {word: i for i, word in enumerate(words)}
        encoding = Encoding(lambda word: place.get(key_of(word, self.data), 0))
        task = Reading(
            encoding.examples(found.sides["train"]),
            encoding.examples(found.sides["valid"]),
            content=content_with(found.content, vectors.content if vectors else None),
            batch=self.data.batch,
            eval_batch=self.data.eval_batch,
            longest=self.model.longest,
            seed=self.training.seed,
        )
        features = count_features(bool(self.data.tagger))
        return Prepared(
            task,
            partial(Reader, self.model, features, table, len(words)),
            {WORDS: json.dumps(describe(words, vectors), ensure_ascii=False) + "\n"},
        )

    def evaluate(
        self, run: Run, *, paths: tuple[str, ...], split: str, layout: Mapping[str, Any]
    ) -> dict[str, Any]:
        """F1, exact match and cross entropy, how many questions they are means of, how many
        without an answer were left out, and the seconds it took.

        Args:
            paths: files like the run's own.
            layout: eval_batch to use in place of the run's.
        """
        reader = TextReader(run)
        paragraphs = reader.paragraphs(split, paths)
        started = time.perf_counter()
        scored = reader.score(paragraphs, layout.get("eval_batch", self.data.eval_batch))
        return {
            **means(scored),
            "questions": len(scored),
            "unanswerable": count_unanswerable(paragraphs),
            "seconds": time.perf_counter() - started,
        }

    def debug(self) -> "ReadingRecipe":
        """The same layers and optimiser, small, with an embedding of its own; name a file with
        --data."""
        model, training = self.model, self.training
        return replace(
            self,
            model=replace(
                model,
                width=16,
                layers=(model.layers + 1) // 2,
                embedding=16,
                dropout=min(model.dropout, 0.1),
                embedding_dropout=0.1,
            ),
            data=replace(self.data, vectors="", tagger="", batch=8, folds=4),
            training=replace(
                training,
                lr=2e-2,
                steps=150,
                epochs=None,
                evaluations=3,
                checkpoints=2,
                log_every=10,
            ),
        )

    def next_command(self, run: str) -> str:
        """Ask."""
        return f"torchsru eval {run}; torchsru answer {run} --context FILE --question TEXT"


def key_of(word: str, data: ReadingData) -> str:
    """A word as the table has it: in lower case where an embedding is trained."""
    return word if data.vectors else word.lower()


def by_frequency(sides: Mapping[str, Iterable[Paragraph]]) -> list[str]:
    """All words, those first that are the most frequent in the questions to learn from."""
    asked = Counter(w for p in sides["train"] for q in p.questions for w in q.words.words)
    # vectors are fixed, so those of words to be tested on may stand beside the others
    every = {w for side in sides.values() for p in side for w in p.context.words}
    every |= {
        w for side in sides.values() for p in side for q in p.questions for w in q.words.words
    }
    return sorted(every, key=lambda word: (-asked[word], word))


class Found(NamedTuple):
    """An answer: text[start : end] of the context, and the probability that it begins there times
    that that it ends there."""

    text: str
    start: int
    end: int
    probability: float


class TextReader:
    """A run's model on texts.

    Args:
        run: of reading.

    Raises: RunError if it has no weights yet, or can't be read; DataError if it needs a tagger
        that can't be loaded.

    Attributes:
        facts: what the checkpoint says of the training.
        words: those that the model knows.
    """

    def __init__(self, run: Run):
        self.run, self.recipe = run, run.recipe
        file = run.folder / WORDS
        about = read_json(file)
        data = self.recipe.data
        try:
            self.words = KnownWords(about, data.vectors, run.folder)
            table, count = self.words.empty(), len(self.words.place)
            features = count_features(bool(data.tagger))
            self.model = Reader(self.recipe.model, features, table, count)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{file} is damaged: {error!r}") from error
        self.facts = run.load_weights(self.model)
        self.tagger = Tagger(data.tagger) if data.tagger else None
        self.model.eval()
        make_fabric(self.recipe.training, alone=True).to_device(self.model)

    def cut(self, context: str) -> Cut:
        """A context in words. Raises ValueError if it holds none."""
        return self._cut("context", context)

    def _cut(self, what: str, text: str) -> Cut:
        (cut,) = cut_texts([text], self.tagger)
        if not cut.starts:
            raise ValueError(f"{what} must hold a word at least, got {text!r}")
        return cut

    def answer(
        self, context: str | Cut, questions: Sequence[str], top: int = 1
    ) -> list[list[Found]]:
        """The most probable answers to each question, best first.

        Args:
            context: a text, or what `cut` made of it.
            top: answers to each; of a short context fewer.

        Raises: ValueError if a text holds no word.
        """
        cut = context if isinstance(context, Cut) else self.cut(context)
        asked = [self._cut("question", question) for question in questions]
        encoding, table = self._encoding([cut, *asked])
        shared = encoding.context(cut)
        examples = [Example("", "", shared, encoding.words(q), 0, 0, ()) for q in asked]
        with torch.no_grad():
            start, end = self._read(table, batch_of(examples))
        spans = best_spans(start, end, self.recipe.model.longest, top)
        return [
            [
                # in double precision: an unlikely answer's probability may be none of float32
                Found(cut.slice(i, k), cut.starts[i], cut.ends[k], math.exp(value))
                for i, k, value in zip(*row, strict=True)
                if value > -math.inf
            ]
            for row in zip(*(t.tolist() for t in spans), strict=True)
        ]

    def paragraphs(self, split: str, paths: tuple[str, ...] = ()) -> list[Paragraph]:
        """A side of the run's own data, or other files. Raises DataError; RunError if the run's
        data are other ones now."""
        data = self.recipe.data
        if paths:
            squads = [load_squad(Path(path), data.tagger) for path in paths]
            return [p for squad in squads for p in squad.paragraphs]
        found = load_reading(data)
        self.run.check_content(self.facts, content_with(found.content, self.words.content))
        if split not in found.sides:
            raise RunError(
                f"{self.run.folder} has no {split} part beside its valid_paths; name files of your "
                "own with --data"
            )
        return found.sides[split]

    def score(self, paragraphs: Sequence[Paragraph], batch: int) -> list[Scored]:
        """An answer to every question, and what it is worth; `batch` of them at once."""
        cuts = [cut for p in paragraphs for cut in (p.context, *(q.words for q in p.questions))]
        encoding, table = self._encoding(cuts)
        examples = encoding.examples(paragraphs)
        longest = self.recipe.model.longest
        return score(partial(self._read, table), examples, batch, longest, table.device)

    def _encoding(self, cuts: Iterable[Cut]) -> tuple[Encoding, Tensor]:
        """Numbers of words, and the table of their vectors."""
        data = self.recipe.data
        words = sorted({key_of(word, data) for cut in cuts for word in cut.words})
        place = {word: i for i, word in enumerate(words)}
        return Encoding(lambda word: place[key_of(word, data)]), self._embed(words)

    def _read(self, table: Tensor, batch: Questions) -> tuple[Tensor, Tensor]:
        b = moved(batch, table.device)
        x, q = table[b.context], table[b.question]
        return self.model.read(x, b.context_lengths, b.features, q, b.question_lengths)

    @torch.no_grad()
    def _embed(self, words: Sequence[str]) -> Tensor:
        return self.words.find(words, self.model.words.all())


#: name: what it is, and the model; the sizes are those of the paper's table 2
MODELS: dict[str, tuple[str, ReaderConfig]] = {
    "sru-3": ("SRU, 3 layers", ReaderConfig(layers=3)),
    "sru-4": ("SRU, 4 layers", ReaderConfig(layers=4)),
    "sru-6": ("SRU, 6 layers", ReaderConfig(layers=6)),
    "lstm-3": (
        "LSTM, 3 layers, joined",
        ReaderConfig(encoder="lstm", layers=3, join=True, dropout=0.4, embedding_dropout=0.4),
    ),
    "qrnn-4": ("QRNN with highway, 4 layers", ReaderConfig(encoder="qrnn", layers=4, highway=True)),
}


def _make(model: ReaderConfig) -> ReadingRecipe:
    return ReadingRecipe(
        model=model,
        data=ReadingData(),
        training=Training(
            optimizer="adamax",
            betas=(0.9, 0.999),
            lr=1e-3,
            schedule="constant",
            warmup=0.0,
            clip=20.0,
            epochs=50,
            keep="best",
            evaluations=50,
            checkpoints=10,
            precision="float32",
        ),
    )


RECIPES = {
    f"answer-{name}": described(_make, f"{said}: a reader that answers questions on a text.", model)
    for name, (said, model) in MODELS.items()
}
