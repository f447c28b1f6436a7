"""Reading as a task: cross entropy of an answer's ends; exact match and F1 on held-out questions.

Features   of a word of the context: whether the question holds it, as written, in lower case and,
           with tags, by its lemma; its share of the context's words; with tags, its part of speech
           and kind of entity, one column each
Batches    of contexts of alike lengths; see torchsru.train.passes
Check      tests/train/test_reading.py
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from torchsru.data.progress import tracked
from torchsru.data.squad import ENTITIES, PARTS, Cut, Paragraph
from torchsru.models.reader import best_spans
from torchsru.train.answer_scores import exact_match, f1
from torchsru.train.passes import Passes


class Questions(NamedTuple):
    """What a reader is given, and the words at which the first answers begin and end.

    L words of a context, M of a question, B batch rows, F features; rows are padded with 0.
    """

    context: Tensor
    """[L, B] int64"""
    context_lengths: Tensor
    """[B]"""
    features: Tensor
    """[L, B, F] float32"""
    question: Tensor
    """[M, B] int64"""
    question_lengths: Tensor
    """[B]"""
    first: Tensor
    """[B]"""
    last: Tensor
    """[B]"""
    fresh: bool = True


class Words(NamedTuple):
    """A text's words as numbers."""

    ids: Tensor
    """[L] int32, rows of the table of vectors."""
    forms: Tensor
    """[L, K] int32: as written, in lower case, and the lemma if there are tags; equal strings have
    equal numbers."""


class Context(NamedTuple):
    """A context as numbers, shared by the questions on it."""

    words: Words
    frequency: Tensor
    """[L] float32, each word's share of them all, in lower case."""
    tags: Tensor
    """[L, 2] int8, places in PARTS and ENTITIES; [L, 0] without."""
    cut: Cut


class Example(NamedTuple):
    """A question on a context, its words as numbers, and its answers."""

    article: str
    id: str
    context: Context
    question: Words
    first: int
    last: int
    answers: tuple[str, ...]


class Scored(NamedTuple):
    """An answer that was given, in the words of the context, and what it is worth."""

    article: str
    id: str
    answer: str
    f1: float
    exact_match: float
    nats: float


class Encoding:
    """Texts as numbers.

    Args:
        place: a word's row in the table of vectors.
    """

    def __init__(self, place: Callable[[str], int]):
        self.place = place
        self._forms: dict[str, int] = {}

    def words(self, cut: Cut) -> Words:
        """The words of a text."""
        words = cut.words
        kinds = [words, [word.lower() for word in words], *([cut.lemmas] if cut.lemmas else [])]
        forms = [[self._forms.setdefault(w, len(self._forms)) for w in kind] for kind in kinds]
        ids = torch.tensor([self.place(word) for word in words], dtype=torch.int32)
        return Words(ids, torch.tensor(forms, dtype=torch.int32).T)

    def context(self, cut: Cut) -> Context:
        """A context, its own features counted."""
        words = self.words(cut)
        _, which, counts = words.forms[:, 1].unique(return_inverse=True, return_counts=True)
        tags = [cut.parts, cut.entities] if cut.lemmas else []
        of_tags = torch.tensor(tags, dtype=torch.int8).reshape(len(tags), len(words.ids)).T
        return Context(words, counts[which] / len(words.ids), of_tags, cut)

    def examples(self, paragraphs: Iterable[Paragraph]) -> list[Example]:
        """Every question of paragraphs."""
        found = []
        for article, cut, questions, _ in paragraphs:
            context = self.context(cut) if questions else None
            for q in questions:
                assert context is not None
                words = self.words(q.words)
                found.append(Example(article, q.id, context, words, q.first, q.last, q.answers))
        return found


def count_features(tagged: bool) -> int:
    """F."""
    return 4 + len(PARTS) + len(ENTITIES) if tagged else 3


def features_of(context: Context, question: Words) -> Tensor:
    """[L, F] float32: of a context, for a question."""
    matches_LK = (context.words.forms[:, None] == question.forms).any(1)
    columns = [matches_LK.float(), context.frequency[:, None]]
    for tag, names in zip(context.tags.T, (PARTS, ENTITIES), strict=False):  # none, or both
        columns.append((tag[:, None] == torch.arange(len(names), dtype=torch.int8)).float())
    return torch.cat(columns, 1)


