"""TransformerXL against section 3.3 of arXiv 1901.02860, written out key by key."""

import copy
import math
import pickle

import pytest
import torch
from torch.nn.functional import layer_norm
from torch.utils._pytree import tree_leaves, tree_map

from torchsru.nn import TransformerXL
from torchsru.nn.state import reorder, reset

L, B, I, D, H, E, M = 7, 3, 6, 8, 2, 3, 4  # noqa: E741


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(num_layers=2, input_size=D, **options):
    given = {"num_heads": H, "head_size": E, "memory_length": M, "feedforward_size": 10}
    made = TransformerXL(input_size, D, num_layers, **{"dtype": torch.float64} | given | options)
    with torch.no_grad():  # weights of 0.02 would hide mistakes
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * (0.5 if p.dim() > 1 else 0.3))
    return made.eval()


def draw(*sizes, dtype=torch.float64):
    return torch.randn(*sizes, dtype=dtype)


def close(got, want, **tolerance):
    torch.testing.assert_close(got, want, **tolerance)


def sinusoid(distance):
    frequency = torch.tensor([10000 ** (-2 * i / D) for i in range(D // 2)], dtype=torch.float64)
    return torch.cat([torch.sin(distance * frequency), torch.cos(distance * frequency)])


def reference(model, xs, memory, *, band=None, sign=1):
    """One text: xs [L] of [D], memory [layers][m] of [D] -> hs [L] of [D], memory.

    band: how far back a query looks; None: as far as there are keys. sign: -1 mixes up i - j.
    No gradient flows into the memory, nor in evaluation into what was made of it.
    """
    hs, kept = list(xs), []
    for n, layer in enumerate(model.layers):
        u, v = model.biases[0 if model.tied_biases else n]  # [H, E]
        keys = memory[n] + hs

        def made(W, n, j, keys=keys):
            kept_from_before = not model.training and j < len(memory[n])
            return (W @ keys[j]).detach() if kept_from_before else W @ keys[j]

        kept.append([k.detach() for k in keys[-model.memory_length :]])
        W_q, W_r = (w.weight.view(H, E, D) for w in (layer.query, layer.position))
        W_k, W_v = layer.key_value.weight.view(2, H, E, D)
        out = []
        for i, x in enumerate(hs):
            at, heads = len(memory[n]) + i, []
            seen = [j for j in range(at + 1) if band is None or at - j <= band]
            for head in range(H):
                q, scores = W_q[head] @ x, []
                for j in seen:
                    distance = min(at - j, model.clamp_length or math.inf)
                    k, r = made(W_k[head], n, j), W_r[head] @ sinusoid(sign * distance)
                    a = q @ k + q @ r + u[head] @ k + v[head] @ r  # (a) to (d) of the paper
                    scores.append(a / math.sqrt(E))
                weights = torch.stack(scores).softmax(0)
                heads.append(
                    sum(w * made(W_v[head], n, j) for w, j in zip(weights, seen, strict=True))
                )
            y = x + layer.output.weight @ torch.cat(heads)
            y = layer_norm(y, (D,), layer.attention_norm.weight, layer.attention_norm.bias)
            f = layer.outer.weight @ (layer.inner.weight @ y + layer.inner.bias).relu()
            y = y + f + layer.outer.bias
            out.append(layer_norm(y, (D,), layer.norm.weight, layer.norm.bias))
        hs = out
    return hs, kept


def check(model, *, sign=1):
    """Three calls in a row, outputs and all gradients, against the loops, for each row."""
    segments = [draw(n, B, D).requires_grad_() for n in (4, 1, 3)]
    state, got = None, []
    for x in segments:
        h, state = model(x, state)
        got.append(h)
    want = []
    for b in range(B):
        memory, row = [[] for _ in model.layers], []
        for x in segments:
            band = M if model.same_length and not model.training else None
            hs, memory = reference(model, x[:, b], memory, band=band, sign=sign)
            row += hs
        want.append(torch.stack(row))
    got, want = torch.cat(got), torch.stack(want, 1)
    weights = draw(*got.shape)
    leaves = [*segments, *model.parameters()]
    gradients = [torch.autograd.grad((t * weights).sum(), leaves) for t in (got, want)]
    close(got, want)
    close(*gradients)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"clamp_length": 2}, {"tied_biases": False}, {"same_length": False}],
    ids=["plain", "clamp", "untied", "all keys"],
)
def test_equals_the_loops(options, training):
    check(make(**options).train(training))


def test_the_check_can_fail():
    with pytest.raises(AssertionError, match="not close"):
        check(make(), sign=-1)


def test_gradients_and_second_derivatives():
    model, x = make(1, D, feedforward_size=3), draw(2, 1, D).requires_grad_()
    _, state = model(draw(2, 1, D))
    assert torch.autograd.gradcheck(lambda x: model(x, state)[0], (x,))
    assert torch.autograd.gradgradcheck(lambda x: model(x, state)[0], (x,))


