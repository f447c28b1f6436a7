import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from torchsru.data import (
    ByteVocabulary,
    CharacterVocabulary,
    Counts,
    Side,
    TextData,
    WordVocabulary,
    byte_corpus,
)
from torchsru.data.batches import NOTHING
from torchsru.data.vocabulary import learn_subwords
from torchsru.models import LanguageModel, LanguageModelConfig
from torchsru.nn import SRUpp
from torchsru.train import RunError
from torchsru.train.language_model import HeldOut, LanguageModelling, numbers_of

TEXT = torch.frombuffer(
    bytearray(b"to be or not to be, that is the question: " * 30), dtype=torch.uint8
)
SIDE = Side(TEXT[:600], Counts(600, 600))
CONFIG = LanguageModelConfig(rnn="lstm", width=16, layers=2)


def heldout(count, rows, unroll=256, **fields):
    data = TextData(eval_batch=rows, eval_unroll=unroll, **fields)
    return HeldOut(SIDE, ByteVocabulary(), data, count)


@pytest.mark.parametrize("count", [0, 1, 300, 599, 10**9])
def test_evaluation_is_a_mean_over_exactly_the_symbols_asked_for(count):
    model = LanguageModel(CONFIG).eval()
    held = heldout(count, 1)
    assert held.count == min(count or 600, 600)
    x = torch.cat([torch.zeros(1, dtype=torch.int64), TEXT[: held.count].long()])[:, None]
    with torch.no_grad():
        whole = cross_entropy(model(x[:-1])[0][:, 0], x[1:, 0]).item()
    assert held.loss(model) == pytest.approx(whole, rel=1e-5)
    assert held.numbers(model) == {"bits_per_byte": pytest.approx(whole / math.log(2), rel=1e-5)}
    assert heldout(count, 3).count == held.count


def test_the_state_is_carried_so_the_unroll_changes_nothing():
    model = LanguageModel(CONFIG).eval()
    whole = heldout(0, 1).loss(model)
    assert [heldout(0, 1, unroll).loss(model) for unroll in (1, 7, 600)] == [
        pytest.approx(whole, rel=1e-5)
    ] * 3
    assert heldout(0, 64, 7).loss(model) != pytest.approx(whole, rel=1e-5)  # 64 fresh streams


