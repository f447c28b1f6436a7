import pytest
import torch

from torchsru.data import ByteStreams, DataError, EveryByte
from torchsru.data.batches import NOTHING

TEXT = torch.arange(103, dtype=torch.uint8)


def test_rows_read_on_where_they_stopped():
    streams = ByteStreams(TEXT, batch=4, unroll=6)
    assert (streams.stream_bytes, streams.steps_per_pass) == (25, 4)
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
    one, same, other = (ByteStreams(TEXT, 4, 6, seed) for seed in (1, 1, 2))
    for step in (7, 0, 5):
        assert torch.equal(one.segment(step).x, same.segment(step).x)
    assert not torch.equal(one.segment(0).x, other.segment(0).x)
    assert not torch.equal(one.segment(0).x, one.segment(4).x)  # the second pass
    assert one.segment(4).fresh


def test_the_smallest_text_works_and_one_byte_less_is_refused():
    assert ByteStreams(TEXT[:28], 4, 6).segment(0).x.shape == (6, 4)
    with pytest.raises(DataError, match="27 bytes are too few for 4 streams of 6"):
        ByteStreams(TEXT[:27], 4, 6)


@pytest.mark.parametrize("rows", [1, 2, 4, 7])
@pytest.mark.parametrize("unroll", [1, 6, 200])
@pytest.mark.parametrize("count", [7, 50, 102, 103])
def test_each_byte_is_predicted_once_from_the_one_before(rows, unroll, count):
    segments = list(EveryByte(TEXT, rows, unroll, count, before=255))
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
