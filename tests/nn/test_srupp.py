"""SRU++ against a loop written out: query by query, key by key, in float64."""

import math
from itertools import pairwise

import pytest
import torch
from tests.nn.loops import make_bounds, make_mask
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from torchsru import SRUpp
from torchsru.nn import attention
from torchsru.nn.attention import Attention, Projection
from torchsru.ops.sru.reference import sru_reference

L, B, I, D, P, M = 7, 3, 5, 6, 4, 3  # noqa: E741


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(layers=2, *, sizes=(I, D, P), **options):
    """A float64 stack off its starting point, where attention is switched off."""
    rnn = SRUpp(*sizes, layers, **{"memory_length": M, "dtype": torch.float64} | options)
    for name, p in rnn.named_parameters():
        nn.init.uniform_(p, 0.5, 1.5) if "norm.weight" in name else nn.init.normal_(p)
    return rnn


def draw(*sizes, dtype=torch.float64):
    return torch.randn(*sizes, dtype=dtype)


def close(got, want, **tolerance):
    torch.testing.assert_close(got, want, **tolerance)


def row(state, i):
    """Row i of a state, as an unbatched one."""
    return tree_map(lambda leaf: leaf[:, i], state)


def start_like(rnn, x, **given):
    """A state with random numbers in the place of every number, as full as it gets."""
    _, state = rnn(x, **given)
    lengths = state.get("length")
    state = tree_map(lambda t: torch.randn_like(t) if t.is_floating_point() else t, state)
    return state if lengths is None else state | {"length": torch.full_like(lengths, M)}


# ---- the definition ------------------------------------------------------------------------------


def softmax_by_hand(q, keys, values, heads):
    """q [P] over keys and values, lists of [P] -> [P]."""
    parts = []
    for q_h, *kv in zip(q.chunk(heads), *(t.chunk(heads) for t in (*keys, *values)), strict=True):
        k, v = kv[: len(keys)], kv[len(keys) :]
        scores = [math.sqrt(1 / len(q_h)) * (q_h * k_j).sum() for k_j in k]
        top = max(score.item() for score in scores)
        weights = [(score - top).exp() for score in scores]
        total = sum(weights)
        parts.append(sum(w / total * v_j for w, v_j in zip(weights, v, strict=True)))
    return torch.cat(parts)


def transform_by_hand(cell, xs, past, band, context):
    """u of each step of one sequence, xs a list of [F]; past: inputs before it, oldest first."""
    t = cell.transform
    pre = cell.norm if cell.layer_norm == "pre" else nn.Identity()
    norm = t.norm if t.norm is not None else nn.Identity()
    if isinstance(t, Projection) and not isinstance(t, Attention):
        return [t.expand.weight @ norm(t.project.weight @ pre(x)) for x in xs]
    zs = [t.project.weight @ pre(x) for x in [*past, *xs]]
    inner = [norm(z) for z in zs] if t.layer_norm == "pre" else zs
    keys = [t.key_value.weight[:P] @ z for z in inner]
    values = [t.key_value.weight[P:] @ z for z in inner]
    us = []
    for i in range(len(past), len(zs)):
        first = max(0, i - cell.memory_length) if band else 0
        last = i + 1 if cell.causal else len(zs)
        y = zs[i] + t.alpha * softmax_by_hand(
            inner[i], keys[first:last], values[first:last], cell.num_heads
        )
        if context:
            w_k, w_v = t.context_key_value.weight.chunk(2)
            y = y + t.context_alpha * softmax_by_hand(
                inner[i], [w_k @ c for c in context], [w_v @ c for c in context], cell.num_heads
            )
        us.append(t.expand.weight @ (norm(y) if t.layer_norm == "post" else y))
    return us


