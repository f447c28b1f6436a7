import pytest
import torch
from torch.nn.functional import cross_entropy

from torchsru.data import DataError
from torchsru.data.batches import NOTHING
from torchsru.data.parallel import END, START, Lines, Side, Subwords, learn_subwords
from torchsru.models.beam import Search
from torchsru.models.translator import Translator, TranslatorConfig
from torchsru.train.translation import (
    MULTIPLE,
    Translation,
    batch_of,
    cut,
    nats_of,
    scores_of,
    sizes_of,
    translate,
)

WORDS = ["red", "green", "blue", "black", "white", "yellow", "purple", "orange"]


@pytest.fixture(scope="module")
def subwords():
    return Subwords(learn_subwords([f"{a} {b}" for a in WORDS for b in WORDS], 40, "here"))


def side(count, seed=0, size=40):
    """Pairs of 1 to 9 subwords."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(2):
        lengths = torch.randint(1, 10, (count,), generator=draw, dtype=torch.int32)
        found.append(Lines(torch.randint(4, size, (int(lengths.sum()),), generator=draw), lengths))
    return Side(*found)


def make_task(subwords, count=203, **fields):
    options = {"batch": 64, "eval_batch": 100, "longest": 250, "eval_sentences": 5, "seed": 0}
    texts = [["red green"] * 20] * 2
    return Translation(
        side(count), side(20, 1), texts, subwords,
        content="x", label_smoothing=0.1, **(options | fields),
    )  # fmt: skip


def make_model(size, dtype=torch.float64):
    torch.manual_seed(0)
    config = TranslatorConfig(width=8, heads=2, encoder_layers=1, decoder_layers=1, inner=12)
    return Translator(config, size).to(dtype).eval()


def rows_of(batch):
    """Each pair of a batch, without padding."""
    found = []
    for b in range(batch.y.shape[1]):
        source = batch.source[:, b]
        if batch.hidden is not None:
            source = source[~batch.hidden[:, b]]
        y = batch.y[:, b][batch.y[:, b] != NOTHING]
        assert batch.x[: len(y), b].tolist() == [START, *y[:-1].tolist()]
        assert source[-1] == y[-1] == END
        found.append((*source.tolist(), -1, *y.tolist()))
    return found


def pairs_of(pairs):
    return [(*a.tolist(), END, -1, *b.tolist(), END) for a, b in zip(*pairs, strict=True)]


def test_a_pass_gives_each_pair_once(subwords):
    task = make_task(subwords)
    for passed in range(2):
        steps = range(passed * task.steps_per_pass, (passed + 1) * task.steps_per_pass)
        seen = [row for step in steps for row in rows_of(task.batch(step))]
        assert sorted(seen) == sorted(pairs_of(task.train))


def test_a_batch_has_as_many_subwords_as_fit(subwords):
    task = make_task(subwords, count=2000)
    padded = [task.batch(step).y.numel() for step in range(task.steps_per_pass)]
    sources = [task.batch(step).source.numel() for step in range(task.steps_per_pass)]
    assert max(padded + sources) <= 64 and sum(padded) / len(padded) > 40
    assert cut([1] * 100, 19) == [slice(i, min(i + 16, 100)) for i in range(0, 100, 16)]
    assert 19 - 19 % MULTIPLE == 16
    assert cut([3, 3, 9], 6) == [slice(0, 2), slice(2, 3)]  # one at least
    assert cut([], 6) == []


def test_a_batch_is_a_function_of_the_step_and_the_seed(subwords):
    a, b = make_task(subwords), make_task(subwords)
    for step in (50, 3, 50, 0):
        assert rows_of(a.batch(step)) == rows_of(b.batch(step))
    n = a.steps_per_pass
    assert [rows_of(a.batch(i)) for i in range(n)] != [rows_of(a.batch(n + i)) for i in range(n)]
    assert rows_of(make_task(subwords, seed=1).batch(0)) != rows_of(a.batch(0))


def test_long_pairs_are_left_out(subwords):
    task = make_task(subwords, longest=6)
    seen = [row for step in range(task.steps_per_pass) for row in rows_of(task.batch(step))]
    sizes = sizes_of(task.train).tolist()
    expected = [p for p, size in zip(pairs_of(task.train), sizes, strict=True) if size <= 6]
    assert sorted(seen) == sorted(expected) and 0 < len(seen) < 203
    with pytest.raises(DataError, match=r"data\.longest and data\.batch must be \d at least"):
        make_task(subwords, longest=1)


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_parts_of_a_batch_have_the_batchs_loss_and_gradient(subwords, parts):
    """Also where there are more parts than pairs."""
    task, model = make_task(subwords), make_model(40)
    batch = next(b for b in map(task.batch, range(100)) if 4 <= b.y.shape[1] < 16)
    loss, _ = task.loss(model, batch, None)
    loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    found = task.split(batch, parts)
    assert len(found) == parts and len({task.units(part) for part in found}) == 1
    total = sum(task.loss(model, part, None)[0] / parts for part in found)
    total.backward()
    torch.testing.assert_close(total, loss)
    found = [p.grad for p in model.parameters()]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)  # a loss is float32


def test_the_loss_is_a_mean_over_subwords_with_labels_smoothed(subwords):
    """Against the definition, a pair at a time (Szegedy et al. 2016, section 7)."""
    task, model = make_task(subwords), make_model(40)
    batch = task.batch(0)
    total, count = 0.0, 0
    for i in range(batch.y.shape[1]):
        y = batch.y[:, i][batch.y[:, i] != NOTHING]
        source = batch.source[:, i : i + 1]
        hidden = None if batch.hidden is None else batch.hidden[:, i : i + 1]
        scores, _, _ = model(batch.x[: len(y), i : i + 1], source, hidden)
        log_p = scores[:, 0].log_softmax(-1)
        wanted = torch.full_like(log_p, 0.1 / 40)
        wanted[range(len(y)), y] += 0.9
        total, count = total - (wanted * log_p).sum().item(), count + len(y)
    assert task.units(batch) == count
    assert task.loss(model, batch, None)[0].item() == pytest.approx(total / count, rel=1e-5)


def test_an_evaluation_counts_each_subword_once():
    model, pairs = make_model(40), side(20, 1)
    total, count = 0.0, 0
    for i in range(20):
        batch = batch_of(pairs, [i])
        scores, _, _ = model(batch.x, batch.source)
        total += cross_entropy(scores[:, 0], batch.y[:, 0], reduction="sum").item()
        count += len(batch.y)
    assert nats_of(model, pairs, 30) == pytest.approx(total / count, rel=1e-5)


def test_translations_come_in_the_order_of_their_sources():
    """However they are batched; against one at a time."""
    model, search = make_model(40), Search(beam=2, extra=4)
    sources = [[5, 6, 7], [8], [9, 10], [11] * 6, [12, 5, 5]]
    together = translate(model, sources, search, 14)
    alone = [translate(model, [ids], search, 100)[0] for ids in sources]
    assert [best[0].ids for best in together] == [best[0].ids for best in alone]
    assert [best[0].ids for best in together] != [best[0].ids for best in alone[::-1]]
    assert translate(model, [], search, 14) == []


def test_the_judged_sentences_are_spread_over_the_held_out_ones(subwords):
    task = make_task(subwords)
    assert task.judged == [0, 4, 8, 12, 16]
    assert make_task(subwords, eval_sentences=100).judged == list(range(20))
    found = task.evaluate(make_model(subwords.size, torch.float32))
    assert next(iter(found)) == "bleu" and task.higher_is_better
    assert 0 <= found["bleu"] < 50 and found["nats"] > 0


def test_scores_are_sacrebleus():
    """An exact translation has 100; that of BLEU's paper (Papineni et al. 2002, section 2.1) has
    clipped counts; and the signature says how."""
    lines = ["the cat is on the mat .", "there is a cat on the mat ."]
    assert scores_of(lines, lines)["bleu"] == pytest.approx(100)
    assert scores_of(lines, lines)["chrf"] == pytest.approx(100)
    poor = scores_of(["the the the the the the the"] * 2, lines)
    assert poor["bleu"] < 10 < scores_of(["there is a cat on a mat .", lines[1]], lines)["bleu"]
    assert "tok:13a" in poor["signature"]
