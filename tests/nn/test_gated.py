"""LSTM and GRU: PyTorch's own numbers, and row by row where PyTorch has no mask or documents."""

import warnings

import pytest
import torch
from tests.nn.loops import make_bounds, make_mask, places, start_like, with_gradients
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils._pytree import tree_leaves, tree_map

from torchsru.nn import GRU, LSTM

L, B, I, D = 7, 4, 5, 6  # noqa: E741

PAIRS = {"lstm": (LSTM, nn.LSTM), "gru": (GRU, nn.GRU)}
each = pytest.mark.parametrize("kind", PAIRS)


def pair(kind, num_layers=2, **options):
    """Ours and PyTorch's, with the same weights, in float64."""
    torch.manual_seed(0)
    ours, theirs = (
        cls(I, D, num_layers, dtype=torch.float64, **options) for cls in PAIRS[kind]
    )  # fmt: skip
    assert ours.load_state_dict(theirs.state_dict()).missing_keys == []
    return ours, theirs


def equal(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layout", ["batched", "unbatched", "packed", "packed unsorted"])
@each
def test_numbers_are_pytorchs(kind, layout, batch_first, bidirectional):
    """To the bit, gradients too, in every layout that PyTorch has."""
    ours, theirs = pair(kind, batch_first=batch_first, bidirectional=bidirectional)
    sizes = (L, I) if layout == "unbatched" else (B, L, I) if batch_first else (L, B, I)
    x = torch.randn(sizes, dtype=torch.float64, requires_grad=True)
    given = x
    if layout.startswith("packed"):
        lengths = [4, 7, 1, 2] if layout == "packed unsorted" else [7, 4, 2, 1]
        rows = x.unbind(0 if batch_first else 1)
        given = pack_sequence(
            [row[:n] for row, n in zip(rows, lengths, strict=True)],
            enforce_sorted=layout == "packed",
        )
    state = start_like(theirs(given)[1])

    def run(rnn, *state):
        def call():
            out, end = rnn(given, *state)
            return out.data if layout.startswith("packed") else out, end

        return with_gradients(call, [x, *rnn.parameters()])

    for start in ((), (state,)):
        equal(run(ours, *start), run(theirs, *start))


@each
def test_weights_move_both_ways(kind):
    ours, theirs = pair(kind, bidirectional=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    other = PAIRS[kind][1](I, D, 2, bidirectional=True, dtype=torch.float64)
    other.load_state_dict(ours.state_dict())
    x = torch.randn(L, B, I, dtype=torch.float64)
    equal(other(x), theirs(x))
    assert isinstance(ours, PAIRS[kind][1])


@each
def test_the_plain_call_is_one_call_of_pytorch(kind, monkeypatch):
    """Nothing is copied or packed on the way: the baseline's speed is nn.LSTM's."""
    ours, theirs = pair(kind)
    seen, forward = [], type(theirs).forward

    def spy(self, x, state=None):
        seen.append((x, state))
        return forward(self, x, state)

    monkeypatch.setattr(type(theirs), "forward", spy)
    x = torch.randn(L, B, I, dtype=torch.float64)
    _, state = ours(x)
    ours(x, state)
    assert [x_seen is x for x_seen, _ in seen] == [True, True]
    before = tree_leaves(state)
    assert all(a is b for a, b in zip(tree_leaves(seen[1][1]), before, strict=True))


def by_rows(theirs, x, state, mask=None, bounds=None):
    """PyTorch's module on the real steps of each row or document, one after the other."""
    n = 2 if theirs.bidirectional else 1
    out = x.new_zeros(*x.shape[:2], n * D)
    ends = []
    for row, (steps, b) in enumerate(places(*x.shape[:2], mask, bounds)):
        end = tree_map(lambda leaf, row=row: leaf[:, row], state)
        if steps:
            h, end = theirs(x[steps, b], end)
            out = out.index_put((torch.tensor(steps), torch.tensor(b)), h)
        ends.append(end)
    return out, tree_map(lambda *rows: torch.stack(rows, 1), *ends)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("sequences", ["mask", "padding", "documents"])
@pytest.mark.parametrize("way", ["_run_padded", "_run_packed"])
@each
def test_masks_and_documents_equal_row_by_row(kind, way, sequences, bidirectional, monkeypatch):
    """Padding anywhere in a row; rows and documents without any step; gradients too; as rows are
    run on a CPU, and as on a GPU."""
    ours, theirs = pair(kind, bidirectional=bidirectional)
    monkeypatch.setattr(ours, "_run_padded", getattr(ours, way))
    x = torch.randn(9, 1 if sequences == "documents" else B, I, dtype=torch.float64)
    x.requires_grad_()
    mask = bounds = None
    if sequences == "documents":
        bounds = make_bounds(9)
    else:
        mask = make_mask(9, B)
        if sequences == "padding":
            mask = mask.sort(dim=0).values
    R = B if bounds is None else 5
    state = tree_map(
        lambda leaf: torch.randn(leaf.shape[0], R, D, dtype=leaf.dtype).requires_grad_(),
        theirs(x)[1],
    )
    leaves = [x, *tree_leaves(state)]
    got = with_gradients(
        lambda: ours(x, state, mask=mask, cu_seqlens=bounds), [*leaves, *ours.parameters()]
    )
    want = with_gradients(
        lambda: by_rows(theirs, x, state, mask, bounds), [*leaves, *theirs.parameters()]
    )
    torch.testing.assert_close(got, want)


@each
def test_that_check_can_fail(kind):
    ours, theirs = pair(kind)
    x, mask = torch.randn(9, B, I, dtype=torch.float64), make_mask(9, B)
    state = start_like(theirs(x)[1])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ours(x, state)[1], by_rows(theirs, x, state, mask)[1])


@each
def test_no_steps_are_in_the_graph_too(kind):
    ours, _ = pair(kind)
    x = torch.zeros(0, B, I, dtype=torch.float64, requires_grad=True)
    out, _ = ours(x)
    assert out.shape == (0, B, D)
    out.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("value", [1e6, float("nan")])
@each
def test_nothing_of_a_document_reaches_another(kind, value):
    """Whatever stands in it."""
    ours, _ = pair(kind)
    x, bounds = torch.randn(9, I, dtype=torch.float64), torch.tensor([0, 2, 6, 9])
    x[2:6] = value
    out, state = ours(x, cu_seqlens=bounds)
    for document in (0, 2):
        steps = slice(*bounds[document : document + 2])
        want, end = ours(x[steps])
        torch.testing.assert_close(out[steps], want)
        got = tree_map(lambda leaf, document=document: leaf[:, document], state)
        torch.testing.assert_close(got, end)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@each
def test_padding_in_low_precision(kind, dtype):
    """The gates that hold the state do so in PyTorch's fused layers too."""
    ours, _ = pair(kind, bidirectional=True)
    x, mask = torch.randn(30, B, I, dtype=torch.float64), make_mask(30, B)
    want = ours(x, mask=mask)
    got = ours.to(dtype)(x.to(dtype), mask=mask)
    rough = {} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(got, want, check_dtype=False, **rough)


@each
def test_documents_that_do_not_fit_are_refused(kind):
    ours, _ = pair(kind)
    x = torch.randn(9, I, dtype=torch.float64)
    for bounds, message in (
        ([0, 5], r"cu_seqlens\[1\] must be the number of steps, 9, got 5"),
        ([1, 9], r"cu_seqlens\[0\] must be 0, got 1"),
        ([0, 7, 5, 9], "cu_seqlens must not fall, got 7 then 5"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ours(x, cu_seqlens=torch.tensor(bounds))


@each
def test_dropout_of_a_single_layer_does_not_warn(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = PAIRS[kind][0](I, D, dropout=0.5)
        double = PAIRS[kind][0](I, D, 2, dropout=0.5)
    x = torch.randn(L, B, I)
    equal(single(x), single(x))
    assert not torch.equal(double(x)[0], double(x)[0])
    assert "dropout=0.5" in repr(double)


def zeros(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("kind", "state", "error", "message"),
    [
        ("lstm", zeros(2, B, D), TypeError, r"state must be a pair .*\(h, c\), got Tensor"),
        ("lstm", (zeros(2, B, D),), TypeError, "got 1 of them"),
        ("lstm", (zeros(2, B, D), None), TypeError, r"state\[1\] must be a tensor, got NoneType"),
        (
            "lstm", (zeros(2, B, D), zeros(2, 3, D)), ValueError,
            r"state\[1\] must be \[layers \* directions, batch, hidden_size\] = \[2, 4, 6\], got ",
        ),
        ("gru", (zeros(2, B, D),), TypeError, "state must be a tensor, got tuple"),
        ("gru", zeros(1, B, D), ValueError, r"state must be .* = \[2, 4, 6\], got \[1, 4, 6\]"),
    ],
)  # fmt: skip
def test_bad_states(kind, state, error, message):
    rnn = PAIRS[kind][0](I, D, 2)
    with pytest.raises(error, match=message):
        rnn(zeros(L, B, I), state)


@pytest.mark.parametrize("mask", [None, make_mask(L, B)], ids=["plain", "mask"])
@each
def test_x_of_another_type(kind, mask):
    rnn = PAIRS[kind][0](I, D, 2)
    message = "x must be torch.float32 like the parameters, got torch.float64"
    with pytest.raises(ValueError, match=message):
        rnn(torch.zeros(L, B, I, dtype=torch.float64), mask=mask)


@each
def test_compile_and_export_reach_as_far_as_pytorchs(kind):
    """torch.compile needs dynamo's allow_rnn; torch.export takes one length."""
    ours = PAIRS[kind][0](I, D, 2).eval()
    x, mask = torch.randn(L, B, I), make_mask(L, B)
    with torch._dynamo.config.patch(allow_rnn=True):
        compiled = torch.compile(ours, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), ours(x))
        torch.testing.assert_close(compiled(x, mask=mask), ours(x, mask=mask))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The tensor attributes")
        program = torch.export.export(ours, (x,))
        masked = torch.export.export(ours, (x,), {"mask": mask})
    torch.testing.assert_close(program.module()(x), ours(x))
    torch.testing.assert_close(masked.module()(x, mask=mask), ours(x, mask=mask))
