"""SRU++ against a loop written out: query by query, key by key, in float64."""

import copy
import math
import pickle
from functools import partial
from itertools import pairwise

import pytest
import torch
from tests.nn.loops import make_bounds, make_mask
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves, tree_map

from torchsru import SRUpp, SRUppCell
from torchsru.nn import attention
from torchsru.nn.attention import Attention, Projection
from torchsru.nn.state import detach, reorder, reset
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


# ---- one stream ----------------------------------------------------------------------------------


CUTS = [[1] * 11, [4, 1, 6], [11], [0, 2, 9], [10, 1]]


@pytest.mark.parametrize("options", [{}, {"num_heads": 2, "attention_every_n_layers": 2}], ids=str)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_a_stream_may_be_cut_anywhere_in_evaluation(cuts, options):
    """Outputs, states and gradients of one pass, whatever the segments, to the last token."""
    rnn = make(**options).eval()
    x = draw(11, B, I).requires_grad_()
    h, end = rnn(x)
    pieces, state = [], None
    for part in x.split(cuts):
        piece, state = rnn(part, state)
        pieces.append(piece)
    close((torch.cat(pieces), state), (h, end))
    wrt = [x, *rnn.parameters()]
    close(
        torch.autograd.grad(torch.cat(pieces).square().sum(), wrt),
        torch.autograd.grad(h.square().sum(), wrt),
    )
    assert end["keys_values"][0].shape == (M, B, 2 * P) and int(end["length"].min()) == M


def test_nothing_older_than_the_memory_is_seen_in_evaluation():
    """One layer whose state is cut off: only attention carries anything."""
    rnn = make(1, sizes=(D, D, P)).eval()
    x = draw(9, 1, D)
    far, near = x.clone(), x.clone()
    far[9 - 2 - M], near[9 - 1 - M] = 9, 9  # one step too far for the last, and just in sight
    transform = partial(rnn.layers[0].transform, sight=rnn._look(x, {}, None, None))
    u, u_far, u_near = (transform(t)[0][-1] for t in (x, far, near))
    close(u_far, u, rtol=0, atol=0)
    assert not torch.allclose(u_near, u)


def test_padded_streams_may_be_cut_anywhere():
    rnn, mask = make().eval(), make_mask(11, B)
    x = draw(11, B, I).masked_fill(mask[:, :, None], float("nan"))
    h, end = rnn(x, mask=mask)
    for cut in (1, 5, 10):
        first, state = rnn(x[:cut], mask=mask[:cut])
        second, last = rnn(x[cut:], state, mask=mask[cut:])
        close((torch.cat([first, second]), last), (h, end))


def test_documents_may_be_cut_anywhere():
    rnn = make().eval()
    texts = [draw(n, I) for n in (5, 0, 6)]

    def call(parts, state=None):
        bounds = torch.tensor([0, *[len(p) for p in parts]]).cumsum(0)
        h, state = rnn(torch.cat(parts), state, cu_seqlens=bounds)
        return [h[a:b] for a, b in pairwise(bounds.tolist())], state

    whole, end = call(texts)
    first, state = call([texts[0][:1], texts[1], texts[2][:4]])
    second, last = call([texts[0][1:], texts[1], texts[2][4:]], state)
    close(([torch.cat(pair) for pair in zip(first, second, strict=True)], last), (whole, end))


def test_nothing_is_projected_twice_in_evaluation(monkeypatch):
    """Both matrices before attention see each step once; in training, what is remembered too."""
    rnn, seen = make(1).eval(), []
    transform = rnn.layers[0].transform
    for linear in (transform.project, transform.key_value):
        linear.register_forward_hook(lambda m, inputs, out: seen.append(len(out)))
    _, state = rnn(draw(4, B, I))
    rnn(draw(2, B, I), state)
    assert seen == [4, 4, 2, 2]
    seen.clear()
    rnn.train()
    _, state = rnn(draw(4, B, I))
    rnn(draw(2, B, I), state)
    assert seen == [4, 4, 2 + M, 2 + M]


