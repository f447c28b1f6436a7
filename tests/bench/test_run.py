"""Every kind of case runs, in miniature; no test looks at a time."""

import json
import platform
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from tests.bench.conftest import ABOUT, InProcess

from torchsru._machine import caches, commit, machine, versions
from torchsru.bench import cases, command, floor, report, suites, variants
from torchsru.bench.cases import ORIGINAL, BenchError, Case
from torchsru.bench.check import CheckError
from torchsru.bench.process import peak_bytes
from torchsru.bench.rows import read_rows
from torchsru.bench.variants import Setting
from torchsru.bench.worker import Measured, run_case

CASES = {case.name: case for case in suites.CPU}
IN_PROCESS = [
    "inference: L=32 B=32 d=128",
    "training: L=32 B=32 d=128",
    "training in bfloat16: L=128 B=32 d=512",
    "paper's figure, forward: L=32 B=32 d=256",
    "speech separation, training: L=125 B=250 d=32",
    "rows of a quarter of L to L steps, training: L=200 B=32 d=128",
    "length: L=1024 B=1 d=512",
    "one call: L=1 B=1 d=64",
]
CEILINGS = {
    floor.COPY_BANDWIDTH: 1e10,
    **{floor.product_name(dtype): 1e11 for dtype in ("float32", "bfloat16")},
}


def tiny(case):
    """The same case, a few steps and channels small."""
    shape = replace(case.shape, L=5, B=3, d=8, layers=min(case.shape.layers, 2))
    if case.shape.input_size:
        shape = replace(shape, input_size=12)
    return replace(case, shape=shape)


@pytest.fixture(autouse=True)
def without_the_original(monkeypatch):
    """Importing it may compile C++ for a minute."""
    for module in ("networks", "variants"):
        monkeypatch.setattr(f"torchsru.bench.{module}.missing", absent)


@pytest.fixture(autouse=True)
def on_a_quiet_machine(monkeypatch):
    """Other tests beside these are no reason to wait, nor to leave floors out."""
    monkeypatch.setattr("torchsru.bench.worker.wait_for_quiet", lambda limit_s: 0.0)


def absent(name):
    return "not in tests" if name in variants.PEERS else None


def about(setting):
    return {
        "device": setting.device, "threads": setting.threads, "machine": machine(),
        "versions": versions(), "commit": None, "dirty": None, "date": "2026-01-02",
    }  # fmt: skip


def run(case, tmp_path, ceilings=CEILINGS):
    setting = Setting("cpu", 1, ceilings)
    out = tmp_path / "rows.jsonl"
    rows, refused = command.run_cases([case], setting, 0.01, about(setting), out, InProcess())
    assert refused == []
    assert read_rows(out) == rows
    return rows


def judged(rows):
    return {(r.variant, r.over) for r in rows if r.met is not None}


def wanted(case):
    """The case's targets but those on a package that is not there."""
    there = [t for t in case.targets if not t.variant.startswith(ORIGINAL)]
    return {(t.variant, t.over) for t in there}


@pytest.mark.parametrize("name", IN_PROCESS)
def test_cases_run(name, tmp_path):
    rows = run(tiny(CASES[name]), tmp_path)
    assert judged(rows) == wanted(CASES[name])
    assert all(r.median > 0 and r.q1 <= r.median <= r.q3 and r.n >= 3 for r in rows)
    if CASES[name].kind not in ("call", "unequal"):
        assert all(r.floor_s for r in rows)


GOALS = {  # one of each
    (case.kind, case.targets): case for case in suites.GPU if case.targets and case.kind != "memory"
}.values()


def on_this_machine(text):
    return text.replace("triton", "torch")


@pytest.mark.parametrize("case", GOALS, ids=lambda case: case.name)
def test_every_goal_on_a_gpu_is_judged(case, tmp_path):
    """In miniature and on a CPU, its backends in the place of a GPU's."""
    targets = tuple(
        replace(t, variant=on_this_machine(t.variant), over=on_this_machine(t.over))
        for t in case.targets
    )
    backends = tuple(map(on_this_machine, case.backends))
    here = replace(tiny(case), targets=targets, backends=backends)
    measured = run_case(here, Setting("cpu", 1, CEILINGS), 0.0, ABOUT)
    assert judged(measured.rows) == wanted(here)
    assert set(measured.left_out) <= set(variants.PEERS)