def layer_by_hand(cell, xs, c0, past, band, context):
    """Outputs [L, D] and c [n, d] of one sequence."""
    us = transform_by_hand(cell, xs, past, band, context)
    k, n, D = cell.num_matrices, cell.num_directions, cell.output_size
    u = torch.stack(us).view(len(xs), 1, k, D)
    x = torch.stack(xs)[:, None] if k == 3 else None
    h, c = sru_reference(
        u, x, cell.weight_c, cell.bias, c0.reshape(1, D), num_directions=n, alpha=cell.alpha
    )
    h = cell.norm(h) if cell.layer_norm == "post" else h
    return list(h[:, 0]), c.view(n, -1)


def by_hand(rnn, x, state, band, mask=None, bounds=None, context=None, context_mask=None):
    """What `rnn(x, state)` must give for a training state: outputs, c, inputs to remember."""
    steps, rows, _ = x.shape
    if bounds is None:
        places = [
            [(t, b) for t in range(steps) if mask is None or not mask[t, b]] for b in range(rows)
        ]
    else:
        places = [[(t, 0) for t in range(a, b)] for a, b in pairwise(bounds.tolist())]
    out = [[x.new_zeros(rnn.output_size) for _ in range(rows)] for _ in range(steps)]
    n, cs, remembered = rnn.num_directions, [], []
    for r, place in enumerate(places):
        xs, attended = [x[t, b] for t, b in place], 0
        for i, cell in enumerate(rnn.layers):
            c0 = state["c"][i * n : (i + 1) * n, r]
            past, own = [], None
            if cell.attention:
                if "inputs" in state:
                    filled = int(state["length"][0, r])
                    past = list(state["inputs"][attended][rnn.memory_length - filled :, r])
                attended += 1
                if context is not None:
                    own = [c for s, c in enumerate(context[:, r]) if not context_mask[s, r]]
            remembered.append((r, i, [*past, *xs][-rnn.memory_length :]))
            if xs:
                xs, c0 = layer_by_hand(cell, xs, c0, past, band, own)
            cs.append(((i, r), c0))
        for (t, b), h in zip(place, xs, strict=True):
            out[t][b] = h
    c = torch.cat([torch.stack([c for (i, _), c in cs if i == layer], 1)
                   for layer in range(len(rnn.layers))])  # fmt: skip
    return torch.stack([torch.stack(step) for step in out]), c, remembered


def results(outputs, leaves):
    """Outputs and the gradients of leaves, from random gradients of the outputs."""
    rng = torch.Generator().manual_seed(4)
    seeds = [torch.randn(o.shape, generator=rng, dtype=o.dtype) for o in outputs]
    grads = torch.autograd.grad(outputs, leaves, seeds, allow_unused=True, materialize_grads=True)
    return [o.detach() for o in outputs], grads


def check(shape=(L, B), sequences="rows", train=True, with_state=True, context=False, **options):
    """Values and all gradients of a stack, in training or evaluation, against the loop."""
    steps, rows = shape
    rows = 1 if sequences == "documents" else rows
    rnn = make(context_size=2 if context else 0, **options).train(train)
    mask = make_mask(steps, rows) if sequences == "mask" else None
    bounds = make_bounds(steps) if sequences == "documents" else None
    R = rows if bounds is None else len(bounds) - 1
    x = draw(steps, rows, rnn.input_size).requires_grad_()
    state = {"c": draw(rnn.num_layers * rnn.num_directions, R, D).requires_grad_()}
    attentive = [layer for layer in rnn.layers if layer.attention]
    if with_state and rnn.memory_length and attentive:
        length = torch.randint(rnn.memory_length + 1, (1, R))
        length[0, 0], length[0, -1] = rnn.memory_length, 0
        empty = torch.arange(-rnn.memory_length, 0)[:, None] < -length
        state["length"] = length
        state["inputs"] = [
            draw(rnn.memory_length, R, layer.input_size).masked_fill(empty[:, :, None], 0)
            for layer in attentive
        ]
    leaves = [x, state["c"], *rnn.parameters()]
    given, extra = dict(state), {}
    if context:
        encoded, context_mask = draw(4, R, 2).requires_grad_(), torch.rand(4, R) < 0.4
        context_mask[0] = False
        given = rnn.attend_to(encoded, context_mask, given)
        leaves.append(encoded)
        extra = {"context": encoded, "context_mask": context_mask}
    h, end = rnn(x, given, mask=mask, cu_seqlens=bounds)
    band = rnn.memory_length and (not train if rnn.same_length is None else rnn.same_length)
    want_h, want_c, remembered = by_hand(rnn, x, state, band, mask, bounds, **extra)
    close(results((h, end["c"]), leaves), results((want_h, want_c), leaves))
    if "length" not in end:
        return
    index = {i: a for a, i in enumerate(i for i, c in enumerate(rnn.layers) if c.attention)}
    for r, i, inputs in remembered:
        if i not in index:
            continue
        assert end["length"][0, r] == len(inputs)
        if train:
            slots = end["inputs"][index[i]][:, r]
            empty = len(slots) - len(inputs)
            assert not slots.requires_grad and not slots[:empty].any()
            close(slots[empty:], torch.stack(inputs) if inputs else slots[empty:])


