"""What every recurrent module promises: layouts, states, steps, and work with PyTorch's tools."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from tests.autocast import skip_unless_it_runs
from tests.nn.loops import B, D, I, L, make_bounds, make_mask, start_like
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves, tree_map

from torchsru.nn import RNNS, Recurrent, SRUCell
from torchsru.nn.state import detach, reorder, reset

#: name: (of RNNS, options)
FAMILIES = {
    **{name: (name, {}) for name in RNNS},
    "qrnn-2": ("qrnn", {"window": 2, "pooling": "ifo", "highway": True}),
    "kernelnn-3": ("kernelnn", {"order": 3, "decay": "learned"}),
    "mingru+": ("mingru", {"positive": True}),
}
GATED = ("lstm", "gru")
LIGHT = [name for name in FAMILIES if name not in GATED]
each = pytest.mark.parametrize("name", FAMILIES)
each_light = pytest.mark.parametrize("name", LIGHT)
#: where a case takes seconds; SRU's own such tests are in tests/ops/test_registration.py
one_of_each = pytest.mark.parametrize("name", ["qrnn", "qrnn-2", "ssru", "mingru", "kernelnn"])
both_ways = pytest.mark.parametrize("bidirectional", [False, True])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(name, num_layers=2, input_size=I, **options):
    kind, own = FAMILIES[name]
    return RNNS[kind](input_size, D, num_layers, **{"dtype": torch.float64} | own | options)


def draw(*sizes, dtype=torch.float64):
    return torch.randn(*sizes, dtype=dtype)


def close(got, want, **tolerance):
    torch.testing.assert_close(got, want, **tolerance)


def row(state, i):
    """Row i of a state, as an unbatched one."""
    return tree_map(lambda leaf: leaf[:, i], state)


# ---- layouts -------------------------------------------------------------------------------------


@both_ways
@each
def test_the_contract(name, bidirectional):
    """Sizes, and a state whose tensors have the batch at dim 1 and are float32 at least."""
    rnn = make(name, bidirectional=bidirectional)
    assert isinstance(rnn, Recurrent)
    h, state = rnn(draw(L, B, I))
    n = 2 if bidirectional else 1
    assert (rnn.num_layers, rnn.num_directions, rnn.output_size) == (2, n, n * D)
    assert h.shape == (L, B, n * D) and h.dtype == torch.float64
    assert all(leaf.shape[1] == B and leaf.dtype == torch.float64 for leaf in tree_leaves(state))


@both_ways
@each
def test_batch_first_and_unbatched_are_views_of_the_same(name, bidirectional):
    rnn, first = make(name, bidirectional=bidirectional), None
    first = make(name, bidirectional=bidirectional, batch_first=True)
    first.load_state_dict(rnn.state_dict())
    x, mask = draw(L, B, I), make_mask(L, B)
    state = start_like(rnn(x)[1])
    h, end = rnn(x, state, mask=mask)
    got, got_end = first(x.transpose(0, 1), state, mask=mask.t())
    close((got.transpose(0, 1), got_end), (h, end))
    for i in range(B):
        for alike in (rnn, first):
            got = alike(x[:, i], row(state, i), mask=mask[:, i])
            close(got, (h[:, i], row(end, i)))


@both_ways
@each
def test_padding_leaves_no_trace(name, bidirectional):
    """Steps under the mask, wherever they stand, might as well not be there; they give 0."""
    rnn = make(name, bidirectional=bidirectional)
    x, mask = draw(L, B, I), make_mask(L, B)
    state = start_like(rnn(x)[1])
    h, end = rnn(x.masked_fill(mask[:, :, None], float("nan")), state, mask=mask)
    for i in range(B):
        keep = ~mask[:, i]
        if keep.any():
            close((h[keep, i], row(end, i)), rnn(x[keep, i], row(state, i)))
        else:
            close(row(end, i), row(state, i))
    assert not h[mask].any()


@both_ways
@each
def test_what_stands_at_padding_reaches_no_gradient(name, bidirectional):
    """NaN times a gradient of 0 would be NaN in the weights'."""
    rnn, mask, x = make(name, bidirectional=bidirectional), make_mask(L, B), draw(L, B, I)

    def gradients(value):
        given = x.masked_fill(mask[:, :, None], value).requires_grad_()
        loss = sum(leaf.square().sum() for leaf in tree_leaves(rnn(given, mask=mask)))
        return torch.autograd.grad(loss, [given, *rnn.parameters()])

    clean = gradients(0.0)
    assert not clean[0][mask].any()
    for poison in (float("nan"), float("inf")):
        close(gradients(poison), clean)


