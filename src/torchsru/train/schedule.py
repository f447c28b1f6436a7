"""Learning rate and events as functions of the part of the budget that is used.

The same schedule then serves a budget in steps, where it is exact, and one in seconds.
"""

import math

from torchsru.train.config import Training


def budget_used(training: Training, step: int, seconds: float) -> float:
    """Part of the budget used after `step` steps and `seconds` seconds of them, in [0, 1]."""
    by_steps = step / training.steps if training.steps else 0.0
    by_seconds = seconds / training.seconds if training.seconds else 0.0
    return min(1.0, max(by_steps, by_seconds))


def learning_rate(training: Training, used: float) -> float:
    """The rate for the step that starts with this part of the budget used.

    Climbs linearly over the first `warmup` of the budget, from a hundredth of the peak, since a
    rate of zero would waste the first step; then falls to zero as `schedule` says.
    """
    if used < training.warmup:
        return training.lr * max(0.01, used / training.warmup)
    if training.schedule == "constant" or training.warmup == 1:
        return training.lr
    left = (1 - used) / (1 - training.warmup)
    if training.schedule == "linear":
        return training.lr * left
    return training.lr * (1 - math.cos(math.pi * left)) / 2


def is_due(times: int, before: float, after: float) -> bool:
    """Whether one of `times` evenly spread events falls in (before, after] of the budget."""
    return math.floor(times * after) > math.floor(times * before)