def test_a_state_from_training_goes_into_evaluation():
    rnn, x = make(same_length=True), draw(11, B, I)
    whole, _ = rnn(x)
    h, state = rnn(x[:6])
    rnn.eval()
    more, end = rnn(x[6:], state)
    close(torch.cat([h, more]), whole)
    assert set(end) == {"c", "length", "keys_values"}
    rnn.train()
    with pytest.raises(ValueError, match="state must hold inputs in training, got keys_values"):
        rnn(x, end)


def test_the_memory_may_grow_after_training():
    """As the papers evaluate: trained with one length, tested with more."""
    rnn, more = make(), make(memory_length=8).eval()
    more.load_state_dict(rnn.state_dict())
    rnn.eval().memory_length = 8
    x = draw(11, B, I)
    close(rnn(x), more(x))
    assert [layer.memory_length for layer in rnn.layers] == [8, 8] and repr(rnn) == repr(more)
    with pytest.raises(ValueError, match=r"memory_length must be 0 .* got -1"):
        rnn.memory_length = -1


# ---- layouts and states --------------------------------------------------------------------------


@both_modes
def test_batch_first_and_unbatched_are_views_of_the_same(train):
    rnn = make(context_size=2).train(train)
    first = make(context_size=2, batch_first=True).train(train)
    first.load_state_dict(rnn.state_dict())
    x, mask = draw(L, B, I), make_mask(L, B)
    encoded, hidden = draw(4, B, 2), torch.rand(4, B) < 0.5
    state = start_like(rnn, x)
    given = rnn.attend_to(encoded, hidden, state)
    h, end = rnn(x, given, mask=mask)
    turned = first.attend_to(encoded.transpose(0, 1), hidden.t(), state)
    got, got_end = first(x.transpose(0, 1), turned, mask=mask.t())
    close((got.transpose(0, 1), got_end), (h, end))
    for i in range(B):
        for alike in (rnn, first):
            alone = alike.attend_to(encoded[:, i], hidden[:, i], row(state, i))
            got = alike(x[:, i], alone, mask=mask[:, i])
            close(got, (h[:, i], row(end, i)))


@both_modes
def test_packed_sequences_equal_one_by_one(train):
    rnn, lengths = make().train(train), [4, 7, 1, 4]
    xs = [draw(n, I) for n in lengths]
    state = start_like(rnn, draw(L, 4, I))
    packed, end = rnn(pack_sequence(xs, enforce_sorted=False), state)
    h, got_lengths = pad_packed_sequence(packed)
    assert got_lengths.tolist() == lengths
    for i, x in enumerate(xs):
        close((h[: lengths[i], i], row(end, i)), rnn(x, row(state, i)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bidirectional": True, "memory_length": 0},
        {"attention_every_n_layers": 2},
        {"attention_last_n_layers": 1},
    ],
)
@both_modes
def test_what_stands_at_padding_reaches_nothing(train, options):
    rnn, mask = make(**options).train(train), make_mask(L, B)
    x = draw(L, B, I).masked_fill(mask[:, :, None], float("nan")).requires_grad_()
    h, end = rnn(x, mask=mask)
    grads = torch.autograd.grad(h.square().sum(), [x, *rnn.parameters()])
    assert all(t.isfinite().all() for t in (h, *grads, *tree_leaves(end)))
    assert not h[mask].any() and not grads[0][mask].any()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_steps_are_the_sequence(batch_first, batched):
    rnn = make(batch_first=batch_first, context_size=2).eval()
    x = draw(*(9, B, I) if batched else (9, I))
    time = 1 if batched and batch_first else 0
    encoded = draw(*(4, B, 2) if batched else (4, 2)).movedim(0, time)
    state, hs = rnn.attend_to(encoded), []
    for x_t in x:
        h_t, state = rnn.step(x_t, state)
        hs.append(h_t)
    close((torch.stack(hs, time), state), rnn(x.movedim(0, time), rnn.attend_to(encoded)))


