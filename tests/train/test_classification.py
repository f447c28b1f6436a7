import pytest
import torch

from torchsru.data import DataError
from torchsru.models.classifier import Classifier, ClassifierConfig
from torchsru.train.classification import Classification, Encoded, batch_of, by_length, evaluate


def sentences(count, seed=0):
    """Of 1 to 12 words; the label is whether word 7 is among them."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        length = int(torch.randint(1, 13, (), generator=draw))
        ids = torch.randint(1, 20, (length,), generator=draw, dtype=torch.int32)
        found.append(Encoded(ids, int((ids == 7).any())))
    return found


def make_task(count=103, batch=8, seed=0):
    return Classification(
        sentences(count), sentences(30, 1), content="x", batch=batch, eval_batch=16, seed=seed
    )


def rows_of(batch):
    return [
        (*batch.ids[:length, b].tolist(), batch.labels[b].item())
        for b, length in enumerate(batch.lengths.tolist())
    ]


def test_a_pass_gives_each_sentence_once_but_those_left_over():
    task = make_task()
    whole = sorted((*s.ids.tolist(), s.label) for s in task.train)
    assert task.steps_per_pass == 12
    seen = sorted(row for step in range(12) for row in rows_of(task.batch(step)))
    assert len(seen) == 96
    for row in set(seen):
        assert seen.count(row) <= whole.count(row)
    after = sorted(row for step in range(12, 24) for row in rows_of(task.batch(step)))
    assert seen != after  # others are left over


def test_a_batch_is_a_function_of_the_step_and_the_seed():
    a, b = make_task(), make_task()
    for step in (30, 3, 30, 0):
        for x, y in zip(a.batch(step)[:3], b.batch(step)[:3], strict=True):
            assert torch.equal(x, y)
    assert rows_of(make_task(seed=1).batch(0)) != rows_of(a.batch(0))


def test_sentences_of_a_batch_are_of_alike_lengths():
    task = make_task(count=800)
    spread = [int(b.lengths.max() - b.lengths.min()) for b in map(task.batch, range(100))]
    assert sum(spread) / len(spread) <= 2
    order = [int(task.batch(step).lengths.max()) for step in range(100)]
    assert order != sorted(order)


def test_parts_of_a_batch_are_the_batch():
    task = make_task()
    batch = task.batch(0)
    parts = task.split(batch, 4)
    assert [task.units(part) for part in parts] == [2] * 4
    assert [row for part in parts for row in rows_of(part)] == rows_of(batch)


def test_evaluation_counts_each_sentence_once():
    """Against one sentence at a time, in float64."""
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(width=6, embedding=5), 2, vocabulary_size=20).double()
    held = sentences(30, 1)
    assert sum(len(batch.labels) for batch in by_length(held, 7)) == 30
    right = nats = 0.0
    for sentence in held:
        batch = batch_of([sentence])
        scores = model.eval()(batch.ids, batch.lengths).float()
        right += float(scores.argmax(1) == batch.labels)
        nats += torch.nn.functional.cross_entropy(scores, batch.labels).item()
    found = evaluate(model, held, 7)
    assert found["accuracy"] == right / 30
    assert found["nats"] == pytest.approx(nats / 30, rel=1e-5)


def test_too_few_sentences_for_a_batch_are_refused():
    with pytest.raises(DataError, match=r"data\.batch must be 5 at most, .*got 8"):
        make_task(count=5)
