import io
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch

from torchsru.models import Generation, LanguageModel, LanguageModelConfig, Sampling
from torchsru.models.language_model import KINDS, OWN
from torchsru.nn import RNNS
from torchsru.nn.state import detach, reorder, reset
from torchsru.recipes import from_json

CONFIGS = {
    "sru": LanguageModelConfig(rnn="sru", width=12, layers=2),
    "sru-projected": LanguageModelConfig(
        rnn="sru", width=12, layers=2, projection=5, layer_norm="pre", highway_bias=-1.0
    ),
    **{kind: LanguageModelConfig(rnn=kind, width=12, layers=2) for kind in RNNS if kind != "sru"},
    "transformer-xl": LanguageModelConfig(
        rnn="transformer-xl", width=12, layers=2, heads=2, memory=5, feedforward=16
    ),
    "srupp": LanguageModelConfig(
        rnn="srupp", width=12, layers=3, projection=6, heads=2, memory=5, attention_every=2
    ),
    "srupp-last": LanguageModelConfig(
        rnn="srupp", width=12, layers=2, memory=4, attention_last=1, embedding=5
    ),
    "narrow": LanguageModelConfig(width=12, layers=2, embedding=5, projection=6),
    "tied": LanguageModelConfig(width=12, layers=2, tie=True),
    "tied, narrow": LanguageModelConfig(rnn="gru", width=12, layers=2, tie=True, embedding=8),
    "adaptive": LanguageModelConfig(
        width=12, layers=2, embedding=8, cutoffs=(20, 90), div_value=2.0
    ),
    "adaptive, tied": LanguageModelConfig(
        width=12, layers=2, embedding=8, cutoffs=(20, 90), div_value=2.0, tie=True
    ),
    "adaptive, own projections": LanguageModelConfig(
        **{"rnn": "transformer-xl", "heads": 3, "memory": 5, "width": 12, "layers": 2},
        **{"embedding": 8, "cutoffs": (20, 90), "div_value": 2.0},
        tie=True,
        tie_projections=False,
    ),
}
V = 101


def make_model(name, seed=0):
    torch.manual_seed(seed)
    return LanguageModel(CONFIGS[name], V).double().eval()


def text(L, B, seed=1):
    return torch.randint(V, (L, B), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CONFIGS)
def test_text_may_be_cut_anywhere(name):
    model, x = make_model(name), text(9, 3)
    whole, end = model(x)
    assert whole.shape == (9, 3, V)
    for cut in (1, 4, 8):
        first, state = model(x[:cut])
        second, last = model(x[cut:], state)
        torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(last, end, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_past_alone_decides(name):
    model, x = make_model(name), text(6, 1)
    changed = x.clone()
    changed[4] = (changed[4] + 1) % V
    a, b = model(x)[0], model(changed)[0]
    torch.testing.assert_close(a[:4], b[:4], rtol=0, atol=0)
    assert not torch.allclose(a[4], b[4])


@pytest.mark.parametrize("name", CONFIGS)
def test_state_keeps_the_batch_at_dim_1(name):
    model, x = make_model(name), text(6, 3)
    _, state = model(x[:4])
    rows = torch.tensor([2, 0, 2, 1])
    torch.testing.assert_close(
        model(x[4:][:, rows], reorder(state, rows))[0], model(x[4:], state)[0][:, rows]
    )
    started = model(x[4:], reset(state, torch.tensor([False, True, False])))[0]
    torch.testing.assert_close(started[:, 1:2], model(x[4:, 1:2])[0])
    torch.testing.assert_close(started[:, 0], model(x[4:], state)[0][:, 0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rnn", "rnn"),
        ("width", -1),
        ("layers", 0),
        ("dropout", 1.0),
        ("state_dropout", -0.1),
        ("projection", -1),
        ("layer_norm", "both"),
        ("init_range", 0.0),
        ("init_range", float("inf")),
        ("adaptive_dropout", 1.0),
    ],
)
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} must"):
        LanguageModelConfig(**{field: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rnn": "lstm", "rescale": False}, "rescale needs rnn='sru', got False with 'lstm'"),
        ({"rnn": "lstm", "projection": 8}, "projection needs rnn='sru' or 'srupp', got 8 with"),
        ({"rnn": "lstm", "highway_bias": -1.0}, "highway_bias needs rnn='sru' or 'srupp', got -1"),
        ({"rnn": "srupp", "rescale": False}, "rescale needs rnn='sru', got False with 'srupp'"),
        (
            {"rnn": "srupp", "attention_last": 5},
            r"attention_last must lie in \[0, layers = 4\], got 5",
        ),
        (
            {"rnn": "srupp", "attention_last": 1, "attention_every": 2},
            "attention_every must be 1 beside attention_last, got 2",
        ),
        (
            {"rnn": "srupp", "attention_every": 5},
            "attention_every must be at most layers = 4, got 5",
        ),
        ({"rnn": "srupp", "width": 20, "heads": 2}, "heads must divide projection = 5, got 2"),
        ({"rnn": "sru", "clamp": 3}, "clamp needs rnn='transformer-xl', got 3 with 'sru'"),
        ({"rnn": "transformer-xl", "heads": 3}, "heads must divide width = 512, got 3"),
        ({"rnn": "transformer-xl", "width": 7}, "width must be even for 'transformer-xl', got 7"),
        (
            {"rnn": "transformer-xl", "embedding_dropout": 0.1},
            "embedding_dropout must be None with 'transformer-xl'",
        ),
        ({"adaptive_dropout": 0.1}, "adaptive_dropout needs cutoffs, or tie and an embedding oth"),
        ({"adaptive_dropout": 0.1, "embedding": 8}, "adaptive_dropout needs cutoffs"),
        ({"adaptive_dropout": 0.1, "tie": True, "embedding": 512}, "adaptive_dropout needs cut"),
    ],
)
def test_fields_that_a_kind_does_not_take_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LanguageModelConfig(**fields)


