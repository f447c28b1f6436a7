"""The recurrence on u = x W^T in one call, against the matrix product and the op in two."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import torchsru.nn.sru as layers
from torchsru import SRU, SRUCell
from torchsru.ops.sru import fused
from torchsru.ops.sru import overload as ops_of

L, B, D = 7, 3, 6
OPTIONS = [
    {},
    {"input_size": 5},  # a fourth matrix
    {"input_size": 5, "highway": False},
    {"bidirectional": True, "input_size": 2 * D},
    {"state_weights": False},
    {"activation": "tanh"},
    {"contractive": True},
    {"layer_norm": "post"},
    {"highway": False},
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def calls(monkeypatch):
    """How often a layer took the one call."""
    seen, one_call = [], layers.fused_layer
    monkeypatch.setattr(layers, "fused_layer", lambda *a, **k: seen.append(1) or one_call(*a, **k))
    return seen


@pytest.fixture(params=["default", "torch"])
def overload(request, monkeypatch):
    """The compiled ops, and those that serve without them and on other devices."""
    monkeypatch.setattr(fused, "overload", lambda name: ops_of(request.param))


def pair(dtype=torch.float64, **options):
    """A layer, and the same one with a hook on its transform, so that it takes two calls."""
    options = {"input_size": D, "hidden_size": D, "dtype": dtype} | options
    one, two = SRUCell(**options), SRUCell(**options)
    nn.init.normal_(one.bias)
    two.load_state_dict(one.state_dict())
    two.transform.register_forward_hook(lambda *_: None)
    return one, two


def sequences(kind):
    if kind == "mask":
        return {"mask": torch.rand(L, B) < 0.4}
    return {"cu_seqlens": torch.tensor([0, 3, 3, L])} if kind == "documents" else {}


def results(cell, x, state, seeds, wrt, **kwargs):
    h, c = cell(x, state, **kwargs)
    grads = torch.autograd.grad([h, c], wrt, seeds, allow_unused=True)
    return [h.detach(), c.detach(), *grads]


@pytest.mark.parametrize("kind", ["rows", "mask", "documents"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_call_is_two(options, kind, calls, overload):
    one, two = pair(**options)
    rows, states = (1, 3) if kind == "documents" else (B, B)
    x = torch.randn(L, rows, one.input_size, dtype=torch.float64, requires_grad=True)
    state = torch.randn(one.num_directions, states, D, dtype=torch.float64, requires_grad=True)
    seeds = [  # the first as batch_first leaves it: rows outermost
        torch.randn(rows, L, one.output_size, dtype=torch.float64).transpose(0, 1),
        torch.randn_like(state),
    ]
    given = sequences(kind)
    got = results(one, x, state, seeds, [x, state, *one.parameters()], **given)
    assert calls == [1]
    expected = results(two, x, state, seeds, [x, state, *two.parameters()], **given)
    assert calls == [1]
    torch.testing.assert_close(got, expected)
    with torch.no_grad():
        torch.testing.assert_close(one(x, state, **given), tuple(expected[:2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_types(dtype, calls):
    one, two = pair(dtype)
    x = torch.randn(L, B, D).to(dtype).requires_grad_()
    seeds = [torch.randn(L, B, D).to(dtype), torch.randn(1, B, D)]
    got = results(one, x, None, seeds, [x, *one.parameters()])
    expected = results(two, x, None, seeds, [x, *two.parameters()])
    assert calls == [1]
    rounding = 8 * torch.finfo(dtype).eps
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=rounding, atol=rounding * b.abs().max().item())


def test_the_comparison_can_fail():
    one, two = pair()
    two.alpha = 1.001 * one.alpha
    x = torch.randn(L, B, D, dtype=torch.float64)
    with pytest.raises(AssertionError, match="not close"):
        torch.testing.assert_close(one(x)[0], two(x)[0])


@pytest.mark.parametrize("frozen", ["x", "transform.weight", "weight_c", "all but x"])
def test_what_is_frozen_gets_no_gradient(frozen, calls):
    one, two = pair()
    x = torch.randn(L, B, D, dtype=torch.float64, requires_grad=frozen != "x")
    for cell in (one, two):
        for name, p in cell.named_parameters():
            p.requires_grad_(frozen not in (name, "all but x"))
        cell(x)[0].sum().backward()
    assert calls == [1]
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert (p.grad is None) == (frozen in (name, "all but x"))
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("options", [{}, {"input_size": 5}], ids=str)
def test_double_backward(options, calls):
    one, _ = pair(**options)
    names = [name for name, _ in one.named_parameters()]

    def outputs(x, state, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(one, named, (x, state))

    x = torch.randn(3, 2, one.input_size, dtype=torch.float64, requires_grad=True)
    state = torch.randn(1, 2, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(outputs, (x, state, *one.parameters()))
    assert calls


def test_an_input_changed_in_place_is_refused():
    one, _ = pair()
    x = torch.randn(L, B, D, dtype=torch.float64)
    h, _ = one(x)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        h.sum().backward()


def test_a_narrower_state_is_widened():
    one, two = pair()
    x, state = torch.randn(L, B, D, dtype=torch.float64), torch.randn(1, B, D)
    torch.testing.assert_close(one(x, state), two(x, state.double()))


def test_weights_in_a_narrower_type_are_widened():
    """As load_state_dict(assign=True) and functional_call can leave them."""
    one, _ = pair(torch.float32)
    narrow = {name: p.detach().bfloat16() for name, p in one.named_parameters()}
    x = torch.randn(L, B, D, dtype=torch.bfloat16)
    h, c = torch.func.functional_call(one, narrow, (x,))
    wide = {name: p.float() for name, p in narrow.items()}
    expected, _ = torch.func.functional_call(one, wide, (x.float(),))
    assert (h.dtype, c.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(h.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("rows", [-1, D, 3 * D])
def test_a_transform_of_another_size_is_refused(rows):
    sru = SRU(D, D, transform=lambda i, o: nn.Linear(i, o + rows, bias=False))
    with pytest.raises(ValueError, match=r"transform must map \[L, B, 6\] to \[L, B, 18\]"):
        sru(torch.randn(L, B, D))


class Half(nn.Linear):
    """Not nn.Linear itself."""

    def forward(self, x):
        return super().forward(x) / 2


def doubled_by_hook(cell):
    cell.transform.register_forward_pre_hook(lambda module, inputs: 2 * inputs[0])


def doubled_by_assignment(cell):
    linear, forward = cell.transform, cell.transform.forward
    linear.forward = lambda x: forward(2 * x)


@pytest.mark.parametrize("change", [doubled_by_hook, doubled_by_assignment])
def test_a_changed_transform_is_called(change, calls):
    one, two = pair()
    change(one)
    with torch.no_grad():
        two.transform.weight *= 2
    x = torch.randn(L, B, D, dtype=torch.float64)
    torch.testing.assert_close(one(x), two(x))
    assert not calls


def test_a_hook_on_all_modules_is_called(calls):
    one, _ = pair()
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
    try:
        one(torch.randn(L, B, D, dtype=torch.float64))
    finally:
        handle.remove()
    assert nn.Linear in seen and not calls


@pytest.mark.parametrize(
    "transform",
    [Half, nn.Linear, lambda i, o: nn.utils.parametrizations.weight_norm(nn.Linear(i, o))],
)
def test_other_transforms_take_two_calls(transform, calls):
    h, _ = SRU(D, D, transform=transform)(torch.randn(L, B, D))
    h.sum().backward()
    assert not calls


def test_autocast_forward_mode_and_tracing_take_two_calls(calls):
    sru, x = SRU(D, D), torch.randn(L, B, D)
    with torch.autocast("cpu", torch.bfloat16):
        assert sru(x)[0].dtype == torch.bfloat16
    with forward_ad.dual_level():
        h, _ = sru(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(h).tangent is not None
    torch.export.export(sru, (x,))
    assert not calls
