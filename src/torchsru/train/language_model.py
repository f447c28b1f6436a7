"""Byte language modelling as a task: predict each next byte, the state carried on."""

import hashlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchsru.data import ByteData, ByteStreams, Corpus
from torchsru.data.batches import Segment

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
        held = corpus.heldout
        wanted = min(len(held), data.eval_bytes or len(held))
        rows = min(data.eval_batch, max(1, wanted // (EVAL_UNROLL + 1)))
        unroll = max(1, min(EVAL_UNROLL, wanted // rows, len(held) // rows - 1))
        self.heldout = ByteStreams(held, rows, unroll)
        per_segment = rows * unroll
        self.eval_segments = max(1, min(self.heldout.steps_per_pass, wanted // per_segment))
        self.eval_bytes = self.eval_segments * per_segment
        both = (part.numpy().data for part in (corpus.train, corpus.heldout))
        self.content = hashlib.sha256(
            b"".join(hashlib.sha256(p).digest() for p in both)
        ).hexdigest()

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
        return {"bits_per_byte": loss / math.log(2)}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Bits per byte on `eval_bytes` held-out bytes, the same ones each time."""
        device = next(model.parameters()).device
        state, total = None, torch.zeros((), dtype=torch.float64)
        for step in range(self.eval_segments):
            x, y, _ = self.heldout.segment(step)
            segment = Segment(x.to(device), y.to(device), fresh=step == 0)
            loss, state = self.loss(model, segment, state)
            total += loss.double().cpu()
        return self.numbers(total.item() / self.eval_segments)
