"""The layer: layouts, states, options and dropouts, each against the op called by hand."""

import copy
import math
import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from torchsru import SRU, SRUCell
from torchsru.ops import sru_recurrence

L, B, I, D = 7, 3, 5, 6  # noqa: E741


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def close(got, expected, **tolerance):
    torch.testing.assert_close(got, expected, **tolerance)


def stacks(**options):
    """A double-precision stack: differences are bugs, not rounding."""
    return SRU(I, D, 2, dtype=torch.float64, **options)


def layers(**options):
    """A double-precision layer."""
    return SRUCell(I, D, dtype=torch.float64, **options)


either = pytest.mark.parametrize("make", [stacks, layers])


# ---- the swap with nn.GRU ------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [None, 1, 3])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layout", ["batched", "unbatched", "packed", "packed unsorted"])
def test_swaps_in_for_gru(layout, batch_first, num_layers, bidirectional):
    """num_layers None: the layer alone, SRUCell."""
    options = {"batch_first": batch_first, "bidirectional": bidirectional}
    sru = SRU(I, D, num_layers, **options) if num_layers else SRUCell(I, D, **options)
    gru = nn.GRU(I, D, num_layers or 1, **options)
    if layout == "batched":
        x = torch.randn((B, L, I) if batch_first else (L, B, I))
    elif layout == "unbatched":
        x = torch.randn(L, I)
    else:
        lengths = [4, 7, 1] if layout == "packed unsorted" else [7, 4, 1]
        steps = [torch.randn(n, I) for n in lengths]
        x = pack_sequence(steps, enforce_sorted=layout == "packed")
    (got, state), (want, want_state) = sru(x), gru(x)
    assert state.shape == want_state.shape
    if layout.startswith("packed"):
        for name in ("data", "batch_sizes", "sorted_indices", "unsorted_indices"):
            a, b = getattr(got, name), getattr(want, name)
            assert (a is None) == (b is None)
            assert a is None or a.shape == b.shape
            if name != "data" and a is not None:
                close(a, b)
    else:
        assert got.shape == want.shape
    again, next_state = sru(x, state)  # the state goes back in
    assert next_state.shape == state.shape and type(again) is type(got)


@either
def test_batch_first_and_unbatched_are_views_of_the_same(make):
    sru, x = make(bidirectional=True), torch.randn(L, B, I, dtype=torch.float64)
    state = torch.randn(2 * sru.num_layers, B, D, dtype=torch.float64)
    mask = torch.rand(L, B) < 0.3
    h, c = sru(x, state, mask=mask)
    sru.batch_first = True
    h1, c1 = sru(x.transpose(0, 1), state, mask=mask.t())
    close((h1.transpose(0, 1), c1), (h, c))
    for batch_first in (False, True):
        sru.batch_first = batch_first
        for row in range(B):
            h_row, c_row = sru(x[:, row], state[:, row], mask=mask[:, row])
            close((h_row, c_row), (h[:, row], c[:, row]))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
@either
def test_packed_sequence_equals_one_by_one(make, enforce_sorted, bidirectional):
    sru = make(bidirectional=bidirectional)
    lengths = [7, 4, 4, 1] if enforce_sorted else [4, 7, 1, 4]
    xs = [torch.randn(n, I, dtype=torch.float64) for n in lengths]
    rows = sru.num_layers * sru.num_directions
    state = torch.randn(rows, 4, D, dtype=torch.float64)
    packed, c = sru(pack_sequence(xs, enforce_sorted), state)
    h, got_lengths = pad_packed_sequence(packed)
    assert got_lengths.tolist() == lengths
    for row, x in enumerate(xs):
        h_row, c_row = sru(x, state[:, row])
        close((h[: lengths[row], row], c[:, row]), (h_row, c_row))


