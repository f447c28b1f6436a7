"""Children that measure: what they say arrives, and one that fails does not end the run."""

import os
import threading
from dataclasses import replace

import pytest
import torch

from torchsru.bench import command, suites
from torchsru.bench.cases import BenchError, Shape
from torchsru.bench.check import CheckError
from torchsru.bench.networks import Where
from torchsru.bench.process import KernelWorker
from torchsru.bench.rows import read_rows

TINY = Shape(L=5, B=3, d=8)
WHERE = Where(torch.float32, "cpu")
BACKENDS = next(case for case in suites.CPU if case.kind == "backends")
OTHER = next(case for case in suites.CPU if case.kind == "inference")


def start_of_every_python(code, folder, monkeypatch):
    """Run code at the start of every Python that this process starts."""
    (folder / "sitecustomize.py").write_text(code)
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


REFUSE = """
import sys
if "torchsru.bench.process" in sys.orig_argv:
    from torchsru.bench import check
    check.UNITS = dict.fromkeys(check.UNITS, -1)
"""
DIE = """
import sys
if "torchsru.bench.process" in sys.orig_argv:
    sys.exit("out of luck")
"""


def test_a_childs_failed_check_is_a_failed_check(tmp_path, monkeypatch):
    start_of_every_python(REFUSE, tmp_path, monkeypatch)
    with pytest.raises(CheckError, match=r"^backend 'torch' at .* roundings off the definition"):
        KernelWorker("torch", None, TINY, WHERE, 1)


def test_a_child_that_dies_leaves_its_last_words(tmp_path, monkeypatch):
    start_of_every_python(DIE, tmp_path, monkeypatch)
    with pytest.raises(BenchError, match="out of luck") as caught:
        KernelWorker("torch", None, TINY, WHERE, 1)
    assert not isinstance(caught.value, CheckError)


@pytest.mark.parametrize(
    ("code", "word"), [(REFUSE, "refused, "), (DIE, "failed, ")], ids=["refused", "failed"]
)
def test_the_other_cases_go_on(code, word, in_process, tmp_path, monkeypatch, capsys):
    start_of_every_python(code, tmp_path, monkeypatch)
    monkeypatch.setattr("torchsru.bench.command.FLOORS", ())  # no ceilings first
    chosen = [replace(case, shape=TINY) for case in (BACKENDS, OTHER)]
    monkeypatch.setattr("torchsru.bench.cases.find", lambda pattern, suite: chosen)
    out = tmp_path / "rows.jsonl"
    assert command.main(["--seconds", "0.01", "--out", str(out)]) == 1
    assert word + chosen[0].name in capsys.readouterr().out
    assert {row.case for row in read_rows(out)} == {chosen[1].name}


def test_a_child_may_say_more_than_a_pipe_holds(tmp_path, monkeypatch):
    talk = "import sys; sys.stderr.write('a warning\\n' * 100_000); sys.stderr.flush()"
    start_of_every_python(talk, tmp_path, monkeypatch)
    samples = []

    def work():
        worker = KernelWorker("torch", None, TINY, WHERE, 1)
        samples.append(worker.sample())
        worker.close()

    thread = threading.Thread(target=work, daemon=True)  # a child that is stuck ends with us
    thread.start()
    thread.join(120)
    assert len(samples) == 1
