"""Interleaved samples, medians and paired ratios.

All variants of a case take turns, A B C A B C ..., so that a slow second of the machine hits each
alike. Ratios are taken within a turn; what is reported is their median and quartiles.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MIN_ROUNDS = 5
MAX_ROUNDS = 1000
NOISY = 0.1  # quartiles further apart than this share of their median: the number is marked


@dataclass(frozen=True)
class Variant:
    """One contestant of a case.

    Attributes:
        sample: takes one measurement, in `unit`.
        over: names of the variants whose samples its own are divided by; FLOOR: its floor.
        close: frees what sampling held.
        floor_s: what it cannot go below, in seconds; None where that is not known.
        unit: "s", "bytes", or a rate: "bytes_per_s", "operations_per_s".
    """

    name: str
    sample: Callable[[], float]
    over: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None
    floor_s: float | None = None
    unit: str = "s"


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of n samples."""

    median: float
    q1: float
    q3: float
    n: int

    @classmethod
    def of(cls, samples: list[float]) -> "Spread":
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, q1, q3, len(samples))

    @property
    def noisy(self) -> bool:
        return self.q3 - self.q1 > NOISY * abs(self.median)


def ratio(samples: list[float], over: list[float]) -> Spread:
    """Spread of the ratios within each turn."""
    return Spread.of([a / b for a, b in zip(samples, over, strict=True)])


def interleave(
    variants: list[Variant],
    budget_s: float,
    *,
    limit_s: float = float("inf"),
    min_rounds: int = MIN_ROUNDS,
    warm_up: bool = True,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Let the variants take turns until the budget is spent; samples by name.

    Args:
        limit_s: no turn but the first begins later than this.
        min_rounds: turns that count at least, whatever they take, within the limit.
        warm_up: take one turn more and drop the first.
        now: the clock that budget and limit are of.
    """
    samples: dict[str, list[float]] = {v.name: [] for v in variants}
    with no_garbage_collection():
        start_s = now()
        for variant in variants if warm_up else ():
            variant.sample()
        sampling_s = now()
        for turn in range(MAX_ROUNDS):
            late = now() > start_s + limit_s
            if turn and (late or (turn >= min_rounds and now() > sampling_s + budget_s)):
                break
            for variant in variants:
                samples[variant.name].append(variant.sample())
    return samples


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect once, then not again within."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
