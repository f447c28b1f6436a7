"""A stack against a plain loop: sequence by sequence, direction by direction, step by step.

A family brings its own loop of one layer in one direction over one sequence: `one(rnn, layer, q,
xs, *state) -> hs, *state`, xs and hs lists of [F] and [d] in the direction's own order. What is
here feeds it what the contract promises: the real steps of a row or document, and its states.
"""

from itertools import pairwise

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

L, B, I, D = 7, 3, 5, 6  # noqa: E741

SHAPES = [(1, 1, 1, 1), (L, B, I, D), (5, 2, 8, 4), (9, 2, 4, 4)]
SEQUENCES = ["rows", "mask", "documents"]
every_layout = pytest.mark.parametrize("sequences", SEQUENCES)
both_ways = pytest.mark.parametrize("bidirectional", [False, True])


def make_mask(L, B):
    """[L, B], True at padding, anywhere; of several rows the last is padding alone."""
    mask = torch.rand(L, B, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[0, 0], mask[:, 1:][:, -1:] = False, True
    return mask


def make_bounds(T):
    """Documents in T steps, the first, the third and the last empty."""
    return torch.tensor([0, 0, T // 3, T // 3, T, T])


def places(L, B, mask, bounds):
    """For each row or document, where its real steps stand: (steps, batch row)."""
    if bounds is not None:
        return [(list(range(a, b)), 0) for a, b in pairwise(bounds.tolist())]
    return [
        ([t for t in range(L) if mask is None or not mask[t, row]], row) for row in range(B)
    ]  # fmt: skip


def split(rnn, state):
    """A state as, for each layer and direction, the tuple of its tensors [R, ...]."""
    n = rnn.num_directions
    if isinstance(state, torch.Tensor):
        return [(leaf,) for leaf in state]
    c, *lasts = state
    return [(c[i], lasts[i // n][i % n]) for i in range(len(c))]


def join(rnn, pieces):
    """The inverse of `split`."""
    n = rnn.num_directions
    c = torch.stack([p[0] for p in pieces])
    if len(pieces[0]) == 1:
        return c
    lasts = [p[1] for p in pieces]
    return c, *(torch.stack(lasts[i : i + n]) for i in range(0, len(lasts), n))


def loop(rnn, one, x, state, mask=None, bounds=None):
    """What `rnn(x, state, mask=mask, cu_seqlens=bounds)` must be."""
    L, B, _ = x.shape
    n = rnn.num_directions
    out = [[x.new_zeros(rnn.output_size) for _ in range(B)] for _ in range(L)]
    ends = [[] for _ in range(rnn.num_layers * n)]
    starts = split(rnn, state)
    for row, (steps, b) in enumerate(places(L, B, mask, bounds)):
        xs = [x[t, b] for t in steps]
        for i, layer in enumerate(rnn.layers):
            halves = []
            for q in range(n):
                at = i * n + q
                in_order = xs if q == 0 else xs[::-1]
                hs, *end = one(rnn, layer, q, in_order, *(leaf[row] for leaf in starts[at]))
                halves.append(hs if q == 0 else hs[::-1])
                ends[at].append(end)
            xs = [torch.cat(step) for step in zip(*halves, strict=True)]
        for t, h in zip(steps, xs, strict=True):
            out[t][b] = h
    pieces = [tuple(torch.stack(leaf) for leaf in zip(*end, strict=True)) for end in ends]
    return torch.stack([torch.stack(step) for step in out]), join(rnn, pieces)


def start_like(state):
    """A random state of the same shapes."""
    return tree_map(lambda leaf: torch.randn_like(leaf.detach()), state)


def with_gradients(fn, leaves):
    """Outputs of fn() and the gradients of leaves, from random gradients of the outputs."""
    outputs = tree_leaves(fn())
    rng = torch.Generator().manual_seed(4)
    seeds = [torch.randn(o.shape, generator=rng, dtype=o.dtype) for o in outputs]
    grads = torch.autograd.grad(
        outputs, leaves, seeds, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return [o.detach() for o in outputs], grads


def check(make, one, shape=(L, B, I, D), sequences="rows", layers=2, **options):
    """Values and all gradients of a float64 stack against its loop, from a random state."""
    steps, rows, features, channels = shape
    rows = 1 if sequences == "documents" else rows
    torch.manual_seed(1)
    rnn = make(features, channels, layers, dtype=torch.float64, **options)
    for p in rnn.parameters():
        p.data.normal_()
    x = torch.randn(steps, rows, features, dtype=torch.float64, requires_grad=True)
    mask = make_mask(steps, rows) if sequences == "mask" else None
    bounds = make_bounds(steps) if sequences == "documents" else None
    state = start_like(rnn(x, mask=mask, cu_seqlens=bounds)[1])
    state = tree_map(lambda leaf: leaf.requires_grad_(), state)
    leaves = [x, *tree_leaves(state), *rnn.parameters()]
    got = with_gradients(lambda: rnn(x, state, mask=mask, cu_seqlens=bounds), leaves)
    want = with_gradients(lambda: loop(rnn, one, x, state, mask, bounds), leaves)
    torch.testing.assert_close(got, want)
    fresh = tree_map(torch.zeros_like, state)
    torch.testing.assert_close(
        rnn(x, mask=mask, cu_seqlens=bounds), rnn(x, fresh, mask=mask, cu_seqlens=bounds)
    )


def blocks(layer, rnn, q):
    """The transform's weight [k, d, columns] and bias [k, d] of direction q."""
    n = rnn.num_directions
    weight, bias = layer.transform.weight, layer.transform.bias
    k = weight.shape[0] // (n * rnn.hidden_size)
    weight = weight.view(k, n, rnn.hidden_size, -1)[:, q]
    return weight, None if bias is None else bias.view(k, n, -1)[:, q]
