"""Sentence classification as a task: cross entropy, and accuracy on held-out sentences.

Batches    of sentences of alike lengths; see torchsru.train.passes
Check      tests/train/test_classification.py
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from torchsru.data.progress import tracked
from torchsru.train.passes import Passes


class Sentences(NamedTuple):
    """ids [L, B] int64, padded with 0; lengths [B]; labels [B]."""

    ids: Tensor
    lengths: Tensor
    labels: Tensor
    fresh: bool = True


class Encoded(NamedTuple):
    """A sentence's words and its label, as numbers."""

    ids: Tensor
    label: int


def batch_of(sentences: Sequence[Encoded]) -> Sentences:
    """Sentences side by side."""
    ids = pad_sequence([s.ids for s in sentences]).long()
    lengths = torch.tensor([len(s.ids) for s in sentences])
    return Sentences(ids, lengths, torch.tensor([s.label for s in sentences]))


class Classification:
    """Sentences with labels; see `Task`.

    Args:
        train: to learn from.
        heldout: to judge by.
        content: hash of the data.
        batch: B, sentences of a batch.
        eval_batch: the same of an evaluation.
        seed: of the order.

    Raises: DataError if `train` does not fill a batch.
    """

    unit = "sentence"
    higher_is_better = True

    def __init__(
        self,
        train: Sequence[Encoded],
        heldout: Sequence[Encoded],
        *,
        content: str,
        batch: int,
        eval_batch: int,
        seed: int,
    ):
        self.train, self.heldout, self.content = train, heldout, content
        self.eval_batch = eval_batch
        self.passes = Passes([len(s.ids) for s in train], batch, seed, "sentence")
        self.steps_per_pass = self.passes.steps

    def batch(self, step: int) -> Sentences:
        """The step-th B sentences."""
        return batch_of([self.train[i] for i in self.passes.batch(step)])

    def split(self, batch: Sentences, parts: int) -> list[Sentences]:
        """The sentences in `parts` groups."""
        groups = zip(
            batch.ids.chunk(parts, dim=1),
            batch.lengths.chunk(parts),
            batch.labels.chunk(parts),
            strict=True,
        )
        return [Sentences(*group) for group in groups]

    def units(self, batch: Sentences) -> int:
        """B."""
        return len(batch.labels)

    def loss(self, model: nn.Module, batch: Sentences, state: Any) -> tuple[Tensor, Any]:
        """Mean cross entropy in nats per sentence; there is no state."""
        return cross_entropy(model(batch.ids, batch.lengths).float(), batch.labels), None

    def numbers(self, loss: float) -> dict[str, float]:
        """The loss."""
        return {"nats": loss}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy and mean cross entropy on the held-out sentences."""
        return evaluate(model, self.heldout, self.eval_batch)


@torch.no_grad()
def evaluate(model: nn.Module, sentences: Sequence[Encoded], batch: int) -> dict[str, float]:
    """Accuracy in [0, 1] and mean cross entropy in nats; the model is in evaluation mode."""
    device = next(model.parameters()).device
    right = torch.zeros((), dtype=torch.int64)
    nats = torch.zeros((), dtype=torch.float64)
    for part in by_length(sentences, batch):
        ids, lengths, labels = (t.to(device) for t in part[:3])
        scores_BC = model(ids, lengths).float()
        right += (scores_BC.argmax(1) == labels).sum().cpu()
        nats += cross_entropy(scores_BC, labels, reduction="sum").double().cpu()
    count = len(sentences)
    return {"accuracy": right.item() / count, "nats": nats.item() / count}


def by_length(sentences: Sequence[Encoded], batch: int) -> Iterator[Sentences]:
    """All sentences once, shortest first."""
    ordered = sorted(sentences, key=lambda s: len(s.ids))
    for start in tracked(range(0, len(ordered), batch), "evaluating"):
        yield batch_of(ordered[start : start + batch])
