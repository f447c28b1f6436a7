"""The compatible layers alone: copies, types, compilation, what they refuse."""

import copy
import pickle

import pytest
import torch
from tests.ops.helpers import worst
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from torchsru.compat import SRU, SRUCell

L, B, d = 5, 3, 4


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same(copied):
    rnn = SRU(d, d, layer_norm=True, rescale=True, bidirectional=True, projection_size=2)
    x = torch.randn(L, B, d)
    torch.testing.assert_close(copied(rnn)(x), rnn(x), rtol=0, atol=0)


def test_few_rows_and_many_are_the_same():
    """A small batch rearranges the product, a large one the weight."""
    rnn = SRU(16, d, bidirectional=True).double()
    x = torch.randn(1, 40, 16, dtype=torch.float64)  # in one piece: more rows than features
    h, c = rnn(x)
    h_row, c_row = rnn(x[:, 3:4])  # one row of 16 features
    torch.testing.assert_close((h_row, c_row), (h[:, 3:4], c[:, 3:4]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_stay(dtype):
    exact = SRU(d, d, rescale=True).double()
    x = torch.randn(L, B, d, dtype=torch.float64)
    rnn = copy.deepcopy(exact).to(dtype)
    (h, c), (want_h, want_c) = rnn(x.to(dtype)), exact(x)
    assert h.dtype == dtype
    assert c.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    bar = 20 * torch.finfo(dtype).eps
    assert worst(h, want_h) < bar and worst(c, want_c) < bar


def test_amp_recurrence_fp16_keeps_h_in_float16():
    for flag, dtype in ((False, torch.float32), (True, torch.float16)):
        rnn = SRU(d, d, rescale=True, amp_recurrence_fp16=flag)
        with torch.autocast("cpu", torch.float16):
            h, c = rnn(torch.randn(L, B, d))
        assert (h.dtype, c.dtype) == (dtype, torch.float32)


@pytest.mark.parametrize("rescale", [False, True])
def test_compiles_whole(rescale):
    rnn = SRU(d, d, rescale=rescale, highway_bias=-1, bidirectional=True)
    x = torch.randn(L, B, d)
    compiled = torch.compile(rnn, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), rnn(x))


def test_the_scale_is_the_buffers():
    """As in the original: it is what a checkpoint brought, or what the user put there."""
    rnn = SRU(d, d, 1, rescale=True)
    x = torch.randn(L, B, d)
    h, _ = rnn(x)
    rnn.rnn_lst[0].scale_x.fill_(1)
    plain = SRU(d, d, 1)
    plain.load_state_dict(rnn.state_dict())
    torch.testing.assert_close(rnn(x), plain(x), rtol=0, atol=0)
    assert not torch.allclose(h, rnn(x)[0])


def test_a_custom_module_without_reset_parameters_keeps_its_own():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(d, 3 * d))

        def forward(self, x):
            return x @ self.w

    bare = Bare()
    with pytest.warns(UserWarning, match="custom_m keeps its parameters: Bare has no reset_par"):
        rnn = SRU(d, d, custom_m=bare)
    torch.testing.assert_close(rnn.rnn_lst[1].custom_m.w, bare.w, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"input_size": 0}, "input_size must be a positive integer, got 0"),
        ({"hidden_size": -1}, "hidden_size must be a positive integer, got -1"),
        ({"hidden_size": True}, "hidden_size must be a positive integer, got True"),
        ({"num_layers": 0}, "num_layers must be a positive integer, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"rnn_dropout": -0.1}, r"rnn_dropout must be in \[0, 1\), got -0.1"),
        ({"custom_m": [nn.Linear(d, 3 * d)]}, "custom_m must have one module per layer, 2, got 1"),
    ],
)
def test_a_constructor_names_what_is_wrong(arguments, named):
    with pytest.raises(ValueError, match=named):
        SRU(**{"input_size": d, "hidden_size": d} | arguments)


def test_removed_activations_are_refused_by_name():
    with pytest.raises(TypeError, match="use_relu"):
        SRU(d, d, use_relu=True)


x = torch.randn(L, B, d)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((x[0],), r"input must be \[L, B, input_size\] with input_size = 4, got \[3, 4\]"),
        ((torch.randn(L, B, 5),), r"input must be .* = 4, got \[5, 3, 5\]"),
        ((x, torch.zeros(4, B, d)), r"c0 must be .* = \[2, 3, 8\], got \[4, 3, 4\]"),
        ((x, torch.zeros(B, d)), r"c0 must be .* = \[2, 3, 8\], got \[3, 4\]"),
        ((x, None, torch.zeros(B, L)), r"mask_pad must be \[L, B\] = \[5, 3\], got \[3, 5\]"),
        (
            (pack_sequence([x[:, 0]]), None, torch.zeros(L, 1)),
            "mask_pad must be None beside a PackedSequence",
        ),
    ],
)
def test_a_call_names_what_is_wrong(arguments, named):
    rnn = SRU(d, d, bidirectional=True)
    with pytest.raises(ValueError, match=named):
        rnn(*arguments)
    rnn.nn_rnn_compatible_return = True
    with pytest.raises(ValueError, match=r"= \[2, 3, 8\] or \[4, 3, 4\], got \[3, 4\]"):
        rnn(x, torch.zeros(B, d))


@pytest.mark.parametrize(
    "options", [{}, {"layer_norm": True}, {"proj_input_to_hidden_first": True}], ids=str
)
def test_padding_reaches_no_gradient(options):
    """NaN times a gradient of 0 is NaN."""
    rnn = SRU(3, d, bidirectional=True, **options)
    x, mask_pad = torch.randn(L, B, 3), torch.zeros(L, B)
    mask_pad[3:, 1] = 1
    found = []
    for filling in (0.0, torch.nan):
        rnn.zero_grad()
        filled = x.masked_fill(mask_pad[:, :, None] == 1, filling)
        h, c = rnn(filled, mask_pad=mask_pad)
        (h.square().sum() + c.sum()).backward()
        found.append([h, c, *(p.grad for p in rnn.parameters())])
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_cell_names_what_is_wrong():
    cell = SRUCell(d, d)
    with pytest.raises(ValueError, match=r"c0 must be \[B, D\] = \[3, 4\], got \[1, 3, 4\]"):
        cell(x, torch.zeros(1, B, d))
    with pytest.raises(ValueError, match=r"input must be .* or \[B, input_size\] with .*\[4\]"):
        cell(x[0, 0])


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (lambda x: x, r"custom_m's U must be \[L, B, 3 D\] = \[5, 3, 12\], got \[5, 3, 4\]"),
        (lambda x: (x.repeat(1, 1, 3), x), r"custom_m's V must be .* = \[5, 3, 8\], got"),
        (lambda x: (x, x, x), "custom_m must return a tensor U or a pair U, V, got 3 of them"),
        (lambda x: None, "custom_m must return a tensor U or a pair U, V, got NoneType"),
    ],
)
def test_what_a_custom_module_returns_is_checked(returned, named):
    class Module(nn.Module):
        def reset_parameters(self):
            pass

        def forward(self, x):
            return returned(x)

    with pytest.raises(ValueError, match=named):
        SRU(d, d, custom_m=Module())(x)


def test_repr_names_the_options():
    text = repr(SRU(d, d, 2, bidirectional=True, use_tanh=True, highway_bias=-2, dropout=0.1))
    for part in ("num_layers=2", "bidirectional=True", "activation=tanh", "highway_bias=-2", "0.1"):
        assert part in text
