"""Bad calls raise, and the message names the argument, the rule and the value."""

import pytest
import torch
from tests.ops.helpers import BACKENDS

from torchsru.ops import linear_recurrence, sru_recurrence

L, B, D = 4, 2, 6
META = torch.device("meta")


def sru(u=(L, B, 3, D), x=(L, B, D), dtype=torch.float32, **rest):
    """A call with tensors of these shapes; a tensor or None is taken as it is."""

    def tensor(t):
        return torch.zeros(t, dtype=dtype) if isinstance(t, tuple) else t

    rest = {n: tensor(t) if n in ("v", "b", "c0", "out_mask") else t for n, t in rest.items()}
    return sru_recurrence(tensor(u), tensor(x), **rest)


def linear(a=(L, B, D), b=(L, B, D), **rest):
    def tensor(t):
        return torch.zeros(t) if isinstance(t, tuple) else t

    return linear_recurrence(tensor(a), tensor(b), **rest)


def bools(*shape):
    return torch.zeros(shape, dtype=torch.bool)


def bounds(*values, dtype=torch.int64):
    return torch.tensor(values, dtype=dtype)


ONE = {"u": (L, 1, 3, D), "x": None}

BAD_SRU = {
    # rank and size
    "u rank": ({"u": (L, B, D)}, r"u must be \[L, B, k, D\], got shape \[4, 2, 6\]"),
    "u k": ({"u": (L, B, 2, D)}, r"u must be .* with k = 3 or 4, got k = 2"),
    "x rank": ({"x": (L, D)}, r"x must be \[L, B, D\] = \[4, 2, 6\] to match u, got \[4, 6\]"),
    "x size": ({"x": (L, D, B)}, r"x must be .* = \[4, 2, 6\] to match u, got \[4, 6, 2\]"),
    "x and k=4": ({"u": (L, B, 4, D)}, r"x must be None when u holds the highway input \(k = 4\)"),
    "v size": ({"v": (D, 2)}, r"v must be \[2, D\] = \[2, 6\] to match u, got \[6, 2\]"),
    "v rank": ({"v": (L, 2, D)}, r"v must be \[2, D\] = \[2, 6\] to match u, got \[4, 2, 6\]"),
    "varying v": (
        {"v": (L, B, D, 2)},
        r"v must be \[L, B, 2, D\] = \[4, 2, 2, 6\] to match u, got \[4, 2, 6, 2\]",
    ),
    "b size": ({"b": (2, D + 1)}, r"b must be \[2, D\] = \[2, 6\] to match u, got \[2, 7\]"),
    "c0 rows": ({"c0": (B + 1, D)}, r"c0 must be \[B, D\] = \[2, 6\] to match u, got \[3, 6\]"),
    "c0 rank": ({"c0": (1, B, D)}, r"c0 must be \[B, D\] = \[2, 6\] to match u, got \[1, 2, 6\]"),
    "out_mask": ({"out_mask": (L, B, D)}, r"out_mask must be \[B, D\] = .*, got \[4, 2, 6\]"),
    "mask size": ({"mask": bools(B, L)}, r"mask must be \[L, B\] = \[4, 2\] .*, got \[2, 4\]"),
    "c0 of documents": (
        {**ONE, "cu_seqlens": bounds(0, 1, 4), "c0": (1, D)},
        r"c0 must be \[N, D\] = \[2, 6\] to match u, got \[1, 6\]",
    ),
    "documents and rows": (
        {"cu_seqlens": bounds(0, L)}, r"u must have one batch row beside cu_seqlens, got B = 2"
    ),
    "bounds rank": (
        {**ONE, "cu_seqlens": bounds(0, L)[None]}, r"cu_seqlens must be \[N \+ 1\], got .*\[1, 2\]"
    ),
    "no bounds": ({**ONE, "cu_seqlens": bounds()}, r"cu_seqlens must be \[N \+ 1\], got .*\[0\]"),
    "directions": ({"num_directions": 3}, r"num_directions must be 1 or 2, got 3"),
    "odd D": (
        {"u": (L, B, 3, 5), "x": None, "num_directions": 2},
        r"u must have an even D with two directions, got D = 5",
    ),
    # types
    "u type": (
        {"dtype": torch.int64},
        r"u must be one of float64, float32, bfloat16, float16, got torch.int64",
    ),
    "u complex": ({"dtype": torch.complex64}, r"u must be one of .*, got torch.complex64"),
    "x type": (
        {"x": torch.zeros(L, B, D, dtype=torch.float16)},
        r"x must be torch.float32 like u, got torch.float16",
    ),
    "wider v": (
        {"v": torch.zeros(2, D).double()},
        r"v must be torch.float32 beside u, or narrower, got torch.float64",
    ),
    "wider b": ({"b": torch.zeros(2, D).double()}, r"b must be torch.float32 .*got torch.float64"),
    "wider c0": ({"c0": torch.zeros(B, D).double()}, r"c0 must be torch.float32 .*torch.float64"),
    "whole c0": ({"c0": torch.zeros(B, D).long()}, r"c0 must be torch.float32 .*torch.int64"),
    "bool out_mask": ({"out_mask": bools(B, D)}, r"out_mask must be torch.float32 .*torch.bool"),
    "mask type": (
        {"mask": torch.zeros(L, B)}, r"mask must be bool, True at padding, got torch.float32"
    ),
    "bounds type": (
        {**ONE, "cu_seqlens": torch.tensor([0.0, 4.0])},
        r"cu_seqlens must be int32 or int64, got torch.float32",
    ),
    # devices
    "x device": (
        {"x": torch.zeros(L, B, D, device=META)}, r"x must be on cpu like u, got meta"
    ),
    "v device": ({"v": torch.zeros(2, D, device=META)}, r"v must be on cpu like u, got meta"),
    "c0 device": ({"c0": torch.zeros(B, D, device=META)}, r"c0 must be on cpu like u, got meta"),
    "mask device": ({"mask": bools(L, B).to(META)}, r"mask must be on cpu like u, got meta"),
    "bounds device": (
        {**ONE, "cu_seqlens": bounds(0, L).to(META)}, r"cu_seqlens must be on cpu like u, got meta"
    ),
    # what doesn't go together
    "mask and documents": (
        {**ONE, "mask": bools(L, 1), "cu_seqlens": bounds(0, L)},
        r"mask must be None beside cu_seqlens",
    ),
    "activation": (
        {"activation": "relu"}, r"activation must be one of \('identity', 'tanh'\), got 'relu'"
    ),
    "backend": (
        {"backend": "cuda"}, r"backend must be 'auto' or one of \['cpu', .*\], got 'cuda'"
    ),
}  # fmt: skip