@both_modes
def test_helpers_of_states(train):
    """A row reset is a row started anew; rows reordered go on as they would have."""
    rnn, x, more = make().train(train), draw(L, 4, I), draw(2, 4, I)
    _, state = rnn(x)
    assert all(leaf.shape[1] == 4 for leaf in tree_leaves(state))
    h, end = rnn(more, state)
    fresh, fresh_end = rnn(more)
    marked = torch.tensor([False, True, False, True])
    got, got_end = rnn(more, reset(state, marked))
    picked = marked.nonzero()[:, 0]
    close((got[:, marked], reorder(got_end, picked)),
          (fresh[:, marked], reorder(fresh_end, picked)))  # fmt: skip
    close(got[:, ~marked], h[:, ~marked])
    assert not torch.allclose(h[:, marked], fresh[:, marked])
    rows = torch.tensor([2, 2, 0])
    close(rnn(more[:, rows], reorder(state, rows)), (h[:, rows], reorder(end, rows)))
    cut = detach(state)
    assert state["c"].requires_grad
    assert not any(leaf.requires_grad for leaf in tree_leaves(cut))
    close(rnn(more, cut)[0], h)


def test_a_context_is_kept_projected_and_may_be_exchanged():
    rnn, seen = make(context_size=2).eval(), []
    for layer in rnn.layers:
        layer.transform.context_key_value.register_forward_hook(lambda *a: seen.append(1))
    x, encoded = draw(L, B, I), draw(4, B, 2)
    whole, _ = rnn(x, rnn.attend_to(encoded))
    seen.clear()
    h, state = rnn(x[:3], rnn.attend_to(encoded))
    more, state = rnn(x[3:], state)
    close(torch.cat([h, more]), whole)
    assert len(seen) == 2 and set(state) >= {"context_keys_values", "context_mask"}
    other = rnn.attend_to(draw(2, B, 2), state=state)
    assert set(other) == {"c", "length", "keys_values", "context", "context_mask"}
    assert not torch.allclose(rnn(x, other)[0], rnn(x, state)[0])


def test_a_context_of_padding_is_none():
    rnn, x = make(context_size=2), draw(L, B, I)
    hidden = torch.zeros(4, B, dtype=torch.bool)
    hidden[:, 1] = True
    encoded = draw(4, B, 2).masked_fill(hidden[:, :, None], float("nan"))
    h, _ = rnn(x, rnn.attend_to(encoded, hidden))
    plain, _ = rnn(x)
    close(h[:, 1], plain[:, 1])
    assert h.isfinite().all() and not torch.allclose(h[:, 0], plain[:, 0])


def test_a_layer_alone_is_the_stack_of_one():
    rnn = make(1)
    cell = SRUppCell(I, D, P, memory_length=M, dtype=torch.float64)
    cell.load_state_dict(rnn.layers[0].state_dict())
    for mode in (True, False):
        x, state = draw(L, B, I), None
        rnn.train(mode), cell.train(mode)
        for _ in range(2):
            h, end = rnn(x, state)
            close(cell(x, state), (h, end))
            state = end
    close(cell.step(x[0], state), rnn.step(x[0], state))
    plain = SRUppCell(I, D, P, attention=False, dtype=torch.float64)
    h, state = plain(x)
    assert set(state) == {"c"} and type(plain.transform) is Projection
    close(torch.stack([h_t for h_t in stepped(plain, x)]), h)


def stepped(rnn, x):
    state = None
    for x_t in x:
        h_t, state = rnn.step(x_t, state)
        yield h_t


# ---- dropout, initial values, sizes --------------------------------------------------------------


def test_dropout_is_where_the_original_has_it():
    """Of what the last matrix sees, each number alone; of the state's way out, but in the last
    layer; of the attention's weights."""
    rnn, x = make(3, dropout=0.3, attention_dropout=0.0), draw(40, 20, I)
    assert [layer.state_dropout for layer in rnn.layers] == [0.3, 0.3, 0.0]
    seen = []
    for layer in rnn.layers:
        layer.transform.norm.register_forward_hook(lambda m, inputs, out: seen.append(out))
        layer.transform.expand.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    rnn(x)
    for before, after in zip(seen[::2], seen[1::2], strict=True):
        kept = after != 0
        close(after[kept], before[kept] / 0.7)
        assert abs(kept.double().mean().item() - 0.7) < 0.03
        assert 0 < kept.double().mean(0).min() < kept.double().mean(0).max() < 1  # not over time
    rnn.eval()
    plain = make(3)
    plain.load_state_dict(rnn.state_dict())
    close(rnn(x), plain.eval()(x), rtol=0, atol=0)


