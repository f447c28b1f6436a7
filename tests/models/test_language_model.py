from typing import get_args, get_type_hints

import pytest
import torch

from torchsru.models import LanguageModel, LanguageModelConfig
from torchsru.nn import RNNS
from torchsru.nn.state import reorder, reset

CONFIGS = {
    "sru": LanguageModelConfig(rnn="sru", width=12, layers=2),
    "sru-projected": LanguageModelConfig(
        rnn="sru", width=12, layers=2, projection=5, layer_norm="pre", highway_bias=-1.0
    ),
    **{kind: LanguageModelConfig(rnn=kind, width=12, layers=2) for kind in RNNS if kind != "sru"},
}


def make_model(name, seed=0):
    torch.manual_seed(seed)
    return LanguageModel(CONFIGS[name]).double().eval()


def text(L, B, seed=1):
    return torch.randint(256, (L, B), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CONFIGS)
def test_text_may_be_cut_anywhere(name):
    model, x = make_model(name), text(9, 3)
    whole, end = model(x)
    assert whole.shape == (9, 3, 256)
    for cut in (1, 4, 8):
        first, state = model(x[:cut])
        second, last = model(x[cut:], state)
        torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(last, end, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_past_alone_decides(name):
    model, x = make_model(name), text(6, 1)
    changed = x.clone()
    changed[4] = (changed[4] + 1) % 256
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


@pytest.mark.parametrize("name", CONFIGS)
def test_generation_sees_the_logits_of_teacher_forcing(name, monkeypatch):
    model, seen = make_model(name), []
    monkeypatch.setattr(
        "torchsru.models.language_model.draw",
        lambda logits, *_: seen.append(logits) or int(logits.argmax()),
    )
    drawn = list(model.generate(b"def f", 8))
    forced = model(torch.tensor([*b"def f", *drawn])[:, None])[0][4:-1, 0]
    torch.testing.assert_close(torch.stack(seen), forced.float(), rtol=1e-5, atol=1e-5)


def test_generation_reads_each_byte_once_and_streams():
    model, lengths = make_model("sru"), []
    model.rnn.register_forward_pre_hook(lambda _, args: lengths.append(len(args[0])))
    stream = model.generate(b"abc", 50)
    assert lengths == []
    next(stream), next(stream), next(stream)
    assert lengths == [3, 1, 1]


def test_seed_temperature_and_top_k():
    model = make_model("lstm")

    def take(**options):
        return list(model.generate(b"x", 20, **options))

    assert take(seed=1) == take(seed=1) != take(seed=2)
    assert take(top_k=1, seed=1) == take(temperature=0) == take(temperature=1e-6, seed=5)
    assert len(list(model.generate(b"", 3))) == 3 and list(model.generate(b"x", 0)) == []
    for field in ("count", "temperature", "top_k"):
        arguments = {"count": 1, field: -1}
        with pytest.raises(ValueError, match=f"{field} must not be negative, got -1"):
            model.generate(b"x", **arguments)


def test_generation_leaves_the_training_mode_alone():
    model = make_model("sru").train()
    list(model.generate(b"x", 2))
    assert model.training


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
    ],
)
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} must"):
        LanguageModelConfig(**{field: value})


def test_options_of_sru_are_refused_for_others():
    with pytest.raises(ValueError, match="projection needs rnn='sru', got 8 with 'lstm'"):
        LanguageModelConfig(rnn="lstm", projection=8)


def test_every_kind_is_offered():
    assert set(get_args(get_type_hints(LanguageModelConfig)["rnn"])) == set(RNNS)


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
