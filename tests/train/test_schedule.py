import math
from itertools import pairwise

import pytest
import torch

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


def test_warm_up_in_steps_ends_with_the_peak():
    got = rates(warmup_steps=20, schedule="linear")
    assert got[:20] == pytest.approx([2.0 * (step + 1) / 20 for step in range(20)])
    assert got[20] == 2.0 == max(got) and got[60] == pytest.approx(1.0)
    assert rates(warmup_steps=0, schedule="linear")[0] == 2.0


def test_srupp_is_pytorchs_cosine_stepped_from_the_first_update_on():
    """The warm-up overwrites the rate that CosineAnnealingLR then goes on from."""
    steps, warm = 4000, 160
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    expected = []
    for step in range(steps):
        if step < warm:
            optimizer.param_groups[0]["lr"] = 2.0 * (step + 1) / warm
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    got = rates(steps, warmup_steps=warm, schedule="srupp")
    assert got == pytest.approx(expected, rel=2e-4)
    assert got[warm - 1] == got[warm] == 2.0
    usual = rates(steps, warmup_steps=warm, schedule="cosine")
    assert usual != pytest.approx(expected, rel=2e-4)


def test_noam_is_the_published_formula():
    """factor / sqrt(d) * min(t^-1/2, t W^-3/2), t from 1, of the SRU paper's enwik8 runs."""
    width, factor, warm = 1152, 3.0, 32_000
    peak = factor / math.sqrt(width * warm)
    training = Training(lr=peak, steps=100_000, warmup_steps=warm, schedule="noam")
    for t in (1, 2, 1000, warm - 1, warm, warm + 1, 64_000, 100_000):
        expected = factor / math.sqrt(width) * min(t**-0.5, t * warm**-1.5)
        assert learning_rate(training, (t - 1) / 100_000) == pytest.approx(expected, rel=1e-6)
    seconds = Training(lr=1.0, seconds=100.0, warmup=0.25, schedule="noam")
    assert learning_rate(seconds, 0.5) == pytest.approx(math.sqrt(0.5))


def test_exponential_meets_the_published_staircase_at_every_epoch():
    """Penn Treebank, SGD: 300 epochs, 0.98 an epoch after the 175th."""
    options = {"warmup": 0.0, "decay_from": 175 / 300, "decay_to": 0.98**125}
    got = rates(3000, schedule="exponential", **options)
    for epoch in (0, 100, 175, 176, 200, 299):
        assert got[10 * epoch] == pytest.approx(2.0 * 0.98 ** max(0, epoch - 175))


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


@pytest.mark.parametrize(("steps", "every"), [(100, 1), (1000, 1), (4900, 49), (100_000, 1)])
def test_no_event_is_lost_or_late_by_rounding(steps, every):
    times = steps // every
    due = [step for step in range(1, steps + 1) if is_due(times, (step - 1) / steps, step / steps)]
    assert due == list(range(every, steps + 1, every))


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
        ("warmup_steps", 6),
        ("warmup_steps", -1),
        ("decay_from", 1.1),
        ("decay_to", 0.0),
        ("optimizer", "lion"),
        ("devices", 0),
        ("nodes", 0),
        ("strategy", "deepspeed"),
    ],
)
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} must"):
        Training(**{"steps": 5, field: value})


def test_a_run_must_end():
    with pytest.raises(ValueError, match="steps, epochs or seconds must be set"):
        Training()


def test_what_needs_another_field_says_so():
    with pytest.raises(ValueError, match=r"warmup_steps must lie in \[0, steps = None\], got 5"):
        Training(seconds=1.0, warmup_steps=5)
    with pytest.raises(ValueError, match="warmup or warmup_steps must be positive"):
        Training(steps=5, schedule="noam", warmup=0.0)
