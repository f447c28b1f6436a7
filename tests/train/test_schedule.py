import math
from itertools import pairwise

import pytest

from torchsru.train import Training
from torchsru.train.schedule import budget_used, is_due, learning_rate


def rates(n=100, **options):
    training = Training(lr=2.0, steps=n, **options)
    return [learning_rate(training, budget_used(training, step, 0.0)) for step in range(n)]


def test_warm_up_then_cosine_to_zero():
    got = rates(warmup=0.1, schedule="cosine")
    assert got[1] == pytest.approx(0.2) and got[10] == 2.0 == max(got)
    assert got[0] == pytest.approx(0.02)  # not zero: the first step would be lost
    assert got[55] == pytest.approx(1.0)
    assert got[99] == pytest.approx(1 - math.cos(math.pi / 90))
    assert all(a < b for a, b in pairwise(got[:11]))
    assert all(a > b for a, b in pairwise(got[10:]))


def test_linear_and_constant():
    assert rates(warmup=0.0, schedule="linear")[75] == pytest.approx(0.5)
    assert set(rates(warmup=0.0, schedule="constant")) == {2.0}


def test_the_budget_that_is_used_up_first_counts():
    training = Training(steps=100, seconds=50.0)
    assert budget_used(training, 10, 25.0) == 0.5
    assert budget_used(training, 60, 25.0) == 0.6
    assert budget_used(training, 60, 70.0) == 1.0
    assert budget_used(Training(seconds=50.0), 10**9, 25.0) == 0.5


def test_events_are_spread_evenly_and_end_with_the_budget():
    due = [step for step in range(1, 31) if is_due(3, (step - 1) / 30, step / 30)]
    assert due == [10, 20, 30]
    assert not any(is_due(0, (step - 1) / 30, step / 30) for step in range(1, 31))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("steps", 0),
        ("seconds", -1.0),
        ("clip", 0.0),
        ("warmup", 1.5),
        ("betas", (0.9, 1.0)),
        ("weight_decay", -0.1),
        ("accumulate", 0),
        ("evaluations", -1),
        ("log_every", 0),
        ("schedule", "step"),
        ("precision", "float8"),
        ("device", "tpu"),
        ("seed", -1),
    ],
)
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} must"):
        Training(**{"steps": 5, field: value})


def test_a_run_must_end():
    with pytest.raises(ValueError, match="steps or seconds must be set"):
        Training()
