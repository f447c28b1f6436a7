"""How calls are timed on a device: a CPU's clock, a GPU's events, replays of a CUDA graph.

A clock has four methods, and a test brings its own:

    now()                 seconds of the host, for budgets
    scope()               a context in which everything that is timed is made and called
    prepare(call)         what is repeated: the call itself, or the replay of its graph
    elapsed(call, times)  seconds that so many calls take, one after the other
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch

SAMPLE_S = 2e-3  # a sample lasts at least as long: short calls are repeated
WARM_UP_S = 0.05
LONG_S = 0.2  # a call as long as this is warmed up once

Call = Callable[[], object]


class Clock(Protocol):
    """What `timed` needs of a device."""

    def now(self) -> float: ...
    def scope(self) -> AbstractContextManager[object]: ...
    def prepare(self, call: Call) -> Call: ...
    def elapsed(self, call: Call, times: int) -> float: ...


class HostClock:
    """The process's own clock, around calls that are done when they return."""

    def now(self) -> float:
        return time.perf_counter()

    def scope(self) -> AbstractContextManager[object]:
        return nullcontext()

    def prepare(self, call: Call) -> Call:
        return call

    def elapsed(self, call: Call, times: int) -> float:
        start_s = time.perf_counter()
        for _ in range(times):
            call()
        return time.perf_counter() - start_s


class EventClock(HostClock):
    """The GPU's own time between two events, calls made eagerly on the current stream.

    The default stream is left alone: the original package's kernels run on it, whatever the
    current one is.
    """

    def elapsed(self, call: Call, times: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


class GraphClock(EventClock):
    """The same, of calls that were captured in a CUDA graph each: the host's cost is gone."""

    def __init__(self) -> None:
        # autograd runs a backward pass on the stream of its forward pass, so both must be in
        # scope() to be captured
        self._stream = torch.cuda.Stream()

    def scope(self) -> AbstractContextManager[object]:
        self._stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._stream)

    def prepare(self, call: Call) -> Call:
        for _ in range(3):  # libraries choose, Triton compiles: nothing of it may be captured
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            call()

        def replay(alive: Call = call) -> None:  # the graph does not keep what it reads
            graph.replay()

        return replay


def timed(call: Call, clock: Clock) -> Callable[[], float]:
    """A sampler of one call's time in seconds: the mean over as many as fill SAMPLE_S."""
    call = clock.prepare(call)
    times, spent_s = 1, clock.elapsed(call, 1)
    if spent_s < LONG_S:
        spent_s = clock.elapsed(call, 1)
    end_s = clock.now() + WARM_UP_S
    while clock.now() < end_s and spent_s < SAMPLE_S:
        times = max(times + 1, math.ceil(times * min(4, SAMPLE_S / spent_s)))
        spent_s = clock.elapsed(call, times)
    return lambda: clock.elapsed(call, times) / times


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let float32 products, cuDNN's included, round their factors to TF32, or forbid it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
