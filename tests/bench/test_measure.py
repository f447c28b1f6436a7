"""Turns, budgets, medians and ratios, on clocks that the test moves."""

import gc

import pytest

from torchsru.bench.measure import Spread, Variant, interleave, ratio


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


class Machine:
    """Its time goes by while a variant is sampled, and at no other moment."""

    def __init__(self, **seconds):
        self.time_s = 0.0
        self.order = ""
        self.variants = [Variant(name, lambda n=name: self.sample(n)) for name in seconds]
        self.seconds = seconds

    def sample(self, name):
        self.order += name
        self.time_s += self.seconds[name]
        return self.seconds[name]

    def now(self):
        return self.time_s


def test_turns_go_on_until_the_budget_is_spent():
    machine = Machine(a=1.0, b=3.0)
    samples = interleave(machine.variants, 40.0, min_rounds=2, now=machine.now)
    assert machine.order == "ab" * 12  # one to warm up, ten in the budget, one that passes it
    assert samples == {"a": [1.0] * 11, "b": [3.0] * 11}


def test_a_spent_budget_still_has_its_least_turns():
    machine = Machine(a=1.0, b=3.0)
    interleave(machine.variants, 0.0, min_rounds=4, now=machine.now)
    assert machine.order == "ab" * 5


@pytest.mark.parametrize(("limit_s", "turns"), [(0.0, 1), (7.9, 1), (8.0, 2), (100.0, 4)])
def test_no_turn_but_the_first_begins_after_the_limit(limit_s, turns):
    machine = Machine(a=1.0, b=3.0)
    samples = interleave(machine.variants, 0.0, limit_s=limit_s, min_rounds=4, now=machine.now)
    assert len(samples["a"]) == len(samples["b"]) == turns