def test_attention_dropout_is_of_the_weights():
    rnn = make(1, attention_dropout=0.4, attention_layer_norm=None)
    x = draw(2, 400, I)
    h, _ = rnn(x)
    again, _ = rnn(x)
    close(rnn.eval()(x), rnn(x), rtol=0, atol=0)
    assert not torch.allclose(h, again)
    rnn.train()
    with torch.no_grad():
        rnn.layers[0].transform.alpha.zero_()
    close(rnn(x)[0], rnn.eval()(x)[0])  # nothing else drops


def test_initial_values_are_the_originals():
    rnn = SRUpp(300, 400, 100, 2, dropout=0.19)
    for layer, fan_in in zip(rnn.layers, (300, 400), strict=True):
        t, k = layer.transform, layer.num_matrices
        assert (t.alpha.item(), t.norm.weight.min().item(), t.norm.bias.any()) == (0, 1, False)
        for weight, fans, scale in (
            (t.project.weight, fan_in + 100, 1.0),
            (t.key_value.weight, 300, 1.0),
            (t.expand.weight, 100 + 400 * k, 0.9),
        ):
            bound = scale * math.sqrt(6 / fans)
            assert 0.99 * bound < weight.abs().max() <= bound
            close(weight.std() * math.sqrt(3) / bound, torch.tensor(1.0), rtol=0.02, atol=0)
        assert 0.97 < layer.weight_c.abs().max() <= 1
        assert not layer.bias[0].any() and (layer.bias[1] == -2).all()
        assert layer.alpha == 1
    x = torch.randn(L, B, 300)
    before = rnn.eval()(x)[0]
    rnn.reset_parameters()
    assert not torch.allclose(rnn(x)[0], before)
    off = SRUpp(300, 400, 100, 2, attention_last_n_layers=0).eval()
    off.load_state_dict(rnn.state_dict(), strict=False)
    close(off(x)[0], rnn(x)[0])  # attention starts switched off


@pytest.mark.parametrize(
    ("width", "projection", "millions"), [(3072, 768, 108), (4096, 1024, 191), (6016, 752, 195)]
)
def test_the_papers_models_have_the_papers_sizes(width, projection, millions):
    """Table 2 of the paper: 10 layers, and 205 bytes with untied embedding and output."""
    rnn = SRUpp(width, width, projection, 10, device="meta")
    count = sum(p.numel() for p in rnn.parameters()) + 2 * 205 * width + 205
    assert round(count / 1e6) == millions
    D, P = width, projection
    assert count - 2 * 205 * D - 205 == 10 * (D * P + 2 * P * P + 3 * P * D + 4 * D + 2 * P + 1)


# ---- PyTorch's tools -----------------------------------------------------------------------------


@both_modes
def test_compiled_equals_eager(train):
    """Forward and backward, at the start, from a state, with padding, documents and a context."""
    torch._dynamo.reset()
    rnn = make(num_heads=2, context_size=2, attention_every_n_layers=2).train(train)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    x, text, mask, bounds = draw(L, B, I), draw(9, I), make_mask(L, B), make_bounds(9)
    encoded, hidden = draw(4, B, 2), torch.rand(4, B) < 0.5
    state = detach(rnn(x)[1])
    calls = [(x, {"state": state})]
    if train:
        padded = {"state": rnn.attend_to(encoded, hidden, state), "mask": mask}
        calls += [(x, {"state": None}), (x, padded)]
    else:
        documents = detach(rnn(text, cu_seqlens=bounds)[1])
        calls += [(text, {"state": documents, "cu_seqlens": bounds})]
    for tensor, given in calls:
        (h, end), (want, want_end) = compiled(tensor, **given), rnn(tensor, **given)
        close((h, end), (want, want_end))
        wrt = [*rnn.parameters()]
        close(*(torch.autograd.grad(o.square().sum(), wrt, allow_unused=True) for o in (h, want)))
    if not train:
        step = torch.compile(rnn.step, fullgraph=True, backend="aot_eager")
        close(step(x[0], state), rnn.step(x[0], state))


