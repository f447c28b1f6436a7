"""Language modelling as a task: predict each next symbol, the state carried on.

Numbers    bits per byte, bits per character, or perplexity a word as the papers count words (one
           <eos> a line): what the vocabulary's unit is. Of subwords, perplexity a subword, and by
           the text's own counts bits per byte and perplexity a word, which compare with others.
Model      called as `nats [L, B], state = model(x, state, y, ignore_index)`, so that one with an
           adaptive softmax need not build all scores
Held out   each symbol is predicted exactly once, the first one too, from the vocabulary's start;
           sums in float64
Check      tests/train/test_language_model.py
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchsru.data import Corpus, Counts, EverySymbol, Segment, Side, Streams, TextData, Vocabulary
from torchsru.data.batches import NOTHING
from torchsru.data.progress import tracked
from torchsru.train.folder import RunError

NAMES = {  # of what is reported, first the one that a run is judged by
    "bytes": "bits_per_byte",
    "characters": "bits_per_character",
    "words": "perplexity",
    "subwords": "perplexity",
}


class LanguageModelling:
    """Truncated back-propagation over a corpus; see `Task`.

    Args:
        corpus: what to learn from and what is held out.
        data: layout of the batches.
        seed: of the data's order.
    """

    higher_is_better = False

    def __init__(self, corpus: Corpus, data: TextData, seed: int):
        train = corpus.train
        self.unit = corpus.vocabulary.unit
        self.vocabulary = corpus.vocabulary
        self.content = corpus.content
        self.streams = Streams(train.ids, data.batch, data.unroll, seed, train.ends)
        self.steps_per_pass = self.streams.steps_per_pass
        self.heldout = HeldOut(corpus.valid, corpus.vocabulary, data)

    def batch(self, step: int) -> Segment:
        """The next L symbols of each of the B streams."""
        return self.streams.segment(step)

    def split(self, batch: Segment, parts: int) -> list[Segment]:
        """The B rows in `parts` groups."""
        x, y = (t.chunk(parts, dim=1) for t in (batch.x, batch.y))
        return [Segment(*part, fresh=batch.fresh) for part in zip(x, y, strict=True)]

    def units(self, batch: Segment) -> int:
        """L * B."""
        return batch.x.numel()

    def loss(self, model: nn.Module, batch: Segment, state: Any) -> tuple[Tensor, Any]:
        """Mean cross entropy in nats per symbol, and the state after the segment."""
        nats_LB, state = model(batch.x, state, batch.y)
        return nats_LB.mean(), state

    def numbers(self, loss: float) -> dict[str, float]:
        """The loss in the vocabulary's unit."""
        return {NAMES[self.vocabulary.name]: reported(self.vocabulary, loss)}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Numbers on held-out symbols, the same ones each time."""
        return self.heldout.numbers(model)


class HeldOut:
    """Symbols to evaluate on, each predicted once.

    Args:
        side: which ones.
        vocabulary: what they stand for.
        data: how they are laid out: eval_batch streams at most, a short text has fewer; eval_unroll
            symbols a step; eval_memory.
        count: how many, spread evenly over the text; 0: all; None: data.eval_tokens.
    """

    def __init__(
        self, side: Side, vocabulary: Vocabulary, data: TextData, count: int | None = None
    ):
        tokens = len(side.ids)
        self.count = min(tokens, (data.eval_tokens if count is None else count) or tokens)
        rows = min(data.eval_batch, max(1, self.count // data.eval_unroll))
        self.segments = EverySymbol(
            side.ids, rows, data.eval_unroll, self.count, before=vocabulary.start
        )
        self.vocabulary, self.counts, self.memory = vocabulary, side.counts, data.eval_memory

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """Mean cross entropy in nats per symbol; the model is in evaluation mode."""
        device = next(model.parameters()).device
        state, total = None, torch.zeros((), dtype=torch.float64)
        with memory_of(model, self.memory):
            for x_LB, y_LB, _ in tracked(self.segments, "evaluating"):
                nats_LB, state = model(x_LB.to(device), state, y_LB.to(device), NOTHING)
                total += nats_LB.double().sum().cpu()
        return total.item() / self.count

    def numbers(self, model: nn.Module) -> dict[str, float]:
        """What is reported of it."""
        return numbers_of(self.vocabulary, self.counts, self.loss(model))


def numbers_of(vocabulary: Vocabulary, counts: Counts, loss: float) -> dict[str, float]:
    """What is reported of a side: its numbers in the vocabulary's unit, then in the text's.

    Args:
        counts: of the whole side, of which the loss may be a mean over a part.
        loss: in nats per symbol.
    """
    found = {NAMES[vocabulary.name]: reported(vocabulary, loss)}
    if vocabulary.name == "subwords" and counts.words:  # a text of blanks has none
        found["word_perplexity"] = exp(loss * counts.tokens / counts.words)
    if vocabulary.name in ("subwords", "characters"):
        found["bits_per_byte"] = loss * counts.tokens / counts.bytes / math.log(2)
    return found


def reported(vocabulary: Vocabulary, loss: float) -> float:
    """Nats per symbol as bits, or as perplexity where symbols are words or parts of them."""
    return exp(loss) if NAMES[vocabulary.name] == "perplexity" else loss / math.log(2)


def exp(x: float) -> float:
    """e^x, infinite where a float ends."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


@contextmanager
def memory_of(model: nn.Module, length: int) -> Iterator[None]:
    """Let attention see `length` past positions from every position; 0: what it was made with.

    Those modules are meant that have a `memory_length`, in which their evaluation is banded: the
    papers' same-length masks. Raises RunError if there are none.
    """
    found = [m for m in model.modules() if getattr(m, "memory_length", 0)] if length else []
    if length and not found:
        raise RunError(f"data.eval_memory must be 0 for a model without attention, got {length}")
    before = [m.memory_length for m in found]
    try:
        for module in found:
            module.memory_length = length  # type: ignore[assignment]
        yield
    finally:
        for module, value in zip(found, before, strict=True):
            module.memory_length = value