def test_cutoffs_must_fit_the_vocabulary():
    with pytest.raises(ValueError, match=r"cutoffs must rise .* vocabulary_size = 50, got"):
        LanguageModel(CONFIGS["adaptive"], 50)


def test_every_kind_is_offered():
    assert set(get_args(get_type_hints(LanguageModelConfig)["rnn"])) == set(KINDS)
    assert set(RNNS) < set(KINDS) and set(OWN) < set(KINDS)
    assert {config.rnn for config in CONFIGS.values()} == set(KINDS)


@pytest.mark.parametrize("name", ["narrow", "tied", "adaptive", "adaptive, own projections"])
def test_embedding_and_output_start_in_the_range_given(name):
    config = CONFIGS[name]
    model = LanguageModel(replace(config, init_range=1e-3), V)
    weights = dict(model.named_parameters())
    projected = {key for key in weights if "projections" in key}
    outside = {key for key in weights if key.startswith("rnn.")}
    for key in weights.keys() - projected - outside:
        biased = "bias" in key
        assert weights[key].abs().max() <= 1e-3 and weights[key].any() != biased, key
    assert all(weights[key].abs().max() > 0.1 for key in projected)
    usual = dict(LanguageModel(config, V).named_parameters())
    assert {key: w.shape for key, w in usual.items()} == {k: w.shape for k, w in weights.items()}
    assert all(w.abs().max() > 1e-3 for key, w in usual.items() if key.startswith("embedding."))


def test_the_adaptive_dropout_is_that_of_embedding_and_output():
    config = LanguageModelConfig(
        width=12, layers=1, embedding=8, cutoffs=(20,), adaptive_dropout=0.3
    )
    model = LanguageModel(config, V)
    assert model.embedding.dropout == model.output.dropout == 0.3
    x = text(9, 3)
    assert not torch.equal(model(x)[0], model(x)[0])
    model.embedding.dropout = model.output.dropout = 0.0
    assert torch.equal(model(x)[0], model(x)[0])


# ---- loss ----------------------------------------------------------------------------------------


def check_nats(model, wrong=0.0):
    """`nats` and its gradients, against the log-probabilities of `forward`."""
    x, y = text(6, 3), text(6, 3, seed=2)
    y[2, 1], y[4] = -100, 3
    state = detach(model(text(4, 3, seed=3))[1])
    nats, end = model.nats(x, y, state)
    logits, want_end = model(x, state)
    p = logits.softmax(-1)
    torch.testing.assert_close(p.sum(-1), torch.ones(6, 3).double())
    want = -p.gather(-1, y.clamp(min=0)[..., None])[..., 0].log().masked_fill(y < 0, 0) + wrong
    torch.testing.assert_close(nats, want)
    torch.testing.assert_close(end, want_end)
    leaves = [*model.parameters()]
    options = {"allow_unused": True, "materialize_grads": True}
    torch.testing.assert_close(
        torch.autograd.grad(nats.sum(), leaves, **options),
        torch.autograd.grad(want.sum(), leaves, **options),
    )
    ignored, _ = model.nats(x, y.clamp(min=0), state, ignore_index=3)
    torch.testing.assert_close(ignored[4], nats[4] * 0)


