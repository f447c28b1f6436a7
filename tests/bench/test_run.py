"""Every kind of case runs, in miniature; no test looks at a time."""

import json
import platform
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from torchsru._machine import caches, commit, machine, versions
from torchsru.bench import cases, command
from torchsru.bench.process import peak_bytes
from torchsru.bench.rows import read_rows
from torchsru.bench.variants import Setting

CASES = {case.name: case for case in cases.CASES}
IN_PROCESS = [
    n for n, c in CASES.items() if c.kind in ("call", "inference", "networks", "training")
]


def tiny(case):
    """The same case, a few steps and channels small."""
    shape = replace(case.shape, L=5, B=3, d=8)
    if case.shape.input_size:
        shape = replace(shape, input_size=12)
    return replace(case, shape=shape)


@pytest.fixture(autouse=True)
def without_the_original(monkeypatch):
    """Importing it may compile C++ for a minute."""
    monkeypatch.setattr("torchsru.bench.variants.original_missing", lambda: "not in tests")
    monkeypatch.setattr("torchsru.bench.command.original_missing", lambda: "not in tests")


def about(setting):
    return {
        "device": setting.device, "threads": setting.threads, "machine": machine(),
        "versions": versions(), "commit": None, "dirty": None, "date": "2026-01-02",
    }  # fmt: skip


def run(case, tmp_path):
    setting = Setting("cpu", 1)
    out = tmp_path / "rows.jsonl"
    rows, refused = command.run_cases([case], setting, 0.01, about(setting), out)
    assert refused == []
    assert read_rows(out) == rows
    return rows


@pytest.mark.parametrize("name", [IN_PROCESS[0], IN_PROCESS[1], *IN_PROCESS[-4:]])
def test_cases_run(name, tmp_path):
    rows = run(tiny(CASES[name]), tmp_path)
    judged = {(r.variant, r.over) for r in rows if r.met is not None}
    targets = {(t.variant, t.over) for t in CASES[name].targets if t.variant != cases.ORIGINAL}
    assert judged == targets
    assert all(r.median > 0 and r.q1 <= r.median <= r.q3 and r.n >= 3 for r in rows)


def test_kernels_run(tmp_path):
    rows = run(tiny(CASES["kernel: L=32 B=32 d=128"]), tmp_path)
    assert rows[0].variant == cases.COPY
    assert len(rows) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["backends: L=128 B=32 d=256", "import"])
def test_cases_of_processes_run(name, tmp_path):
    case = CASES[name] if name == "import" else tiny(CASES[name])
    assert len(run(case, tmp_path)) >= 2


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="resets the peak through /proc")
def test_peak_memory_counts_what_a_step_holds():
    import torch

    from torchsru.bench.networks import Where

    shape = cases.Shape(L=64, B=32, d=256)
    found = peak_bytes(cases.SRU, shape, Where(torch.float32, "cpu"), 1)
    u_bytes = 4 * 64 * 32 * 3 * 256
    assert u_bytes < found < 8 * u_bytes


def test_main_runs_one_case_without_a_verb(tmp_path, monkeypatch, capsys):
    chosen = [tiny(CASES["inference: L=32 B=32 d=128"])]
    monkeypatch.setattr("torchsru.bench.cases.find", lambda pattern: chosen)
    out = tmp_path / "new" / "rows.jsonl"
    assert command.main(["--seconds", "0.01", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "targets met" in printed
    rows = read_rows(out)
    assert rows[0].machine["cpu"]
    assert rows[0].versions["torch"]


def test_rows_name_no_host_and_no_path(tmp_path):
    rows = run(tiny(CASES["inference: L=32 B=32 d=128"]), tmp_path)
    text = "".join(row.to_json() for row in rows)
    assert str(Path(__file__).parents[2]) not in text
    if len(socket.gethostname()) > 4:
        assert socket.gethostname() not in text


def test_the_commit_is_found_in_a_checkout():
    head, dirty = commit()
    if head is None:
        pytest.skip("not a git checkout")
    assert len(head) == 40
    assert isinstance(dirty, bool)
    assert all(size[-1] in "KMG" for size in caches().values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--case", "no such case"], "no such case"),
        (["run", "--colour", "red"], "--colour"),
        (["--dtype", "int8"], "int8"),
        (["--seconds", "-1"], "positive, got -1"),
        (["--threads", "none"], "none"),
        (["paint"], "paint"),
        (["compare", "nowhere.jsonl", "nowhere.jsonl"], "nowhere.jsonl"),
        (["report", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_named(arguments, words, capsys):
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_list_names_cases_and_targets(capsys):
    assert command.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CASES)
    assert "SRU over three GEMMs: <= 1.15" in printed
    assert "sru_forward: <= 6 us" in printed


def test_help(capsys):
    assert command.main(["--help"]) == 0
    assert "compare" in capsys.readouterr().out


def test_rows_are_json_lines(tmp_path):
    run(tiny(CASES["inference: L=32 B=32 d=128"]), tmp_path)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["dtype"] for line in lines] == ["float32"] * 4
