"""The floor of a row: what no implementation on this machine can go below.

    floor = bytes that must move / copy bandwidth + the matrix products' own time

A product takes its operations at the rate of a large square product, or its bytes at copy
bandwidth, whichever is longer. Both ceilings are measured in the same run (the case "ceilings"),
bytes read and written both counted. What fits in a cache can be faster than this floor: copy
bandwidth is the memory's.

Letters: L time steps, B batch rows, N = L B, F input features, d hidden size per direction,
D = d times directions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from torchsru.bench.cases import CONV, CONV2, GRU, LSTM, ORIGINAL, QRNN, SRU, Shape

#: Elements of the buffer that is copied and longest side of the square product, by device.
COPY_ELEMENTS = {"cpu": 2**26, "cuda": 2**29}
PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
PRODUCT_S = 0.5  # no longer: in a type that a processor lacks the longest side would take minutes

EMULATED = 20  # times slower than float32's: products of a type that the processor lacks

COPY_BANDWIDTH = "copy bandwidth"


def product_name(dtype: str, tf32: bool = False) -> str:
    """The variant of the case "ceilings" that measures a product's rate."""
    return f"product, {dtype}{' with TF32' if tf32 and dtype == 'float32' else ''}"


def emulated(rates: dict[str, float]) -> dict[str, float]:
    """The types whose products are EMULATED times slower than float32's, or more: how many times.

    Args:
        rates: operations/s by `product_name`.
    """
    usual, rate = (rates.get(product_name(dtype)) for dtype in ("float32", "bfloat16"))
    if not usual or not rate or usual < EMULATED * rate:
        return {}
    return {"bfloat16": usual / rate}


@dataclass(frozen=True)
class Work:
    """What a call must do.

    Attributes:
        products: m, n, k of each matrix product.
        moved_bytes: read and written outside of the products.
        element_bytes: of an entry of the products.
    """

    products: tuple[tuple[int, int, int], ...]
    moved_bytes: int
    element_bytes: int

    def floor_s(self, ceilings: dict[str, float], product: str) -> float | None:
        """Seconds, or None where a ceiling was not measured.

        Args:
            ceilings: bytes/s and operations/s by name.
            product: name of the products' rate.
        """
        copy, rate = ceilings.get(COPY_BANDWIDTH), ceilings.get(product)
        if copy is None or (rate is None and self.products):
            return None
        products_s = 0.0
        for m, n, k in self.products:
            bytes_s = self.element_bytes * (m * n + n * k + m * k) / copy
            assert rate is not None
            products_s += max(2 * m * n * k / rate, bytes_s)
        return products_s + self.moved_bytes / copy


def recurrence_bytes(shape: Shape, dtype: torch.dtype, *, keep: bool) -> int:
    """Bytes of SRU's forward pass: u and x (or u's fourth block) are read, h is written.

    keep: c of every step is written too, in float32 at least.
    """
    size, state = _sizes(dtype)
    values = shape.L * shape.B * shape.d * shape.directions
    return values * ((4 + 1) * size + (state if keep else 0))


def recurrence_backward_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """Bytes of its backward pass: gh, u, x and c are read, the gradients of u and x written."""
    size, state = _sizes(dtype)
    values = shape.L * shape.B * shape.d * shape.directions
    return values * ((1 + 4 + 4) * size + state)


def layers_work(name: str, shape: Shape, dtype: torch.dtype, *, training: bool) -> Work | None:
    """A whole network's work in one pass, or forward and backward with all gradients.

    None for a network whose work is not known here. Of a pass over time, what counts is
    pre-activations and highway read and outputs written, states too where they are kept.
    """
    size, state = _sizes(dtype)
    N, D, d = shape.L * shape.B, shape.d * shape.directions, shape.d
    products: list[tuple[int, int, int]] = []
    moved = 0
    for layer in range(shape.layers):
        F = D if layer else shape.features
        if name in (CONV, CONV2):
            products += _product(N, D, F * (3 if name == CONV else 2), training)
            continue
        if name in (LSTM, GRU):
            gates = 4 if name == LSTM else 3
            products += _product(N, gates * D, F, training)
            for _ in range(shape.directions):  # h_{t-1} U: not one product, but as many operations
                products += _product(N, gates * d, d, training)
            reads, outputs = gates, 1
        elif name in (SRU, ORIGINAL, QRNN):  # QRNN: pooling "fo", with highway
            products += _product(N, (3 if F == D else 4) * D, F, training)
            reads, outputs = 4, 1
        else:
            return None
        moved += N * D * (reads + outputs) * size
        if training:  # c written; then gh, what was read before and c read, gradients written
            moved += N * D * (state + (outputs + reads) * size + state + reads * size)
    return Work(tuple(products), moved, size)


def gemms_work(shape: Shape, dtype: torch.dtype, *, training: bool) -> Work:
    """SRU's matrix products alone."""
    work = layers_work(SRU, shape, dtype, training=training)
    assert work is not None
    return Work(work.products, 0, work.element_bytes)


def _product(m: int, n: int, k: int, training: bool) -> Iterable[tuple[int, int, int]]:
    """x W^T, and if training g W and g^T x."""
    return [(m, n, k), (m, k, n), (n, k, m)] if training else [(m, n, k)]


def _sizes(dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of a value and of a state."""
    return dtype.itemsize, torch.promote_types(dtype, torch.float32).itemsize