def test_what_is_not_there_is_left_out_with_its_reason(tmp_path, capsys):
    case = replace(
        tiny(CASES["length: L=1024 B=1 d=512"]),
        backends=("torch", "abacus"), beside=(cases.HGRN, cases.COPY),
    )  # fmt: skip
    rows = run(case, tmp_path)
    passes = [f"torch, {name}" for name in (cases.FORWARD, cases.FORWARD_TRAIN, cases.BACKWARD)]
    assert [row.variant for row in rows] == [cases.COPY, *passes]
    printed = capsys.readouterr().out
    assert "left out, abacus: there is no backend of this name" in printed
    assert "left out, HGRN (fla): not in tests" in printed


def test_one_that_fails_is_left_out_but_ours_may_not(monkeypatch):
    make = variants.make

    def broken(name, shape, where):
        if name == bad:
            raise RuntimeError("CUDA out of memory\nand so on")
        return make(name, shape, where)

    monkeypatch.setattr(variants, "make", broken)
    case = tiny(CASES["paper's figure, forward: L=32 B=32 d=256"])
    bad = cases.GRU
    measured = run_case(case, Setting("cpu", 1), 0.0, ABOUT)
    assert measured.left_out[cases.GRU] == "RuntimeError: CUDA out of memory"
    assert not measured.broken
    assert run_case(replace(case, graph=True), Setting("cpu", 1), 0.0, ABOUT).broken
    assert cases.LSTM in {row.variant for row in measured.rows}
    assert all(row.floor_s is None for row in measured.rows)  # no ceilings were measured
    bad = cases.SRU
    with pytest.raises(RuntimeError, match="out of memory"):
        run_case(case, Setting("cpu", 1), 0.0, ABOUT)


def test_packed_and_padded_rows_are_compared_before_they_are_timed(monkeypatch):
    case = tiny(suites.UNEQUAL_ROWS)
    make = variants.make_unequal

    def broken(name, shape, where):
        network = make(name, shape, where)
        run = network.run
        return replace(network, run=lambda x: 1.1 * run(x)) if name == cases.PACKED_SRU else network

    monkeypatch.setattr(variants, "make_unequal", broken)
    with pytest.raises(CheckError, match="SRU, packed and SRU, padded differ"):
        run_case(case, Setting("cpu", 1), 0.0, ABOUT)


def test_the_originals_kernel_stands_beside_no_graph():
    case = replace(tiny(CASES["paper's figure, forward: L=32 B=32 d=256"]), graph=True)
    left_out = run_case(case, Setting("cpu", 1), 0.0, ABOUT).left_out
    assert "default stream" in left_out[ORIGINAL]


def test_ceilings_are_measured_first_and_handed_on(tmp_path, monkeypatch):
    monkeypatch.setitem(variants.COPY_ELEMENTS, "cpu", 2**12)
    monkeypatch.setitem(variants.PRODUCT_SIDE, "cpu", 16)
    case = replace(tiny(CASES["training: L=32 B=32 d=128"]), beside=())
    setting = Setting("cpu", 1)
    rows, _ = command.run_cases(
        [suites.CEILINGS, case], setting, 0.01, ABOUT, tmp_path / "rows.jsonl", InProcess()
    )
    found = {row.variant: row for row in rows if row.kind == "ceilings"}
    assert set(found) == set(CEILINGS)
    assert found[floor.COPY_BANDWIDTH].unit == "bytes_per_s"
    assert rows[-1].variant == cases.SRU
    ceilings = {name: row.q3 for name, row in found.items()}
    work = floor.layers_work(cases.SRU, case.shape, variants.torch.float32, training=True)
    assert rows[-1].floor_s == work.floor_s(ceilings, floor.product_name("float32"))


