"""A case in a process of its own: its rows arrive, its limit ends it, a crash stays its own."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from tests.bench.conftest import ABOUT

from torchsru.bench import suites, worker
from torchsru.bench.cases import BenchError, Case, Shape
from torchsru.bench.check import CheckError
from torchsru.bench.variants import Setting
from torchsru.bench.worker import Worker

CASE = Case(kind="forward", shape=Shape(L=5, B=3, d=8), beside=(suites.LSTM,))
SETTING = Setting("cpu", 1)

# a child that does as its case is called: quick to start, for it imports no torch
CHILD = """
import json, os, subprocess, sys, time
for line in sys.stdin:
    request = json.loads(line)
    what = request["case"]["title"] if request["ask"] == "case" else "absent"
    if what == "sleep":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open(sys.argv[1], "w").write(str(child.pid))
        time.sleep(60)
    if what == "die":
        print("a warning", file=sys.stderr)
        sys.exit("the GPU has fallen off the bus")
    replies = {
        "absent": {"absent": {"fla": "it is not installed"}},
        "refuse": {"refused": "h is 99 roundings off"},
        "fail": {"failed": "no backend"},
    }
    print(json.dumps(replies.get(what, {"rows": [], "left_out": {"pid": str(os.getpid())}})))
    sys.stdout.flush()
"""


@pytest.fixture
def child(tmp_path):
    made = Worker([sys.executable, "-c", CHILD, str(tmp_path / "pid")])
    yield made
    made.close()


def ask(child, title, limit_s=30.0):
    return child.run(replace(CASE, title=title), SETTING, 0.01, ABOUT, limit_s)


def test_rows_arrive_from_another_process():
    child = Worker()
    try:
        found = child.run(CASE, SETTING, 0.01, ABOUT, 30.0)
        assert {row.variant for row in found.rows} == {"SRU", "nn.LSTM"}
        assert found.rows[0].case == CASE.name
        assert found.left_out == {}
        # one that is wrong says so, and the same process goes on
        with pytest.raises(BenchError, match="there is no backend of this name"):
            child.run(
                replace(CASE, kind="recurrence", backends=("abacus",)), SETTING, 0.01, ABOUT, 30.0
            )
        assert child.run(CASE, SETTING, 0.01, ABOUT, 30.0).rows
    finally:
        child.close()


def test_one_process_serves_case_after_case(child):
    assert child.absent(30.0) == {"fla": "it is not installed"}
    first = ask(child, "go").left_out["pid"]
    with pytest.raises(CheckError, match="99 roundings"):
        ask(child, "refuse")
    with pytest.raises(BenchError, match="no backend"):
        ask(child, "fail")
    assert ask(child, "go").left_out["pid"] == first


def test_a_limit_ends_a_case_and_all_that_it_started(child, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "START_S", 2.0)
    start_s = time.monotonic()
    with pytest.raises(BenchError, match="stopped after its limit of 2 s"):
        ask(child, "sleep", 0.2)
    assert time.monotonic() - start_s < 30
    pid = (tmp_path / "pid").read_text()
    for _ in range(100):  # the system takes a moment to bury it
        state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True)
        if not state.stdout.strip() or state.stdout.startswith("Z"):
            break
        time.sleep(0.05)
    else:
        raise AssertionError(f"process {pid} outlived its parent: {state.stdout}")
    assert ask(child, "go").left_out


def test_a_crash_leaves_its_last_words_and_the_next_case_a_fresh_process(child):
    first = ask(child, "go").left_out["pid"]
    with pytest.raises(BenchError, match="exit code 1: the GPU has fallen off the bus"):
        ask(child, "die")
    assert ask(child, "go").left_out["pid"] != first


@pytest.mark.parametrize(
    ("seen", "limit_s", "left"),
    [
        ([0.0], 10.0, 0.0),
        ([1.0, 0.9, 0.1, 1.0], 10.0, 0.1),  # others rest: no more waiting
        ([1.0, 1.0, 0.8, 0.0], 3.0, 0.8),  # they do not, and the time is over
        ([1.0, 0.0], 0.0, 1.0),
        ([None, 0.0], 10.0, None),
    ],
)
def test_a_case_waits_for_other_processes(seen, limit_s, left):
    looks = iter(seen)
    time_s = iter(range(100))
    assert worker.wait_for_quiet(limit_s, lambda: next(looks), lambda: next(time_s)) == left


def test_an_unexpected_error_ends_the_process_after_its_reply(monkeypatch):
    def broken(*args):
        raise RuntimeError("CUDA error: an illegal memory access\nand more")

    monkeypatch.setattr(worker, "run_case", broken)
    request = {
        "ask": "case", "case": CASE.to_json(), "setting": {"device": "cpu", "threads": 1},
        "budget_s": 1.0, "limit_s": 1.0, "about": ABOUT,
    }  # fmt: skip
    threads = torch.get_num_threads()
    try:
        reply, go_on = worker._answer(json.loads(json.dumps(request)))
    finally:
        torch.set_num_threads(threads)
    assert reply == {"failed": "RuntimeError: CUDA error: an illegal memory access"}
    assert not go_on