@both_ways
@each_light
def test_layers_behind_the_door_take_padding_as_it_comes(name, bidirectional):
    """Each gives 0 there, so none but the first is filled, and that one before its layer."""
    rnn, mask = make(name, 3, bidirectional=bidirectional), make_mask(L, B)
    layers, transforms = [], []
    for layer in rnn.layers:
        layer.register_forward_hook(lambda m, inputs, out: layers.append((inputs[0], out[0])))
        layer.transform.register_forward_hook(lambda m, inputs, out: transforms.append(inputs[0]))
    rnn(draw(L, B, I), mask=mask)
    assert not layers[0][0][mask].any()
    for (_, below), (above, _) in pairwise(layers):
        assert above is below and not below[mask].any()
    if name != "qrnn-2":  # a window of two steps is laid out anew
        assert all(x is inside for x, (inside, _) in zip(transforms, layers, strict=True))


@both_ways
@each
def test_packed_sequences_and_documents_equal_one_by_one(name, bidirectional):
    rnn = make(name, bidirectional=bidirectional)
    lengths = [4, 7, 1, 4]
    xs = [draw(n, I) for n in lengths]
    state = start_like(rnn(draw(L, 4, I))[1])
    packed, end = rnn(pack_sequence(xs, enforce_sorted=False), state)
    h, got_lengths = pad_packed_sequence(packed)
    assert got_lengths.tolist() == lengths
    bounds = torch.tensor([0, 4, 11, 12, 16])
    joint, joint_end = rnn(torch.cat(xs), state, cu_seqlens=bounds)
    for i, (start, stop) in enumerate(pairwise(bounds.tolist())):
        alone = rnn(xs[i], row(state, i))
        close((h[: lengths[i], i], row(end, i)), alone)
        close((joint[start:stop], row(joint_end, i)), alone)
    close(rnn(torch.cat(xs)[:, None], state, cu_seqlens=bounds), (joint[:, None], joint_end))


@each_light
def test_packed_rows_cost_no_step_of_padding(name):
    rnn, lengths, seen = make(name), [4, 7, 1], []
    for layer in rnn.layers:
        layer.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0].shape[:2]))
    rnn(pack_sequence([draw(n, I) for n in lengths], enforce_sorted=False))
    assert [size.numel() for size in seen] == [sum(lengths)] * rnn.num_layers


@pytest.mark.parametrize("sru", [RNNS["sru"], SRUCell])
def test_packed_rows_do_not_meet_in_a_transform_along_time(sru):
    class Causal(torch.nn.Conv1d):
        def __init__(self, inputs, outputs):
            super().__init__(inputs, outputs, 2, padding=1, dtype=torch.float64)

        def forward(self, x):
            return super().forward(x.permute(1, 2, 0))[:, :, : len(x)].permute(2, 0, 1)

    rnn = sru(I, D, transform=Causal, dtype=torch.float64)
    xs = [draw(n, I) for n in (4, 7, 1)]
    h, lengths = pad_packed_sequence(rnn(pack_sequence(xs, enforce_sorted=False))[0])
    for i, x in enumerate(xs):
        close(h[: lengths[i], i], rnn(x)[0])


@each
def test_padding_documents_and_packed_rows_get_the_gradients_of_sequences_alone(name):
    rnn, mask, bounds = make(name), make_mask(L, B), make_bounds(9)
    x, text = draw(L, B, I), draw(9, I)

    def gradients(*outputs):
        return torch.autograd.grad(sum(o.square().sum() for o in outputs), [*rnn.parameters()])

    rows = [rnn(x[~mask[:, i], i])[0] for i in range(B) if not mask[:, i].all()]
    close(gradients(rnn(x, mask=mask)[0]), gradients(*rows))
    documents = [rnn(text[a:b])[0] for a, b in pairwise(bounds.tolist()) if b > a]
    close(gradients(rnn(text, cu_seqlens=bounds)[0]), gradients(*documents))
    xs = [draw(n, I).requires_grad_() for n in (4, 7, 1, 4)]
    for some in (xs, sorted(xs, key=len, reverse=True)):
        packed = pack_sequence(some, enforce_sorted=some is not xs)
        close(gradients(rnn(packed)[0].data), gradients(*(rnn(x)[0] for x in xs)))
        (got,), (want,) = (
            torch.autograd.grad(sum(o.square().sum() for o in outputs), some[:1], retain_graph=True)
            for outputs in ([rnn(packed)[0].data], [rnn(x)[0] for x in some])
        )
        close(got, want)


