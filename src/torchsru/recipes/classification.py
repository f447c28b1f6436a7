"""Sentence classification: the recipe, the papers' models, and what a run of one is used with.

RUN/classes.json  labels, what they mean, and the words that the model has vectors of
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from torchsru.data.classification import (
    ClassificationData,
    Labelled,
    check_labels,
    load_labelled,
    read_lines,
    read_table,
)
from torchsru.data.progress import tracked
from torchsru.data.words import load_vectors, tokens
from torchsru.models.classifier import Classifier, ClassifierConfig
from torchsru.recipes.base import Prepared, Recipe, Run, described
from torchsru.recipes.known_words import KnownWords, content_with, describe, learned
from torchsru.train.classification import Classification, Encoded
from torchsru.train.config import Training
from torchsru.train.folder import RunError, read_json
from torchsru.train.strategy import make_fabric

CLASSES = "classes.json"


@dataclass(frozen=True, kw_only=True)
class ClassificationRecipe(Recipe):
    """A sentence classifier: its shape, its data, its training."""

    model: ClassifierConfig
    data: ClassificationData
    training: Training

    task: ClassVar[str] = "classification"

    def prepare(self) -> Prepared:
        """Read sentences and vectors. Raises DataError."""
        found = load_labelled(self.data)
        cut = {
            side: [words_of(item.text, self.data) for item in items]
            for side, items in found.sides.items()
        }
        vectors = load_vectors(self.data.vectors) if self.data.vectors else None
        if vectors:  # not trained, so those of words to be tested on may stand beside the others
            words = sorted({word for items in cut.values() for item in items for word in item})
        else:
            words = learned(cut["train"])
        place = {word: i for i, word in enumerate(words)}

        def encode(side: str) -> list[Encoded]:
            return [
                Encoded(
                    torch.tensor([place.get(word, 0) for word in item], dtype=torch.int32),
                    found.labels.index(label),
                )
                for item, (label, *_) in zip(cut[side], found.sides[side], strict=True)
            ]

        task = Classification(
            encode("train"),
            encode("valid"),
            content=content_with(found.content, vectors.content if vectors else None),
            batch=self.data.batch,
            eval_batch=self.data.eval_batch,
            seed=self.training.seed,
        )
        table = vectors.find(words) if vectors else None
        about = {"labels": found.labels, "names": found.names, **describe(words, vectors)}
        return Prepared(
            task,
            partial(Classifier, self.model, len(found.labels), table, len(words)),
            {CLASSES: json.dumps(about, ensure_ascii=False) + "\n"},
        )

    def evaluate(
        self, run: Run, *, paths: tuple[str, ...], split: str, layout: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Accuracy, cross entropy, how many sentences they are means of, the accuracy of always
        giving the most frequent label among them, and the seconds it took.

        Args:
            paths: files like the run's own.
            layout: eval_batch to use in place of the run's.
        """
        data = replace(self.data, **layout)
        classifier = TextClassifier(run)
        if paths:
            sentences = [item for path in paths for item in read_own(Path(path), data)]
        else:
            found = load_labelled(data)
            content = content_with(found.content, classifier.words.content)
            run.check_content(classifier.facts, content)
            sentences = found.sides[split]
        labels = classifier.labels
        check_labels(sentences, labels, "the run's")
        started = time.perf_counter()
        truth = torch.tensor([labels.index(item.label) for item in sentences])
        ordered = sorted(range(len(sentences)), key=lambda i: len(sentences[i].text))
        right, nats = 0, 0.0
        for start in tracked(range(0, len(ordered), data.eval_batch), "evaluating"):
            part = ordered[start : start + data.eval_batch]
            log_BC = classifier.log_probabilities([sentences[i].text for i in part])
            right += int((log_BC.argmax(1) == truth[part]).sum())
            nats -= log_BC.gather(1, truth[part, None]).sum().item()
        count = len(sentences)
        return {
            "accuracy": right / count,
            "nats": nats / count,
            "sentences": count,
            "majority": truth.bincount().max().item() / count,
            "seconds": time.perf_counter() - started,
        }

    def debug(self) -> "ClassificationRecipe":
        """The same layers and optimiser, small, with an embedding of its own; name a file with
        --data."""
        model, training = self.model, self.training
        cnn = model.encoder == "cnn"
        return replace(
            self,
            model=replace(
                model,
                width=16,
                layers=min(model.layers, 2),
                embedding=16,
                dropout=min(model.dropout, 0.1),
                widths=(2, 3) if cnn else model.widths,
            ),
            data=replace(self.data, source="lines", vectors="", batch=8, folds=4),
            training=replace(
                training,
                lr=2e-2,
                steps=200,
                epochs=None,
                evaluations=3,
                checkpoints=2,
                log_every=10,
            ),
        )

    def next_command(self, run: str) -> str:
        """Evaluate on the test part, and label lines."""
        return f"torchsru eval {run} --split test; torchsru classify {run} FILE"


