"""minGRU against a plain loop of its paper's equations, and against the package on PyPI."""

import pytest
import torch
from tests.nn.loops import SHAPES, B, D, I, L, blocks, both_ways, check, every_layout
from tests.oracles import require

from torchsru.nn import MinGRU


def one(rnn, layer, q, xs, h, swap=False):
    W, b = blocks(layer, rnn, q)
    hs = []
    for x in xs:
        candidate = W[0] @ x + b[0]
        if rnn.positive:
            candidate = torch.stack([v + 0.5 if v >= 0 else torch.sigmoid(v) for v in candidate])
        z = torch.sigmoid(W[1] @ x + b[1])
        z = 1 - z if swap else z
        h = (1 - z) * h + z * candidate
        hs.append(h)
    return hs, h


@both_ways
@every_layout
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_loop(shape, positive, sequences, bidirectional):
    check(MinGRU, one, shape, sequences, positive=positive, bidirectional=bidirectional)


def test_the_check_can_fail():
    with pytest.raises(AssertionError, match="not close"):
        check(MinGRU, lambda *args: one(*args, swap=True))


def test_equals_the_package():
    """minGRU-pytorch computes in log space: positive states, one bias-free layer."""
    require("minGRU_pytorch", "minGRU-pytorch")
    import minGRU_pytorch as package

    torch.manual_seed(0)
    theirs = package.minGRU(D).double()
    ours = MinGRU(D, D, positive=True, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        ours.layers[0].transform.weight.copy_(theirs.to_hidden_and_gate.weight)
    x = torch.randn(B, L, D, dtype=torch.float64)
    h, state = ours(x)
    want, last = theirs(x, return_next_prev_hidden=True)
    torch.testing.assert_close((h, state[0]), (want, last[:, 0]))
    more = torch.randn(B, 4, D, dtype=torch.float64)
    torch.testing.assert_close(ours(more, state)[0], theirs(more, last))
    torch.testing.assert_close(ours.step(x[:, 0], state)[0], theirs(x[:, :1], last)[:, 0])


def test_positive_states_stay_positive():
    torch.manual_seed(0)
    x = 5 * torch.randn(L, B, I)
    assert MinGRU(I, D, positive=True)(x)[0].min() > 0 > MinGRU(I, D)(x)[0].min()
