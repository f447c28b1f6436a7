"""The SRU recurrence: every backend against the definition, and the definition against itself."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from tests.ops.helpers import (
    BACKENDS,
    DTYPES,
    SHAPES,
    SruCase,
    all_pairs,
    assert_same_bits,
    check,
    run,
    seeds_for,
    sru_recurrence,
    third_derivatives,
)
from torch.autograd import gradcheck, gradgradcheck

from torchsru.ops.sru.reference import CONTRACTIVE_BOUND, sru_reference

ALL = [*BACKENDS, "reference"]
OUTPUTS = SruCase.outputs

#: Every two of these settings meet in some case.
OPTIONS = {
    "shape": [(13, 3, 10), (5, 35, 6), (9, 2, 70)],
    "dtype": DTYPES,
    "highway": ["x", "k=4", "none"],
    "v": ["none", "static", "varying", "wide"],
    "b": [True, False],
    "c0": [True, False],
    "sequences": ["rows", "mask", "documents"],
    "out_mask": [False, True],
    "activation": ["identity", "tanh"],
    "contractive": [False, True],
    "num_directions": [1, 2],
}
CASES = [SruCase(**row) for row in all_pairs(OPTIONS)]

#: The ways in which sequences and options change the code that runs.
FEW = [
    SruCase(),
    SruCase(sequences="mask", num_directions=2, out_mask=True, v="varying"),
    SruCase(sequences="documents", num_directions=2, highway="k=4", activation="tanh"),
    SruCase(contractive=True, v="wide", sequences="mask", highway="none"),
    SruCase(v="none", b=False, c0=False, out_mask=True, sequences="documents"),
]


def call(case, tensors, backend, **changes):
    return sru_recurrence(**tensors, **(case.options() | changes), backend=backend)


# ---- against the definition ----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(shape, dtype, backend):
    check(partial(sru_recurrence, backend=backend), SruCase(shape=shape, dtype=dtype))


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_pair_of_options(case, backend):
    check(partial(sru_recurrence, backend=backend), case)


def test_every_pair_of_options_is_there():
    for name, values in OPTIONS.items():
        for other, others in OPTIONS.items():
            met = {(getattr(c, name), getattr(c, other)) for c in CASES}
            if name != other:
                assert len(met) == len(values) * len(others)


def sru_wrong(u, x, v, b, c0, **options):
    """A reset gate that reads c_t."""
    c, h = c0, []
    for t in range(u.shape[0]):
        z, f_in, r_in = u[t].unbind(dim=1)
        f = torch.sigmoid(f_in + v[0] * c + b[0])
        c = f * c + (1 - f) * z
        r = torch.sigmoid(r_in + v[1] * c + b[1])
        h.append((r * c + (1 - r) * (options["alpha"] * x[t])).to(u.dtype))
    return torch.stack(h), c


def sru_forgetful(u, x, v, b, c0, **options):
    """A state that is carried in the input's type."""
    hs, c = [], c0
    for t in range(u.shape[0]):
        h, c = sru_recurrence(u[t : t + 1], x[t : t + 1], v, b, c, alpha=options["alpha"])
        hs.append(h)
        c = c.to(u.dtype).to(c.dtype)
    return torch.cat(hs), c


@pytest.mark.parametrize("fn", [sru_wrong, sru_forgetful])
def test_the_check_can_fail(fn):
    with pytest.raises(AssertionError, match="roundings off"):
        check(fn, SruCase(dtype=torch.bfloat16))


