"""The words that a run's model has vectors of, saved beside its weights, and the vectors of others.

Fixed vectors     any word has one: of its file, or drawn from the word where that holds none
Trained embedding words that were not trained on share the vector of UNKNOWN, number 0
Check             tests/recipes/test_classification.py, tests/recipes/test_reading.py
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchsru.data.texts import DataError
from torchsru.data.words import Vectors, drawn, load_vectors

UNKNOWN = "<unk>"  # the word that stands for all others where an embedding is trained
LEAST = 2  # times a word must occur to be learned there


def describe(words: Sequence[str], vectors: Vectors | None) -> dict[str, Any]:
    """What `KnownWords` is made from again, JSON-ready."""
    about = vectors and {
        "size": vectors.size,
        "deviation": vectors.deviation,
        "content": vectors.content,
    }
    return {"words": list(words), "vectors": about}


def content_with(content: str, vectors: str | None) -> str:
    """The content that a run is held to: its data's and its vectors'."""
    return hashlib.sha256(f"{content} {vectors}".encode()).hexdigest() if vectors else content


def learned(texts: Iterable[Iterable[str]]) -> list[str]:
    """The words of a trained embedding, UNKNOWN first: those that occur LEAST times, so that others
    have one to stand for them that is trained, too."""
    counts = Counter(word for text in texts for word in text)
    return [UNKNOWN, *sorted(w for w, count in counts.items() if count >= LEAST and w != UNKNOWN)]


class KnownWords:
    """Words of a run.

    Args:
        about: of `describe`; KeyError and TypeError tell that it is something else.
        source: the vectors that the run's recipe names.
        folder: of the run, for what is told.

    Attributes:
        place: {word: its row in the model's table}.
        content: hash of the vectors' content; None of a trained embedding.
    """

    def __init__(self, about: Mapping[str, Any], source: str, folder: Path):
        self.place = {word: i for i, word in enumerate(about["words"])}
        fixed = about["vectors"]
        self.size: int | None = fixed["size"] if fixed else None
        self.deviation: float | None = fixed["deviation"] if fixed else None
        self.content: str | None = fixed["content"] if fixed else None
        self._source, self._folder = source, folder

    def empty(self) -> Tensor | None:
        """What a model is built with before its weights are loaded, which hold the vectors; None of
        a trained embedding."""
        return None if self.size is None else torch.empty(len(self.place), self.size)

    @cached_property
    def vectors(self) -> Vectors | None:
        """Those that the run was made with; None if they are gone."""
        try:
            found = load_vectors(self._source)
            if found.content != self.content:
                raise DataError(f"{self._source!r} holds other vectors than the run was made with")
            return found
        except DataError as error:
            print(
                f"torchsru: {error}; words that {self._folder} does not know get random vectors",
                file=sys.stderr,
            )
            return None

    def find(self, words: Sequence[str], known: Tensor) -> Tensor:
        """The vectors of words [len(words), E], known to the run or not.

        Args:
            known: [V, E], the model's table.
        """
        places = torch.tensor([self.place.get(word, -1) for word in words], device=known.device)
        table = known[places.clamp(min=0)]  # a copy; where an embedding is trained, 0 is UNKNOWN
        new = [i for i, place in enumerate(places.tolist()) if place < 0]
        if new and self.deviation is not None:
            unseen = [words[i] for i in new]
            if self.vectors:
                found = self.vectors.find(unseen)
            else:
                found = torch.stack([drawn(w, known.shape[1]) * self.deviation for w in unseen])
            table[new] = found.to(table)
        return table
