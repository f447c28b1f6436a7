"""Interleaved samples, medians and paired ratios.

All variants of a case take turns, A B C A B C ..., so that a slow second of the machine hits each
alike. Ratios are taken within a turn; what is reported is their median and quartiles.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

MIN_ROUNDS = 5
MAX_ROUNDS = 1000
SAMPLE_S = 2e-3  # a sample lasts at least as long: short calls are repeated
WARM_UP_S = 0.05
LONG_S = 0.2  # a call as long as this is warmed up once
NOISY = 0.1  # quartiles further apart than this share of their median: the number is marked


@dataclass(frozen=True)
class Variant:
    """One contestant of a case.

    Attributes:
        sample: takes one measurement, in seconds or bytes.
        over: names of the variants whose samples its own are divided by.
        close: frees what sampling held.
    """

    name: str
    sample: Callable[[], float]
    over: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None


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


def timed(call: Callable[[], object], device: str) -> Callable[[], float]:
    """A sampler of one call's time in seconds: the mean over as many as fill SAMPLE_S."""

    def run(times: int) -> float:
        synchronise(device)
        start_s = time.perf_counter()
        for _ in range(times):
            call()
        synchronise(device)
        return time.perf_counter() - start_s

    times, spent_s = 1, run(1)
    if spent_s < LONG_S:
        spent_s = run(1)
    end_s = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < end_s and spent_s < SAMPLE_S:
        times = max(times + 1, math.ceil(times * min(4, SAMPLE_S / spent_s)))
        spent_s = run(times)
    return lambda: run(times) / times


def synchronise(device: str) -> None:
    """Wait for the GPU, if it is one."""
    if device == "cuda":
        torch.cuda.synchronize()


def interleave(
    variants: list[Variant],
    budget_s: float,
    *,
    min_rounds: int = MIN_ROUNDS,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Let the variants take turns until the budget is spent; samples by name.

    Args:
        min_rounds: turns that count at least, whatever they take.
        warm_up: take one turn more and drop the first.
    """
    samples: dict[str, list[float]] = {v.name: [] for v in variants}
    with no_garbage_collection():
        for variant in variants if warm_up else ():
            variant.sample()
        end_s = time.perf_counter() + budget_s
        for turn in range(MAX_ROUNDS):
            if turn >= min_rounds and time.perf_counter() > end_s:
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
