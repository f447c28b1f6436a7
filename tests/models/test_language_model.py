import pytest
import torch

from torchsru.models import LanguageModel, LanguageModelConfig
from torchsru.models.language_model import ByteEmbedding
from torchsru.nn.state import reorder, reset

CONFIGS = {
    "sru": LanguageModelConfig(rnn="sru", width=12, layers=2),
    "sru-projected": LanguageModelConfig(
        rnn="sru", width=12, layers=2, projection=5, layer_norm="pre", highway_bias=-1.0
    ),
    "lstm": LanguageModelConfig(rnn="lstm", width=12, layers=2),
    "gru": LanguageModelConfig(rnn="gru", width=12, layers=2),
    "ngrams": LanguageModelConfig(
        rnn="lstm", width=12, layers=1, ngram_orders=(2, 4), ngram_buckets=64
    ),
}


def make_model(name, seed=0):
    torch.manual_seed(seed)
    model = LanguageModel(CONFIGS[name]).double().eval()
    for table in model.embedding.ngrams:
        torch.nn.init.normal_(table.weight)
    return model


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
    model = make_model("ngrams")

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


def test_ngram_embedding_is_the_sum_of_its_tables():
    embedding = ByteEmbedding(4, orders=(2, 3), buckets=1 << 16)
    for table in embedding.ngrams:
        torch.nn.init.normal_(table.weight)
    out, history = embedding(torch.tensor(list(b"abcabc"))[:, None], None)
    assert history[:, 0].tolist() == list(b"bc")
    # "c" after "ab" twice: the same n-grams, the same sum
    torch.testing.assert_close(out[5], out[2], rtol=0, atol=0)
    assert not torch.equal(out[3], out[0])  # "a" after "bc" and "a" at the start


def test_hashes_spread_over_the_buckets():
    embedding = ByteEmbedding(1, orders=(2,), buckets=1024)
    pairs = torch.cartesian_prod(torch.arange(97, 123), torch.arange(97, 123)).T  # [2, 676]
    used = embedding._hash(pairs, 2, 1).unique()
    assert used.min() >= 0 and used.max() < 1024
    assert len(used) > 0.6 * 676 * (1 - 0.5 * 676 / 1024)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rnn", "rnn"),
        ("width", -1),
        ("layers", 0),
        ("dropout", 1.0),
        ("state_dropout", -0.1),
        ("projection", -1),
        ("ngram_orders", (1,)),
        ("ngram_orders", (2, 2)),
        ("ngram_buckets", 1000),
        ("layer_norm", "both"),
    ],
)
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"{field} must"):
        LanguageModelConfig(**{field: value})


def test_options_of_sru_are_refused_for_others():
    with pytest.raises(ValueError, match="projection needs rnn='sru', got 8 with 'lstm'"):
        LanguageModelConfig(rnn="lstm", projection=8)
