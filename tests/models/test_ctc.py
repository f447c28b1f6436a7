import itertools
import math

import pytest
import torch

from torchsru.models.ctc import collapse, greedy, prefix_beam


def make(L, C, seed=0):
    scores = 2 * torch.randn(L, C, generator=torch.manual_seed(seed), dtype=torch.float64)
    return scores.log_softmax(1)


def by_force(log_LC):
    """{saying: probability}, path by path."""
    L, C = log_LC.shape
    found = {}
    for path in itertools.product(range(C), repeat=L):
        said = tuple(s for s, _ in itertools.groupby(path) if s)
        probability = math.exp(sum(log_LC[t, s].item() for t, s in enumerate(path)))
        found[said] = found.get(said, 0.0) + probability
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("L", "C"), [(1, 3), (4, 3), (5, 2), (5, 4)])
def test_a_wide_beam_is_exact(L, C, seed):
    log_LC = make(L, C, seed)
    exact = by_force(log_LC)
    assert sum(exact.values()) == pytest.approx(1)
    found = prefix_beam(log_LC, beam=10**6, symbols=C - 1)
    likely = {said: math.exp(value) for said, value in found}
    assert likely == pytest.approx(exact)
    values = [value for _, value in found]
    assert values == sorted(values, reverse=True)
    assert found[0][0] == max(exact, key=exact.get)


def test_probabilities_are_those_of_the_loss():
    log_LC = make(6, 3)
    for said, value in prefix_beam(log_LC, beam=500)[:5]:
        loss = torch.nn.functional.ctc_loss(
            log_LC, torch.tensor(said), torch.tensor(6), torch.tensor(len(said)), reduction="sum"
        )
        assert -loss.item() == pytest.approx(value)


def test_the_search_finds_what_greedy_misses():
    """The blank path is the most probable one, but "1" has three paths."""
    log_LC = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert greedy(log_LC) == []
    (best, value), (second, _) = prefix_beam(log_LC, beam=2)
    assert (best, second) == ((1,), ()) and math.exp(value) == pytest.approx(0.64)


def test_a_narrow_beam_is_a_lower_bound():
    log_LC = make(8, 4)
    exact = dict(prefix_beam(log_LC, beam=10**6))
    found = prefix_beam(log_LC, beam=3)
    assert len(found) == 3
    assert all(value <= exact[said] + 1e-9 for said, value in found)
    with pytest.raises(ValueError, match="beam must be at least 1, got 0"):
        prefix_beam(log_LC, 0)
    with pytest.raises(ValueError, match="symbols must be at least 1, got 0"):
        prefix_beam(log_LC, 1, symbols=0)


def test_few_symbols_of_a_step_are_a_lower_bound():
    log_LC = make(4, 6)
    exact = dict(prefix_beam(log_LC, beam=10**6, symbols=5))
    found = dict(prefix_beam(log_LC, beam=10**6, symbols=2))
    assert len(found) < len(exact)
    assert all(value <= exact[said] + 1e-9 for said, value in found.items())
    assert any(value < exact[said] - 1e-9 for said, value in found.items())
    assert prefix_beam(log_LC, 10**6) == prefix_beam(log_LC, 10**6, symbols=5)  # five are few


@pytest.mark.parametrize("beam", [1, 5, 10**6])
def test_no_impossible_saying_is_found(beam):
    """Two symbols in two steps, of which the second one is never said."""
    log_LC = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]).log()
    found = prefix_beam(log_LC, beam)
    assert all(value > -math.inf for _, value in found)
    assert {said for said, _ in found} <= {(), (1,)}


def test_a_path_says_its_symbols_without_repeats_and_blanks():
    assert collapse([0, 1, 1, 0, 1, 2, 2, 0]) == [1, 1, 2]
    assert collapse([1, 1, 2], before=1) == [2]
    assert collapse([1, 2], before=0) == [1, 2]
    assert collapse([]) == []
