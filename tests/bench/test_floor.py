"""Floors, by hand."""

from dataclasses import replace

import pytest
import torch

from torchsru.bench.cases import CONV, CONV2, GRU, LSTM, QRNN, SRU, Shape
from torchsru.bench.floor import (
    COPY_BANDWIDTH,
    Work,
    gemms_work,
    layers_work,
    product_name,
    recurrence_backward_bytes,
    recurrence_bytes,
)

SHAPE = Shape(L=10, B=2, d=8)  # N = 20
CEILINGS = {COPY_BANDWIDTH: 1000.0, "rate": 100.0}


def test_bytes_of_the_recurrence():
    values = 10 * 2 * 8
    # reads u (3) and x, writes h; c in float32; backward reads gh, u, x, c and writes gu, gx
    assert recurrence_bytes(SHAPE, torch.float32, keep=False) == values * 5 * 4
    assert recurrence_bytes(SHAPE, torch.float32, keep=True) == values * 6 * 4
    assert recurrence_bytes(SHAPE, torch.bfloat16, keep=True) == values * (5 * 2 + 4)
    assert recurrence_backward_bytes(SHAPE, torch.float32) == values * 10 * 4
    assert recurrence_backward_bytes(SHAPE, torch.bfloat16) == values * (9 * 2 + 4)


def test_a_layer_is_its_products_and_its_recurrence():
    work = layers_work(SRU, SHAPE, torch.float32, training=False)
    assert work.products == ((20, 24, 8),)
    assert work.moved_bytes == recurrence_bytes(SHAPE, torch.float32, keep=False)
    work = layers_work(SRU, SHAPE, torch.bfloat16, training=True)
    assert work.products == ((20, 24, 8), (20, 8, 24), (24, 8, 20))
    both = recurrence_bytes(SHAPE, torch.bfloat16, keep=True)
    assert work.moved_bytes == both + recurrence_backward_bytes(SHAPE, torch.bfloat16)


def test_layers_directions_and_a_fourth_matrix():
    shape = replace(SHAPE, layers=2, bidirectional=True, input_size=12)
    work = layers_work(SRU, shape, torch.float32, training=False)
    assert work.products == ((20, 4 * 16, 12), (20, 3 * 16, 16))


@pytest.mark.parametrize(
    ("name", "operations"),
    [(LSTM, 4 * 64 * 2), (GRU, 3 * 64 * 2), (QRNN, 3 * 64), (CONV2, 2 * 64), (CONV, 3 * 64)],
)
def test_operations_of_others(name, operations):
    work = layers_work(name, SHAPE, torch.float32, training=False)
    assert sum(m * n * k for m, n, k in work.products) == 20 * operations


def test_a_product_takes_its_operations_or_its_bytes():
    busy = Work(((10, 10, 10),), 0, 1)  # 2000 operations, 300 bytes
    assert busy.floor_s(CEILINGS, "rate") == pytest.approx(20)
    thin = Work(((1000, 1, 1),), 500, 1)  # 2000 operations, 2001 bytes; and 500 more
    fast = {**CEILINGS, "rate": 1e6}
    assert thin.floor_s(fast, "rate") == pytest.approx(2.001 + 0.5)


def test_without_a_ceiling_there_is_no_floor():
    work = gemms_work(SHAPE, torch.float32, training=True)
    assert work.floor_s({}, "rate") is None
    assert work.floor_s({COPY_BANDWIDTH: 1.0}, "rate") is None
    assert Work((), 10, 4).floor_s({COPY_BANDWIDTH: 5.0}, "rate") == 2
    assert layers_work("another", SHAPE, torch.float32, training=False) is None


def test_tf32_is_a_rate_of_its_own():
    assert product_name("float32", True) != product_name("float32")
    assert product_name("bfloat16", True) == product_name("bfloat16")