@pytest.mark.parametrize("bidirectional", [False, True])
@either
def test_documents_equal_one_by_one(make, bidirectional):
    sru = make(bidirectional=bidirectional)
    bounds = torch.tensor([0, 3, 3, 8])
    x = torch.randn(8, I, dtype=torch.float64)
    rows = sru.num_layers * sru.num_directions
    state = torch.randn(rows, 3, D, dtype=torch.float64)
    h, c = sru(x, state, cu_seqlens=bounds)
    assert h.shape == (8, sru.output_size)
    for n, (start, end) in enumerate(pairwise(bounds.tolist())):
        close((h[start:end], c[:, n]), sru(x[start:end], state[:, n]))
    close(sru(x[:, None], state, cu_seqlens=bounds), (h[:, None], c))
    sru.batch_first = True
    close(sru(x[None], state, cu_seqlens=bounds), (h[None], c))


def test_mask_equals_packed_sequence():
    sru, lengths = stacks(bidirectional=True), torch.tensor([4, 7, 1])
    x = torch.randn(L, B, I, dtype=torch.float64)
    mask = torch.arange(L)[:, None] >= lengths
    h, c = sru(x.masked_fill(mask[:, :, None], float("nan")), mask=mask)
    packed, c_packed = sru(pack_padded_sequence(x, lengths, enforce_sorted=False))
    close((h, c), (pad_packed_sequence(packed)[0], c_packed))


@pytest.mark.parametrize("options", [{}, {"layer_norm": "pre"}, {"projection_size": 3}])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_stands_at_padding_reaches_no_gradient(options, poison):
    rnn, mask = SRU(5, 6, 2, **options), torch.zeros(7, 3, dtype=torch.bool)
    mask[4:, 1] = mask[2, 2] = True
    x = torch.randn(7, 3, 5).masked_fill(mask[:, :, None], poison).requires_grad_()
    h, c = rnn(x, mask=mask)
    grads = torch.autograd.grad(h.sum() + c.sum(), [x, *rnn.parameters()])
    assert all(t.isfinite().all() for t in (h, c, *grads))
    assert not grads[0][mask].any()


def test_post_norm_leaves_padding_at_zero():
    sru = SRU(I, D, 2, layer_norm="post")
    for layer in sru.layers:
        nn.init.constant_(layer.norm.bias, 1)
    mask = torch.rand(L, B) < 0.4
    h, _ = sru(torch.randn(L, B, I), mask=mask)
    assert not h[mask].any() and h[~mask].all()


# ---- one step at a time --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@either
def test_steps_are_the_sequence(make, batched, batch_first):
    """Outputs, states and gradients, through every step."""
    sru = make(batch_first=batch_first)
    x = torch.randn(*(L, B, I) if batched else (L, I), dtype=torch.float64, requires_grad=True)
    time = 1 if batched and batch_first else 0
    h, c = sru(x.movedim(0, time))
    expected = torch.autograd.grad(h.square().sum() + c.sum(), [x, *sru.parameters()])
    state, hs = None, []
    for t in range(L):
        h_t, state = sru.step(x[t], state)
        assert h_t.shape == (*x.shape[1:-1], D)
        hs.append(h_t)
    got = torch.stack(hs, time)
    close((got, state), (h, c))
    close(torch.autograd.grad(got.square().sum() + state.sum(), [x, *sru.parameters()]), expected)


def test_a_float32_state_between_half_precision_calls_loses_nothing():
    sru = SRU(I, D, 2, dtype=torch.bfloat16)
    x = torch.randn(L, B, I, dtype=torch.bfloat16)
    h, c = sru(x)
    assert (h.dtype, c.dtype) == (torch.bfloat16, torch.float32)
    h1, carried = sru(x[:3])
    h2, end = sru(x[3:], carried)
    close((torch.cat([h1, h2]), end), (h, c), rtol=0, atol=0)