# ---- state ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
def test_a_text_may_be_cut_anywhere(padded):
    model, x = make(), draw(3 * M, B, D)
    mask = torch.rand(3 * M, B) < 0.4 if padded else None
    whole, end = model(x, mask=mask)
    for cuts in ([5, 7], [1] * 12, [0, 12], [11, 1]):
        parts = x.split(cuts)
        masks = [None] * len(parts) if mask is None else mask.split(cuts)
        state, h = None, []
        for part, part_mask in zip(parts, masks, strict=True):
            h_part, state = model(part, state, mask=part_mask)
            h.append(h_part)
        close((torch.cat(h), state), (whole, end))
        assert all(len(leaf) == M for leaf in state["keys_values"])
    _, state = model.train()(x[:5])
    assert not torch.allclose(model(x[5:], state)[0], whole[5:])  # training sees further


def test_memory_is_bounded_and_carries_no_gradient():
    model = make().train()
    _, state = model(draw(2, B, D))
    assert [len(leaf) for leaf in state["inputs"]] == [2, 2]
    assert state["length"].tolist() == [[2] * B]
    for _ in range(4):
        h, state = model(draw(3, B, D), state)
    assert [len(leaf) for leaf in state["inputs"]] == [M, M]
    assert state["length"].tolist() == [[M] * B]
    assert h.requires_grad and not any(leaf.requires_grad for leaf in tree_leaves(state))


def test_a_state_from_training_goes_into_evaluation():
    model, x = make(1), draw(9, B, D)
    whole, end = model(x)
    _, state = model.train()(x[:5])  # of one layer, whose inputs are the same in both
    h, last = model.eval()(x[5:], state)
    close((h, last), (whole[5:], end))


def test_nothing_is_projected_twice_in_evaluation():
    model, seen = make(), []
    model.layers[1].key_value.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    model.layers[1].position.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    state = None
    for n in (3, 2, 1, 1):
        _, state = model(draw(n, B, D), state)
    assert seen == [3, 3, 2, 5, 1, 1]  # of L steps; of K distances, but for single steps


def test_helpers_of_states():
    """A row that is reset has an empty memory, not one of zeros."""
    model, x, more = make(), draw(5, B, D), draw(5, B, D)
    _, state = model(x)
    h, _ = model(more, state)
    got, _ = model(more, reset(state, torch.tensor([False, True, False])))
    close(got[:, 1], model(more)[0][:, 1])
    close(got[:, [0, 2]], h[:, [0, 2]])
    assert not torch.allclose(h[:, 1], got[:, 1])
    rows = torch.tensor([2, 2, 0])
    close(model(more[:, rows], reorder(state, rows))[0], h[:, rows])


# ---- layouts -------------------------------------------------------------------------------------


def test_padding_and_documents_might_as_well_be_alone():
    model, x = make(input_size=I), draw(L, B, I)
    mask = torch.rand(L, B) < 0.4
    mask[:, 1] = True
    start = model(draw(3, B, I))[1]
    h, state = model(x.masked_fill(mask[:, :, None], math.nan), start, mask=mask)
    more, _ = model(x, state)
    assert not h[mask].any()
    for b in range(B):
        alone, end = model(x[~mask[:, b], b], tree_map(lambda t, b=b: t[:, b], start))
        close(h[~mask[:, b], b], alone)
        close(more[:, b], model(x[:, b], end)[0])
    text, bounds = draw(9, I), torch.tensor([0, 4, 4, 9])
    joint, _ = model(text, cu_seqlens=bounds)
    close(joint, torch.cat([model(text[:4])[0], model(text[4:])[0]]))


def test_gradients_through_padding():
    model, x, mask = make().train(), draw(L, B, D), torch.rand(L, B) < 0.4
    mask[:, 1] = True
    parameters = [*model.parameters()]
    got = torch.autograd.grad(model(x, mask=mask)[0].square().sum(), parameters)
    rows = [model(x[~mask[:, b], b])[0].square().sum() for b in (0, 2)]
    close(got, torch.autograd.grad(sum(rows), parameters))


def test_batch_first_unbatched_step_and_empty():
    model, x = make(input_size=I), draw(L, B, I)
    h, end = model(x)
    first = make(input_size=I, batch_first=True)
    first.load_state_dict(model.state_dict())
    got, got_end = first(x.transpose(0, 1))
    close((got.transpose(0, 1), got_end), (h, end))
    close(model(x[:, 1]), (h[:, 1], tree_map(lambda t: t[:, 1], end)))
    state, steps = None, []
    for x_t in x:
        h_t, state = model.step(x_t, state)
        steps.append(h_t)
    close((torch.stack(steps), state), (h, end))
    for length, rows in ((0, B), (L, 0), (0, 0)):
        empty, _ = model(draw(length, rows, I))
        assert empty.shape == (length, rows, D)
    close(model(x[:0], end), (h[:0], end))


# ---- types and tools -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_narrow_types(dtype, autocast):
    exact = make(input_size=I)
    model = copy.deepcopy(exact).to(torch.float32 if autocast else dtype)
    x = draw(L, B, I, dtype=torch.float32 if autocast else dtype)
    with torch.autocast("cpu", dtype, enabled=autocast and dtype != torch.float32):
        h, state = model(x[:3])
        more, state = model(x[3:], state)
    more.float().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in model.parameters())
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    want = exact(x.double())
    close(torch.cat([h, more]).double(), want[0], rtol=tolerance, atol=tolerance)
    close(state["length"], want[1]["length"])