def test_exported_runs_for_another_length():
    """From the start, and from a state: a graph for each."""
    rnn = make().eval()
    length = {0: torch.export.Dim("L", min=2, max=4096)}
    state = detach(rnn(draw(L, B, I))[1])
    for given in ({}, {"state": state}):
        shapes = {"x": length} | ({"state": tree_map(lambda _: {}, state)} if given else {})
        program = torch.export.export(rnn, (draw(8, B, I),), given, dynamic_shapes=shapes)
        for steps in (2, 8, 21):
            x = draw(steps, B, I)
            close(program.module()(x, **given), rnn(x, **given))


def test_exported_with_padding():
    rnn = make(memory_length=0, bidirectional=True).eval()
    length = {0: torch.export.Dim("L", min=2, max=4096)}
    program = torch.export.export(
        rnn, (draw(8, B, I),), {"mask": make_mask(8, B)},
        dynamic_shapes={"x": length, "mask": length},
    )  # fmt: skip
    x, mask = draw(13, B, I), make_mask(13, B)
    close(program.module()(x, mask=mask), rnn(x, mask=mask))


@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_types(dtype, train):
    """Close to float64, with c in float32 and a memory that carries its type without loss."""
    rnn = make(dtype=dtype, num_heads=2).train(train)
    exact = make(num_heads=2).train(train)
    with torch.no_grad():
        for p in rnn.parameters():
            p.mul_(0.5)
    exact.load_state_dict(rnn.state_dict())
    x = draw(L, B, I, dtype=dtype)
    _, state = rnn(x)
    more, end = rnn(x, state)
    assert more.dtype == dtype and end["c"].dtype == torch.float32
    assert {t.dtype for t in end["inputs" if train else "keys_values"]} == {dtype}
    want_state = exact(x.double())[1]
    want, _ = exact(x.double(), want_state)
    bar = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    assert (more.double() - want).abs().max() < bar * want.abs().max()
    more.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in rnn.parameters())