@each
def test_bounds_may_be_int32(name):
    rnn, text, bounds = make(name), draw(9, I), make_bounds(9)
    close(rnn(text, cu_seqlens=bounds.int()), rnn(text, cu_seqlens=bounds))


# ---- states --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequences", ["rows", "mask", "unbatched", "batch_first"])
@each
def test_a_sequence_may_be_cut_anywhere(name, sequences):
    rnn = make(name, batch_first=sequences == "batch_first")
    time = 1 if sequences == "batch_first" else 0
    x = draw(L, I) if sequences == "unbatched" else draw(L, B, I).movedim(0, time)
    mask = make_mask(L, B) if sequences == "mask" else None
    whole, end = rnn(x, mask=mask)
    for cut in (0, 1, 3, L - 1, L):
        h, state = [], None
        for part in (slice(cut), slice(cut, None)):
            index = (slice(None), part) if time else part
            h_part, state = rnn(x[index], state, mask=None if mask is None else mask[part])
            h.append(h_part)
        close((torch.cat(h, time), state), (whole, end))


@each
def test_documents_may_be_cut_anywhere(name):
    """Each goes on from its own state."""
    rnn = make(name)
    texts = [draw(n, I) for n in (5, 0, 3)]

    def call(parts, state=None):
        bounds = torch.tensor([0, *[len(p) for p in parts]]).cumsum(0)
        h, state = rnn(torch.cat(parts), state, cu_seqlens=bounds)
        return [h[a:b] for a, b in pairwise(bounds.tolist())], state

    whole, end = call(texts)
    first, state = call([texts[0][:2], texts[1], texts[2][:3]])
    second, last = call([texts[0][2:], texts[1], texts[2][3:]], state)
    close(([torch.cat(pair) for pair in zip(first, second, strict=True)], last), (whole, end))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
@each
def test_steps_are_the_sequence(name, batched, batch_first):
    rnn = make(name, batch_first=batch_first)
    x = draw(*(L, B, I) if batched else (L, I))
    time = 1 if batched and batch_first else 0
    state, hs = None, []
    for x_t in x:
        h_t, state = rnn.step(x_t, state)
        hs.append(h_t)
    close((torch.stack(hs, time), state), rnn(x.movedim(0, time)))


@both_ways
@each
def test_helpers_of_states(name, bidirectional):
    """A row reset is a row started anew; rows reordered go on as they would have."""
    rnn, x, more = make(name, bidirectional=bidirectional), draw(L, 4, I), draw(L, 4, I)
    _, state = rnn(x)
    h, end = rnn(more, state)
    fresh, fresh_end = rnn(more)
    marked = torch.tensor([False, True, False, True])
    got, got_end = rnn(more, reset(state, marked))
    close((got[:, marked], reorder(got_end, marked.nonzero()[:, 0])),
          (fresh[:, marked], reorder(fresh_end, marked.nonzero()[:, 0])))  # fmt: skip
    close(got[:, ~marked], h[:, ~marked])
    assert not torch.allclose(h[:, marked], fresh[:, marked])
    rows = torch.tensor([2, 2, 0])
    close(rnn(more[:, rows], reorder(state, rows)), (h[:, rows], reorder(end, rows)))
    cut = detach(state)
    assert tree_leaves(state)[0].requires_grad
    assert not any(leaf.requires_grad for leaf in tree_leaves(cut))
    close(rnn(more, cut)[0], h)


@each
def test_float32_states_between_half_precision_calls_lose_nothing(name):
    rnn = make(name, dtype=torch.bfloat16)
    x = draw(L, B, I, dtype=torch.bfloat16)
    h, end = rnn(x)
    assert h.dtype == torch.bfloat16
    assert {leaf.dtype for leaf in tree_leaves(end)} == {torch.float32}
    h1, state = rnn(x[:3])
    h2, last = rnn(x[3:], state)
    close(torch.cat([h1, h2]), h)
    close(last, end, rtol=1e-5, atol=1e-6)  # a bfloat16 state would be 4e-3 off


