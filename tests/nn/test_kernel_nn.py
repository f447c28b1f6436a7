"""KernelNN against a plain loop of its paper's equations, and against the kernel it computes."""

from itertools import combinations

import pytest
import torch
from tests.nn.loops import SHAPES, B, D, I, L, blocks, both_ways, check, every_layout

from torchsru.nn import KernelNN


def one(rnn, layer, q, xs, c, late=False):
    """c [J, d]; `late` reads the order below after its step, not before."""
    W, _ = blocks(layer, rnn, q)
    bias = 0 if layer.bias is None else layer.bias.view(rnn.num_directions, -1)[q]
    hs = []
    for x in xs:
        if rnn.decay == "gate":
            lam = torch.sigmoid(W[-1] @ x + bias)
        elif rnn.decay == "learned":
            lam = torch.sigmoid(bias)
        else:
            lam = rnn.decay
        new = []
        for j in range(rnn.order):
            b = W[j] @ x
            if j:
                below = new[j - 1] if late else c[j - 1]
                b = below + b if rnn.additive else below * b
            new.append(lam * c[j] + (1 - lam) * b)
        c = torch.stack(new)
        hs.append(torch.tanh(c[-1]))
    return hs, c


@both_ways
@every_layout
@pytest.mark.parametrize("decay", [0.4, "learned", "gate"])
@pytest.mark.parametrize("additive", [False, True])
def test_equals_the_loop(additive, decay, sequences, bidirectional):
    check(KernelNN, one, sequences=sequences, decay=decay, additive=additive, order=3,
          bidirectional=bidirectional)  # fmt: skip


@every_layout
@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_orders_and_shapes(shape, order, sequences):
    check(KernelNN, one, shape, sequences, order=order)


def test_the_check_can_fail():
    with pytest.raises(AssertionError, match="not close"):
        check(KernelNN, lambda *args: one(*args, late=True))


def test_its_state_counts_ngrams_with_gaps():
    """c^2 after the last step sums over all pairs s < t of steps, decayed by the gaps between."""
    torch.manual_seed(0)
    lam = 0.7
    rnn = KernelNN(I, D, decay=lam, dtype=torch.float64)
    W1, W2 = rnn.layers[0].transform.weight.chunk(2)
    x = torch.randn(L, I, dtype=torch.float64)
    want = sum(
        lam ** (L - 2 - s) * (1 - lam) ** 2 * (W1 @ x[s]) * (W2 @ x[t])
        for s, t in combinations(range(L), 2)
    )
    _, state = rnn(x)
    assert state.shape == (1, 2, D)
    torch.testing.assert_close(state[0, 1], want)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan"), "gated", None, True])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match=r"decay must be a number in \[0, 1\) or one of .*, got "):
        KernelNN(I, D, decay=decay)


def test_bad_order_and_state():
    with pytest.raises(ValueError, match="order must be a positive integer, got 0"):
        KernelNN(I, D, order=0)
    rnn, x = KernelNN(I, D, order=3), torch.zeros(L, B, I)
    message = r"state must be \[layers \* directions, batch, order, hidden_size\] = \[1, 3, 3, 6\]"
    with pytest.raises(ValueError, match=message):
        rnn(x, torch.zeros(1, B, 2, D))
    with pytest.raises(TypeError, match="state must be one tensor, got tuple"):
        rnn(x, (torch.zeros(1, B, 3, D),))
