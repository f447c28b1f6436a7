"""What the benchmark puts beside each other computes one thing."""

import pytest
import torch

from torchsru.bench import cases
from torchsru.bench.cases import Shape
from torchsru.bench.networks import UNEQUAL, Where, make_unequal

SHAPE = Shape(L=8, B=3, d=4, layers=2, bidirectional=True)
WHERE = Where(torch.float64, "cpu")


@pytest.mark.parametrize(
    ("padded", "packed"),
    [
        (cases.PADDED_SRU, cases.PACKED_SRU),
        (cases.PADDED_LSTM, cases.PACKED_LSTM),
        (cases.PADDED_GRU, cases.PACKED_GRU),
    ],
)
def test_padded_and_packed_rows_give_one_result(padded, packed):
    one, other = (make_unequal(name, SHAPE, WHERE) for name in (padded, packed))
    other.module.load_state_dict(one.module.state_dict())
    other.x.copy_(one.x)
    torch.testing.assert_close(one.output(), other.output())
    (lengths_B,) = {tuple((n.output() != 0).any(2).sum(0).tolist()) for n in (one, other)}
    assert lengths_B == (2, 5, 8)  # a quarter of L to L


@pytest.mark.parametrize("name", UNEQUAL)
def test_a_step_gives_all_gradients(name):
    network = make_unequal(name, SHAPE, WHERE)
    grads = network.training_step()()
    assert len(grads) == 1 + len(list(network.module.parameters()))
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in grads)
