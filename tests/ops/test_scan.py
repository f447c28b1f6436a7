"""The linear recurrence: every backend against the definition."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from tests.ops.helpers import (
    BACKENDS,
    DTYPES,
    SHAPES,
    LinearCase,
    all_pairs,
    assert_same_bits,
    check,
    linear_recurrence,
    run,
    seeds_for,
    third_derivatives,
)
from torch.autograd import gradcheck, gradgradcheck

from torchsru.ops.scan.reference import linear_reference

ALL = [*BACKENDS, "reference"]
OUTPUTS = LinearCase.outputs
OPTIONS = {
    "shape": [(13, 3, 10), (5, 35, 6), (9, 2, 70)],
    "dtype": DTYPES,
    "c0": [True, False],
    "sequences": ["rows", "mask", "documents"],
    "num_directions": [1, 2],
}
CASES = [LinearCase(**row) for row in all_pairs(OPTIONS)]
FEW = [
    LinearCase(),
    LinearCase(sequences="mask", num_directions=2),
    LinearCase(sequences="documents", num_directions=2, c0=False),
]


def call(case, tensors, backend):
    return linear_recurrence(**tensors, **case.options(), backend=backend)


def gradients(case, tensors, backend, seeds=None):
    seeds = seeds_for(case, tensors) if seeds is None else seeds
    fn = partial(linear_recurrence, backend=backend)
    return run(fn, tensors, case.options(), seeds, OUTPUTS)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(shape, dtype, backend):
    check(partial(linear_recurrence, backend=backend), LinearCase(shape=shape, dtype=dtype))


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_pair_of_options(case, backend):
    check(partial(linear_recurrence, backend=backend), case)


def test_the_check_can_fail():
    def late(a, b, c0, **options):  # decays what it has just added
        last, c = c0, []
        for t in range(a.shape[0]):
            last = a[t] * (last + b[t])
            c.append(last.to(a.dtype))
        return torch.stack(c), last

    with pytest.raises(AssertionError, match="roundings off"):
        check(late, LinearCase(dtype=torch.bfloat16))


def test_reference_by_hand():
    case = LinearCase(shape=(6, 2, 3))
    t = case.tensors()
    c, c_last = linear_reference(**t, **case.options())
    for row in range(2):
        for j in range(3):
            state = t["c0"][row, j].item()
            for step in range(6):
                state = t["a"][step, row, j].item() * state + t["b"][step, row, j].item()
                assert c[step, row, j].item() == pytest.approx(state, rel=1e-12)
            assert c_last[row, j].item() == pytest.approx(state, rel=1e-12)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_gradcheck(case, backend):
    case = replace(case, shape=(4, 2, 2))
    tensors = case.tensors()
    floats = {n: t for n, t in tensors.items() if t is not None and t.is_floating_point()}

    def fn(*values):
        return call(case, tensors | dict(zip(floats, values, strict=True)), backend)

    values = [t.requires_grad_() for t in floats.values()]
    assert gradcheck(fn, values)
    assert gradgradcheck(fn, values)


@pytest.mark.parametrize("backend", ALL)
def test_third_derivatives_are_the_references(backend):
    tensors = LinearCase().tensors()
    ours, expected = (
        third_derivatives(lambda t, name=name: call(LinearCase(), t, name)[0], tensors)
        for name in (backend, "reference")
    )
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("used", OUTPUTS)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_gradients_through_one_output_only(case, used, backend):
    t = case.tensors()
    both = dict(zip(OUTPUTS, seeds_for(case, t), strict=True))
    seeds = [seed if name == used else None for name, seed in both.items()]
    expected = run(linear_reference, t, case.options(), seeds, OUTPUTS)
    torch.testing.assert_close(gradients(case, t, backend, seeds), expected)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_halves_are_the_whole(dtype, backend):
    case = LinearCase(shape=(9, 3, 5), dtype=dtype)
    t = case.tensors()
    c, last = call(case, t, backend)
    c1, carried = call(case, t | {"a": t["a"][:4], "b": t["b"][:4]}, backend)
    c2, end = call(case, t | {"a": t["a"][4:], "b": t["b"][4:], "c0": carried}, backend)
    halves, whole = {"c": torch.cat([c1, c2]), "last": end}, {"c": c, "last": last}
    if backend.endswith("_parallel"):  # other chunks, other roundings
        return torch.testing.assert_close(halves, whole)
    assert_same_bits(halves, whole)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_directions", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_documents_equal_one_by_one(dtype, num_directions, backend):
    case = LinearCase(
        shape=(17, 1, 6), dtype=dtype, sequences="documents", num_directions=num_directions
    )
    t = case.tensors()
    c, last = call(case, t, backend)
    # other chunks, other roundings
    off = 16 * torch.finfo(dtype).eps if backend.endswith("_parallel") else 0
    for n, (start, end) in enumerate(pairwise(t["cu_seqlens"].tolist())):
        own = {"a": t["a"][start:end], "b": t["b"][start:end], "c0": t["c0"][n : n + 1]}
        c_n, last_n = call(case, own, backend)
        torch.testing.assert_close(
            (c_n, last_n),
            (c[start:end], last[n : n + 1]),
            rtol=off,
            atol=off,
        )


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("num_directions", [1, 2])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_stands_at_padding_reaches_nothing(poison, num_directions, backend):
    case = LinearCase(shape=(12, 4, 6), sequences="mask", num_directions=num_directions)
    clean = case.tensors()
    pad = clean["mask"][:, :, None]
    poisoned = clean | {n: clean[n].masked_fill(pad, poison) for n in ("a", "b")}
    got, expected = gradients(case, poisoned, backend), gradients(case, clean, backend)
    torch.testing.assert_close(got, expected)
    for name in ("da", "db"):
        assert not got[name].masked_select(pad).any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("sequences", ["rows", "documents"])
@pytest.mark.parametrize("num_directions", [1, 2])
def test_nan_and_infinity_stay_in_their_sequence_and_channel(
    num_directions, sequences, poison, backend
):
    case = LinearCase(
        shape=(12, 5, 38), dtype=torch.float32, sequences=sequences, num_directions=num_directions
    )
    t = case.tensors()
    hit = torch.zeros_like(t["a"], dtype=torch.bool)
    row = 3 if sequences == "documents" else 2  # of the states; the fourth document is steps 4-11
    hit[slice(4, None) if sequences == "documents" else slice(None), 0 if row == 3 else 2, 20] = (
        True
    )
    bad = t["b"].clone()
    bad[7, 0 if row == 3 else 2, 20] = poison
    got, expected = gradients(case, t | {"b": bad}, backend), gradients(case, t, backend)
    assert not got["c"].isfinite().all() and not got["c_last"][row, 20].isfinite()
    for name in ("c", "da", "db"):
        torch.testing.assert_close(got[name][~hit], expected[name][~hit], rtol=0, atol=0)
    rest = torch.ones_like(got["c_last"], dtype=torch.bool)
    rest[row, 20] = False
    for name in ("c_last", "dc0"):
        torch.testing.assert_close(got[name][rest], expected[name][rest], rtol=0, atol=0)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("num_directions", [1, 2])
@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (5, 3, 0), (0, 0, 0)], ids=str)
def test_empty(shape, num_directions, backend):
    case = LinearCase(shape=shape, dtype=torch.float32, num_directions=num_directions)
    t = case.tensors()
    got = gradients(case, t, backend)
    assert got["c"].shape == shape
    if shape[0] == 0:
        torch.testing.assert_close(got["c_last"], t["c0"])
        torch.testing.assert_close(got["dc0"], seeds_for(case, t)[1])


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("documents", [0, 1, 3])
def test_no_steps_at_all_in_documents(documents, backend):
    bounds = torch.zeros(documents + 1, dtype=torch.int64)
    c0 = torch.randn(documents, 4, requires_grad=True)
    a = torch.empty(0, 1, 4, requires_grad=True)
    c, last = linear_recurrence(a, a * 2, c0, cu_seqlens=bounds, backend=backend)
    torch.testing.assert_close(last, c0)
    (c.sum() + last.sum()).backward()
    if documents:
        torch.testing.assert_close(c0.grad, torch.ones(documents, 4))
    c, _ = linear_recurrence(a, a * 2, cu_seqlens=bounds, backend=backend)
    c.sum().backward()


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("sequences", ["mask", "documents"])
def test_layout_of_the_inputs_does_not_matter(sequences, backend):
    case = LinearCase(sequences=sequences, num_directions=2, shape=(7, 3, 6))
    t = case.tensors()
    strided = {
        n: None if x is None else x.repeat_interleave(2, dim=-1)[..., ::2] for n, x in t.items()
    }
    assert not strided["a"].is_contiguous()
    expected = call(case, t, backend)
    torch.testing.assert_close(call(case, strided, backend), expected, rtol=0, atol=0)
    one = t["a"][:1].expand_as(t["a"])
    expected = call(case, t | {"a": one.contiguous()}, backend)
    torch.testing.assert_close(call(case, t | {"a": one}, backend), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "sequences", "num_directions"),
    [
        ((64, 40, 257), "rows", 1),
        ((64, 33, 130), "mask", 2),
        ((400, 1, 514), "documents", 2),
        ((512, 1, 300), "rows", 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_same_bits_for_any_number_of_threads(shape, sequences, num_directions, dtype, backend):
    case = LinearCase(shape=shape, dtype=dtype, sequences=sequences, num_directions=num_directions)
    t = case.tensors()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(gradients(case, t, backend))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_same_bits(other, results[0])
