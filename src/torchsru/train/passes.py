"""Batches of items of alike lengths, pass after pass.

A pass shuffles the items, sorts each POOL batches of them by length, cuts them up, and shuffles the
batches; those left over at a pass's end come in the next one. A pure function of seed and step.

Check  tests/train/test_classification.py
"""

import random
from collections.abc import Callable, Sequence

from torchsru.data.texts import DataError

POOL = 16


class Passes:
    """Which items the batch of a step consists of.

    Args:
        lengths: of each item; or, where passes have other items, from the number of a pass to
            theirs, as many in each.
        batch: B, items of a batch.
        seed: of the order.
        unit: what an item is, for errors.

    Attributes:
        steps: batches of a pass.

    Raises: DataError if the items do not fill a batch.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Callable[[int], Sequence[int]],
        batch: int,
        seed: int,
        unit: str,
    ):
        self._lengths = lengths if callable(lengths) else lambda passed: lengths
        count = len(self._lengths(0))
        if count < batch:
            raise DataError(
                f"data.batch must be {count} at most, the {unit}s to train on, got {batch}"
            )
        self.size, self.seed = batch, seed
        self.steps = count // batch
        self._pass: tuple[int, list[list[int]]] | None = None

    def batch(self, step: int) -> list[int]:
        """The places of the step-th B items."""
        passed, at = divmod(step, self.steps)
        if self._pass is None or self._pass[0] != passed:
            self._pass = passed, self._cut(passed)
        return self._pass[1][at]

    def _cut(self, passed: int) -> list[list[int]]:
        """The batches of a pass."""
        draw = random.Random(f"{self.seed}/{passed}")
        B, lengths = self.size, self._lengths(passed)
        order = draw.sample(range(len(lengths)), self.steps * B)
        batches = []
        for start in range(0, len(order), POOL * B):
            pool = sorted(order[start : start + POOL * B], key=lengths.__getitem__)
            batches += [pool[at : at + B] for at in range(0, len(pool), B)]
        draw.shuffle(batches)
        return batches