def test_compiled():
    torch._dynamo.reset()
    model, x = make(1).train(), draw(L, B, D).requires_grad_()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    (_, state), mask = model(x), torch.rand(L, B) < 0.4
    for arguments, options in (((x,), {}), ((x, state), {}), ((x, state), {"mask": mask})):
        got, want = (fn(*arguments, **options) for fn in (compiled, model))
        close(got, want)
        close(*(torch.autograd.grad(h.square().sum(), x) for h, _ in (got, want)))


def test_exported_runs_for_another_length():
    model, x = make(1), draw(L, B, D)
    _, state = model(x)
    program = torch.export.export(
        model,
        (x, state),
        dynamic_shapes={
            "x": {0: torch.export.Dim("L", min=2, max=4096)},
            "state": tree_map(lambda _: None, state),
        },
    )
    more = draw(13, B, D)
    close(program.module()(more, state), model(more, state))


def test_dropout_is_where_it_was_published():
    """Input, sinusoids, attention's output, both parts of feed-forward, output."""
    model = make(1, dropout=0.4).train()
    seen = []
    handle = torch.nn.functional.dropout
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "torchsru.nn.transformer_xl.F.dropout",
            lambda t, p, training: seen.append((tuple(t.shape), p)) or handle(t, p, training),
        )
        model(draw(L, B, D))
    kinds = [(L, B, D), (L, D), (L, B, D), (L, B, 10), (L, B, D), (L, B, D)]
    assert seen == [(kind, 0.4) for kind in kinds]
    x, plain = draw(L, B, D), make(1, attention_dropout=0.9)
    assert torch.equal(plain(x)[0], plain(x)[0])
    assert not torch.allclose(plain.train()(x)[0], plain(x)[0])


def test_a_copy_a_pickle_and_reset_parameters():
    model, x = make(), draw(L, B, D)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        close(again(x), model(x), rtol=0, atol=0)
    on_meta = TransformerXL(I, 64, 2, num_heads=4, device="meta")
    drawn = on_meta.to_empty(device="cpu")
    drawn.reset_parameters()
    assert abs(drawn.layers[1].query.weight.std().item() - 0.02) < 2e-3
    assert abs(drawn.layers[1].norm.weight.mean().item() - 1) < 0.02
    assert "num_heads=4" in repr(drawn) and "clamp" not in repr(drawn)


def test_parameters_of_the_published_base_model():
    """enwik8: 12 layers of 512, 8 heads of 64, 2048 inside; 41M with its tied 204 symbols."""
    with torch.device("meta"):
        model = TransformerXL(512, 512, 12, num_heads=8, feedforward_size=2048)
    count = sum(p.numel() for p in model.parameters())
    assert count == 12 * (5 * 512**2 + 2 * 512 * 2048 + 2048 + 512 + 4 * 512) + 2 * 512
    assert round((count + 204 * 512 + 204) / 1e6) == 41


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3, "head_size": None}, "num_heads must divide hidden_size = 8 .* got 3"),
        ({"memory_length": 0}, "memory_length must be a positive integer, got 0"),
        ({"head_size": 0}, "head_size must be a positive integer, got 0"),
        ({"clamp_length": -1}, "clamp_length must be 0 .* got -1"),
        ({"attention_dropout": 1.0}, r"attention_dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_impossible_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
    with pytest.raises(ValueError, match=r"hidden_size must be even, .* got 7"):
        TransformerXL(7, 7)


def test_states_that_do_not_fit_are_refused():
    model, x = make(dtype=torch.float32), draw(L, B, D, dtype=torch.float32)
    _, state = model(x)
    memory = state["keys_values"]
    for wrong, kind, message in (
        (memory, TypeError, "state must be a dict, what a call returned, got tuple"),
        ({"keys_values": memory}, ValueError, "state must have length, and .* got keys_values"),
        (state | {"inputs": memory}, ValueError, "got inputs, keys_values, length"),
        (state | {"keys_values": memory[:1]}, TypeError, "'keys_values'] must be 2 tensors, .* 1"),
        (state | {"length": state["length"].float()}, ValueError, "'length'] must be torch.int64"),
        (reorder(state, torch.tensor([0])), ValueError, r"'keys_values'\]\[0\] must be \[m, batch"),
        (tree_map(lambda t: t.to("meta"), state), ValueError, "must be on cpu like the param"),
        (state | {"keys_values": [t.double() for t in memory]}, ValueError, "torch.float32, or"),
    ):
        with pytest.raises(kind, match=message.replace("'] ", r"'\] ")):
            model(x, wrong)
    with pytest.raises(ValueError, match="state must hold inputs in training, got keys_values"):
        model.train()(x, state)
    with pytest.raises(ValueError, match=r"x must be torch.float32 like the parameters, got"):
        model(x.double())
