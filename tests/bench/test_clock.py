"""How calls are timed: on a fake clock, and a GPU's clocks on a fake GPU."""

from contextlib import contextmanager

import pytest
import torch
from tests.bench.conftest import FakeClock

from torchsru.bench.cases import Case
from torchsru.bench.clock import (
    LONG_S,
    SAMPLE_S,
    EventClock,
    GraphClock,
    HostClock,
    tf32,
    timed,
)
from torchsru.bench.variants import Setting, clock_for


@pytest.mark.parametrize("call_s", [1e-7, 1e-5, 3e-4, 1e-3])
def test_short_calls_are_repeated_until_a_sample_is_long_enough(call_s):
    clock = FakeClock(call_s)
    sample = timed(lambda: None, clock)
    assert sample() == pytest.approx(call_s)
    assert clock.log[-1] * call_s >= SAMPLE_S
    assert clock.log[-1] * call_s < 3 * SAMPLE_S


def test_a_long_call_is_made_once():
    clock = FakeClock(LONG_S)
    sample = timed(lambda: None, clock)
    assert sample() == pytest.approx(LONG_S)
    assert clock.log == ["prepare", 1, 1]


def test_what_is_prepared_is_what_is_timed():
    class Recorder(FakeClock):
        def prepare(self, call):
            return lambda: calls.append("replay")

    calls = []
    timed(lambda: calls.append("call"), Recorder())()
    assert set(calls) == {"replay"}


def test_a_cpus_clock_runs_the_call():
    calls = []
    sample = timed(lambda: calls.append(1), HostClock())
    before = len(calls)
    assert 0 < sample() < 1
    assert len(calls) - before > 10


class FakeGPU:
    """Of torch.cuda what the clocks use: work is put in line, its time is known at the end."""

    CALL_MS = 0.5

    def __init__(self, monkeypatch):
        self.log = []
        self.time_ms = 0.0
        self.capturing = False
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at_ms = gpu.time_ms

            def synchronize(self):
                gpu.log.append("wait")

            def elapsed_time(self, end):
                return end.at_ms - self.at_ms

        class Graph:
            calls = 0

            def replay(self):
                gpu.time_ms += self.calls * gpu.CALL_MS
                gpu.log.append("replay")

        @contextmanager
        def capture(graph, stream):
            assert stream is not None
            gpu.capturing = graph
            yield
            gpu.capturing = False

        class Stream:
            def wait_stream(self, other):
                pass

        @contextmanager
        def scope(stream):
            gpu.log.append("enter")
            yield
            gpu.log.append("leave")

        for name, fake in {
            "Event": Event, "CUDAGraph": Graph, "graph": capture, "Stream": Stream,
            "stream": scope, "current_stream": lambda: None, "synchronize": lambda: None,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, fake)

    def call(self):
        if self.capturing:
            self.capturing.calls += 1
        else:
            self.time_ms += self.CALL_MS
            self.log.append("call")


def test_events_time_eager_calls(monkeypatch):
    gpu = FakeGPU(monkeypatch)
    sample = timed(gpu.call, EventClock())
    assert sample() == pytest.approx(0.5e-3)
    assert "replay" not in gpu.log


def test_a_graph_is_warmed_up_captured_once_and_replayed(monkeypatch):
    gpu = FakeGPU(monkeypatch)
    clock = GraphClock()
    with clock.scope():
        sample = timed(gpu.call, clock)
        assert sample() == pytest.approx(0.5e-3)
    assert gpu.log.count("call") == 3
    assert gpu.log[:4] == ["enter", "call", "call", "call"]
    assert gpu.log[-1] == "leave"


def test_a_capture_that_fails_is_an_error(monkeypatch):
    gpu = FakeGPU(monkeypatch)

    def call():
        if gpu.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="capturing"):
        timed(call, GraphClock())


def test_a_case_has_the_clock_it_asks_for(monkeypatch):
    FakeGPU(monkeypatch)
    eager, graph = Case(kind="call"), Case(kind="call", graph=True)
    assert type(clock_for(graph, Setting("cpu", 1))) is HostClock
    assert type(clock_for(eager, Setting("cuda", 1))) is EventClock
    assert type(clock_for(graph, Setting("cuda", 1))) is GraphClock


def test_tf32_is_set_and_put_back():
    def state():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = state()
    for allowed in (True, False):
        with pytest.raises(KeyError), tf32(allowed):
            assert state() == (allowed, allowed)
            raise KeyError
        assert state() == before
