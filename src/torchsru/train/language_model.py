"""Byte language modelling as a task: predict each next byte, the state carried on."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchsru.data import ByteData, ByteStreams, Corpus, EveryByte
from torchsru.data.batches import NOTHING, Segment
from torchsru.models.language_model import START

EVAL_UNROLL = 256  # does not change the result, the state is carried; bounds the memory


class LanguageModelling:
    """Truncated back-propagation over a corpus; see `Task`.

    Args:
        corpus: what to learn from and what is held out.
        data: layout of the batches.
        seed: of the data's order.
    """

    unit = "byte"

    def __init__(self, corpus: Corpus, data: ByteData, seed: int):
        self.streams = ByteStreams(corpus.train, data.batch, data.unroll, seed)
        self.content = corpus.content
        self.heldout = HeldOut(corpus.heldout, data.eval_bytes, data.eval_batch)

    def batch(self, step: int) -> Segment:
        """The next L bytes of each of the B streams."""
        return self.streams.segment(step)

    def split(self, batch: Segment, parts: int) -> list[Segment]:
        """The B rows in `parts` groups."""
        x, y = (t.chunk(parts, dim=1) for t in (batch.x, batch.y))
        return [Segment(*part, fresh=batch.fresh) for part in zip(x, y, strict=True)]

    def units(self, batch: Segment) -> int:
        """L * B."""
        return batch.x.numel()

    def loss(self, model: nn.Module, batch: Segment, state: Any) -> tuple[Tensor, Any]:
        """Mean cross entropy in nats per byte, and the state after the segment."""
        logits_LBV, state = model(batch.x, state)
        return cross_entropy(logits_LBV.flatten(0, 1), batch.y.flatten()), state

    def numbers(self, loss: float) -> dict[str, float]:
        """Bits per byte."""
        return bits_per_byte(loss)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Bits per byte on the held-out bytes, the same ones each time."""
        return self.numbers(self.heldout.loss(model))


def bits_per_byte(loss: float) -> dict[str, float]:
    """The loss, in nats per byte, as it is reported."""
    return {"bits_per_byte": loss / math.log(2)}


class HeldOut:
    """Bytes to evaluate on: `count` of them, each predicted once.

    Args:
        text: [N] uint8.
        count: how many, spread evenly over the text; 0: all.
        rows: streams that the text is laid out in, at most; a short text has fewer.
    """

    def __init__(self, text: Tensor, count: int, rows: int):
        self.count = min(len(text), count or len(text))
        rows = min(rows, max(1, self.count // EVAL_UNROLL))
        self.segments = EveryByte(text, rows, EVAL_UNROLL, self.count, before=START)

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """Mean cross entropy in nats per byte; the model is in evaluation mode."""
        device = next(model.parameters()).device
        state, total = None, torch.zeros((), dtype=torch.float64)
        for x_LB, y_LB, _ in self.segments:
            logits_LBV, state = model(x_LB.to(device), state)
            nats = cross_entropy(
                logits_LBV.flatten(0, 1),
                y_LB.flatten().to(device),
                ignore_index=NOTHING,
                reduction="sum",
            )
            total += nats.double().cpu()
        return total.item() / self.count