def batch_of(examples: Sequence[Example]) -> Questions:
    """Questions side by side."""
    contexts = [e.context.words.ids for e in examples]
    questions = [e.question.ids for e in examples]
    return Questions(
        pad_sequence(contexts).long(),
        torch.tensor([len(ids) for ids in contexts]),
        pad_sequence([features_of(e.context, e.question) for e in examples]),
        pad_sequence(questions).long(),
        torch.tensor([len(ids) for ids in questions]),
        torch.tensor([e.first for e in examples]),
        torch.tensor([e.last for e in examples]),
    )


def moved(batch: Questions, device: torch.device | str) -> Questions:
    """The same on a device."""
    return Questions._make([*(t.to(device) for t in batch[:7]), batch.fresh])


class Reading:
    """Questions with answers; see `Task`.

    Args:
        train: to learn from.
        heldout: to judge by.
        content: hash of the data.
        batch: B, questions of a batch.
        eval_batch: the same of an evaluation.
        longest: words of an answer at most.
        seed: of the order.

    Raises: DataError if `train` does not fill a batch.
    """

    unit = "question"
    higher_is_better = True

    def __init__(
        self,
        train: Sequence[Example],
        heldout: Sequence[Example],
        *,
        content: str,
        batch: int,
        eval_batch: int,
        longest: int,
        seed: int,
    ):
        self.train, self.heldout, self.content = train, heldout, content
        self.eval_batch, self.longest = eval_batch, longest
        self.passes = Passes([len(e.context.words.ids) for e in train], batch, seed, "question")
        self.steps_per_pass = self.passes.steps

    def batch(self, step: int) -> Questions:
        """The step-th B questions."""
        return batch_of([self.train[i] for i in self.passes.batch(step)])

    def split(self, batch: Questions, parts: int) -> list[Questions]:
        """The questions in `parts` groups."""
        groups = zip(*(t.chunk(parts, dim=1 if t.dim() > 1 else 0) for t in batch[:7]), strict=True)
        return [Questions(*group) for group in groups]

    def units(self, batch: Questions) -> int:
        """B."""
        return len(batch.first)

    def loss(self, model: nn.Module, batch: Questions, state: Any) -> tuple[Tensor, Any]:
        """Mean nats per question, of both ends; there is no state."""
        start, end = model(*batch[:5])
        return nats_of(start, end, batch).mean(), None

    def numbers(self, loss: float) -> dict[str, float]:
        """The loss."""
        return {"nats": loss}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """F1 and exact match in %, and mean cross entropy, of the held-out questions."""
        device = next(model.parameters()).device
        scored = score(
            lambda batch: model(*batch[:5]), self.heldout, self.eval_batch, self.longest, device
        )
        return means(scored)


def nats_of(start: Tensor, end: Tensor, batch: Questions) -> Tensor:
    """[B] cross entropy of where the first answers begin and end, the sum of both."""
    first, last = batch.first[:, None], batch.last[:, None]
    return -(start.gather(1, first) + end.gather(1, last))[:, 0]


@torch.no_grad()
def score(
    read: Callable[[Questions], tuple[Tensor, Tensor]],
    examples: Sequence[Example],
    batch: int,
    longest: int,
    device: torch.device | str = "cpu",
) -> list[Scored]:
    """An answer to each question, shortest contexts first, and what it is worth.

    Args:
        read: from a batch on `device` to the log-probabilities of both ends, each [B, L].
        batch: B.
        longest: words of an answer at most.
    """
    found = []
    for part in by_length(examples, batch):
        questions = moved(batch_of(part), device)
        start, end = read(questions)
        first, last, _ = best_spans(start, end, longest)
        nats = nats_of(start, end, questions).tolist()
        for e, i, k, loss in zip(
            part, first[:, 0].tolist(), last[:, 0].tolist(), nats, strict=True
        ):
            answer = e.context.cut.slice(i, k)
            right = f1(answer, e.answers), exact_match(answer, e.answers)
            found.append(Scored(e.article, e.id, answer, *right, loss))
    return found


def means(scored: Sequence[Scored]) -> dict[str, float]:
    """F1 and exact match in %, and nats, of all questions."""
    count = len(scored)
    return {
        "f1": 100 * sum(s.f1 for s in scored) / count,
        "exact_match": 100 * sum(s.exact_match for s in scored) / count,
        "nats": sum(s.nats for s in scored) / count,
    }


def by_length(examples: Sequence[Example], batch: int) -> Iterator[Sequence[Example]]:
    """All questions once, shortest contexts first."""
    ordered = sorted(examples, key=lambda e: len(e.context.words.ids))
    for start in tracked(range(0, len(ordered), batch), "evaluating"):
        yield ordered[start : start + batch]