BAD_LINEAR = {
    "a rank": ({"a": (L, D)}, r"a must be \[L, B, D\], got shape \[4, 6\]"),
    "b size": ({"b": (L, D, B)}, r"b must be .* = \[4, 2, 6\] to match a, got \[4, 6, 2\]"),
    "b type": (
        {"b": torch.zeros(L, B, D).half()}, r"b must be torch.float32 like a, got torch.float16"
    ),
    "a type": ({"a": bools(L, B, D)}, r"a must be one of float64, .*, got torch.bool"),
    "b device": ({"b": torch.zeros(L, B, D, device=META)}, r"b must be on cpu like a, got meta"),
    "c0 size": ({"c0": torch.zeros(D, B)}, r"c0 must be \[B, D\] = .* to match a, got \[6, 2\]"),
    "wider c0": ({"c0": torch.zeros(B, D).double()}, r"c0 must be torch.float32 .*torch.float64"),
    "directions": ({"num_directions": 0}, r"num_directions must be 1 or 2, got 0"),
    "mask type": ({"mask": torch.zeros(L, B).long()}, r"mask must be bool, .* got torch.int64"),
    "bounds": ({"cu_seqlens": bounds(0, L)}, r"a must have one batch row .* got B = 2"),
    "backend": ({"backend": "gpu"}, r"backend must be 'auto' or one of .*, got 'gpu'"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD_SRU.values(), ids=BAD_SRU)
def test_sru_recurrence_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        sru(**arguments)


@pytest.mark.parametrize(("arguments", "message"), BAD_LINEAR.values(), ids=BAD_LINEAR)
def test_linear_recurrence_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        linear(**arguments)


@pytest.mark.parametrize("name", ["u", "x", "v", "c0", "mask"])
def test_what_is_no_tensor_is_refused_by_name(name):
    with pytest.raises(TypeError, match=rf"{name} must be a tensor \[.*\], got list"):
        sru(**{name: [0.0]})


BAD_BOUNDS = {
    (1, L): r"cu_seqlens\[0\] must be 0, got 1",
    (0, 3, 2, L): r"cu_seqlens must not fall, got 3 then 2 at index 2",
    (0, 2): r"cu_seqlens\[1\] must be the number of steps, 4, got 2",
    (0, 2, L + 1): r"cu_seqlens\[2\] must be the number of steps, 4, got 5",
    (0, 9, L): r"cu_seqlens must not fall, got 9 then 4 at index 2",
    (0, -1, L): r"cu_seqlens must not fall, got 0 then -1 at index 1",
    (0,): r"cu_seqlens\[0\] must be the number of steps, 4, got 0",
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(("values", "message"), BAD_BOUNDS.items(), ids=str)
def test_bounds_are_checked_inside_the_op(values, message, dtype, grad, backend):
    """Their values, never read by Python on the way: RuntimeError."""
    cu_seqlens = bounds(*values, dtype=dtype)
    u = torch.zeros(L, 1, 3, D, requires_grad=grad)
    with pytest.raises(RuntimeError, match=message):
        sru_recurrence(u, cu_seqlens=cu_seqlens, backend=backend)
    a = torch.zeros(L, 1, D, requires_grad=grad)
    with pytest.raises(RuntimeError, match=message):
        linear_recurrence(a, a, cu_seqlens=cu_seqlens, backend=backend)


def test_a_named_backend_that_cannot_run_says_why():
    u = torch.zeros(L, B, 3, D, device=META)
    message = r"backend 'cpu' cannot run this call: needs CPU tensors; got .* on meta, 'auto'"
    with pytest.raises(RuntimeError, match=message):
        sru_recurrence(u, backend="cpu")
    with pytest.raises(RuntimeError, match=message):
        linear_recurrence(u[:, :, 0], u[:, :, 0], backend="cpu")


# ---- the ops themselves, without Python's checks in front: they guard memory ---------------------

SRU_TENSORS = {
    "u": (L, B, 3, D), "x": (L, B, D), "v": (2, D), "b": (2, D), "c0": (B, D),
    "mask": None, "cu_seqlens": None, "out_mask": (B, D),
}  # fmt: skip
SRU_OPTIONS = [1, False, False, 1.0]
SHORT = {
    "u": (L, B, D), "x": (L - 1, B, D), "v": (2, D - 1), "b": (1, D), "c0": (B - 1, D),
    "out_mask": (B, D - 1),
}  # fmt: skip
CPU = BACKENDS[:1]


def tensors(shapes, **changes):
    made = {n: torch.zeros(s) if isinstance(s, tuple) else s for n, s in shapes.items()}
    return list((made | changes).values())


def assert_refused(op, arguments, message):
    with pytest.raises(RuntimeError, match=message):
        op(*arguments)


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("name", SHORT)
def test_cpu_op_refuses_short_tensors(name, backend):
    for change in (torch.zeros(SHORT[name]), torch.zeros(SRU_TENSORS[name], dtype=torch.int64)):
        arguments = tensors(SRU_TENSORS, **{name: change})
        for op in (torch.ops.torchsru.sru_forward, torch.ops.torchsru.sru_forward_train):
            assert_refused(op.default, arguments + SRU_OPTIONS, f"{name} must ")
        seeds = [torch.zeros(L, B, D), torch.zeros(B, D)]
        states = [torch.zeros(L, B, D)]
        assert_refused(
            torch.ops.torchsru.sru_backward.default,
            seeds + arguments + states + SRU_OPTIONS,
            f"{name} must ",
        )


@pytest.mark.parametrize("backend", CPU)
def test_cpu_op_names_types_and_devices(backend):
    """Past the dispatcher, which would send such a call elsewhere."""

    def refused(message, **changes):
        keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
        arguments = [keys, *tensors(SRU_TENSORS, **changes), *SRU_OPTIONS]
        assert_refused(torch.ops.torchsru.sru_forward.default.redispatch, arguments, message)

    refused("x must be on cpu, got meta", x=torch.zeros(L, B, D, device=META))
    x = torch.zeros(L, B, D)
    for dtype, name in {
        torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16",
        torch.bool: "bool", torch.uint8: "uint8", torch.int8: "int8", torch.int16: "int16",
        torch.int32: "int32", torch.int64: "int64",
        torch.complex64: "complex64", torch.complex128: "complex128",
    }.items():  # fmt: skip
        refused(f"x must be float32, got {name}", x=x.to(dtype))
    refused("x must be float32, got type number", x=x.to(torch.float8_e5m2))
    u = torch.zeros(L, B, 3, D, dtype=torch.int16)
    refused("u must be float64, float32, bfloat16 or float16, got int16", u=u)


@pytest.mark.parametrize("backend", CPU)
def test_cpu_op_refuses_short_gradients_and_states(backend):
    op = torch.ops.torchsru.sru_backward.default
    good = {"gh": (L, B, D), "gc_last": (B, D), **SRU_TENSORS, "c": (L, B, D)}
    op(*tensors(good), *SRU_OPTIONS)
    for name in ("gh", "gc_last", "c"):
        short = torch.zeros(1, B, D) if name != "gc_last" else torch.zeros(1, D)
        assert_refused(op, tensors(good, **{name: short}) + SRU_OPTIONS, f"{name} must be")
        wrong = torch.zeros(good[name]).double()
        message = f"{name} must be float32, got float64"
        assert_refused(op, tensors(good, **{name: wrong}) + SRU_OPTIONS, message)


@pytest.mark.parametrize("backend", CPU)
def test_cpu_op_refuses_bad_sequences_and_options(backend):
    op = torch.ops.torchsru.sru_forward.default

    def refused(message, options=SRU_OPTIONS, **changes):
        assert_refused(op, tensors(SRU_TENSORS, **changes) + options, message)

    refused(r"mask must be \[4, 2\]", mask=bools(L, B - 1))
    refused("mask must be bool, got uint8", mask=torch.zeros(L, B, dtype=torch.uint8))
    refused("B must be 1 beside cu_seqlens, got 2", cu_seqlens=bounds(0, L))
    refused("num_directions must be 1 or 2, got 3", options=[3, False, False, 1.0])
    one = {
        "u": torch.zeros(L, 1, 3, D), "x": None, "c0": None, "out_mask": None,
    }  # fmt: skip
    refused("mask must be None", **one, mask=bools(L, 1), cu_seqlens=bounds(0, L))
    refused(r"cu_seqlens must be \[N \+ 1\], got \[\]", **one, cu_seqlens=torch.tensor(0))
    refused("cu_seqlens must be int32 or int64, got float32", **one,
            cu_seqlens=torch.tensor([0.0, 4.0]))  # fmt: skip
    refused(r"c0 must be \[1, 6\]", **one | {"c0": torch.zeros(2, D)}, cu_seqlens=bounds(0, L))
    refused("even", **one | {"u": torch.zeros(L, 1, 3, 5)}, v=None, b=None,
            options=[2, False, False, 1.0])  # fmt: skip
    refused("k = 4", u=torch.zeros(L, B, 4, D))


@pytest.mark.parametrize("backend", CPU)
def test_cpu_linear_op_refuses_short_tensors(backend):
    shapes = {"a": (L, B, D), "b": (L, B, D), "c0": (B, D), "mask": None, "cu_seqlens": None}
    short = {"a": (L, B), "b": (L, B, D - 1), "c0": (B, 1)}
    for name, shape in short.items():
        arguments = tensors(shapes, **{name: torch.zeros(shape)})
        for op in (torch.ops.torchsru.linear_forward, torch.ops.torchsru.linear_forward_train):
            assert_refused(op.default, [*arguments, 1], f"{name} must be")
    backward = torch.ops.torchsru.linear_backward.default
    good = {"gc": (L, B, D), "gc_last": (B, D), **shapes, "c": (L, B, D)}
    backward(*tensors(good), 1)
    for name, shape in {**short, "gc": (L, D, B), "gc_last": (D, B), "c": (1, B, D)}.items():
        assert_refused(
            backward, [*tensors(good, **{name: torch.zeros(shape)}), 1], f"{name} must be"
        )