def test_gradients_flow_to_the_state_and_from_the_final_state():
    sru = stacks()
    x = torch.randn(L, B, I, dtype=torch.float64, requires_grad=True)
    state = torch.randn(2, B, D, dtype=torch.float64, requires_grad=True)

    def last(x, state):
        return sru(x, state)[1]

    assert torch.autograd.gradcheck(last, (x, state))
    last(x, state).sum().backward()
    assert state.grad.abs().min() > 0 and x.grad.abs().sum() > 0
    assert all(p.grad is not None for p in sru.parameters())


# ---- options, against the op called by hand ------------------------------------------------------


def by_hand(cell, x, *, u=None, v=None, inner=None, **changes):
    inner = x if inner is None else inner
    u = cell.transform(inner) if u is None else u
    options = {
        "num_directions": cell.num_directions, "alpha": cell.alpha,
        "activation": cell.activation, "contractive": cell.contractive,
    }  # fmt: skip
    highway = x if cell.highway and cell.num_matrices == 3 else None
    return sru_recurrence(
        u.view(L, B, cell.num_matrices, cell.output_size), highway,
        cell.weight_c if v is None else v, cell.bias, **options | changes,
    )  # fmt: skip


OPTIONS = [
    {},
    {"input_size": D},
    {"bidirectional": True, "input_size": 2 * D},
    {"activation": "tanh"},
    {"state_weights": False},
    {"highway": False},
    {"highway": False, "input_size": D},
    {"highway_bias": -2.0, "input_size": D},
    {"rescale": False, "input_size": D},
    {"contractive": True, "input_size": D},
    {"projection_size": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_are_the_ops(options):
    size = {"input_size": I, "hidden_size": D, "dtype": torch.float64} | options
    cell = SRUCell(**size)
    nn.init.normal_(cell.bias)
    x = torch.randn(L, B, cell.input_size, dtype=torch.float64)
    h, c = cell(x)
    expected, last = by_hand(cell, x)
    close((h, c.transpose(0, 1).flatten(1)), (expected, last))
    assert cell.num_matrices == (4 if cell.highway and cell.input_size != cell.output_size else 3)


def test_what_the_options_hand_to_the_op():
    bias = -2.0
    scale = math.sqrt(1 + 2 * math.exp(bias))
    assert SRUCell(D, D, highway_bias=bias).alpha == pytest.approx(scale)
    assert SRUCell(I, D, highway_bias=bias).alpha == 1  # inside the fourth matrix
    assert SRUCell(D, D, highway_bias=bias, rescale=False).alpha == 1
    assert SRUCell(D, D, highway=False).alpha == 1
    assert SRUCell(D, D, state_weights=False).weight_c is None
    assert SRUCell(D, D, state_weights=False).state_dict().keys() == {"transform.weight", "bias"}
    projection = SRUCell(I, D, projection_size=2).transform
    assert [tuple(m.weight.shape) for m in projection] == [(2, I), (4 * D, 2)]


def test_each_layer_may_have_a_projection_of_its_own():
    sru = SRU(I, D, 3, projection_size=(0, 2, 3))
    assert [layer.projection_size for layer in sru.layers] == [0, 2, 3]
    with pytest.raises(ValueError, match=r"projection_size must be one .* num_layers = 3 .* \[2\]"):
        SRU(I, D, 3, projection_size=[2])


@pytest.mark.parametrize("where", ["pre", "post"])
def test_layer_norm(where):
    cell = SRUCell(D, D, layer_norm=where, dtype=torch.float64)
    nn.init.normal_(cell.norm.weight)
    x = torch.randn(L, B, D, dtype=torch.float64)
    h, c = cell(x)
    if where == "pre":
        expected, last = by_hand(cell, x, inner=cell.norm(x))  # the highway sees x itself
    else:
        expected, last = by_hand(cell, x)
        expected = cell.norm(expected)
    close((h, c[0]), (expected, last))
    assert sum("LayerNorm" in repr(m) for m in SRU(I, D, 3, layer_norm=where).layers) == 3


class Varying(nn.Module):
    """A user's transform that gives state weights of every step as well."""

    def __init__(self, in_features, out_features, rank):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.v = nn.Linear(in_features, 2 * D)
        self.rank = rank

    def forward(self, x):
        v = self.v(x)
        return self.linear(x), v.unflatten(-1, (2, D)) if self.rank == 4 else v


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("state_weights", [True, False])
def test_transform_of_ones_own(state_weights, rank):
    cell = SRUCell(
        D, D, transform=lambda i, o: Varying(i, o, rank), state_weights=state_weights
    ).double()  # fmt: skip
    x = torch.randn(L, B, D, dtype=torch.float64)
    u, _ = cell.transform(x)
    v = cell.transform.v(x).view(L, B, 2, D)
    v = v + cell.weight_c if state_weights else v
    h, c = cell(x)
    close((h, c[0]), by_hand(cell, x, u=u, v=v))
    h.sum().backward()
    assert cell.transform.v.weight.grad.abs().sum() > 0


def test_a_transform_of_ones_own_resets_itself():
    made = []

    def transform(i, o):
        made.append(nn.Linear(i, o))
        return copy.deepcopy(made[-1])

    sru = SRU(I, D, 2, transform=transform)
    for linear, layer in zip(made, sru.layers, strict=True):
        close(layer.transform.state_dict(), linear.state_dict(), rtol=0, atol=0)


def test_transform_may_be_any_module():
    sru = SRU(I, D, 2, transform=lambda i, o: nn.Sequential(nn.Linear(i, 4), nn.Linear(4, o)))
    h, _ = sru(torch.randn(L, B, I))
    assert h.shape == (L, B, D)
    bad = SRU(I, D, transform=lambda i, o: nn.Linear(i, o - 1))
    with pytest.raises(ValueError, match=r"transform must map \[L, B, 5\] to \[L, B, 24\] .*23"):
        bad(torch.randn(L, B, I))


# ---- initialisation ------------------------------------------------------------------------------


@pytest.mark.parametrize("input_size", [256, 128])
@pytest.mark.parametrize("state_weights", [True, False])
def test_initial_statistics(state_weights, input_size):
    """Variance 1 / fan-in, halved in the gates beside state weights; dropout is given back."""
    p, q, bias = 0.2, 0.4, -1.0
    cell = SRUCell(
        input_size, 256, input_dropout=p, state_dropout=q, highway_bias=bias,
        state_weights=state_weights,
    )  # fmt: skip
    w = cell.transform.weight.detach().view(cell.num_matrices, 256, input_size)
    variance = w.var(dim=(1, 2)) * input_size
    share = 0.5 if state_weights else 1.0
    want = [(1 - p) * (1 - q), (1 - p) * share, (1 - p) * share]
    if input_size != 256:
        want.append((1 - p) * (1 + 2 * math.exp(bias)))
    close(variance, torch.tensor(want), rtol=0.03, atol=0)
    assert w.mean().abs() < 1e-3
    if state_weights:
        close(cell.weight_c.var(), torch.tensor(0.5), rtol=0.15, atol=0)
        assert cell.weight_c.abs().max() <= math.sqrt(1.5)
    assert not cell.bias[0].any() and (cell.bias[1] == bias).all()


def test_a_deep_stack_keeps_the_variance_at_the_start():
    """What the highway's scale is for (section 3.2): without it, the signal fades."""
    x = torch.randn(64, 8, 128)
    spread = {}
    for rescale in (True, False):
        h, _ = SRU(128, 128, 12, rescale=rescale)(x)
        spread[rescale] = h[16:].var().item()
    assert 0.3 < spread[True] < 3 and spread[False] < 0.5 * spread[True]


def test_reset_parameters_draws_anew():
    sru = SRU(I, D, 2, layer_norm="pre")
    before = copy.deepcopy(sru.state_dict())
    torch.manual_seed(5)
    sru.reset_parameters()
    assert not torch.equal(before["layers.1.transform.weight"], sru.layers[1].transform.weight)
    assert not torch.equal(before["layers.1.weight_c"], sru.layers[1].weight_c)


# ---- dropout -------------------------------------------------------------------------------------


def test_dropouts_do_nothing_in_eval():
    plain = SRU(D, D, 3)
    dropping = SRU(D, D, 3, dropout=0.5, state_dropout=0.5, input_dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    x = torch.randn(L, B, D)
    close(dropping.eval()(x), plain(x), rtol=0, atol=0)
    dropping.train()
    assert not torch.allclose(dropping(x)[0], plain(x)[0])


def spy(module, seen):
    module.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))


def assert_drops_over_time(before, after, p):
    """Each row and feature is kept, and scaled by 1 / (1 - p), or dropped, for all steps."""
    ratio = after / before
    close(ratio, ratio[:1].expand_as(ratio))
    kept = ratio[0] != 0
    close(ratio[0][kept], torch.full_like(ratio[0][kept], 1 / (1 - p)))
    assert abs(kept.float().mean().item() - (1 - p)) < 0.05  # the mean is preserved


def test_dropout_stands_between_layers():
    sru, seen = SRU(64, 64, 2, dropout=0.4), []
    for layer in sru.layers:
        spy(layer, seen)
    x = torch.randn(4, 64, 64)
    h, _ = sru(x)
    close(seen[0], x, rtol=0, atol=0)
    below, _ = sru.layers[0](x)
    assert_drops_over_time(below, seen[1], 0.4)
    close(h, sru.layers[1](seen[-2])[0])  # nothing after the last one


def test_input_dropout_stands_before_the_matrix_alone():
    cell, seen = SRUCell(64, 64, input_dropout=0.3), []
    spy(cell.transform, seen)
    x = torch.randn(4, 64, 64)
    h, _ = cell(x)
    assert_drops_over_time(x, seen[0], 0.3)
    u = cell.transform(seen[0]).view(4, 64, 3, 64)
    close(h, sru_recurrence(u, x, cell.weight_c, cell.bias, alpha=cell.alpha)[0])


def test_state_dropout_leaves_the_highway_and_the_state():
    cell = SRUCell(64, 64, state_dropout=0.3, dtype=torch.float64)
    x = torch.randn(4, 64, 64, dtype=torch.float64)
    h, c = cell(x)
    cell.eval()
    h_eval, c_eval = cell(x)
    close(c, c_eval)
    highway = cell.alpha * x
    assert_drops_over_time(h_eval - highway, torch.where(h == highway, 0, h - highway), 0.3)


def test_state_dropout_is_not_in_the_last_layer():
    sru = SRU(D, D, 3, state_dropout=0.5)
    assert [layer.state_dropout for layer in sru.layers] == [0.5, 0.5, 0]
    assert SRU(D, D, 1, state_dropout=0.5).layers[0].state_dropout == 0


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_dropout_masks_are_per_document(dtype):
    bounds = torch.tensor([0, 3, 3, 8, 10], dtype=dtype)
    cell, seen = SRUCell(64, 64, input_dropout=0.5), []
    spy(cell.transform, seen)
    cell(torch.ones(10, 1, 64), cu_seqlens=bounds)
    masks = seen[0][:, 0]
    for start, end in ((0, 3), (3, 8), (8, 10)):
        close(masks[start:end], masks[start].expand(end - start, 64))
    assert not torch.equal(masks[0], masks[3]) and not torch.equal(masks[3], masks[8])


# ---- an nn.Module like any other -----------------------------------------------------------------


def kinds(sru):
    return {name: p.dtype for name, p in sru.layers[1].named_parameters()}


@pytest.mark.parametrize(
    ("cast", "dtype"),
    [
        (lambda m: m.half(), torch.float16),
        (lambda m: m.bfloat16(), torch.bfloat16),
        (lambda m: m.to(torch.bfloat16), torch.bfloat16),
        (lambda m: m.type(torch.float16), torch.float16),
    ],
)
@pytest.mark.parametrize("start", [torch.float32, torch.float64], ids=str)
def test_casts_keep_state_weights_and_biases_in_float32(start, cast, dtype):
    sru = SRU(I, D, 2, layer_norm="pre", dtype=start)
    sru(torch.randn(L, B, I, dtype=start))[0].sum().backward()
    cast(sru)
    wanted = {"transform.weight": dtype, "norm.weight": dtype, "norm.bias": dtype}
    assert kinds(sru) == wanted | {"weight_c": torch.float32, "bias": torch.float32}
    for p in sru.parameters():
        assert p.grad is None or p.grad.dtype == p.dtype
    h, c = sru(torch.randn(L, B, I, dtype=dtype))
    assert (h.dtype, c.dtype) == (dtype, torch.float32)
    h.sum().backward()
    sru.double()
    assert set(kinds(sru).values()) == {torch.float64}
    sru.float()
    assert set(kinds(sru).values()) == {torch.float32}


def test_device_and_dtype_arguments():
    sru = SRU(I, D, 2, device="meta", dtype=torch.bfloat16)
    assert {p.device.type for p in sru.parameters()} == {"meta"}
    assert kinds(sru)["weight_c"] == torch.float32
    sru.to_empty(device="cpu").reset_parameters()
    h, _ = sru(torch.randn(L, B, I, dtype=torch.bfloat16))
    assert h.isfinite().all()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(again):
    sru = SRU(I, D, 2, bidirectional=True, projection_size=3, layer_norm="post", dropout=0.1).eval()
    x = torch.randn(L, B, I)
    close(again(sru)(x), sru(x), rtol=0, atol=0)


def test_state_dict_round_trip():
    sru, other = SRU(I, D, 2), SRU(I, D, 2)
    names = ("weight_c", "bias", "transform.weight")
    assert set(sru.state_dict()) == {f"layers.{i}.{name}" for i in range(2) for name in names}
    x = torch.randn(L, B, I)
    assert not torch.allclose(other(x)[0], sru(x)[0])
    assert other.load_state_dict(sru.state_dict()).missing_keys == []
    close(other(x), sru(x), rtol=0, atol=0)


def test_repr():
    assert repr(SRU(I, D)).startswith("SRU(\n  5, 6\n")
    text = repr(SRU(I, D, 2, batch_first=True, dropout=0.1, layer_norm="pre", highway_bias=-3.0))
    for part in ("num_layers=2", "batch_first=True", "dropout=0.1", "highway_bias=-3.0"):
        assert part in text
    assert "rescale" not in text


def test_functional_call():
    sru, x = SRU(I, D, 2), torch.randn(L, B, I)
    doubled = {n: 2 * p.detach() for n, p in sru.named_parameters()}
    got = torch.func.functional_call(sru, doubled, (x,))
    with torch.no_grad():
        for p in sru.parameters():
            p *= 2
    close(got, sru(x))


def test_distributed_data_parallel(tmp_path):
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        sru, x = SRU(I, D, 2), torch.randn(L, B, I)
        expected = torch.autograd.grad(sru(x)[0].sum(), list(sru.parameters()))
        nn.parallel.DistributedDataParallel(sru)(x)[0].sum().backward()
        close([p.grad for p in sru.parameters()], list(expected))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layer_norm", [None, "pre", "post"])
def test_autocast(layer_norm, dtype):
    sru, x = SRU(D, D, 2, layer_norm=layer_norm), torch.randn(L, B, D)
    expected, _ = sru(x)
    with torch.autocast("cpu", dtype):
        h, c = sru(x)
        assert h.dtype == dtype
        assert c.dtype == torch.float32
    h.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in sru.parameters())
    close(h.float(), expected, rtol=0.1, atol=0.1)


