"""Batches for truncated back-propagation: each row reads on where it stopped.

L bytes per segment, B rows. The text is cut into B streams of equal length; step s gives every
row its next L bytes. A pass over the text starts at a place drawn from the seed, and is a pure
function of the step: to resume is to ask for the next one. An evaluation reads once instead, and
predicts each byte exactly once.
"""

import random
from collections.abc import Iterator
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


NOTHING = -100  # cross_entropy's ignore_index: no byte is predicted there


class EveryByte:
    """`count` bytes of a text, each predicted once, in B streams spread evenly over it.

    Each stream starts with a fresh state, and with the byte that stands before it as context.

    Args:
        text: [N] uint8.
        batch: B, rows.
        unroll: L, the most bytes per row and segment.
        count: how many bytes to predict, B <= count <= N; each stream gives its first ones.
        before: the byte that stands before the text.
    """

    def __init__(self, text: Tensor, batch: int, unroll: int, count: int, before: int):
        assert 1 <= batch <= count <= len(text)
        self.text = torch.cat([torch.tensor([before], dtype=text.dtype), text])
        self.unroll = unroll
        row_B = torch.arange(batch)
        self._start_B1 = (row_B * (len(text) // batch) + row_B.clamp(max=len(text) % batch))[
            :, None
        ]
        self._length_B1 = (count // batch + (row_B < count % batch))[:, None]

    def __iter__(self) -> Iterator[Segment]:
        longest = int(self._length_B1.max())
        for start in range(0, longest, self.unroll):
            place_1L = torch.arange(start, min(start + self.unroll, longest))[None]
            inside_BL = place_1L < self._length_B1
            at_BL = torch.where(inside_BL, self._start_B1 + place_1L, 0)
            y_BL = torch.where(inside_BL, self.text[at_BL + 1].long(), NOTHING)
            yield Segment(self.text[at_BL].long().T, y_BL.T, fresh=start == 0)