class Uniform(nn.Module):
    """Knows nothing."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x, state, y, ignore_index=NOTHING):
        nats = self.weight.log_softmax(0)[0].neg().expand(y.shape)
        return nats.masked_fill(y == ignore_index, 0.0), state


def test_loss_and_evaluation_of_a_model_that_knows_nothing():
    task = LanguageModelling(byte_corpus(bytes(range(256)) * 4, b"abc" * 9), TextData(unroll=8), 0)
    loss, _ = task.loss(Uniform(256), task.batch(0), None)
    assert loss.item() == pytest.approx(math.log(256))
    assert task.evaluate(Uniform(256)) == {"bits_per_byte": pytest.approx(8)}
    assert task.numbers(loss.item()) == {"bits_per_byte": pytest.approx(8)}
    assert task.unit == "byte" and task.units(task.batch(0)) == 8 * 32


def test_a_batch_is_split_by_rows_and_its_parts_are_all_of_it():
    task = LanguageModelling(byte_corpus(bytes(range(256)) * 4, b"abc" * 9), TextData(unroll=8), 0)
    batch = task.batch(3)
    parts = task.split(batch, 4)  # as ranks and accumulation take them
    assert [part.x.shape for part in parts] == [(8, 8)] * 4
    assert torch.equal(torch.cat([part.x for part in parts], 1), batch.x)
    assert torch.equal(torch.cat([part.y for part in parts], 1), batch.y)
    assert all(part.fresh == batch.fresh for part in parts)


def test_nothing_is_counted_where_nothing_is_predicted():
    model = LanguageModel(CONFIG).eval()
    x, y = TEXT[:6].long().view(3, 2), TEXT[1:7].long().view(3, 2)
    hidden = torch.tensor([[False, False], [True, False], [True, True]])
    with torch.no_grad():
        whole, _ = model(x, None, y, NOTHING)
        found, _ = model(x, None, y.masked_fill(hidden, NOTHING), NOTHING)
    torch.testing.assert_close(found, whole.masked_fill(hidden, 0.0))


def test_numbers_are_those_of_the_papers():
    counts = Counts(tokens=100, bytes=300, characters=250, words=50)
    two_bits = 2 * math.log(2)
    words = WordVocabulary(["<eos>", "<unk>"])
    subwords = learn_subwords([b"a b c\n"], 256)
    found = {
        vocabulary.name: numbers_of(vocabulary, counts, two_bits)
        for vocabulary in (ByteVocabulary(), CharacterVocabulary("ab"), words, subwords)
    }
    assert found == {
        "bytes": {"bits_per_byte": pytest.approx(2)},
        "characters": {
            "bits_per_character": pytest.approx(2),
            "bits_per_byte": pytest.approx(2 * 100 / 300),
        },
        "words": {"perplexity": pytest.approx(4)},
        "subwords": {
            "perplexity": pytest.approx(4),
            "word_perplexity": pytest.approx(16),  # 4 bits a word
            "bits_per_byte": pytest.approx(2 * 100 / 300),
        },
    }
    assert numbers_of(words, counts, 1000.0) == {"perplexity": math.inf}
    blanks = Counts(tokens=100, bytes=300, characters=300, words=0)
    assert list(numbers_of(subwords, blanks, 1.0)) == ["perplexity", "bits_per_byte"]


class Attending(nn.Module):
    """Sees as many past positions as it remembers; a second pass proves that it is put back."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(1, 256)
        self.inner.memory_length = 5
        self.seen = []

    def forward(self, x, state, y, ignore_index):
        self.seen.append(self.inner.memory_length)
        return self.inner(x[..., None].float())[..., 0].masked_fill(y == ignore_index, 0), state


def test_an_evaluation_may_see_more_of_the_past_than_training():
    model = Attending()
    heldout(0, 1).loss(model)
    heldout(0, 1, eval_memory=30).loss(model)
    assert set(model.seen[: len(model.seen) // 2]) == {5}
    assert set(model.seen[len(model.seen) // 2 :]) == {30} and model.inner.memory_length == 5
    with pytest.raises(
        RunError, match="eval_memory must be 0 for a model without attention, got 3"
    ):
        heldout(0, 1, eval_memory=3).loss(LanguageModel(CONFIG))


class SRUppModel(nn.Module):
    """Attention with a memory of 8, at work from the start."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(256, 8)
        self.rnn = SRUpp(8, 16, 8, 2, memory_length=8)
        self.output = nn.Linear(16, 256)
        for name, parameter in self.named_parameters():
            if name.endswith("alpha"):  # 0 at first: no attention
                nn.init.ones_(parameter)

    def forward(self, x, state, y, ignore_index):
        h, state = self.rnn(self.embedding(x), state)
        logits = self.output(h).flatten(0, 1)
        nats = cross_entropy(logits, y.flatten(), ignore_index=ignore_index, reduction="none")
        return nats.view(y.shape), state


def test_same_length_masks_make_the_unroll_a_matter_of_speed_alone():
    """Papers evaluate attention so that every position sees as many before it."""
    model = SRUppModel().eval()

    def losses(**fields):
        return [heldout(300, 1, unroll, **fields).loss(model) for unroll in (300, 64, 7, 1)]

    own, longer = losses(), losses(eval_memory=30)
    assert own == [pytest.approx(own[0], rel=1e-6)] * 4
    assert longer == [pytest.approx(longer[0], rel=1e-6)] * 4
    assert abs(longer[0] - own[0]) > 1e-4  # it does see more, and the comparison can fail
    assert model.rnn.memory_length == 8
