"""Turns, medians and ratios, on clocks that the test moves."""

import gc

import pytest

from torchsru.bench.measure import Spread, Variant, interleave, ratio, timed


def test_variants_take_turns_and_the_first_turn_is_dropped():
    order = []

    def sampler(name):
        def sample():
            order.append(name)
            return float(len(order))

        return sample

    variants = [Variant(name, sampler(name)) for name in "abc"]
    samples = interleave(variants, budget_s=0.0, min_rounds=2)
    assert "".join(order) == "abc" * 3
    assert samples == {"a": [4, 7], "b": [5, 8], "c": [6, 9]}


def test_the_garbage_collector_rests_while_the_clock_runs():
    seen = []
    interleave([Variant("a", lambda: float(seen.append(gc.isenabled()) or 1))], 0.0)
    assert seen
    assert not any(seen)
    assert gc.isenabled()


def test_median_and_quartiles():
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)


def test_ratios_are_taken_within_a_turn():
    # a machine that slows down fivefold moves the medians, not the ratio
    slow = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert ratio([2 * s for s in slow], slow) == Spread(2.0, 2.0, 2.0, 5)
    with pytest.raises(ValueError):
        ratio([1.0], [1.0, 2.0])


def test_wide_quartiles_are_noisy():
    assert Spread(1.0, 0.9, 1.1, 5).noisy
    assert not Spread(1.0, 0.98, 1.02, 5).noisy


def test_short_calls_are_repeated():
    calls = []
    sample = timed(lambda: calls.append(1), "cpu")
    before = len(calls)
    assert 0 < sample() < 1
    assert len(calls) - before > 10