@each_light
def test_slow_gates_survive_half_precision(name):
    """Gates and recurrence run in float32: a gate of 0.993 would be rounded to 2 digits of 1 - f in
    bfloat16, and 400 steps would be more than a tenth off."""
    half = make(name, 1, input_size=D, dtype=torch.bfloat16)
    with torch.no_grad():
        (layer,) = half.layers
        layer.transform.weight.mul_(0.3)
        biases = layer.bias if hasattr(layer, "bias") else layer.transform.bias.view(-1, D)[1]
        (biases[0] if name == "sru" else biases).fill_(-5 if name.startswith("mingru") else 5)
    exact = make(name, 1, input_size=D)
    exact.load_state_dict(half.state_dict())
    x = draw(400, B, D, dtype=torch.bfloat16)
    got, want = half(x)[0].double(), exact(x.double())[0]
    assert (got - want).abs().max() < 0.02 * want.abs().max()


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in LIGHT if n != "sru"])
def test_dropout_stands_between_layers_with_one_mask_for_all_steps(name):
    rnn, seen = make(name, 3, dropout=0.4), []
    for layer in rnn.layers:
        layer.register_forward_hook(lambda m, inputs, out: seen.append((inputs[0], out[0])))
    rnn(draw(L, 50, I))
    for (_, below), (above, _) in pairwise(seen):
        ratio = above / below
        alive = below.abs() > 1e-9
        kept = (ratio - 1 / 0.6).abs() < 1e-6
        assert ((ratio.abs() < 1e-9) | kept)[alive].all()
        ever = (kept & alive).any(0)
        assert (kept | ~alive)[:, ever].all()
        assert abs(kept[alive].double().mean().item() - 0.6) < 0.1
    rnn.eval()
    plain = make(name, 3)
    plain.load_state_dict(rnn.state_dict())
    x = draw(L, B, I)
    close(rnn(x), plain(x), rtol=0, atol=0)


