"""QRNN against a plain loop of its paper's equations.

No package on PyPI offers a QRNN for today's PyTorch (`qrnn` is TensorFlow's, `torchqrnn` isn't
there and compiles CUDA through cupy), so the well-known code's conventions are spelled out here.
"""

import pytest
import torch
from tests.nn.loops import SHAPES, B, D, I, L, blocks, both_ways, check, every_layout
from torch import nn

from torchsru.nn import QRNN, SRU

sigmoid, tanh = torch.sigmoid, torch.tanh


def one(rnn, layer, q, xs, c, before=None):
    """The equations of section 2 of the paper, a step at a time."""
    W, b = blocks(layer, rnn, q)
    hs = []
    for x in xs:
        seen = x if rnn.window == 1 else torch.cat([x, before])
        u = [W[k] @ seen + b[k] for k in range(len(W))]
        z, f = tanh(u[0]), sigmoid(u[1])
        if rnn.zoneout:  # evaluation
            f = 1 - (1 - rnn.zoneout) * (1 - f)
        i = 1 - f
        if rnn.pooling == "ifo":
            i = sigmoid(u[3]) * (1 - rnn.zoneout)
        c = f * c + i * z
        h = c
        if rnn.pooling != "f":
            o = sigmoid(u[2])
            h = o * c
            if rnn.highway:
                same = len(x) == rnn.output_size
                h = h + (1 - o) * (x.view(-1, rnn.hidden_size)[q] if same else u[-1])
        hs.append(h)
        before = x
    return (hs, c) if rnn.window == 1 else (hs, c, before)


def swapped(rnn, layer, q, xs, c, before=None):
    """The forget gate taken for the input gate."""
    flipped = nn.Module()
    flipped.transform = nn.Module()
    signs = torch.ones(layer.matrices, 1, dtype=torch.float64)
    signs[1] = -1
    rows = signs.repeat_interleave(layer.channels, 0)
    flipped.transform.weight = nn.Parameter(layer.transform.weight * rows)
    flipped.transform.bias = nn.Parameter(layer.transform.bias * rows[:, 0])
    return one(rnn, flipped, q, xs, c, *(() if before is None else (before,)))


@both_ways
@every_layout
@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
@pytest.mark.parametrize("window", [1, 2])
def test_equals_the_loop(window, pooling, sequences, bidirectional):
    check(QRNN, one, sequences=sequences, window=window, pooling=pooling,
          bidirectional=bidirectional)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pooling", ["fo", "ifo"])
@pytest.mark.parametrize("window", [1, 2])
@both_ways
def test_highway_equals_the_loop(bidirectional, window, pooling, shape):
    """With and without a block of its own: input and output sizes agree in some layers."""
    check(QRNN, one, shape, window=window, pooling=pooling, highway=True,
          bidirectional=bidirectional)  # fmt: skip


def evaluated(*args, **options):
    return QRNN(*args, **options).eval()


@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
def test_zoneout_in_evaluation_is_its_expectation(pooling):
    check(evaluated, one, pooling=pooling, zoneout=0.3, window=2)


@pytest.mark.parametrize(("window", "sequences"), [(1, "rows"), (2, "documents")])
def test_the_check_can_fail(window, sequences):
    with pytest.raises(AssertionError, match="not close"):
        check(QRNN, swapped, window=window, sequences=sequences)


def test_the_check_sees_a_step_before_of_another_document(monkeypatch):
    from torchsru.nn import qrnn

    def leaking(x, start, mask, cu_seqlens, **options):
        before, last = qrnn_previous(x, None, None, None, **options)
        return before, last.expand(5, -1)

    qrnn_previous = qrnn.previous
    monkeypatch.setattr(qrnn, "previous", leaking)
    with pytest.raises(AssertionError, match="not close"):
        check(QRNN, one, window=2, sequences="documents")


# ---- zoneout in training -------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
def test_zoneout_keeps_the_state_of_some_channels(pooling):
    """Where it strikes, c_t = c_{t-1}; elsewhere nothing is changed or scaled."""
    p = 0.3
    torch.manual_seed(0)
    rnn = QRNN(I, 64, pooling=pooling, zoneout=p, dtype=torch.float64)
    x, c = torch.randn(1, 50, I, dtype=torch.float64), torch.randn(1, 50, 64, dtype=torch.float64)
    after = rnn(x, c)[1]
    plain = QRNN(I, 64, pooling=pooling, dtype=torch.float64)
    plain.load_state_dict(rnn.state_dict())
    expected = plain(x, c)[1]
    kept = after == c
    assert abs(kept.double().mean().item() - p) < 0.03
    torch.testing.assert_close(after[~kept], expected[~kept])


def test_zoneout_draws_anew_each_step():
    torch.manual_seed(0)
    rnn = QRNN(I, D, pooling="f", zoneout=0.5)
    h, _ = rnn(torch.randn(40, 1, I))
    still = h[1:] == h[:-1]
    assert 0.4 < still.float().mean() < 0.6 and still.any(0).all() and not still.all(0).any()


