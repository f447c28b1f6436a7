from functools import partial

import pytest
import torch
from tests.sounds import spoken

from torchsru.data import DataError
from torchsru.data.speech import Alphabet, Speech, Utterance
from torchsru.models.recognizer import Recognizer, RecognizerConfig
from torchsru.train.recognition import (
    Errors,
    Recognition,
    batch_of,
    by_size,
    ctc,
    evaluate,
    steps_needed,
)

ALPHABET = Alphabet(("one", "two", "zero"), "words")


def utterances(count, seed=0):
    """Of one to three digits."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        digits = torch.randint(3, (1 + i % 3,), generator=draw).tolist()
        samples = torch.cat([spoken(d) for d in digits])
        text = " ".join(("zero", "one", "two")[d] for d in digits)
        found.append(Utterance(text, f"{i}", len(samples), partial(torch.clone, samples)))
    return found


def make_task(count=43, batch=8, seed=0):
    speech = Speech(lambda passed: utterances(count, passed), utterances(9, 99), [], "x", [])
    return Recognition(speech, ALPHABET, batch=batch, eval_batch=4, seed=seed)


def make_model():
    torch.manual_seed(0)
    return Recognizer(RecognizerConfig(width=6, layers=1, bands=10), ALPHABET.size).eval()


def texts_of(batch):
    return [
        ALPHABET.decode(batch.symbols[b, :length].tolist())
        for b, length in enumerate(batch.lengths.tolist())
    ]


def test_a_pass_gives_each_utterance_once_but_those_left_over():
    task = make_task()
    assert task.steps_per_pass == 5
    for passed in (0, 1):
        whole = [u.text for u in utterances(43, passed)]
        seen = [text for step in range(5) for text in texts_of(task.batch(5 * passed + step))]
        assert len(seen) == 40
        for text in set(seen):
            assert seen.count(text) <= whole.count(text)


def test_a_batch_is_a_function_of_the_step_and_the_seed():
    a, b = make_task(), make_task()
    for step in (12, 3, 12, 0):
        for x, y in zip(a.batch(step)[:4], b.batch(step)[:4], strict=True):
            assert torch.equal(x, y)
    assert texts_of(make_task(seed=1).batch(0)) != texts_of(a.batch(0))


def test_utterances_of_a_batch_are_of_alike_lengths():
    task = make_task(count=160)
    for step in range(20):
        words = {len(text.split()) for text in texts_of(task.batch(step))}
        assert max(words) - min(words) <= 1


def test_parts_of_a_batch_are_the_batch():
    task = make_task()
    batch = task.batch(0)
    parts = task.split(batch, 4)
    assert [task.units(part) for part in parts] == [2] * 4
    assert [text for part in parts for text in texts_of(part)] == texts_of(batch)
    model = make_model()
    whole, _ = task.loss(model, batch, None)
    mean = sum(task.loss(model, part, None)[0] for part in parts) / 4
    torch.testing.assert_close(mean, whole)


def test_evaluation_counts_each_utterance_once():
    """Against one at a time; a model that is told the text makes no errors."""
    model, held = make_model(), utterances(9, 99)
    found = evaluate(model, held, ALPHABET, 4)
    nats, errors = 0.0, Errors()
    for u in held:
        nats += ctc(model, batch_of([u], ALPHABET)).item()
        log, _ = model(u.read()[None], torch.tensor([u.size]))
        path = [s for s, _ in __import__("itertools").groupby(log[:, 0].argmax(1).tolist()) if s]
        errors.add(u.text, ALPHABET.decode(path))
    assert found == pytest.approx({**errors.rates(), "nats": nats / 9}, rel=1e-5)
    assert sorted(u.text for part in by_size(held, 4) for u in part) == sorted(u.text for u in held)
    told = iter([ALPHABET.encode(u.text).tolist() for part in by_size(held, 4) for u in part])
    decoders = {"": lambda log: next(told), "mute_": lambda log: []}
    found = evaluate(model, held, ALPHABET, 4, decoders)
    assert (found["wer"], found["cer"]) == (0, 0)
    assert (found["mute_wer"], found["mute_cer"]) == (1, 1)


def test_error_rates_are_edits_over_units():
    errors = Errors()
    errors.add("one two three", "one  tow three four")  # 2 words; t[wo -> ow]: 2, " four": 5
    errors.add("six", "")  # 1 word, 3 characters
    assert errors.rates() == pytest.approx({"wer": 3 / 4, "cer": 10 / 16})


def edits(a, b):
    """Levenshtein's recursion."""
    if not a or not b:
        return len(a) + len(b)
    return min(edits(a[1:], b) + 1, edits(a, b[1:]) + 1, edits(a[1:], b[1:]) + (a[0] != b[0]))


def test_edits_are_levenshteins():
    draw = torch.Generator().manual_seed(0)
    for _ in range(30):
        a, b = (
            ["xyz"[i] for i in torch.randint(3, (n,), generator=draw).tolist()]
            for n in torch.randint(1, 6, (2,), generator=draw).tolist()
        )
        errors = Errors()
        errors.add(" ".join(a), " ".join(b))
        assert errors.rates()["wer"] == edits(a, b) / len(a)


def test_repeats_need_a_blank_between():
    assert steps_needed(torch.tensor([1, 1, 2, 2, 2])) == 8
    for steps, possible in ((2, False), (3, True)):
        log = torch.zeros(steps, 1, 3).log_softmax(2)
        loss = torch.nn.functional.ctc_loss(
            log, torch.tensor([[1, 1]]), torch.tensor([steps]), torch.tensor([2])
        )
        assert bool(loss.isfinite()) == possible == (steps >= steps_needed(torch.tensor([1, 1])))


def test_too_few_utterances_for_a_batch_are_refused():
    with pytest.raises(DataError, match=r"data\.batch must be 5 at most, .*got 8"):
        make_task(count=5)
