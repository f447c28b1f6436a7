"""Rows that no clock made, a clock that the test moves, and cases run in this process."""

from contextlib import nullcontext

import pytest

from torchsru.bench import cases, suites
from torchsru.bench.cases import Case
from torchsru.bench.measure import Variant
from torchsru.bench.rows import Row, make_rows
from torchsru.bench.worker import run_case

ABOUT = {
    "device": "cpu",
    "threads": 2,
    "machine": {
        "cpu": "Test CPU",
        "cores": 2,
        "caches": {"L1d": "32K", "L2": "1024K"},
        "isa_torch": "AVX512",
        "isa_torchsru": "avx512",
        "isa_available": ["avx512", "avx2", "baseline"],
        "ram_gib": 16.0,
    },
    "versions": {
        "torch": "2.13.0", "torchsru": "0.1.0", "python": "3.11.7", "os": "Linux x86_64",
        "mkl": "2024.2", "onednn": "3.12.0", "cuda": None, "sru": None,
    },
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "date": "2026-01-02T03:04:05+00:00",
}  # fmt: skip

#: Milliseconds of each variant, the same in every case.
TIMES_MS = {
    cases.GEMM_REUSED: 10.0,
    cases.GEMM_FRESH: 11.0,
    cases.GEMMS: 30.0,
    cases.SRU: 40.0,
    cases.LSTM: 100.0,
    cases.GRU: 150.0,
    cases.ORIGINAL: 1000.0,
    cases.CONV: 35.0,
}
OVER = {
    "inference": {cases.SRU: (cases.GEMM_REUSED, cases.GEMM_FRESH)},
    "training": {
        cases.SRU: (cases.GEMMS,),
        **{
            name: (cases.SRU, cases.GEMMS)
            for name in (cases.LSTM, cases.GRU, cases.ORIGINAL, cases.CONV)
        },
    },
}


def sample_rows(case: Case) -> list[Row]:
    """Rows of a case whose variants took TIMES_MS, give or take 2 %."""
    over = OVER[case.kind]
    names = dict.fromkeys([o for some in over.values() for o in some] + list(over))
    variants = [Variant(name, lambda: 0.0, over.get(name, ())) for name in names]
    samples = {n: [1e-3 * TIMES_MS[n] * f for f in (0.98, 1.0, 1.02)] for n in names}
    return make_rows(case, variants, samples, ABOUT, 0.0)


@pytest.fixture
def rows() -> list[Row]:
    chosen = [c for c in suites.CPU if c.kind in ("inference", "training") and not c.title]
    return [row for case in chosen for row in sample_rows(case)]


class FakeClock:
    """A device on which a call takes `call_s`; the time goes by as it is told."""

    def __init__(self, call_s=1e-4):
        self.call_s = call_s
        self.time_s = 0.0
        self.log = []

    def now(self):
        return self.time_s

    def scope(self):
        return nullcontext()

    def prepare(self, call):
        self.log.append("prepare")
        return call

    def elapsed(self, call, times):
        call()
        self.log.append(times)
        self.time_s += times * self.call_s
        return times * self.call_s


class InProcess:
    """What `Worker` does, here: no process to start, and what a test patches is in force."""

    def absent(self, limit_s):
        return {}

    def run(self, case, setting, budget_s, about, limit_s):
        return run_case(case, setting, budget_s, about, limit_s)

    def close(self):
        pass


@pytest.fixture
def in_process(monkeypatch):
    """The command runs its cases in this process."""
    monkeypatch.setattr("torchsru.bench.command.Worker", InProcess)