@both_modes
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype, train):
    rnn = make(dtype=torch.float32, context_size=2).train(train)
    with torch.no_grad():
        for p in rnn.parameters():
            p.mul_(0.5)
    x, encoded = draw(L, B, I, dtype=torch.float32), draw(4, B, 2, dtype=torch.float32)
    _, state = rnn(x, rnn.attend_to(encoded))
    expected, _ = rnn(x, state)
    with torch.autocast("cpu", dtype):
        _, state = rnn(x, rnn.attend_to(encoded))
        more, state = rnn(x, state)
    assert more.dtype == dtype and state["c"].dtype == torch.float32
    more.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in rnn.parameters())
    close(more.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "projection"), [(1, 768), (2, 128), (1, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@both_modes
def test_on_a_gpu(dtype, heads, projection, train):
    """Values and gradients of two segments, close to float64, whichever kernel is picked."""
    options = {"sizes": (64, 64, projection), "num_heads": heads, "memory_length": 33}
    rnn = make(dtype=torch.float32, **options).train(train)
    rnn.reset_parameters()
    for layer in rnn.layers:
        nn.init.constant_(layer.transform.alpha, 0.5)
    exact = copy.deepcopy(rnn).double().cuda()
    rnn.cuda().to(dtype)
    x = torch.randn(2, 50, 3, 64, device="cuda", dtype=dtype)
    results = []
    for module, (first, second) in ((rnn, x), (exact, x.double())):
        h, state = module(first)
        more, _ = module(second, detach(state))
        loss = h.double().square().sum() + more.double().square().sum()
        results.append((h, more, *torch.autograd.grad(loss, [*module.parameters()])))
    bar = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    for got, want in zip(*results, strict=True):
        assert (got.double() - want).abs().max() <= bar * want.abs().max()


@both_modes
@pytest.mark.parametrize(("length", "rows"), [(0, B), (L, 0), (0, 0)])
def test_empty_batches(length, rows, train):
    rnn = make(dropout=0.1).train(train)
    h, state = rnn(draw(length, rows, I))
    assert h.shape == (length, rows, D)
    again, _ = rnn(draw(length, rows, I), state)
    assert again.shape == (length, rows, D)
    if length == 0:
        assert not any(leaf.any() for leaf in tree_leaves(state))
        full = start_like(rnn, draw(L, rows, I))
        close(rnn(draw(0, rows, I), full)[1], full)
    h, state = rnn(draw(0, I), cu_seqlens=torch.tensor([0, 0, 0]))
    assert h.shape == (0, D) and state["length"].tolist() == [[0, 0]]


def test_a_copy_a_pickle_and_a_state_dict_are_the_same_module():
    rnn, other, x = make(context_size=2), make(context_size=2), draw(L, B, I)
    expected = rnn(x)
    assert not torch.allclose(other(x)[0], expected[0])
    other.load_state_dict(rnn.state_dict())
    for again in (other, copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        close(again(x), expected, rtol=0, atol=0)
    doubled = {key: 2 * p.detach() for key, p in rnn.named_parameters()}
    other.load_state_dict(doubled)
    close(torch.func.functional_call(rnn, doubled, (x,)), other(x))
    rnn = SRUpp(I, D, P, device="meta").to_empty(device="cpu")
    rnn.reset_parameters()
    assert rnn(x.float())[0].isfinite().all()


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection_size": 0}, "projection_size must be a positive integer, got 0"),
        ({"num_heads": 0}, "num_heads must be a positive integer, got 0"),
        ({"num_heads": 3}, "projection_size must divide into num_heads, got 4 and 3"),
        ({"memory_length": -1}, "memory_length must be 0 .none. or a positive integer, got -1"),
        ({"memory_length": True}, "memory_length must be 0 .* got True"),
        ({"context_size": 1.5}, "context_size must be 0 .* got 1.5"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"attention_dropout": -1}, r"attention_dropout must be in \[0, 1\), got -1"),
        ({"attention_layer_norm": "both"}, "attention_layer_norm must be one of .* got 'both'"),
        ({"layer_norm": "both"}, "layer_norm must be one of .* got 'both'"),
        ({"bidirectional": True, "causal": True}, "causal must be False if bidirectional"),
        ({"bidirectional": True, "memory_length": 2}, "memory_length must be 0 without causal"),
        ({"attention_every_n_layers": 0}, "attention_every_n_layers must be a positive integer"),
        ({"attention_last_n_layers": 3}, r"attention_last_n_layers must be in \[0, 2\], got 3"),
        (
            {"attention_last_n_layers": 1, "attention_every_n_layers": 2},
            "attention_every_n_layers must be 1 beside attention_last_n_layers, got 2",
        ),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SRUpp(**{"input_size": I, "hidden_size": D, "projection_size": P} | options)


def test_bad_states():
    rnn = make(dtype=torch.float32).eval()
    x = draw(L, B, I, dtype=torch.float32)
    good = detach(rnn(x)[1])
    for wrong, kind, message in (
        (good["c"], TypeError, "state must be a dict, what a call returned, got Tensor"),
        (good | {"h": 1}, TypeError, "state must be a dict of c, length, .* got 'h' too"),
        (good | {"c": [good["c"]]}, TypeError, r"state\['c'\] must be a tensor, got a list of 1"),
        (reorder(good, torch.tensor([0])), ValueError, r"'c'\] must be .* = \[2, 3, 6\], got"),
        ({"length": good["length"]}, ValueError, "must have length beside inputs or keys_values"),
        (
            good | {"keys_values": good["keys_values"][:1]}, ValueError,
            r"state\['keys_values'\] must be 2 tensors, one per layer with attention, got a tuple",
        ),
        (
            tree_map(lambda t: t.double() if t.is_floating_point() else t, good), ValueError,
            "must be torch.float32, or narrower, got torch.float64",
        ),
        (
            good | {"keys_values": tuple(t[1:] for t in good["keys_values"])}, ValueError,
            r"\[memory_length, batch, 2 projection_size\] = \[3, 3, 8\], got \[2, 3, 8\]",
        ),
        ({"context": draw(4, B, 2)}, ValueError, "must have a context and context_mask, got one"),
        (
            {"context": draw(4, B, 2), "context_mask": torch.zeros(4, B).bool()}, ValueError,
            "state must be without a context: context_size is 0",
        ),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            rnn(x, wrong)
    with pytest.raises(ValueError, match="state must be without memory: there is none here"):
        SRUpp(I, D, P)(x, good)


def test_bad_contexts():
    with pytest.raises(ValueError, match="attend_to needs context_size"):
        make().attend_to(draw(4, B, 2))
    rnn = make(context_size=2)
    for context in (draw(4, B, 3), draw(0, B, 2), draw(2)):
        with pytest.raises(ValueError, match=r"context must be .*context_size = 2, got \["):
            rnn.attend_to(context)
    first = make(context_size=2, batch_first=True)
    with pytest.raises(ValueError, match=r"with S > 0 .*got \[3, 0, 2\]"):
        first.attend_to(draw(B, 0, 2))
    first.attend_to(draw(0, 4, 2))  # no rows
    with pytest.raises(
        ValueError, match=r"mask must be bool \[4, 3\] .* got torch.float32 \[4, 3\]"
    ):
        rnn.attend_to(draw(4, B, 2), torch.zeros(4, B))
    with pytest.raises(ValueError, match=r"'context_mask'\] must be \[S, batch\] = \[4, 3\]"):
        rnn(draw(L, B, I), rnn.attend_to(draw(4, 2, 2)))
    _, state = rnn.eval()(draw(L, B, I), rnn.attend_to(draw(4, B, 2)))
    rnn.train()
    with pytest.raises(ValueError, match="state must hold inputs in training"):
        rnn(draw(L, B, I), state)


def test_steps_that_cannot_be():
    for options, message in (
        ({"memory_length": 0}, "step needs memory_length > 0: nothing of the past is kept"),
        ({"memory_length": 0, "causal": False}, "step needs causal=True: steps see later ones"),
        ({"memory_length": 0, "bidirectional": True}, "step needs bidirectional=False"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options).step(draw(B, I))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_bad_calls(bidirectional):
    """Those of every recurrent module."""
    rnn = make(dtype=torch.float32, memory_length=0, bidirectional=bidirectional)
    x = torch.zeros(L, B, I)
    for args, options, kind, message in (
        ((x[:, :, :4],), {}, ValueError, "x must be .* input_size = 5, got"),
        ((x.double(),), {}, ValueError, "x must be torch.float32 like the parameters, got torch.f"),
        ((x,), {"mask": torch.zeros(B, L).bool()}, ValueError, r"mask must be \[L, B\] = \[7, 3\]"),
        (
            (x[:, 0],),
            {"cu_seqlens": torch.tensor([0, 5])},
            RuntimeError,
            r"number of steps, 7, got 5",
        ),
        ((x[:, 0],), {"cu_seqlens": torch.tensor([0, 9, 5])}, RuntimeError, "cu_seqlens"),
        ((x[:, 0],), {"cu_seqlens": torch.tensor([2, 7])}, RuntimeError, "must be 0, got 2"),
        ((x[:, 0],), {"cu_seqlens": torch.tensor([0])}, RuntimeError, "cu_seqlens"),
    ):
        with pytest.raises(kind, match=message):
            rnn(*args, **options)
    if not bidirectional:
        rnn.memory_length = 2
        for bounds in ([0, 5], [0, 9, 5], [0, 5, 9], [2, 7], [0], [-3, 7]):
            with pytest.raises(RuntimeError, match="cu_seqlens"):
                rnn(x[:, 0], cu_seqlens=torch.tensor(bounds))