def test_a_shared_machines_ceilings_are_handed_to_no_floor(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(variants.COPY_ELEMENTS, "cpu", 2**12)
    monkeypatch.setitem(variants.PRODUCT_SIDE, "cpu", 16)
    monkeypatch.setattr("torchsru.bench.worker.wait_for_quiet", lambda limit_s: 1.0)
    chosen = [suites.CEILINGS, replace(tiny(CASES["training: L=32 B=32 d=128"]), beside=())]
    rows, _ = command.run_cases(
        chosen, Setting("cpu", 1), 0.01, ABOUT, tmp_path / "rows.jsonl", InProcess()
    )
    assert rows[-1].variant == cases.SRU and rows[-1].floor_s is None
    assert report.NO_FLOORS in capsys.readouterr().out


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("busy_cores", [0.0, 1.0])
def test_products_of_a_type_that_the_processor_lacks_are_left_out(
    asked, busy_cores, rows, tmp_path, capsys
):
    rates = {"float32": 1e11, "bfloat16": 1e9}
    ceilings = [
        replace(
            rows[0], kind="ceilings", variant=floor.product_name(t), q3=q3, busy_cores=busy_cores
        )
        for t, q3 in rates.items()
    ]

    class Measuring(SlowWorker):
        def run(self, case, *rest):
            self.seen.append(case.name)
            return Measured(ceilings if case.kind == "ceilings" else [rows[0]])

    shape = cases.Shape(L=1, B=1, d=1)
    chosen = [
        suites.CEILINGS,
        *(Case(kind=kind, shape=shape, dtype="bfloat16") for kind in ("training", "kernel")),
        Case(kind="training", shape=shape),
    ]
    worker = Measuring(rows)
    _, failed = command.run_cases(
        chosen, Setting("cpu", 1), 1.0, ABOUT, tmp_path / "rows.jsonl", worker, asked=asked
    )
    assert worker.seen == [case.name for case in (chosen[0], *chosen[2:])]
    assert failed == ([chosen[1].name] if asked else [])
    said = capsys.readouterr().out
    assert "products of bfloat16 are 100.0 times slower here than of float32" in said
    assert (report.NO_FLOORS in said) == (busy_cores > 0)


@pytest.mark.parametrize(
    ("first_s", "sides"),
    [(1.0, [256]), (0.05, [256, 512]), (1e-5, [256, 512, 1024, 2048])],
)
def test_a_slow_types_product_is_a_small_one(first_s, sides, monkeypatch):
    seen = []

    def product(where, side, clock):
        seen.append(side)
        return lambda: first_s * (side / 256) ** 3

    monkeypatch.setattr(variants, "_product", product)
    where = variants.Where(variants.torch.bfloat16, "cpu")
    found = variants._largest_product(where, "product, bfloat16", False, None)
    assert seen == sides
    assert found.sample() == pytest.approx(2 * 256**3 / first_s)


# -- time limits, on a clock of the test's own ----------------------------------------------------


class SlowWorker:
    """Its cases take as long as their name says; it notes what it was told."""

    def __init__(self, rows):
        self.time_s = 0.0
        self.seen = []
        self.rows = rows

    def absent(self, limit_s):
        raise BenchError("stopped after its limit")

    def run(self, case, setting, budget_s, about, limit_s):
        self.seen.append((case.kind, round(budget_s, 3), limit_s, dict(setting.absent)))
        self.time_s += min(float(case.kind), limit_s)
        if float(case.kind) > limit_s:
            raise BenchError("stopped after its limit")
        return Measured([replace(self.rows[0], case=case.kind)])


def test_time_is_shared_out_and_ends(rows, tmp_path, capsys):
    worker = SlowWorker(rows)
    chosen = [
        Case(kind="10", weight=1, limit_s=40),
        Case(kind="50", weight=3, limit_s=40, beside=(cases.HGRN,)),
        Case(kind="20", weight=4, limit_s=40),
        Case(kind="30", weight=2, limit_s=40),
        Case(kind="5", weight=0, limit_s=40),
    ]
    out = tmp_path / "rows.jsonl"
    written, failed = command.run_cases(
        chosen, Setting("cpu", 1), 100.0, ABOUT, out, worker,
        limit_s=90.0, now=lambda: worker.time_s,
    )  # fmt: skip
    assert [(kind, budget, limit) for kind, budget, limit, _ in worker.seen] == [
        ("10", 10.0, 40), ("50", 30.0, 40), ("20", 40.0, 40), ("30", 20.0, 20.0),
    ]  # fmt: skip
    assert failed == ["50", "30", "5"]
    assert [row.case for row in written] == ["10", "20"]
    assert read_rows(out) == written  # those of a run that was cut off are there
    printed = capsys.readouterr().out
    assert "no time left for 5" in printed
    # a peer whose import hangs is absent, and no case tries again
    assert "absent, HGRN (fla)" in printed
    assert all(cases.HGRN in absent for *_, absent in worker.seen)


def test_rows_are_written_as_they_come(rows, tmp_path):
    out = tmp_path / "rows.jsonl"

    class Watching(SlowWorker):
        def run(self, case, *rest):
            before.append(out.read_text().count("\n"))
            return super().run(case, *rest)

    before = []
    chosen = [Case(kind=str(n)) for n in range(3)]
    command.run_cases(chosen, Setting("cpu", 1), 1.0, ABOUT, out, Watching(rows))
    assert before == [0, 1, 2]


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


def test_main_runs_one_case_without_a_verb(in_process, tmp_path, monkeypatch, capsys):
    chosen = [tiny(CASES["inference: L=32 B=32 d=128"])]
    monkeypatch.setattr("torchsru.bench.cases.find", lambda pattern, suite: chosen)
    monkeypatch.setattr("torchsru.bench.command.FLOORS", ())  # no ceilings first
    out = tmp_path / "new" / "rows.jsonl"
    assert command.main(["--seconds", "0.01", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "targets met" in printed
    rows = read_rows(out)
    assert rows[0].machine["cpu"]
    assert rows[0].versions["torch"]
    again = tmp_path / "again.jsonl"
    arguments = ["--seconds", "0.01", "--out", str(again), "--against", str(out)]
    assert command.main(arguments) == 0
    assert "new over old" in capsys.readouterr().out


@pytest.mark.parametrize(("known", "named"), [(None, "abc"), ("f" * 40, "f" * 40)])
def test_a_copy_without_git_is_told_its_commit(known, named, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(command, "commit", lambda: (known, None))
    monkeypatch.setattr(
        command, "run_cases", lambda chosen, setting, s, about, *rest, **more: (
            seen.append(about["commit"]) or ([], [])
        ),
    )  # fmt: skip
    command.main(["--case", "import", "--commit", "abc", "--out", str(tmp_path / "rows.jsonl")])
    assert seen == [named]


def test_a_case_with_a_floor_brings_the_ceilings(in_process, tmp_path, monkeypatch):
    seen = []

    def run_cases(chosen, *rest, **limits):
        seen.extend(case.kind for case in chosen)
        return [], []

    monkeypatch.setattr(command, "run_cases", run_cases)
    for name in ("one call", "kernel: L=32 B=32 d=128"):
        command.main(["--case", name, "--out", str(tmp_path / "rows.jsonl")])
    assert seen == ["call", "ceilings", "kernel"]


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
        (["--against", "nowhere.jsonl"], "nowhere.jsonl must be a file of rows or a commit"),
        (["--limit", "0"], "positive, got 0"),
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
    assert command.main(["list", "--device", "cuda"]) == 0
    assert all(case.name in capsys.readouterr().out for case in suites.GPU[1:2])
    assert "SRU over three GEMMs: <= 1.15" in printed
    assert "sru_forward: <= 6 us" in printed


def test_help(capsys):
    assert command.main(["--help"]) == 0
    assert "compare" in capsys.readouterr().out


def test_rows_are_json_lines(tmp_path):
    run(tiny(CASES["inference: L=32 B=32 d=128"]), tmp_path)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["dtype"] for line in lines] == ["float32"] * 4