@each
def test_a_copy_a_pickle_and_a_state_dict_are_the_same_module(name):
    rnn, other, x = make(name, bidirectional=True), make(name, bidirectional=True), draw(L, B, I)
    expected = rnn(x)
    assert not torch.allclose(other(x)[0], expected[0])
    other.load_state_dict(rnn.state_dict())
    for again in (other, copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        close(again(x), expected, rtol=0, atol=0)
    doubled = {key: 2 * p.detach() for key, p in rnn.named_parameters()}
    other.load_state_dict(doubled)
    if name not in GATED:  # nn.LSTM's weights can't be called from outside, nor can its heirs'
        close(torch.func.functional_call(rnn, doubled, (x,)), other(x))


@each
def test_reset_parameters_draws_anew_and_repr_names_the_options(name):
    rnn = make(name, dropout=0.25)
    before = copy.deepcopy(rnn.state_dict())
    rnn.reset_parameters()
    changed = [k for k in before if not torch.equal(before[k], rnn.state_dict()[k])]
    assert any("weight" in k for k in changed)
    text = repr(rnn)
    assert text.startswith(type(rnn).__name__ + "(") and "dropout=0.25" in text
    for option in FAMILIES[name][1]:
        assert f"{option}={FAMILIES[name][1][option]}" in text
    assert "window" not in repr(make("qrnn"))


@pytest.mark.parametrize("name", [n for n in LIGHT if n != "sru"])
def test_initial_weights_have_variance_one_over_fan_in(name):
    rnn = make(name, 1, input_size=400)
    for key, p in rnn.named_parameters():
        if "bias" in key:
            assert not p.any()
        else:
            close(p.var() * p.shape[1], draw(()) * 0 + 1, rtol=0.1, atol=0)


@each
def test_devices_and_types(name):
    rnn = make(name, device="meta", dtype=torch.float32)
    assert {p.device.type for p in rnn.parameters()} == {"meta"}
    rnn.to_empty(device="cpu").reset_parameters()
    assert rnn(draw(L, B, I, dtype=torch.float32))[0].isfinite().all()
    rnn.double()
    h, state = rnn(draw(L, B, I))
    assert {h.dtype, *(leaf.dtype for leaf in tree_leaves(state))} == {torch.float64}


# ---- PyTorch's tools -----------------------------------------------------------------------------


def with_gradients(fn, *tensors):
    leaves = [t.detach().requires_grad_() for t in tensors]
    outputs = tree_leaves(fn(*leaves))
    loss = sum((o * o).sum() for o in outputs)
    return [o.detach() for o in outputs], torch.autograd.grad(loss, leaves)


@one_of_each
def test_compiled_equals_eager(name):
    """Forward and backward, from a state, with a mask and with documents, and a single step."""
    torch._dynamo.reset()  # its limit of graphs is the process's
    rnn = make(name, bidirectional=True)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    x, state, mask = draw(L, B, I), start_like(rnn(draw(L, B, I))[1]), make_mask(L, B)
    close(with_gradients(compiled, x), with_gradients(rnn, x))
    close(compiled(x, state), rnn(x, state))
    close(compiled(x, mask=mask), rnn(x, mask=mask))
    text, bounds = draw(9, I), make_bounds(9)
    close(compiled(text, cu_seqlens=bounds), rnn(text, cu_seqlens=bounds))
    rnn = make(name)
    step = torch.compile(rnn.step, fullgraph=True, backend="aot_eager")
    _, state = rnn(x)
    close(step(x[0], state), rnn.step(x[0], state))


@one_of_each
def test_exported_runs_for_another_length(name):
    rnn = make(name).eval()
    dims = ({0: torch.export.Dim("L", min=2, max=4096)},)
    program = torch.export.export(rnn, (draw(8, B, I),), dynamic_shapes=dims)
    for length in (8, 21):
        x = draw(length, B, I)
        close(program.module()(x), rnn(x))


@one_of_each
def test_exported_with_padding(name):
    """As a model of padded batches is exported: x and its mask, both of any length."""
    rnn = make(name, bidirectional=True).eval()
    length = {0: torch.export.Dim("L", min=2, max=4096)}
    program = torch.export.export(
        rnn, (draw(8, B, I),), {"mask": make_mask(8, B)},
        dynamic_shapes={"x": length, "mask": length},
    )  # fmt: skip
    x, mask = draw(13, B, I), make_mask(13, B)
    close(program.module()(x, mask=mask), rnn(x, mask=mask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each
def test_autocast(name, dtype):
    if name in GATED:
        skip_unless_it_runs({"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name], dtype)
    rnn, x = make(name, dtype=torch.float32), draw(L, B, I, dtype=torch.float32)
    expected, end = rnn(x)
    with torch.autocast("cpu", dtype):
        h, state = rnn(x[:3])
        more, state = rnn(x[3:], state)
    assert name in GATED or more.dtype == dtype
    assert {leaf.dtype for leaf in tree_leaves(state)} == {torch.float32}
    more.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in rnn.parameters() if p.grad is not None)
    close(torch.cat([h, more]).float(), expected, rtol=0.1, atol=0.1)
    close(state, end, rtol=0.1, atol=0.1)


@one_of_each
def test_second_derivatives(name):
    rnn = make(name, 1, input_size=2)
    x = draw(3, 1, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: rnn(x)[0], (x,))


@pytest.mark.parametrize(("length", "rows"), [(0, B), (L, 0), (0, 0)])
@both_ways
@each
def test_empty_batches(name, bidirectional, length, rows):
    rnn = make(name, bidirectional=bidirectional, dropout=0.1)
    h, state = rnn(draw(length, rows, I))
    assert h.shape == (length, rows, rnn.output_size)
    assert all(leaf.shape[1] == rows for leaf in tree_leaves(state))
    if length == 0:
        assert not any(leaf.any() for leaf in tree_leaves(state))
        again = start_like(state)
        close(rnn(draw(0, rows, I), again)[1], again)
    h, state = rnn(draw(0, I), cu_seqlens=torch.tensor([0, 0, 0]))
    assert h.shape == (0, rnn.output_size) and tree_leaves(state)[0].shape[1] == 2


# ---- errors --------------------------------------------------------------------------------------


def zeros(*shape, **kind):
    return torch.zeros(shape, **kind)


BAD_CALLS = {
    "features": (
        (zeros(L, B, 4),), {}, ValueError,
        r"x must be \[L, B, input_size\] or .* with input_size = 5, got \[7, 3, 4\]",
    ),
    "rank": ((zeros(1, L, B, I),), {}, ValueError, r"x must be .*, got \[1, 7, 3, 5\]"),
    "type": (
        (zeros(L, B, I).double(),), {}, ValueError,
        r"x must be torch.float32 like the parameters, got torch.float64",
    ),
    "mask": (
        (zeros(L, B, I),), {"mask": zeros(B, L, dtype=torch.bool)}, ValueError,
        r"mask must be \[L, B\] = \[7, 3\] .*, got \[3, 7\]",
    ),
    "mask of numbers": (
        (zeros(L, B, I),), {"mask": zeros(L, B)}, ValueError,
        "mask must be bool, True at padding, got torch.float32",
    ),
    "mask elsewhere": (
        (zeros(L, B, I),), {"mask": zeros(L, B, dtype=torch.bool, device="meta")}, ValueError,
        "mask must be on cpu like x, got meta",
    ),
    "mask and documents": (
        (zeros(L, I),), {"mask": zeros(L, dtype=torch.bool), "cu_seqlens": torch.tensor([0, L])},
        ValueError, "mask must be None beside cu_seqlens",
    ),
    "documents and rows": (
        (zeros(L, B, I),), {"cu_seqlens": torch.tensor([0, 7])}, ValueError,
        r"x must have one batch row beside cu_seqlens, got B = 3",
    ),
    "bounds of numbers": (
        (zeros(L, I),), {"cu_seqlens": torch.tensor([0.0, 7.0])}, ValueError,
        "cu_seqlens must be int32 or int64, got torch.float32",
    ),
    "bounds too short": (
        (zeros(L, I),), {"cu_seqlens": torch.tensor([0, 5])}, RuntimeError,
        r"cu_seqlens\[1\] must be the number of steps, 7, got 5",
    ),
    "bounds too long": (
        (zeros(L, I),), {"cu_seqlens": torch.tensor([0, 5, 9])}, RuntimeError,
        r"cu_seqlens\[2\] must be the number of steps, 7, got 9",
    ),
    "bounds late": (
        (zeros(L, I),), {"cu_seqlens": torch.tensor([2, 7])}, RuntimeError,
        r"cu_seqlens\[0\] must be 0, got 2",
    ),
    "no documents": (
        (zeros(L, I),), {"cu_seqlens": torch.tensor([0])}, RuntimeError,
        r"cu_seqlens\[0\] must be the number of steps, 7, got 0",
    ),
    "packed and mask": (
        (pack_sequence([zeros(3, I)]),), {"mask": zeros(3, 1, dtype=torch.bool)}, ValueError,
        r"mask and cu_seqlens must be None beside a PackedSequence",
    ),
    "packed features": (
        (pack_sequence([zeros(3, 4)]),), {}, ValueError,
        r"x must be a PackedSequence .* input_size = 5, got data of shape \[3, 4\]",
    ),
    "packed type": (
        (pack_sequence([zeros(3, I).double()]),), {}, ValueError,
        r"x must be torch.float32 like the parameters, got torch.float64",
    ),
}  # fmt: skip


@both_ways
@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS
)
@each
def test_bad_calls(name, arguments, options, kind, message, bidirectional):
    rnn = make(name, dtype=torch.float32, bidirectional=bidirectional)
    with pytest.raises(kind, match=message):
        rnn(*arguments, **options)


@each
def test_bad_states(name):
    rnn = make(name, dtype=torch.float32)
    x = zeros(L, B, I)
    state = tree_map(torch.detach, rnn(x)[1])
    for wrong, message in (
        (reorder(state, torch.tensor([0, 1])), r"state.* must be \[.*\] = .*, got \[\d, 2, "),
        (tree_map(torch.Tensor.double, state), "must be torch.float32, or narrower, got torch.fl"),
        (tree_map(lambda leaf: leaf.to("meta"), state), "must be on cpu like the parameters, got"),
    ):
        with pytest.raises(ValueError, match=message):
            rnn(x, wrong)
    with pytest.raises(TypeError, match=r"state.* must be "):
        rnn(x, {"c": state})
    with pytest.raises(ValueError, match=r"state.* must be "):
        rnn(x[:, 0], state)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("input_size", 0, "must be a positive integer, got 0"),
        ("hidden_size", -1, "must be a positive integer, got -1"),
        ("num_layers", 1.5, "must be a positive integer, got 1.5"),
        ("dropout", 1.0, r"must be in \[0, 1\), got 1.0"),
        ("dropout", "0.1", r"must be in \[0, 1\), got '0.1'"),
    ],
)
@each
def test_bad_options(name, option, value, message):
    kind, own = FAMILIES[name]
    with pytest.raises(ValueError, match=f"{option} {message}"):
        RNNS[kind](**{"input_size": I, "hidden_size": D} | own | {option: value})


@each
def test_step_refuses_two_directions(name):
    with pytest.raises(ValueError, match="step needs bidirectional=False"):
        make(name, bidirectional=True).step(draw(B, I))
