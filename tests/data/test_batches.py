import pytest
import torch

from torchsru.data import DataError, EverySymbol, Streams
from torchsru.data.batches import NOTHING

TEXT = torch.arange(103, dtype=torch.uint8)


def test_rows_read_on_where_they_stopped():
    streams = Streams(TEXT, batch=4, unroll=6)
    assert (streams.stream_length, streams.steps_per_pass) == (25, 4)
    segments = [streams.segment(step) for step in range(4)]
    for row in range(4):
        start = row * 25
        x = torch.cat([s.x[:, row] for s in segments])
        y = torch.cat([s.y[:, row] for s in segments])
        assert x.tolist() == list(range(start, start + 24))
        assert y.tolist() == list(range(start + 1, start + 25))
    assert [s.fresh for s in segments] == [True, False, False, False]
    assert segments[0].x.dtype == torch.int64


def test_position_is_the_step_and_the_seed_draws_each_pass():
    one, same, other = (Streams(TEXT, 4, 6, seed) for seed in (1, 1, 2))
    for step in (7, 0, 5):
        assert torch.equal(one.segment(step).x, same.segment(step).x)
    assert not torch.equal(one.segment(0).x, other.segment(0).x)
    assert not torch.equal(one.segment(0).x, one.segment(4).x)  # the second pass
    assert one.segment(4).fresh


def test_the_smallest_text_works_and_one_symbol_less_is_refused():
    assert Streams(TEXT[:28], 4, 6).segment(0).x.shape == (6, 4)
    with pytest.raises(DataError, match="27 symbols are too few for 4 streams of 6"):
        Streams(TEXT[:27], 4, 6)


@pytest.mark.parametrize("rows", [1, 2, 4, 7])
@pytest.mark.parametrize("unroll", [1, 6, 200])
@pytest.mark.parametrize("count", [7, 50, 102, 103])
def test_each_symbol_is_predicted_once_from_the_one_before(rows, unroll, count):
    segments = list(EverySymbol(TEXT, rows, unroll, count, before=255))
    x, y = (torch.cat([segment[i] for segment in segments]) for i in (0, 1))
    counted = y != NOTHING
    predicted = y[counted].tolist()
    assert len(predicted) == len(set(predicted)) == count  # TEXT's bytes all differ
    assert torch.equal(x[counted], torch.where(y == 0, 255, y - 1)[counted])
    assert set(y[0].tolist()) >= {0} and (count < 103 or set(predicted) == set(range(103)))
    for row in range(rows):  # one stretch of text, without holes
        kept = y[:, row][counted[:, row]].tolist()
        assert kept == list(range(kept[0], kept[0] + len(kept)))
        assert counted[: len(kept), row].all()
    assert [segment.fresh for segment in segments] == [True] + [False] * (len(segments) - 1)
    assert all(len(segment.x) <= unroll for segment in segments)


SENTENCES = torch.tensor([3, 4, 9, 15, 16, 30, 44, 60, 75, 103])  # where they end in TEXT


def sentences(text):
    """A text of whole sentences, as a set of them."""
    lengths = SENTENCES.diff(prepend=torch.zeros(1, dtype=torch.int64)).tolist()
    starts = dict(zip([0, *SENTENCES.tolist()], lengths, strict=False))
    found, at = [], 0
    while at < len(text):
        found.append(text[at])
        length = starts[text[at]]
        assert text[at : at + length] == list(range(text[at], text[at] + length))
        at += length
    return found


def test_sentences_come_whole_once_a_pass_in_an_order_of_the_seed():
    orders = []
    for seed in (1, 2):
        streams = Streams(TEXT, 1, 1, seed, SENTENCES)
        for passed in range(2):
            start = passed * streams.steps_per_pass
            segments = [streams.segment(start + i) for i in range(streams.steps_per_pass)]
            text = [int(segments[0].x), *(int(s.y) for s in segments)]
            assert segments[0].fresh and not any(s.fresh for s in segments[1:])
            orders.append(sentences(text))
            assert sorted(orders[-1]) == [0, *SENTENCES.tolist()[:-1]]
    assert len({tuple(order) for order in orders}) == 4


def test_shuffled_sentences_are_a_pure_function_of_the_step():
    one, same = (Streams(TEXT, 4, 6, 1, SENTENCES) for _ in range(2))
    steps = [one.segment(step) for step in range(9)]
    for step in (8, 0, 5, 3):
        assert torch.equal(same.segment(step).x, steps[step].x)
        assert torch.equal(same.segment(step).y, steps[step].y)
    assert torch.equal(steps[0].y[-1], steps[1].x[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_symbols_of_any_width_become_int64(dtype):
    ids = TEXT.to(dtype)
    for segment in (Streams(ids, 4, 6, 0).segment(0), next(iter(EverySymbol(ids, 4, 6, 50, 9)))):
        assert segment.x.dtype == segment.y.dtype == torch.int64