SEQUENCES = ["rows", "mask", "documents"]
every_layout = pytest.mark.parametrize("sequences", SEQUENCES)
both_modes = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])


@pytest.mark.parametrize("with_state", [False, True])
@both_modes
@every_layout
def test_matches_the_loop(sequences, train, with_state):
    check(sequences=sequences, train=train, with_state=with_state)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (13, 2)], ids=str)
@both_modes
@every_layout
def test_matches_the_loop_at_other_lengths(sequences, train, shape):
    check(shape, sequences, train)


@pytest.mark.parametrize(
    "options",
    [
        {"num_heads": 2},
        {"num_heads": 4, "memory_length": 1},
        {"memory_length": 0},
        {"attention_layer_norm": "pre"},
        {"attention_layer_norm": None},
        {"layer_norm": "pre"},
        {"layer_norm": "post"},
        {"rescale": True, "highway_bias": -1.0},
        {"same_length": True},
        {"same_length": False},
        {"attention_every_n_layers": 2},
        {"attention_last_n_layers": 1, "layers": 3},
        {"attention_last_n_layers": 0},
        {"sizes": (D, D, P), "layers": 1},
        {"causal": False, "memory_length": 0},
        {"context": True},
        {"context": True, "num_heads": 2, "attention_layer_norm": "pre"},
    ],
    ids=str,
)
@both_modes
@every_layout
def test_matches_the_loop_over_the_options(sequences, train, options):
    check((5, 2), sequences, train, **options)


@pytest.mark.parametrize("context", [False, True])
@both_modes
@every_layout
def test_bidirectional_matches_the_loop(sequences, train, context):
    check((5, 2), sequences, train, bidirectional=True, memory_length=0, context=context)


def spoil(monkeypatch, **changes):
    """Let every call see something else than it should."""
    real = attention.look

    def look(*arguments, **options):
        return real(*arguments, **options | changes)

    monkeypatch.setattr("torchsru.nn.srupp.look", look)


@pytest.mark.parametrize(
    ("changes", "train"),
    [({"causal": False}, True), ({"band": True}, True), ({"band": False}, False)],
    ids=str,
)
def test_the_check_can_fail(monkeypatch, changes, train):
    spoil(monkeypatch, **changes)
    with pytest.raises(AssertionError, match="not close"):
        check(train=train)


def test_the_check_can_fail_for_a_mask_aligned_to_the_upper_left(monkeypatch):
    """With memory, the causal mask belongs in the lower right corner."""
    real = F.scaled_dot_product_attention

    def upper_left(q, k, v, visible=None, *rest, **options):
        causal = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        return real(q, k, v, causal, *rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", upper_left)
    check(with_state=False)  # the same without memory
    with pytest.raises(AssertionError, match="not close"):
        check()