def words_of(text: str, data: ClassificationData) -> list[str]:
    """The words of a sentence; in lower case where an embedding is trained."""
    return tokens(text if data.vectors else text.lower())


def read_own(file: Path, data: ClassificationData) -> list[Labelled]:
    """The labelled sentences of a file in the form of the run's own."""
    if data.source == "table":
        return read_table(file, data.label_column, data.text_column)
    return read_lines(file)


class TextClassifier:
    """A run's model on texts.

    Args:
        run: of classification.

    Raises: RunError if it has no weights yet, or can't be read.

    Attributes:
        labels, names: the classes as in the data, and in words.
        words: those that the model knows.
        facts: what the checkpoint says of the training.
    """

    def __init__(self, run: Run):
        self.run, recipe = run, run.recipe
        file = run.folder / CLASSES
        about = read_json(file)
        try:
            self.labels, self.names = list(about["labels"]), list(about["names"])
            self.words = KnownWords(about, recipe.data.vectors, run.folder)
            table, count = self.words.empty(), len(self.words.place)
            self.model = Classifier(recipe.model, len(self.labels), table, count)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{file} is damaged: {error!r}") from error
        self.facts = run.load_weights(self.model)
        self.model.eval()
        make_fabric(recipe.training, alone=True).to_device(self.model)

    @torch.no_grad()
    def log_probabilities(self, texts: Sequence[str]) -> Tensor:
        """Of each class, [len(texts), C], float32 on the CPU. Raises ValueError if a text holds no
        word."""
        cut = [words_of(text, self.run.recipe.data) for text in texts]
        for text, words in zip(texts, cut, strict=True):
            if not words:
                raise ValueError(f"a text must hold a word at least, got {text!r}")
        words = sorted({word for item in cut for word in item})
        place = {word: i for i, word in enumerate(words)}
        table = self.words.find(words, self.model.embedding.weight)
        ids = pad_sequence([torch.tensor([place[word] for word in item]) for item in cut])
        lengths = torch.tensor([len(item) for item in cut])
        scores = self.model.score(table[ids.to(table.device)], lengths.to(table.device))
        return scores.float().log_softmax(1).cpu()


#: name: what it is, and the model; the sizes are those of the paper's table 1 with vectors of 300,
#: and SRU has no alpha, as there
MODELS: dict[str, tuple[str, ClassifierConfig]] = {
    "sru": ("SRU, 2 layers", ClassifierConfig(rescale=False)),
    "sru-4": ("SRU, 4 layers", ClassifierConfig(layers=4, rescale=False)),
    "sru-8": ("SRU, 8 layers", ClassifierConfig(layers=8, rescale=False)),
    "lstm": ("LSTM, 2 layers", ClassifierConfig(encoder="lstm")),
    "gru": ("GRU, 2 layers", ClassifierConfig(encoder="gru")),
    "qrnn": ("QRNN, 2 layers", ClassifierConfig(encoder="qrnn")),
    "qrnn-highway": (
        "QRNN with highway, 2 layers",
        ClassifierConfig(encoder="qrnn", highway=True),
    ),
    "cnn": (
        "CNN, windows of 3, 4 and 5 words (Kim 2014)",
        ClassifierConfig(encoder="cnn", width=100, layers=1),
    ),
}


def _make(model: ClassifierConfig) -> ClassificationRecipe:
    return ClassificationRecipe(
        model=model,
        data=ClassificationData(),
        training=Training(
            lr=2e-3, epochs=10, keep="best", evaluations=10, checkpoints=2, precision="float32"
        ),
    )


RECIPES = {
    f"classify-{name}": described(_make, f"{said}, over labelled sentences.", model)
    for name, (said, model) in MODELS.items()
}