def test_reference_by_hand():
    """The equations once more, number by number."""
    from math import exp, tanh

    case = SruCase(shape=(6, 2, 3), activation="tanh")
    t = case.tensors()
    h, c_last = sru_reference(**t, **case.options())
    for row in range(2):
        for j in range(3):
            c = t["c0"][row, j].item()
            for step in range(6):
                z, f_in, r_in = t["u"][step, row, :, j].tolist()
                (v_f, v_r), (b_f, b_r) = t["v"][:, j].tolist(), t["b"][:, j].tolist()
                f = 1 / (1 + exp(-(f_in + v_f * c + b_f)))
                r = 1 / (1 + exp(-(r_in + v_r * c + b_r)))
                c = f * c + (1 - f) * z
                want = r * tanh(c) + (1 - r) * case.alpha * t["x"][step, row, j].item()
                assert h[step, row, j].item() == pytest.approx(want, rel=1e-12)
            assert c_last[row, j].item() == pytest.approx(c, rel=1e-12)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_gradcheck(case, backend):
    case = replace(case, shape=(4, 2, 2))
    tensors = case.tensors()
    floats = {n: t for n, t in tensors.items() if t is not None and t.is_floating_point()}
    fixed = {n: t for n, t in tensors.items() if n not in floats}

    def fn(*values):
        given = dict(zip(floats, values, strict=True))
        return call(case, fixed | given, backend)

    values = [t.requires_grad_() for t in floats.values()]
    assert gradcheck(fn, values)
    assert gradgradcheck(fn, values)


@pytest.mark.parametrize("backend", ALL)
def test_third_derivatives_are_the_references(backend):
    tensors = SruCase().tensors()
    ours, expected = (
        third_derivatives(lambda t, name=name: call(SruCase(), t, name)[0], tensors)
        for name in (backend, "reference")
    )
    torch.testing.assert_close(ours, expected)


def test_forward_mode_is_the_references():
    """Autograd takes an op without a forward-mode formula for a constant: zeros, in silence."""
    t = SruCase().tensors()
    direction = torch.ones_like(t["u"])

    def h(u):
        return sru_recurrence(u, t["x"], t["v"], t["b"], t["c0"])[0]

    _, derivative = torch.func.jvp(h, (t["u"],), (direction,))
    step = 1e-6
    numerical = (h(t["u"] + step * direction) - h(t["u"] - step * direction)) / (2 * step)
    torch.testing.assert_close(derivative, numerical, rtol=1e-6, atol=1e-8)
    with pytest.raises(RuntimeError, match=r"'torch' cannot run .* no forward-mode derivatives"):
        torch.func.jvp(lambda x: sru_recurrence(t["u"], x, backend="torch"), (t["x"],), (t["x"],))


