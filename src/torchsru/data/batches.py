"""Batches for truncated back-propagation: each row reads on where it stopped.

L symbols per segment, B rows. The text is cut into B streams of equal length; step s gives every
row its next L symbols. A pass over the text starts at a place drawn from the seed, or has its
sentences in an order drawn from it, and is a pure function of the step: to resume is to ask for
the next one, and each rank takes its rows. An evaluation reads once instead, and predicts each
symbol exactly once.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from torchsru.data.texts import DataError


class Segment(NamedTuple):
    """x [L, B] and the symbols that follow, y [L, B], int64; `fresh`: the streams start anew."""

    x: Tensor
    y: Tensor
    fresh: bool


class Streams:
    """B contiguous streams over a text in segments of L symbols.

    Args:
        ids: [N], any integer type; it may be mapped from a file, only what is asked for is read.
        batch: B, rows.
        unroll: L, symbols per row and step.
        seed: draws where each pass starts; None: every pass starts at the first symbol.
        ends: [S], where each sentence ends, the last one at N: each pass has them in a new order,
            as Billion Word's papers do, and starts with the first of it. None: the text stays.

    Raises: DataError if the text is too short for one step.
    """

    def __init__(
        self,
        ids: Tensor,
        batch: int,
        unroll: int,
        seed: int | None = None,
        ends: Tensor | None = None,
    ):
        self.ids, self.batch, self.unroll, self.seed = ids, batch, unroll, seed
        self.ends = None if seed is None else ends
        self.stream_length = len(ids) // batch
        self.steps_per_pass = (self.stream_length - 1) // unroll
        if self.steps_per_pass < 1:
            raise DataError(
                f"{len(ids)} symbols are too few for {batch} streams of {unroll}: "
                f"at least {batch * (unroll + 1)} are needed"
            )
        self._span_B1 = torch.arange(batch)[:, None] * self.stream_length
        self._window_1L = torch.arange(unroll + 1)[None]
        self._order: tuple[int, Tensor, Tensor] | None = None

    def segment(self, step: int) -> Segment:
        """The step-th segment of every stream, any step from 0, pass after pass."""
        passed, at = divmod(step, self.steps_per_pass)
        places_BL = at * self.unroll + self._span_B1 + self._window_1L
        if self.ends is not None:
            places_BL = self._shuffled(passed, places_BL)
        elif self.seed is not None:
            start = random.Random(f"{self.seed}/{passed}").randrange(len(self.ids))
            places_BL = (start + places_BL) % len(self.ids)
        text_LB = self.ids[places_BL].long().T.contiguous()
        return Segment(text_LB[:-1], text_LB[1:], fresh=at == 0)

    def _shuffled(self, passed: int, places: Tensor) -> Tensor:
        """Where in the text the places of a pass are."""
        if self._order is None or self._order[0] != passed:
            assert self.ends is not None
            lengths = self.ends.diff(prepend=self.ends.new_zeros(1))
            draw = torch.Generator().manual_seed(
                random.Random(f"{self.seed}/{passed}").getrandbits(63)
            )
            order = torch.randperm(len(lengths), generator=draw)
            ends = lengths[order].cumsum(0)
            # what must be added to a place of this pass to get the one in the text
            self._order = passed, ends, self.ends[order] - ends
        _, ends, offsets = self._order
        return places + offsets[torch.searchsorted(ends, places, right=True)]


NOTHING = -100  # cross_entropy's ignore_index: no symbol is predicted there


class EverySymbol:
    """`count` symbols of a text, each predicted once, in B streams spread evenly over it.

    Each stream starts with a fresh state, and with the symbol that stands before it as context.
    One stream over the whole text is the papers' protocol.

    Args:
        ids: [N], any integer type.
        batch: B, rows.
        unroll: L, the most symbols per row and segment.
        count: how many symbols to predict, B <= count <= N; each stream gives its first ones.
        before: the symbol that stands before the text.
    """

    def __init__(self, ids: Tensor, batch: int, unroll: int, count: int, before: int):
        assert 1 <= batch <= count <= len(ids)
        self.ids, self.unroll, self.before = ids, unroll, before
        row_B = torch.arange(batch)
        self._start_B1 = (row_B * (len(ids) // batch) + row_B.clamp(max=len(ids) % batch))[:, None]
        self._length_B1 = (count // batch + (row_B < count % batch))[:, None]

    def __len__(self) -> int:
        """Segments."""
        return -(-int(self._length_B1.max()) // self.unroll)

    def __iter__(self) -> Iterator[Segment]:
        longest = int(self._length_B1.max())
        for start in range(0, longest, self.unroll):
            place_1L = torch.arange(start, min(start + self.unroll, longest))[None]
            inside_BL = place_1L < self._length_B1
            at_BL = torch.where(inside_BL, self._start_B1 + place_1L, 0)
            y_BL = torch.where(inside_BL, self.ids[at_BL].long(), NOTHING)
            x_BL = torch.where(at_BL > 0, self.ids[(at_BL - 1).clamp(min=0)].long(), self.before)
            yield Segment(x_BL.T, y_BL.T, fresh=start == 0)