# ---- other code's conventions ------------------------------------------------------------------


def test_weights_of_the_authors_pytorch_code_convert():
    """Its linear layer has rows (candidate, gate, output), and its gate lets the *input* in:
    c = F z + (1 - F) c. Negating that block's rows makes it a forget gate."""
    torch.manual_seed(0)
    theirs = nn.Linear(2 * I, 3 * D, dtype=torch.float64)
    x = torch.randn(L, B, I, dtype=torch.float64)
    before = torch.cat([torch.zeros(1, B, I, dtype=torch.float64), x[:-1]])
    z, gate, o = theirs(torch.cat([x, before], -1)).chunk(3, dim=-1)
    c, want = torch.zeros(B, D, dtype=torch.float64), []
    for t in range(L):
        c = sigmoid(gate[t]) * tanh(z[t]) + (1 - sigmoid(gate[t])) * c
        want.append(sigmoid(o[t]) * c)

    rnn = QRNN(I, D, window=2, dtype=torch.float64)
    weights = {f"layers.0.transform.{name}": t.clone() for name, t in theirs.state_dict().items()}
    for t in weights.values():
        t[D : 2 * D].neg_()
    rnn.load_state_dict(weights)
    torch.testing.assert_close(rnn(x)[0], torch.stack(want))


def test_fo_with_highway_is_the_first_sru_but_for_its_tanh():
    """Shown where tanh does nothing: on a candidate near 0."""
    rnn, sru = QRNN(D, D, highway=True), SRU(D, D, state_weights=False, rescale=False)
    weights = sru.state_dict()
    weights["layers.0.transform.weight"][:D] *= 1e-3
    sru.load_state_dict(weights)
    rnn.layers[0].transform.weight.data.copy_(weights["layers.0.transform.weight"])
    x = torch.randn(L, B, D)
    torch.testing.assert_close(rnn(x)[0], sru(x)[0], rtol=1e-5, atol=1e-6)


# ---- options and states --------------------------------------------------------------------------


def test_states_of_window_two_hold_the_last_inputs():
    rnn = QRNN(I, D, 3, window=2)
    x = torch.randn(L, B, I)
    _, (c, *lasts) = rnn(x)
    assert c.shape == (3, B, D) and [tuple(t.shape) for t in lasts] == [(1, B, I), *2 * [(1, B, D)]]
    torch.testing.assert_close(lasts[0][0], x[-1])
    mask = torch.zeros(L, B, dtype=torch.bool)
    mask[4:, 1] = True
    torch.testing.assert_close(rnn(x, mask=mask)[1][1][0, 1], x[3, 1])


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ({"pooling": "f"}, 2), ({}, 3), ({"pooling": "ifo"}, 4), ({"highway": True}, 4),
        ({"highway": True, "input_size": D}, 3), ({"highway": True, "pooling": "ifo"}, 5),
    ],
)  # fmt: skip
def test_blocks_of_the_transform(options, blocks):
    rnn = QRNN(**{"input_size": I, "hidden_size": D, "window": 2} | options)
    assert rnn.layers[0].transform.weight.shape == (blocks * D, 2 * rnn.input_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 3}, "window must be 1 or 2, got 3"),
        ({"pooling": "fio"}, r"pooling must be one of \('f', 'fo', 'ifo'\), got 'fio'"),
        ({"pooling": "f", "highway": True}, "highway must be False with pooling 'f'"),
        ({"zoneout": 1.0}, r"zoneout must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        QRNN(I, D, **options)


def zeros(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        (zeros(2, B, D), TypeError, "state must be a tuple of .* 3 tensors, got Tensor"),
        ((zeros(2, B, D), zeros(1, B, I)), TypeError, "3 tensors, got 2"),
        ((zeros(2, B, D), zeros(1, B, I), None), TypeError, r"state\[2\] must be a tensor, got No"),
        (
            (zeros(2, B, D), zeros(1, B, I), zeros(1, B, I)), ValueError,
            r"state\[2\] must be \[directions, batch, features\] = \[1, 3, 6\], got \[1, 3, 5\]",
        ),
        (
            (zeros(1, B, D), zeros(1, B, I), zeros(1, B, D)), ValueError,
            r"state\[0\] must be .* = \[2, 3, 6\], got \[1, 3, 6\]",
        ),
    ],
)  # fmt: skip
def test_bad_states_of_window_two(state, kind, message):
    with pytest.raises(kind, match=message):
        QRNN(I, D, 2, window=2)(torch.zeros(L, B, I), state)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_hook_on_the_transform_is_called(bidirectional, window):
    rnn = QRNN(I, D, window=window, bidirectional=bidirectional, dtype=torch.float64)
    x = torch.randn(L, B, I, dtype=torch.float64)
    rnn.layers[0].transform.register_forward_hook(lambda module, inputs, out: 2 * out)
    hooked = rnn(x)
    rnn.layers[0].transform._forward_hooks.clear()
    with torch.no_grad():
        for p in rnn.parameters():
            p *= 2
    torch.testing.assert_close(hooked, rnn(x))