def test_torch_func_goes_through_the_reference():
    t = SruCase().tensors()

    def loss(u):
        return sru_recurrence(u, t["x"], t["v"], t["b"])[0].square().sum()

    u = t["u"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(u), u)
    torch.testing.assert_close(torch.func.grad(loss)(t["u"]), expected)
    with pytest.raises(RuntimeError, match=r"it does not serve torch\.func's transforms"):
        torch.func.grad(lambda u: sru_recurrence(u, backend="torch")[0].sum())(t["u"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("used", OUTPUTS)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_gradients_through_one_output_only(case, used, backend):
    tensors = case.tensors()
    both = dict(zip(OUTPUTS, seeds_for(case, tensors), strict=True))
    seeds = [seed if name == used else None for name, seed in both.items()]
    got = run(partial(sru_recurrence, backend=backend), tensors, case.options(), seeds, OUTPUTS)
    expected = run(sru_reference, tensors, case.options(), seeds, OUTPUTS)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", ["u", "x", "v", "b", "c0", "out_mask"])
def test_gradient_of_one_input_only(wanted, backend):
    case = SruCase(out_mask=True)
    tensors = case.tensors()
    seeds = seeds_for(case, tensors)
    every = run(partial(sru_recurrence, backend=backend), tensors, case.options(), seeds, OUTPUTS)
    leaf = tensors[wanted].clone().requires_grad_()
    outputs = call(case, tensors | {wanted: leaf}, backend)
    (grad,) = torch.autograd.grad(outputs, [leaf], seeds)
    torch.testing.assert_close(grad, every[f"d{wanted}"], rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_inference_gives_the_same_bits_as_training(case, backend):
    for dtype in DTYPES:
        tensors = replace(case, dtype=dtype).tensors()
        with torch.no_grad():
            plain = call(case, tensors, backend)
        trained = call(case, tensors | {"u": tensors["u"].requires_grad_()}, backend)
        assert trained[0].requires_grad and trained[1].requires_grad
        assert_same_bits(
            dict(zip(OUTPUTS, plain, strict=True)),
            {n: t.detach() for n, t in zip(OUTPUTS, trained, strict=True)},
        )


# ---- what the equations imply --------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_halves_are_the_whole(dtype, backend):
    """A float32 state between two calls loses nothing, whatever the input's type."""
    case = SruCase(shape=(9, 3, 5), dtype=dtype)
    t = case.tensors()
    h, c = call(case, t, backend)
    h1, c1 = call(case, t | {"u": t["u"][:4], "x": t["x"][:4]}, backend)
    h2, c2 = call(case, t | {"u": t["u"][4:], "x": t["x"][4:], "c0": c1}, backend)
    whole, halves = {"h": h, "c": c}, {"h": torch.cat([h1, h2]), "c": c2}
    if backend.endswith("_parallel"):  # other chunks, other roundings
        return torch.testing.assert_close(halves, whole)
    assert_same_bits(halves, whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_flow_from_half_to_half(backend):
    case = SruCase(shape=(9, 3, 5))
    t = case.tensors()

    def in_halves(u, x, c0, **rest):
        h1, c1 = sru_recurrence(u[:4], x[:4], c0=c0, **rest)
        h2, c2 = sru_recurrence(u[4:], x[4:], c0=c1, **rest)
        return torch.cat([h1, h2]), c2

    seeds = seeds_for(case, t)
    got = run(partial(in_halves, backend=backend), t, case.options(), seeds, OUTPUTS)
    expected = run(partial(sru_recurrence, backend=backend), t, case.options(), seeds, OUTPUTS)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_directions", [1, 2])
@pytest.mark.parametrize("v", ["static", "varying"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_documents_equal_one_by_one(dtype, v, num_directions, backend):
    case = SruCase(
        shape=(17, 1, 6), dtype=dtype, v=v, sequences="documents", num_directions=num_directions,
        out_mask=True,
    )  # fmt: skip
    t = case.tensors()
    h, c = call(case, t, backend)
    bounds = t["cu_seqlens"].tolist()
    for n, (start, end) in enumerate(pairwise(bounds)):
        own = t | {"cu_seqlens": None, "u": t["u"][start:end], "x": t["x"][start:end]}
        own |= {"c0": t["c0"][n : n + 1], "out_mask": t["out_mask"][n : n + 1]}
        own |= {"v": t["v"][start:end]} if v == "varying" else {}
        h_n, c_n = call(case, own, backend)
        tolerance = {"rtol": 0, "atol": 0} if backend == "cpu" else {}  # torch's exp: by its place
        torch.testing.assert_close((h_n, c_n), (h[start:end], c[n : n + 1]), **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_bounds_may_be_int32(dtype, backend):
    case = SruCase(sequences="documents")
    t = case.tensors()
    expected = call(case, t, "reference")
    got = call(case, t | {"cu_seqlens": t["cu_seqlens"].to(dtype)}, backend)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("num_directions", [1, 2])
def test_padding_equals_shorter_sequences(num_directions, backend):
    """The steps that are not padding, wherever they stand, are the sequence."""
    case = SruCase(shape=(12, 4, 6), sequences="mask", num_directions=num_directions)
    t = case.tensors()
    h, c = call(case, t, backend)
    assert t["mask"][:, 1].all() and torch.equal(c[1], t["c0"][1]) and not h[:, 1].any()
    for row in range(4):
        keep = ~t["mask"][:, row]
        own = t | {"mask": None, "u": t["u"][keep, row, None], "x": t["x"][keep, row, None]}
        own |= {"c0": t["c0"][row, None]}
        h_row, c_row = call(case, own, backend)
        torch.testing.assert_close((h[keep, row, None], c[row, None]), (h_row, c_row))
        assert not h[~keep, row].any()


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "case",
    [
        SruCase(shape=(12, 4, 6), sequences="mask", num_directions=n, v="varying", highway=highway,
                out_mask=True, contractive=contractive, activation="tanh")
        for n in (1, 2) for highway in ("x", "k=4") for contractive in (False, True)
    ],
    ids=str,
)  # fmt: skip
def test_what_stands_at_padding_reaches_nothing(case, poison, backend):
    """Neither outputs nor gradients see it; its own gradients are zero."""
    clean = case.tensors()
    pad = clean["mask"]
    poisoned = dict(clean)
    for name in ("u", "x", "v"):
        if clean[name] is not None:
            wide = pad.view(*pad.shape, *[1] * (clean[name].dim() - 2))
            poisoned[name] = clean[name].masked_fill(wide, poison)
    gh, gc = seeds_for(case, clean)
    fn = partial(sru_recurrence, backend=backend)
    expected = run(fn, clean, case.options(), [gh, gc], OUTPUTS)
    gh = gh.masked_fill(pad[:, :, None], poison)
    got = run(fn, poisoned, case.options(), [gh, gc], OUTPUTS)
    for name in got:
        torch.testing.assert_close(got[name], expected[name], msg=lambda m, n=name: f"{n}: {m}")
    for name in ("du", "dx", "dv"):
        assert name not in got or not got[name][pad].any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("sequences", ["rows", "mask", "documents"])
@pytest.mark.parametrize("num_directions", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nan_and_infinity_stay_in_their_sequence_and_channel(
    dtype, num_directions, sequences, poison, backend
):
    case = SruCase(
        shape=(12, 5, 38), dtype=dtype, sequences=sequences, num_directions=num_directions
    )
    t = case.tensors()
    if sequences == "documents":
        where, state_row = (7, 0), 3  # documents are steps 0-3 and 4-11
        hit = torch.zeros(12, 1, 38, dtype=torch.bool)
        hit[4:, 0, 20] = True
    else:
        where, state_row = (
            ((~t["mask"][:, 2]).nonzero()[0].item() if t["mask"] is not None else 5, 2),
            2,
        )
        hit = torch.zeros(12, 5, 38, dtype=torch.bool)
        hit[:, 2, 20] = True
    bad = t["u"].clone()
    bad[(*where, 0, 20)] = poison
    fn = partial(sru_recurrence, backend=backend)
    seeds = seeds_for(case, t)
    expected = run(fn, t, case.options(), seeds, OUTPUTS)
    got = run(fn, t | {"u": bad}, case.options(), seeds, OUTPUTS)
    assert not got["h"].isfinite().all() and not got["c"][state_row, 20].isfinite()
    for name in ("h", "dx"):
        torch.testing.assert_close(got[name][~hit], expected[name][~hit], rtol=0, atol=0)
    keep = ~hit[:, :, None].expand_as(got["du"])
    torch.testing.assert_close(got["du"][keep], expected["du"][keep], rtol=0, atol=0)
    rest = torch.ones_like(got["c"], dtype=torch.bool)
    rest[state_row, 20] = False
    for name in ("c", "dc0"):
        torch.testing.assert_close(got[name][rest], expected[name][rest], rtol=0, atol=0)
    channels = torch.arange(38) != 20
    for name in ("dv", "db"):
        torch.testing.assert_close(
            got[name][:, channels], expected[name][:, channels], rtol=0, atol=0
        )


@pytest.mark.parametrize("backend", ALL)
def test_contractive_jacobian_lies_in_zero_to_one(backend):
    """Over a grid of delta and v, the clip's bound included, where J comes nearest to its ends."""
    delta = torch.linspace(-6, 6, 241, dtype=torch.float64)
    v_f = torch.tensor([-50, -CONTRACTIVE_BOUND, -1, 0, 1, CONTRACTIVE_BOUND, 50]).double()
    gate = torch.linspace(-8, 8, 33, dtype=torch.float64)
    c0, w, f_in = (t.reshape(-1) for t in torch.meshgrid(delta, v_f, gate, indexing="ij"))
    c0 = c0[None].requires_grad_()
    u = torch.zeros(1, 1, 3, c0.numel(), dtype=torch.float64)
    u[0, 0, 1] = f_in
    v = torch.stack([w, torch.zeros_like(w)])
    _, c = sru_recurrence(u, None, v, None, c0, contractive=True, backend=backend)
    (J,) = torch.autograd.grad(c.sum(), c0)
    assert J.min() >= 0 and J.max() <= 1
    (unbounded,) = torch.autograd.grad(
        sru_recurrence(u, None, v, None, c0, backend=backend)[1].sum(), c0
    )
    assert unbounded.min() < 0 and unbounded.max() > 1  # the grid would show it


@pytest.mark.parametrize("backend", ALL)
def test_v_beyond_the_clip_has_no_gradient(backend):
    case = SruCase(contractive=True, v="wide", shape=(7, 3, 40))
    t = case.tensors()
    got = run(
        partial(sru_recurrence, backend=backend), t, case.options(), seeds_for(case, t), OUTPUTS
    )
    beyond = t["v"][0].abs() > CONTRACTIVE_BOUND
    assert beyond.any() and not beyond.all()
    assert not got["dv"][0][beyond].any() and got["dv"][0][~beyond].all()
    assert got["dv"][1].all()


# ---- shapes, layouts, threads --------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("num_directions", [1, 2])
@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (5, 3, 0), (0, 0, 0)], ids=str)
def test_empty(shape, num_directions, backend):
    case = SruCase(shape=shape, dtype=torch.float32, out_mask=True, num_directions=num_directions)
    t = case.tensors()
    got = run(
        partial(sru_recurrence, backend=backend), t, case.options(), seeds_for(case, t), OUTPUTS
    )
    L, B, D = shape
    assert got["h"].shape == (L, B, D)
    torch.testing.assert_close(got["c"], t["c0"] if L == 0 else torch.empty(B, D))
    assert not got["dv"].any() and not got["db"].any()
    if L == 0:
        torch.testing.assert_close(got["dc0"], seeds_for(case, t)[1])


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("documents", [0, 1, 3])
def test_no_steps_at_all_in_documents(documents, backend):
    bounds = torch.zeros(documents + 1, dtype=torch.int64)
    c0 = torch.randn(documents, 4, requires_grad=True)
    u = torch.empty(0, 1, 3, 4, requires_grad=True)
    h, c = sru_recurrence(u, None, None, None, c0, cu_seqlens=bounds, backend=backend)
    assert h.shape == (0, 1, 4)
    torch.testing.assert_close(c, c0)
    (h.sum() + c.sum()).backward()
    assert u.grad.shape == u.shape
    if documents:
        torch.testing.assert_close(c0.grad, torch.ones(documents, 4))
    h, _ = sru_recurrence(u, cu_seqlens=bounds, backend=backend)
    h.sum().backward()


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("sequences", ["mask", "documents"])
@pytest.mark.parametrize("v", ["static", "varying"])
def test_layout_of_the_inputs_does_not_matter(v, sequences, backend):
    """Transposed, sliced with a step, and expanded inputs, and upstream gradients alike."""
    case = SruCase(sequences=sequences, v=v, out_mask=True, num_directions=2, shape=(7, 3, 6))
    t = case.tensors()

    def spread(t):
        if t is None:
            return None
        big = t.new_ones(*[2 * n for n in t.shape]).transpose(0, -1).contiguous().transpose(0, -1)
        view = big[tuple(slice(None, None, 2) for _ in t.shape)]
        view.copy_(t)
        return view

    for values in (t, {n: None if x is None else x[:1].expand_as(x) for n, x in t.items()}):
        values = values | {"cu_seqlens": t["cu_seqlens"]}
        seeds = seeds_for(case, values)
        expected = run(
            partial(sru_recurrence, backend=backend),
            {n: None if x is None else x.contiguous() for n, x in values.items()},
            case.options(), seeds, OUTPUTS,
        )  # fmt: skip
        odd = {n: spread(x) for n, x in values.items()} if values["u"].is_contiguous() else values
        leaves = {
            n: x.detach().requires_grad_() if x is not None and x.is_floating_point() else x
            for n, x in odd.items()
        }
        wrt = {n: x for n, x in leaves.items() if x is not None and x.requires_grad}
        outputs = call(case, leaves, backend)
        grads = torch.autograd.grad(outputs, list(wrt.values()), [spread(s) for s in seeds])
        got = dict(zip(OUTPUTS, (o.detach() for o in outputs), strict=True))
        got |= {f"d{n}": g for n, g in zip(wrt, grads, strict=True)}
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_expanded_upstream_gradient(backend):
    """What sum() sends back is one number seen many times."""
    case = SruCase(shape=(7, 3, 5))
    t = case.tensors()
    ones = [torch.ones_like(s) for s in seeds_for(case, t)]
    fn = partial(sru_recurrence, backend=backend)
    expected = run(fn, t, case.options(), ones, OUTPUTS)
    got = run(fn, t, case.options(), [torch.ones(()).double().expand_as(o) for o in ones], OUTPUTS)
    assert_same_bits(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "sequences", "num_directions"),
    [
        ((64, 40, 257), "rows", 1),
        ((64, 33, 130), "mask", 2),
        ((400, 1, 514), "documents", 2),
        ((512, 1, 300), "rows", 1),
        ((100, 5, 201), "rows", 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", BACKENDS[:1])
def test_same_bits_for_any_number_of_threads(shape, sequences, num_directions, dtype, backend):
    case = SruCase(
        shape=shape, dtype=dtype, sequences=sequences, num_directions=num_directions, out_mask=True
    )
    t = case.tensors()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            fn = partial(sru_recurrence, backend=backend)
            results.append(run(fn, t, case.options(), seeds_for(case, t), OUTPUTS))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_are_left_alone(backend):
    for case in FEW:
        t = case.tensors()
        copies = {n: None if x is None else x.clone() for n, x in t.items()}
        fn = partial(sru_recurrence, backend=backend)
        leaves = {
            n: x.requires_grad_() if x is not None and x.is_floating_point() else x
            for n, x in t.items()
        }
        h, c = fn(**leaves, **case.options())
        (h.sum() + c.sum()).backward()
        for n, x in t.items():
            assert x is None or torch.equal(x, copies[n])


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_share_no_memory_with_inputs(backend):
    """At L = 0 the last state equals c0 and must still be a tensor of its own."""
    c0 = torch.randn(2, 4)
    _, c = sru_recurrence(torch.empty(0, 2, 3, 4), c0=c0, backend=backend)
    assert c.data_ptr() != c0.data_ptr()
    mask = torch.ones(3, 2, dtype=torch.bool)
    _, c = sru_recurrence(torch.empty(3, 2, 3, 4), c0=c0, mask=mask, backend=backend)
    assert c.data_ptr() != c0.data_ptr()


# ---- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_weights_and_states_are_widened(dtype, backend):
    case = SruCase(dtype=dtype, out_mask=True)
    t = case.tensors()
    narrow = {n: t[n].to(dtype) for n in ("v", "b", "c0", "out_mask")}
    got = run(
        partial(sru_recurrence, backend=backend), t | narrow, case.options(),
        seeds_for(case, t), OUTPUTS,
    )  # fmt: skip
    wide = {n: x.float() for n, x in narrow.items()}
    expected = run(
        partial(sru_recurrence, backend=backend), t | wide, case.options(),
        seeds_for(case, t), OUTPUTS,
    )  # fmt: skip
    assert got["c"].dtype == torch.float32
    for name in narrow:
        assert got[f"d{name}"].dtype == dtype
    torch.testing.assert_close(got, {n: expected[n].to(g.dtype) for n, g in got.items()})


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_takes_x_to_the_type_of_u(dtype, backend):
    u = torch.randn(4, 2, 3, 5, dtype=dtype)
    x = torch.randn(4, 2, 5, requires_grad=True)
    with pytest.raises(ValueError, match=r"x must be torch.\w+ like u, got torch.float32"):
        sru_recurrence(u, x, backend=backend)
    with torch.autocast("cpu", dtype):
        h, c = sru_recurrence(u, x, backend=backend)
    assert (h.dtype, c.dtype) == (dtype, torch.float32)
    h.float().sum().backward()
    assert x.grad.dtype == torch.float32
    expected, _ = sru_recurrence(u, x.detach().to(dtype), backend=backend)
    torch.testing.assert_close(h.detach(), expected, rtol=0, atol=0)
