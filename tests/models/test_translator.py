import pytest
import torch

from torchsru.models.translator import Translator, TranslatorConfig, sinusoids
from torchsru.nn.state import reorder

V = 13
KINDS = {
    "transformer": {},
    "post": {"norm": "post", "tied": "output"},
    "sru": {"position_wise": "sru"},
    "bidirectional": {"position_wise": "sru", "bidirectional": True},
    "ssru": {"autoregression": "ssru"},
    "both": {"position_wise": "sru", "autoregression": "ssru"},
}
LENGTHS = torch.tensor([7, 3, 5, 1])


def make(kind, **fields):
    torch.manual_seed(0)
    small = {"width": 8, "heads": 2, "encoder_layers": 2, "decoder_layers": 2, "inner": 12}
    config = TranslatorConfig(**(small | KINDS[kind] | fields))
    return Translator(config, V).double().eval()


def symbols(steps, rows, seed=1):
    return torch.randint(V, (steps, rows), generator=torch.manual_seed(seed))


SOURCE, TARGET = symbols(7, 4), symbols(6, 4, 2)
HIDDEN = torch.arange(7)[:, None] >= LENGTHS


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_at_a_time_is_the_whole_target_at_once(kind):
    """Teacher forcing against cached decoding, step by step, then in two pieces."""
    model = make(kind)
    whole, context, end = model(TARGET, SOURCE, HIDDEN)
    assert whole.shape == (6, 4, V)
    state = None
    for t, row in enumerate(TARGET):
        scores, again, state = model(row[None], context=context, state=state)
        assert again is context
        torch.testing.assert_close(scores[0], whole[t])
    torch.testing.assert_close(state, end)
    first, _, state = model(TARGET[:2], context=context)
    second, _, state = model(TARGET[2:], context=context, state=state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(state, end)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind):
    model = make(kind)
    together, _, _ = model(TARGET, SOURCE, HIDDEN)
    for b, length in enumerate(LENGTHS.tolist()):
        alone, _, _ = model(TARGET[:, b : b + 1], SOURCE[:length, b : b + 1])
        torch.testing.assert_close(alone[:, 0], together[:, b])
    other = SOURCE.where(~HIDDEN, 3)
    torch.testing.assert_close(model(TARGET, other, HIDDEN)[0], together)
    with pytest.raises(AssertionError):  # what is compared does depend on the source
        torch.testing.assert_close(model(TARGET, SOURCE.where(HIDDEN, 3), HIDDEN)[0], together)


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_sees_a_later_one(kind):
    model = make(kind)
    changed = TARGET.clone()
    changed[4:] = (changed[4:] + 1) % V
    a, b = model(TARGET, SOURCE, HIDDEN)[0], model(changed, SOURCE, HIDDEN)[0]
    torch.testing.assert_close(a[:4], b[:4])
    assert not torch.allclose(a[4:], b[4:])


@pytest.mark.parametrize("kind", KINDS)
def test_hypotheses_of_a_sentence_share_its_context(kind):
    """Against a context of a row for each."""
    model, rows = make(kind), torch.arange(4).repeat_interleave(3)
    target = symbols(1, 12, 3)
    _, context, state = model(TARGET, SOURCE, HIDDEN)
    state = reorder(state, rows)
    shared, _, _ = model(target, context=context, state=state)
    apart, _, _ = model(target, context=reorder(context, rows), state=state)
    torch.testing.assert_close(shared, apart)
    assert not torch.allclose(shared, shared.roll(3, 1))


def tensors_of(state):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(state) if leaf is not None]


@pytest.mark.parametrize("kind", ["ssru", "both"])
def test_ssru_keeps_as_much_however_long_the_target_is(kind):
    model = make(kind)
    short, long = (model(t, SOURCE)[2] for t in (TARGET[:1], TARGET))
    assert [leaf.shape for leaf in tensors_of(short)] == [leaf.shape for leaf in tensors_of(long)]
    assert len(tensors_of(short)) == (3 if kind == "ssru" else 5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    model = make(kind, dropout=0.1, attention_dropout=0.1, inner_dropout=0.1).train()
    model(TARGET, SOURCE, HIDDEN)[0].log_softmax(-1)[..., 3].sum().backward()
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        if name.endswith("key_value.bias"):  # a constant in all keys changes no softmax
            grad = grad[8:]
        assert grad is not None and grad.abs().max() > 1e-12, name


def test_the_position_wise_sru_is_the_papers():
    """W relu(norm(SRU(x))) + b, on what the sub-layer sees, around it the residual connection."""
    model = make("sru")
    layer = model.decoder[0].position_wise
    x = torch.randn(5, 2, 8, dtype=torch.float64, generator=torch.manual_seed(0))
    h, _ = layer.sru(x)
    mean, variance = h.mean(-1, keepdim=True), h.var(-1, unbiased=False, keepdim=True)
    expected = ((h - mean) / (variance + 1e-5).sqrt()).relu() @ layer.outer.weight.T
    torch.testing.assert_close(layer(x)[0], expected + layer.outer.bias)
    assert not layer.sru.highway and layer.sru.num_matrices == 3


def test_attention_is_vaswanis():
    """Section 3.2, head by head."""
    attention = make("transformer").encoder[0].attention
    x = torch.randn(5, 2, 8, dtype=torch.float64, generator=torch.manual_seed(0))
    q, kv = attention.query(x), attention.key_value(x)
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        k, v = kv[:, :, :8][..., part], kv[:, :, 8:][..., part]
        weights = (torch.einsum("tbe,sbe->bts", q[..., part], k) / 2).softmax(-1)
        heads.append(torch.einsum("bts,sbe->tbe", weights, v))
    torch.testing.assert_close(
        attention(x, kv), torch.cat(heads, -1) @ attention.output.weight.T + attention.output.bias
    )


def test_positions_are_sinusoids():
    found = sinusoids(torch.tensor([0, 7]), 6)
    assert found[0].tolist() == [0, 0, 0, 1, 1, 1]
    expected = [7 / 10_000 ** (2 * i / 6) for i in range(3)]
    torch.testing.assert_close(found[1, :3], torch.tensor(expected).sin())
    torch.testing.assert_close(found[1, 3:], torch.tensor(expected).cos())


def test_compiled_in_one_graph_it_gives_the_same():
    model = make("both", encoder_layers=1, decoder_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    got, expected = compiled(TARGET, SOURCE, HIDDEN), model(TARGET, SOURCE, HIDDEN)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"width": 12}, "width must be even and a multiple of heads = 8, got 12"),
        ({"bidirectional": True}, "bidirectional needs position_wise='sru' and an even inner"),
        ({"norm": "mid"}, "norm must be one of pre, post, got 'mid'"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"inner": 0}, "inner must be at least 1, got 0"),
    ],
)
def test_bad_fields_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        TranslatorConfig(**fields)