@pytest.mark.parametrize("name", CONFIGS)
def test_nats_are_those_of_the_scores(name):
    check_nats(make_model(name))


def test_the_check_can_fail():
    with pytest.raises(AssertionError, match="not close"):
        check_nats(make_model("adaptive"), wrong=1e-3)


@pytest.mark.parametrize("name", ["sru", "adaptive, tied"])
def test_targets_in_another_order_are_refused(name):
    model, x = make_model(name), text(6, 3)
    with pytest.raises(ValueError, match=r"y must be \[6, 3\], a target for each .* got \[3, 6\]"):
        model.nats(x, x.t())


@pytest.mark.parametrize("name", ["sru", "adaptive, tied", "transformer-xl"])
def test_half_precision_has_a_loss_in_float32(name):
    model, x = make_model(name), text(6, 3)
    want, _ = model.nats(x, x)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = model.float().nats(x, x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=0.1, atol=0.1)


def test_compiled_equals_eager():
    """The layers' own tests compile each kind."""
    torch._dynamo.reset()
    model, x = make_model("adaptive, tied"), text(6, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_embedding_dropout_is_its_own():
    torch.manual_seed(0)
    fields = {"width": 12, "layers": 2, "dropout": 0.5}
    for own, want in ((None, 0.5), (0.0, 0.0), (0.2, 0.2)):
        model = LanguageModel(LanguageModelConfig(**fields, embedding_dropout=own))
        assert (model.embedding_dropout.p, model.dropout.p) == (want, 0.5)
    baseline = LanguageModel(LanguageModelConfig(rnn="transformer-xl", **fields))
    assert (baseline.embedding_dropout.p, baseline.dropout.p, baseline.rnn.dropout) == (0, 0, 0.5)


def test_evaluation_may_remember_more():
    model, x = make_model("transformer-xl"), text(12, 2)
    assert model.memory_length == 5 and make_model("lstm").memory_length == 0
    before = model(x)[0]
    model.memory_length = 8
    after, state = model(x)
    assert len(state["keys_values"][0]) == 8
    torch.testing.assert_close(after[:6], before[:6])
    assert not torch.allclose(after[8:], before[8:])
    with pytest.raises(ValueError, match="memory_length must be at least 1, got 0"):
        model.memory_length = 0
    with pytest.raises(ValueError, match="memory_length needs attention; this 'lstm' has none"):
        make_model("lstm").memory_length = 8


# ---- sizes and saved weights ---------------------------------------------------------------------

ENWIK8 = {"highway_bias": -3.0, "embedding": 205}
WIKI = {"embedding": 1024, "tie": True, "cutoffs": (19997, 39997, 199997)}
BILLION = {"embedding": 1024, "tie": True, "tie_projections": False, "cutoffs": (59998, 159998)}


def srupp(width, **fields):
    return LanguageModelConfig(rnn="srupp", width=width, layers=10, **fields)


PUBLISHED = {  # name: (config, symbols, the papers' millions)
    "SRU 8 x 1312": (LanguageModelConfig(width=1312, layers=8, **ENWIK8), 205, 37),
    "SRU 10 x 1152": (LanguageModelConfig(width=1152, layers=10, **ENWIK8), 205, 37),
    "SRU 8 x 3056, projected": (
        LanguageModelConfig(width=3056, layers=8, projection=512, **ENWIK8), 205, 47,
    ),
    "SRU 12 x 2048, projected": (
        LanguageModelConfig(width=2048, layers=12, projection=512, **ENWIK8 | {"embedding": 256}),
        205, 49,
    ),
    "SRU++ base": (srupp(3072), 205, 108),
    "SRU++ base, k = 5": (srupp(3072, attention_every=5), 205, 98),
    "SRU++ large": (srupp(4096), 205, 191),
    "SRU++ large, d = 8 d'": (srupp(6016, projection=752), 205, 195),
    "SRU++ base, WikiText-103": (srupp(3072, **WIKI), 267735, 148),
    "SRU++ large, WikiText-103": (srupp(4096, **WIKI), 267735, 232),
    "SRU++ base, Billion Word": (srupp(4096, **BILLION), 793471, 328),
    "SRU++ large, Billion Word": (
        srupp(7616, projection=1024, attention_every=5, **BILLION), 793471, 465,
    ),
    "Transformer-XL": (
        LanguageModelConfig(rnn="transformer-xl", width=512, layers=12, heads=8, tie=True), 204, 41,
    ),
}  # fmt: skip


def count(config, symbols):
    with torch.device("meta"):
        model = LanguageModel(config, symbols)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_models_have_the_papers_sizes(name):
    config, symbols, millions = PUBLISHED[name]
    assert count(config, symbols) / 1e6 == pytest.approx(millions, abs=0.6)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_state_dict_is_the_model(name):
    model, other, x = make_model(name), make_model(name, seed=1), text(6, 2)
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    saved.seek(0)
    other.load_state_dict(torch.load(saved))
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    places = [p.data_ptr() for p in model.state_dict().values()]
    assert len(set(places)) == len(places)  # what is tied is there once


def test_the_papers_highway_biases_are_the_defaults():
    for kind, own, want in (("sru", None, 0), ("srupp", None, -2), ("srupp", 0.5, 0.5)):
        config = LanguageModelConfig(rnn=kind, width=8, layers=1, highway_bias=own)
        (layer,) = LanguageModel(config).rnn.layers
        assert (layer.bias[1] == want).all()
    LanguageModelConfig(rnn="lstm", highway_bias=0.0)  # as in recipe.json of before


@pytest.mark.parametrize("kind", ["sru", "lstm"])
def test_recipes_of_before_are_read(kind):
    """The fields and values that recipe.json had when models were of bytes alone."""
    of_before = {
        **{"rnn": kind, "width": 12, "layers": 2, "dropout": 0.0, "projection": 0},
        **{"layer_norm": None, "highway_bias": 0.0, "rescale": True},
        **{"state_dropout": 0.0, "input_dropout": 0.0},
    }
    config = from_json(LanguageModelConfig, of_before)
    torch.manual_seed(0)
    read = LanguageModel(config).state_dict()
    torch.manual_seed(0)
    now = LanguageModel(LanguageModelConfig(rnn=kind, width=12, layers=2)).state_dict()
    torch.testing.assert_close(read, now, rtol=0, atol=0)


def test_byte_models_of_before_have_the_same_parameters():
    model = LanguageModel(LanguageModelConfig(width=12, layers=2))
    assert [*model.state_dict()] == [
        "embedding.weight",
        *(f"rnn.layers.{i}.{p}" for i in (0, 1) for p in ("bias", "weight_c", "transform.weight")),
        "output.weight",
        "output.bias",
    ]
    assert model.vocabulary_size == 256


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_weights_keep_pytorchs_names(kind):
    """And their number: python-bytes-lstm is as large as it was with nn.LSTM itself."""
    plain = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](12, 12, 2).state_dict()
    got = make_model(kind).rnn.state_dict()
    assert {k: t.shape for k, t in got.items()} == {k: t.shape for k, t in plain.items()}


@pytest.mark.parametrize("kind", [kind for kind in RNNS if kind != "sru"])
def test_dropout_reaches_the_layers(kind):
    model = LanguageModel(LanguageModelConfig(rnn=kind, width=12, layers=2, dropout=0.5))
    assert model.rnn.dropout == 0.5


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_on_a_gpu(name):
    """Loss and gradients over two segments, then generation, as on the CPU."""
    model, x = make_model(name).train(), text(12, 3)
    found = []
    for device in ("cpu", "cuda"):
        model, x, state = model.to(device), x.to(device), None
        model.zero_grad()
        for part in x.split(6):
            nats, state = model.nats(part[:-1], part[1:], detach(state))
            nats.mean().backward()
        gradients = [p.grad.cpu() for p in model.parameters()]
        drawn = list(Generation(model, [[1, 2, 3], [4]], 8, sampling=Sampling(temperature=0)))
        found.append((nats.detach().cpu(), gradients, drawn))
    torch.testing.assert_close(*(values[:2] for values in found), rtol=1e-6, atol=1e-8)
    assert found[0][2] == found[1][2]
