"""SSRU against a plain loop of its paper's equations.

PyPI has one in PyTorch, in `sockeye` 3.1.34, which can't be installed beside today's: it asks for
torch < 1.14 and numpy < 2. Its layer alone, put on the path by hand, agreed with ours in float64.
"""

import pytest
import torch
from tests.nn.loops import SHAPES, B, D, I, L, blocks, both_ways, check, every_layout

from torchsru.nn import SSRU


def one(rnn, layer, q, xs, c, swap=False):
    W, _ = blocks(layer, rnn, q)
    b = layer.bias.view(rnn.num_directions, -1)[q]
    hs = []
    for x in xs:
        f = torch.sigmoid(W[1] @ x + b)
        f = 1 - f if swap else f
        c = f * c + (1 - f) * (W[0] @ x)
        hs.append(torch.relu(c))
    return hs, c


@both_ways
@every_layout
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_loop(shape, sequences, bidirectional):
    check(SSRU, one, shape, sequences, bidirectional=bidirectional)


def test_the_check_can_fail():
    with pytest.raises(AssertionError, match="not close"):
        check(SSRU, lambda *args: one(*args, swap=True))


def test_outputs_are_not_negative_but_states_may_be():
    torch.manual_seed(0)
    h, c = SSRU(I, D)(torch.randn(L, B, I))
    assert h.min() == 0 and c.min() < 0


def test_parameters_are_the_papers():
    """No bias on the candidate."""
    shapes = {name: tuple(t.shape) for name, t in SSRU(I, D).state_dict().items()}
    assert shapes == {"layers.0.transform.weight": (2 * D, I), "layers.0.bias": (D,)}
