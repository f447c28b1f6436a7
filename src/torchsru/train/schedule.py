"""Learning rate and events as functions of the part of the budget that is used.

The same schedule then serves a budget in steps, where it is exact, and one in seconds.
"""

import math

from torchsru.train.config import Training

ROUNDING = 1e-12  # relative; more than that of a quotient and a product of float64


def budget_used(training: Training, step: int, seconds: float) -> float:
    """Part of the budget used after `step` steps and `seconds` seconds of them, in [0, 1]."""
    by_steps = step / training.steps if training.steps else 0.0
    by_seconds = seconds / training.seconds if training.seconds else 0.0
    return min(1.0, max(by_steps, by_seconds))


def learning_rate(training: Training, used: float) -> float:
    """The rate for the step that starts with this part of the budget used.

    Climbs linearly to the peak: over the first `warmup` of the budget, from a hundredth of the
    peak, since a rate of zero would waste the first step; or over `warmup_steps`, of which the last
    has the peak, as papers have it. Then, with u the part used, w that of the warm-up:

        constant      1
        linear        (1 - u) / (1 - w), to zero
        cosine        (1 + cos(pi (u - w) / (1 - w))) / 2, to zero
        srupp         (1 + cos(pi u)) / (1 + cos(pi w)), to zero: the cosine runs from the first
                      step on, as in the training of SRU++
        noam          sqrt(w / u): the inverse root of the step (Vaswani et al. 2017, eq. 3)
        exponential   1 up to u = decay_from; then decay_to^((u - decay_from) / (1 - decay_from))

    times `lr`.
    """
    warm, counted = training.warmup_share, used
    if training.warmup_steps is not None:
        assert training.steps is not None
        counted = used + 1 / training.steps  # the step that starts counts, too
    if counted < warm:
        return training.lr * max(counted / warm, 0.01 if training.warmup_steps is None else 0.0)
    return training.lr * _after_warmup(training, warm, used, counted)


def _after_warmup(training: Training, warm: float, used: float, counted: float) -> float:
    """The rate in units of the peak."""
    match training.schedule:
        case "noam":
            return math.sqrt(warm / counted)
        case "exponential":
            start = training.decay_from
            return training.decay_to ** ((used - start) / (1 - start)) if used > start else 1.0
        case "constant":
            return 1.0
    if warm == 1:
        return 1.0
    if training.schedule == "srupp":
        return (1 + math.cos(math.pi * max(used, warm))) / (1 + math.cos(math.pi * warm))
    left = min(1.0, (1 - used) / (1 - warm))
    return left if training.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def is_due(times: int, before: float, after: float) -> bool:
    """Whether one of `times` evenly spread events falls in (before, after] of the budget.

    What is less than a whole number by rounding alone counts as that number: 100 * (29 / 100) is
    28.999999999999996.
    """
    done, now = (math.floor(times * used * (1 + ROUNDING)) for used in (before, after))
    return now > done
