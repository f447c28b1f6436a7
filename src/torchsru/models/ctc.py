"""From CTC's log probabilities of each step to symbols.

L steps, C symbols; number 0 is the blank.

Path      one symbol a step; what it says is the path without repeats, then without blanks (Graves
          et al. 2006, section 3)
Greedy    what the most probable path says
Beam      the most probable of the prefixes that are kept, each the sum of its paths, by the
          recursion of Hannun et al. 2014 (arXiv 1408.2873, algorithm 1) without a language model,
          in logarithms. A step extends each prefix by its SYMBOLS most probable symbols only;
          exact with a beam that is wide enough and as many symbols as there are
Check     tests/models/test_ctc.py
"""

import math
from collections.abc import Iterable

from torch import Tensor

BLANK = 0
SYMBOLS = 12


def collapse(path: Iterable[int], before: int = BLANK) -> list[int]:
    """What a path says; `before`: the path's symbol before the first one."""
    found = []
    for symbol in path:
        if symbol not in (before, BLANK):
            found.append(symbol)
        before = symbol
    return found


def greedy(log_LC: Tensor) -> list[int]:
    """What the most probable path says."""
    return collapse(log_LC.argmax(1).tolist())


def prefix_beam(
    log_LC: Tensor, beam: int, symbols: int = SYMBOLS
) -> list[tuple[tuple[int, ...], float]]:
    """The most probable sayings, best first, each with its log probability.

    Args:
        log_LC: log probabilities of each step.
        beam: prefixes that are kept from step to step, at least 1.
        symbols: most probable ones of a step that prefixes are extended by, at least 1.

    Returns: at most `beam` pairs, none of probability 0. The probability is that of the paths that
        were kept: the exact one if no prefix was dropped, else a lower bound.
    """
    for name, value in (("beam", beam), ("symbols", symbols)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    log_LC = log_LC.double()
    likely = log_LC[:, 1:].topk(min(symbols, log_LC.shape[1] - 1), dim=1).indices + 1
    # of each prefix: log probability of its paths that end in a blank, and of the others
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for row, extending in zip(log_LC.tolist(), likely.tolist(), strict=True):
        grown: dict[tuple[int, ...], list[float]] = {}

        def add(prefix: tuple[int, ...], which: int, value: float, grown=grown) -> None:
            if value > -math.inf:
                ends = grown.setdefault(prefix, [-math.inf, -math.inf])
                ends[which] = log_add(ends[which], value)

        for prefix, (blank, symbol) in kept.items():
            either = log_add(blank, symbol)
            add(prefix, 0, either + row[BLANK])
            last = prefix[-1] if prefix else BLANK
            if prefix:
                add(prefix, 1, symbol + row[last])
            for new in extending:
                # the same symbol again needs a blank between
                add((*prefix, new), 1, (blank if new == last else either) + row[new])
        ranked = sorted(grown.items(), key=lambda item: -log_add(*item[1]))
        kept = {prefix: (ends[0], ends[1]) for prefix, ends in ranked[:beam]}
    return [(prefix, log_add(*ends)) for prefix, ends in kept.items()]


def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    low, high = (a, b) if a < b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
