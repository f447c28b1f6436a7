"""Batches for truncated back-propagation: each row reads on where it stopped.

L bytes per segment, B rows. The text is cut into B streams of equal length; step s gives every
row its next L bytes. A pass over the text starts at a place drawn from the seed, and is a pure
function of the step: to resume is to ask for the next one.
"""

import random
from typing import NamedTuple

import torch
from torch import Tensor

from torchsru.data.corpus import DataError


class Segment(NamedTuple):
    """x [L, B] and the bytes that follow, y [L, B], int64; `fresh`: the streams start anew."""

    x: Tensor
    y: Tensor
    fresh: bool


class ByteStreams:
    """B contiguous streams over `text` in segments of L bytes.

    Args:
        text: [N] uint8.
        batch: B, rows.
        unroll: L, bytes per row and step.
        seed: draws where each pass starts; None: every pass starts at the first byte.

    Raises: DataError if the text is too short for one step.
    """

    def __init__(self, text: Tensor, batch: int, unroll: int, seed: int | None = None):
        self.text, self.batch, self.unroll, self.seed = text, batch, unroll, seed
        self.stream_bytes = len(text) // batch
        self.steps_per_pass = (self.stream_bytes - 1) // unroll
        if self.steps_per_pass < 1:
            raise DataError(
                f"{len(text)} bytes are too few for {batch} streams of {unroll} bytes: "
                f"at least {batch * (unroll + 1)} are needed"
            )
        self._span_B1 = torch.arange(batch)[:, None] * self.stream_bytes
        self._window_1L = torch.arange(unroll + 1)[None]

    def segment(self, step: int) -> Segment:
        """The step-th segment of every stream, any step from 0, pass after pass."""
        passed, at = divmod(step, self.steps_per_pass)
        start = 0
        if self.seed is not None:
            start = random.Random(f"{self.seed}/{passed}").randrange(len(self.text))
        places_BL = (start + at * self.unroll + self._span_B1 + self._window_1L) % len(self.text)
        text_LB = self.text[places_BL].long().T.contiguous()
        return Segment(text_LB[:-1], text_LB[1:], fresh=at == 0)
