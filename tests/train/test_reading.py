import pytest
import torch

from torchsru.data import DataError
from torchsru.data.squad import Cut, Paragraph, Question, cut_texts
from torchsru.models.reader import Reader, ReaderConfig, best_spans
from torchsru.train.answer_scores import exact_match, f1
from torchsru.train.reading import (
    Encoding,
    Reading,
    batch_of,
    count_features,
    features_of,
    nats_of,
    score,
)

VOCABULARY = 20


def place(word):
    return sum(map(ord, word)) % VOCABULARY


def paragraphs(count, seed=0):
    """Contexts of 3 to 12 words, two questions on each."""
    draw = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high, (), generator=draw))

    found = []
    for i in range(count):
        words = [chr(97 + number(0, 20)) * 2 for _ in range(number(3, 13))]
        context, *asked = cut_texts([" ".join(words), "Where is aa?", f"{words[0]} or what"])
        questions = []
        for k, cut in enumerate(asked):
            first = number(0, len(words))
            last = min(first + 1, len(words) - 1)
            answer = (context.slice(first, last),)
            questions.append(Question(f"{i}-{k}", cut, answer, first, last))
        found.append(Paragraph(f"article {i}", context, tuple(questions)))
    return found


def make_task(count=52, batch=8, seed=0):
    encoding = Encoding(place)
    return Reading(
        encoding.examples(paragraphs(count)),
        encoding.examples(paragraphs(12, 1)),
        content="x",
        batch=batch,
        eval_batch=7,
        longest=3,
        seed=seed,
    )


def make_model():
    torch.manual_seed(0)
    config = ReaderConfig(width=4, layers=1, embedding=5)
    return Reader(config, 3, vocabulary_size=VOCABULARY).double().eval()


def rows_of(batch):
    return [
        (*batch.context[:length, b].tolist(), batch.first[b].item(), batch.last[b].item())
        for b, length in enumerate(batch.context_lengths.tolist())
    ]


def test_features_are_those_of_their_definition():
    context, question = cut_texts(["The cat saw the Cat, a cat.", "Did the cat see?"])
    encoding = Encoding(place)
    found = features_of(encoding.context(context), encoding.words(question))
    exact = [0, 1, 0, 1, 0, 0, 0, 1, 0]  # The cat saw the Cat , a cat .
    lower = [1, 1, 0, 1, 1, 0, 0, 1, 0]
    share = [2, 3, 1, 2, 3, 1, 1, 3, 1]
    expected = torch.tensor([exact, lower, [n / 9 for n in share]]).T
    torch.testing.assert_close(found, expected)
    assert found.shape[1] == count_features(False)


def test_tags_are_features_too():
    context, question = Cut("cats ran", [0, 5], [4, 8], ["cat", "run"], [7, 15], [-1, 3]), None
    (question,) = cut_texts(["cat"])
    question = Cut(question.text, question.starts, question.ends, ["cat"], [7], [-1])
    encoding = Encoding(place)
    found = features_of(encoding.context(context), encoding.words(question))
    assert found.shape == (2, count_features(True))
    assert found[:, :3].tolist() == [[0, 0, 1], [0, 0, 0]]  # by the lemma alone
    places = found[:, 4:].nonzero().tolist()
    assert places == [[0, 7], [1, 15], [1, 17 + 3]]  # 17 parts of speech stand before entities


def test_a_batch_is_a_function_of_the_step_and_the_seed():
    a, b = make_task(), make_task()
    for step in (30, 3, 30, 0):
        for x, y in zip(a.batch(step)[:7], b.batch(step)[:7], strict=True):
            assert torch.equal(x, y)
    assert rows_of(make_task(seed=1).batch(0)) != rows_of(a.batch(0))
    assert a.steps_per_pass == 104 // 8


def test_parts_of_a_batch_are_the_batch():
    task = make_task()
    batch = task.batch(0)
    parts = task.split(batch, 4)
    assert [task.units(part) for part in parts] == [2] * 4
    assert [row for part in parts for row in rows_of(part)] == rows_of(batch)
    assert torch.equal(torch.cat([part.features for part in parts], 1), batch.features)


def test_the_loss_is_the_cross_entropy_of_both_ends():
    task, model = make_task(), make_model()
    batch = task.batch(0)
    batch = batch._replace(features=batch.features.double())
    start, end = model(*batch[:5])
    rows = range(len(batch.first))
    expected = -sum(start[b, batch.first[b]] + end[b, batch.last[b]] for b in rows) / len(rows)
    torch.testing.assert_close(task.loss(model, batch, None)[0], expected)


def test_evaluation_counts_each_question_once():
    """Against one question at a time."""
    task, model = make_task(), make_model()
    found = task.evaluate(model)
    overlap = right = nats = 0.0
    for e in task.heldout:
        batch = batch_of([e])
        start, end = model(*batch[:5])
        first, last, _ = best_spans(start, end, 3)
        answer = e.context.cut.slice(int(first), int(last))
        overlap, right = overlap + f1(answer, e.answers), right + exact_match(answer, e.answers)
        nats += nats_of(start, end, batch).item()
    count = len(task.heldout)
    assert count == 24 and next(iter(found)) == "f1" and 0 < overlap < count
    expected = {"f1": 100 * overlap / count, "exact_match": 100 * right / count}
    assert found == pytest.approx({**expected, "nats": nats / count}, rel=1e-5)


def test_a_reader_that_knows_is_right():
    task = make_task()

    def know(batch):
        length = len(batch.context)
        return tuple(
            torch.nn.functional.one_hot(at, length).float().log()
            for at in (batch.first, batch.last)
        )

    scored = score(know, task.heldout, 7, 3)
    assert {(s.f1, s.exact_match, s.nats) for s in scored} == {(1.0, 1.0, 0.0)}
    assert {s.id for s in scored} == {e.id for e in task.heldout}


def test_too_few_questions_for_a_batch_are_refused():
    with pytest.raises(DataError, match=r"data\.batch must be 6 at most, the questions .*got 8"):
        make_task(count=3)