def test_no_gradients_without_being_asked():
    sru = SRU(I, D).requires_grad_(False)
    h, c = sru(torch.randn(L, B, I))
    assert not h.requires_grad and not c.requires_grad
    with torch.inference_mode():
        assert SRU(I, D)(torch.randn(L, B, I))[0].is_inference()


@pytest.mark.parametrize(("length", "rows"), [(0, B), (L, 0), (0, 0)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_empty_batches(bidirectional, length, rows):
    sru = SRU(I, D, 2, bidirectional=bidirectional, dropout=0.1, state_dropout=0.1)
    h, c = sru(torch.randn(length, rows, I))
    assert h.shape == (length, rows, sru.output_size)
    assert c.shape == (4 if bidirectional else 2, rows, D) and not (length == 0 and c.any())
    (h.sum() + c.sum()).backward()


# ---- errors --------------------------------------------------------------------------------------

GOOD = (L, B, I)


def zeros(*shape, **kind):
    return torch.zeros(shape, **kind)


BAD_CALLS = {
    "features": (
        (zeros(L, B, 4),), {},
        ValueError, r"x must be \[L, B, input_size\] or .* with input_size = 5, got \[7, 3, 4\]",
    ),
    "rank": ((zeros(1, L, B, I),), {}, ValueError, r"x must be .*, got \[1, 7, 3, 5\]"),
    "vector": ((zeros(I),), {}, ValueError, r"x must be .*, got \[5\]"),
    "type": (
        (zeros(*GOOD).double(),), {},
        ValueError, r"x must be torch.float32 like the parameters, got torch.float64",
    ),
    "device": (
        (zeros(*GOOD, device="meta"),), {},
        ValueError, r"must be on (cpu|meta) like",
    ),
    "no tensor": (
        ([[1.0]],), {}, TypeError, r"x must be a tensor or a PackedSequence, got list",
    ),
    "state rows": (
        (zeros(*GOOD), zeros(2, B + 1, D)), {},
        ValueError, r"state must be \[layers \* directions, .*\] = \[2, 3, 6\], got \[2, 4, 6\]",
    ),
    "state layers": (
        (zeros(*GOOD), zeros(1, B, D)), {},
        ValueError, r"state must be .* = \[2, 3, 6\], got \[1, 3, 6\]",
    ),
    "state rank": (
        (zeros(L, I), zeros(2, 1, D)), {},
        ValueError, r"state must be .* = \[2, 6\], got \[2, 1, 6\]",
    ),
    "state type": (
        (zeros(*GOOD), zeros(2, B, D).double()), {},
        ValueError, r"state must be torch.float32, or narrower, got torch.float64",
    ),
    "state of nn.LSTM": (
        (zeros(*GOOD), (zeros(2, B, D), zeros(2, B, D))), {},
        TypeError, r"state must be one tensor, the state c \(nn.LSTM has two\), got tuple",
    ),
    "state device": (
        (zeros(*GOOD), zeros(2, B, D, device="meta")), {},
        ValueError, r"state must be on cpu like the parameters, got meta",
    ),
    "mask": (
        (zeros(*GOOD),), {"mask": zeros(B, L, dtype=torch.bool)},
        ValueError, r"mask must be \[L, B\] = \[7, 3\] .*, got \[3, 7\]",
    ),
    "unbatched mask": (
        (zeros(L, I),), {"mask": zeros(L, 1, dtype=torch.bool)},
        ValueError, r"mask must be \[L\] = \[7\] to match x, got \[7, 1\]",
    ),
    "no mask": (
        (zeros(*GOOD),), {"mask": [True]}, TypeError, r"mask must be a tensor, got list",
    ),
    "bounds rank": (
        (zeros(L, I),), {"cu_seqlens": torch.tensor(7)},
        ValueError, r"cu_seqlens must be \[N \+ 1\], got .*\[\]",
    ),
    "no bounds": (
        (zeros(L, I),), {"cu_seqlens": torch.tensor([], dtype=torch.int64)},
        ValueError, r"cu_seqlens must be \[N \+ 1\], got .*\[0\]",
    ),
    "documents and rows": (
        (zeros(*GOOD),), {"cu_seqlens": torch.tensor([0, 7])},
        ValueError, r"x must have one batch row beside cu_seqlens, got B = 3",
    ),
    "bounds' end": (
        (zeros(L, I),), {"cu_seqlens": torch.tensor([0, 5])},
        RuntimeError, r"cu_seqlens\[1\] must be the number of steps, 7, got 5",
    ),
    "packed and mask": (
        (pack_sequence([zeros(3, I)]),), {"mask": zeros(3, 1, dtype=torch.bool)},
        ValueError, r"mask and cu_seqlens must be None beside a PackedSequence",
    ),
    "packed features": (
        (pack_sequence([zeros(3, 4)]),), {},
        ValueError, r"x must be a PackedSequence .* input_size = 5, got data of shape \[3, 4\]",
    ),
    "packed and state": (
        (pack_sequence([zeros(3, I)]), zeros(2, 2, D)), {},
        ValueError, r"state must be .* = \[2, 1, 6\], got \[2, 2, 6\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("dropout", [0, 0.5])
@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS
)
def test_bad_calls(arguments, options, kind, message, dropout):
    sru = SRU(I, D, 2, dropout=dropout, state_dropout=dropout, input_dropout=dropout)
    with pytest.raises(kind, match=message):
        sru(*arguments, **options)


def test_a_bad_mask_is_named_as_it_was_given():
    sru = SRU(I, D, 2, batch_first=True)
    with pytest.raises(ValueError, match=r"mask must be \[B, L\] = \[3, 7\] .*, got \[7, 3\]"):
        sru(zeros(B, L, I), mask=zeros(L, B, dtype=torch.bool))


BAD_OPTIONS = {
    "input_size": (0, "must be a positive integer, got 0"),
    "hidden_size": (-1, "must be a positive integer, got -1"),
    "num_layers": (1.5, "must be a positive integer, got 1.5"),
    "dropout": (1.0, r"must be in \[0, 1\), got 1.0"),
    "state_dropout": (-0.1, r"must be in \[0, 1\), got -0.1"),
    "input_dropout": (float("nan"), r"must be in \[0, 1\), got nan"),
    "projection_size": (-2, "must be 0 .* or more, got -2"),
    "activation": ("relu", "must be one of .*, got 'relu'"),
    "layer_norm": ("both", "must be one of .*, got 'both'"),
}


@pytest.mark.parametrize("name", ["dropout", "state_dropout", "input_dropout"])
@pytest.mark.parametrize("value", [float("nan"), 2, "0.1", None])
def test_probabilities(value, name):
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\), got "):
        SRU(I, D, **{name: value})


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(name):
    value, message = BAD_OPTIONS[name]
    with pytest.raises(ValueError, match=f"{name} {message}"):
        SRU(**{"input_size": I, "hidden_size": D, name: value})


def test_options_that_exclude_each_other():
    with pytest.raises(ValueError, match="projection_size must be 0 beside transform, got 2"):
        SRU(I, D, projection_size=2, transform=nn.Linear)
    with pytest.raises(ValueError, match="contractive must be False without state_weights"):
        SRU(I, D, contractive=True, state_weights=False)


def test_step_refuses():
    with pytest.raises(ValueError, match="step needs bidirectional=False"):
        SRU(I, D, bidirectional=True).step(torch.zeros(B, I))
    with pytest.raises(ValueError, match=r"x_t must be \[B, 5\] or \[5\], got \[7, 3, 5\]"):
        SRU(I, D).step(torch.zeros(*GOOD))
