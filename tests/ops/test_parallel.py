"""Parallel in time: the chunks, and Newton's iteration for their first states.

That `torch_parallel` and `triton_parallel` give the definition's values and gradients with every
option is tested with the other backends, in test_sru.py, test_scan.py and test_triton.py.
"""

import math
from dataclasses import replace

import pytest
import torch
from tests.ops.helpers import SruCase, check, run, seeds_for

from torchsru.ops import _parallel, linear_recurrence, sru_recurrence
from torchsru.ops._parallel import cut, worth_while
from torchsru.ops.sru import parallel, pytorch
from torchsru.ops.sru.parallel import Forget, solve


@pytest.mark.parametrize("L", [0, 1, 2, 3, 7, 64, 65, 1000, 2**16, 2**18])
@pytest.mark.parametrize("states", [0, 1, 500, 2**17, 2**22])
def test_chunks_cover_the_steps_once(L, states):
    chunks, length = cut(L, states)
    assert (chunks - 1) * length < max(L, 1) <= chunks * length + (L == 0)
    assert chunks == 1 or chunks * states <= _parallel.ENOUGH
    assert chunks <= 2 * math.isqrt(L) + 1


def problem(kind: str, L: int = 1024, D: int = 64, dtype=torch.float32) -> Forget:
    """Candidates and gates as the paper's initialisation makes them, or harder ones."""
    inputs, weights = {
        "initial": (1, math.sqrt(1.5)),
        "twice the inputs": (2, math.sqrt(1.5)),
        "large weights": (1, 3),
        "adversarial": (1, 8),
        "contractive": (1, 10),
    }[kind]
    rng = torch.Generator().manual_seed(0)

    def normal(*sizes):
        return torch.randn(*sizes, generator=rng, dtype=torch.float64)

    z, f_in = inputs * normal(L, 1, D), inputs * math.sqrt(0.5) * normal(L, 1, D)
    v = weights * (2 * torch.rand(D, generator=rng, dtype=torch.float64) - 1)
    if kind == "adversarial":  # neither remembering nor forgetting: |dc_t / dc_0| falls slowest
        v, f_in = torch.full_like(v, -weights), 2 * f_in / math.sqrt(0.5) + 4
    tensors = (t.to(dtype) for t in (z, f_in, v))
    return Forget(*tensors, None, contractive=kind == "contractive")


def solved_share(forget: Forget, **options) -> float:
    L, B, D = forget.z.shape
    _, count = solve(forget, forget.z.new_zeros(B, D), **options)
    return count.sum().item() / (L * B * D)


KINDS = ["initial", "twice the inputs", "large weights", "adversarial", "contractive"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("iterations", [1, 3, 8])
def test_whatever_the_weights_the_states_are_those_of_the_loop(kind, dtype, iterations):
    """Each step from the state before it, to the tolerance of the first states."""
    forget = problem(kind, L=300, D=16, dtype=dtype)
    c0 = torch.full((1, 16), 0.5, dtype=dtype)
    c, count = solve(forget, c0, iterations)
    before = torch.cat([c0[None], c])[:-1]
    size = torch.maximum(before.abs(), forget.z.abs())
    off = (c - forget.next(before)).abs() / (torch.finfo(dtype).eps * size)
    # where a chunk begins, its first state was taken for the state before
    assert off.max() <= _parallel.TOLERANCE * 4
    assert count.min() >= min(iterations * cut(300, 16)[1], 300) and count.max() <= 300


@pytest.mark.parametrize(
    ("kind", "least"), [("initial", 1.0), ("contractive", 0.999), ("twice the inputs", 0.9)]
)
def test_mild_weights_are_solved(kind, least):
    assert solved_share(problem(kind)) >= least


def test_adversarial_weights_are_left_to_the_loop():
    assert solved_share(problem("adversarial")) < 0.5


def test_one_iteration_leaves_most_to_the_loop():
    assert solved_share(problem("initial"), iterations=1) < 0.2


def test_without_state_weights_the_guess_is_the_solution():
    forget = replace(problem("initial"), linear=True)
    forget.v.zero_()
    c0 = torch.ones(1, 64)
    c, count = solve(forget, c0, iterations=0)
    torch.testing.assert_close(c, forget.run(c0))
    assert (count == 1024).all()


def test_the_tolerance_is_what_keeps_it_right(monkeypatch):
    """With any first state taken for solved, the answer is wrong: the checks above can fail."""
    case = SruCase(shape=(256, 1, 8), v="wide")

    def op(**arguments):
        return sru_recurrence(**arguments, backend="torch_parallel")

    check(op, case)
    monkeypatch.setattr(parallel, "TOLERANCE", 1e15)
    with pytest.raises(AssertionError, match="roundings off"):
        check(op, case)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("contractive", [False, True])
def test_what_is_not_finite_stays_where_the_loop_has_it(value, contractive):
    case = SruCase(shape=(100, 2, 3), dtype=torch.float32, contractive=contractive)
    t = case.tensors()
    t["u"][41, 1, 0, 2] = value
    got, expected = (
        sru_recurrence(**t, **case.options(), backend=backend)
        for backend in ("torch_parallel", "torch")
    )
    torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-4, atol=1e-4)
    assert not expected[0].isfinite().all() and expected[0][:, 0].isfinite().all()


@pytest.mark.parametrize("backend", ["torch_parallel", "torch"])
def test_a_state_of_zero_is_not_lost_to_an_overflow(backend):
    """4^64 overflows float32, the state that it multiplies is 0; and a zero may come after it."""
    a, b = torch.full((4096, 1, 1), 4.0), torch.zeros(4096, 1, 1)
    b[-1] = 1
    c, last = linear_recurrence(a, b, backend=backend)
    assert not c[:-1].any() and last.item() == 1
    a[::64], c0 = 0, torch.ones(1, 1)
    c, last = linear_recurrence(a, b, c0, backend=backend)
    assert not c[:-1].any() and last.item() == 1


def test_the_rule_is_about_length_and_width():
    states, steps = _parallel.WORTH["torch"]
    assert worth_while("torch", steps, states)
    assert not worth_while("torch", steps - 1, states)
    assert not worth_while("torch", steps, states + 1)


def test_pure_pytorch_follows_the_rule(monkeypatch):
    case = SruCase(shape=(60, 1, 4), dtype=torch.float32, v="wide")
    t = case.tensors()
    arguments = (*t.values(),)
    u, x, v, b, c0, out_mask, mask, cu_seqlens = arguments

    def states(way):
        return pytorch.sru_forward_train(
            u, x, v, b, c0, mask, cu_seqlens, out_mask, 1, False, False, 1.0, parallel=way
        )[2]

    in_turn, in_parallel = states(False), states(True)
    assert not torch.equal(in_turn, in_parallel)  # so that the next lines can tell them apart
    for rule, expected in (((4, 60), in_parallel), ((4, 61), in_turn), (None, in_turn)):
        monkeypatch.setitem(_parallel.WORTH, "torch", rule)
        assert torch.equal(states(None), expected)


def test_the_same_bits_twice():
    case = SruCase(shape=(200, 2, 16), dtype=torch.float32, sequences="mask", num_directions=2)
    t = case.tensors()

    def op(**arguments):
        return sru_recurrence(**arguments, backend="torch_parallel")

    first, second = (run(op, t, case.options(), seeds_for(case, t), case.outputs) for _ in "12")
    assert all(torch.equal(first[name], second[name]) for name in first)
