"""Several processes are one run: the same curve, the same folder, the same end.

Each start of processes takes seconds, so one start under torchrun serves all cases of ranked.py.
"""

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from tests.train.ranked import CURVES, MODEL, TRAINING, go, make_task
from torch.distributed.elastic.multiprocessing import SignalException

from torchsru.cli import main
from torchsru.train import RunError, launch, loop
from torchsru.train.checkpoint import checkpoints, load_checkpoint, step_of
from torchsru.train.folder import holder
from torchsru.train.log import read_log
from torchsru.train.ranks import ALONE, deal
from torchsru.train.strategy import make_fabric, processes_here

if sys.platform == "win32":
    pytest.skip("Windows has no SIGKILL", allow_module_level=True)

TIMEOUT_S = 150
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TIMES = {"seconds", "row_seconds", "eval_seconds", "bytes_per_second"}
# Float32 sums in another order, over ten steps; and half types, whose products are rounded
NEAR = {"rtol": 1e-4, "atol": 1e-5}
NEAR_HALF = {"rtol": 1e-3, "atol": 1e-3}


def start(*command, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end_of(process, seconds=TIMEOUT_S):
    """Exit code, stdout and stderr; nothing is left running."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"did not end within {seconds} s: {out} {err}")
    return process.returncode, out, err


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of ranked.py's runs."""
    out = tmp_path_factory.mktemp("ranks")
    go(out / "one", MODEL, TRAINING)
    shutil.copytree(out / "one", out / "damaged")
    file = out / "damaged" / "checkpoints" / "step-000000010" / "training.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    torchrun = ("torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1")
    code, _, err = end_of(
        start(*torchrun, "--nproc-per-node", "2", "-m", "tests.train.ranked", str(out))
    )
    assert code == 0, err
    assert "was saved by 1 processes; 2 go on with its weights" in err
    return out


def curve(folder, kind="train", number="bits_per_byte"):
    """A number of each row."""
    return torch.tensor([row[number] for row in read_log(folder) if row["kind"] == kind])


def weights(folder):
    return load_checkpoint(folder / "checkpoints").model


def told(out, case, folders_differ=False):
    """What a case says on both ranks, which is the same."""
    first, second = (json.loads((out / f"told-{rank}.json").read_text())[case] for rank in (0, 1))
    assert first == (second.replace("nowhere", "ddp") if folders_differ else second)
    return first


@pytest.mark.parametrize("name", CURVES)
def test_two_processes_give_the_curve_of_one_with_the_whole_batch(ran, tmp_path, name):
    model, training = CURVES[name]
    go(tmp_path, model, training)
    near = NEAR if training.precision == "float32" else NEAR_HALF
    for kind, rows in (("train", 10), ("eval", 2)):
        assert len(curve(tmp_path, kind)) == rows
        torch.testing.assert_close(curve(ran / name, kind), curve(tmp_path, kind), **near)
    if training.precision == "float32":
        norms = [
            [r["grad_norm"] for r in read_log(f) if "grad_norm" in r]
            for f in (ran / name, tmp_path)
        ]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    result = json.loads((ran / name / "result.json").read_text())
    assert result["devices"] == 2 and result["bytes"] == 10 * 8 * 4
    assert result["strategy"] == ("ModelParallelStrategy" if "fsdp" in name else "DDPStrategy")


def test_the_comparison_of_curves_can_fail(ran, tmp_path):
    """Each process with the whole batch's first half: as if the rows were not dealt out."""
    task = make_task()
    honest = task.batch
    task.batch = lambda step: task.split(honest(step), 2)[0]
    go(tmp_path, MODEL, TRAINING, task)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(curve(ran / "ddp"), curve(tmp_path), **NEAR)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_stopped_on_one_rank_and_resumed_ends_bit_for_bit_as_uninterrupted(ran, name):
    assert told(ran, f"{name} stopped") == [
        "stopped at step 5 and saved; step-000000005 is the newest checkpoint",
        3,
        "stopped at step 7 and saved; step-000000007 is the newest checkpoint",
        8,
    ]
    folders = [ran / f"{name} whole", ran / f"{name} in three"]
    whole, parts = (load_checkpoint(folder / "checkpoints") for folder in folders)
    for field in ("model", "optimizer", "state", "random"):
        torch.testing.assert_close(getattr(parts, field), getattr(whole, field), rtol=0, atol=0)
    whole_rows, rows = map(read_log, folders)
    for row in (*whole_rows, *rows):
        for time_name in TIMES & row.keys():
            del row[time_name]
    assert rows == whole_rows


def test_each_rank_drops_other_units(ran):
    random = load_checkpoint(ran / "ddp whole" / "checkpoints").random
    assert random.keys() == {"cpu", "1.cpu"}
    assert not torch.equal(random["cpu"], random["1.cpu"])


def test_the_strategy_changes_nothing_but_the_memory(ran):
    torch.testing.assert_close(weights(ran / "ddp"), weights(ran / "fsdp"), **NEAR)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(weights(ran / "ddp whole"), weights(ran / "fsdp"), **NEAR)


def test_a_checkpoint_goes_on_with_another_number_of_processes(ran, tmp_path):
    """One to two, fsdp; then back to one. The states of all rows go along."""
    go(tmp_path / "same", MODEL, TRAINING)
    go(tmp_path / "same", MODEL, replace(TRAINING, steps=20), resume=True)
    torch.testing.assert_close(curve(ran / "one"), curve(tmp_path / "same"), **NEAR)
    for folder in (ran / "one", tmp_path / "same"):
        go(folder, MODEL, replace(TRAINING, steps=25), resume=True)
    assert len(curve(ran / "one")) == 25
    torch.testing.assert_close(curve(ran / "one"), curve(tmp_path / "same"), **NEAR)
    states = [load_checkpoint(f / "checkpoints").state for f in (ran / "one", tmp_path / "same")]
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["fsdp srupp adaptive", "ddp transformer-xl"])
def test_a_memory_of_two_processes_goes_on_in_one(ran, tmp_path, monkeypatch, name):
    """Its rows are dealt out anew, and steps after the tenth read it; other rows would show."""
    model, training = CURVES[name]
    longer = replace(training, steps=14)
    go(tmp_path / "one", model, training)
    for folder in ("two", "wrong"):
        shutil.copytree(ran / name, tmp_path / folder)
    for folder in ("two", "one"):
        go(tmp_path / folder, model, longer, resume=True)
    torch.testing.assert_close(curve(tmp_path / "two"), curve(tmp_path / "one"), **NEAR)
    monkeypatch.setattr(loop, "deal", lambda states, parts: deal(states[::-1], parts))
    go(tmp_path / "wrong", model, longer, resume=True)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(curve(tmp_path / "wrong"), curve(tmp_path / "one"), **NEAR)
    states = [load_checkpoint(tmp_path / n / "checkpoints").state for n in ("two", "one")]
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_goes_on_with_another_strategy(ran, tmp_path):
    """Two processes, ddp to fsdp."""
    for steps, resume in ((5, False), (10, True)):
        training = replace(TRAINING, steps=steps, schedule="constant")
        go(tmp_path, MODEL, training, resume=resume)
    torch.testing.assert_close(curve(ran / "ddp to fsdp"), curve(tmp_path), **NEAR)


def test_what_one_rank_meets_stops_all_with_the_same_words(ran):
    assert told(ran, "nan").startswith("NotFinite: step 4: loss nan, gradient norm nan")
    assert told(ran, "parts") == (
        "RunError: data.batch must be a multiple of processes * training.accumulate = 2 * 2: "
        "a batch gives 3 parts of [16, 16, 16] bytes"
    )
    assert told(ran, "data").startswith("RunError: the processes of this run see different data")
    assert "find checkpoints of steps [10, 0], by rank: " in told(ran, "apart", folders_differ=True)
    assert told(ran, "again").startswith(f"RunError: {ran / 'ddp'} holds a run already")
    assert f"{ran / 'held'} is in use by process" in told(ran, "held")
    assert load_checkpoint(ran / "nan" / "checkpoints").facts["step"] == 3


def test_one_process_of_a_machine_checks_the_sums_for_all(ran):
    counts = [json.loads((ran / f"told-{rank}.json").read_text())["sums"] for rank in (0, 1)]
    assert counts == [2, 0]
    damaged = ran / "damaged" / "checkpoints" / "step-000000010" / "training.safetensors"
    where = f"rank 0 of 2, on {platform.node()}"
    assert told(ran, "damaged").startswith(f"RunError: {where}: {damaged} is damaged: found ")


def test_data_that_one_rank_lacks_stop_all_and_name_it(ran):
    missing = f"data path '{ran / 'nowhere.txt'}' does not exist"
    on_one, both = (told(ran, f"missing on {which}") for which in ("one", "both"))
    assert on_one == f"DataError: rank 1 of 2, on {platform.node()}: {missing}"
    assert both == f"DataError: {missing}"
    assert not (ran / "missing").exists()


def test_an_error_of_another_kind_on_one_rank_stops_all(ran):
    here, there = (json.loads((ran / f"told-{r}.json").read_text())["unforeseen"] for r in (0, 1))
    assert there == "IndexError: list index out of range"
    assert here == f"RunError: rank 1 of 2, on {platform.node()}: {there}"


RECIPE = ("torchsru.cli", "train", "python-bytes_debug")
STEADY = (  # the budget does not shape the curve
    *("--training.schedule", "constant", "--training.warmup", "0", "--training.lr", "0.002"),
    *("--training.precision", "float32", "--training.device", "cpu", "--training.log_every", "1"),
)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(b"to be, or not to be, that is the question: " * 100)
    return str(file)


def assert_curve_of_one(folder, text, tmp_path):
    """The run's curve is that of one process."""
    steps = len(curve(folder))
    argv = [*RECIPE[1:], "--out", str(tmp_path / "alone"), "--data", text, *STEADY]
    assert main([*argv, "--training.steps", str(steps)]) == 0
    torch.testing.assert_close(curve(folder), curve(tmp_path / "alone"), rtol=2e-3, atol=0)


def workers_of(process):
    found = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True).stdout
    pairs = [tuple(map(int, line.split())) for line in found.splitlines()]
    return [pid for pid, parent in pairs if parent == process.pid]


def wait_for_checkpoint(process, folder, after):
    """Until a checkpoint beyond a step is there."""
    deadline = time.monotonic() + TIMEOUT_S
    while not any(step_of(saved) > after for saved in checkpoints(folder / "checkpoints")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_rank_stops_the_run_and_the_run_resumes(tmp_path, text):
    """The command starts its own two processes; the second is killed. Two go on until Ctrl-C; then
    one alone."""
    folder = tmp_path / "run"
    command = [*RECIPE, "--out", str(folder)]
    endless = ["--training.steps", "1000000", "--training.checkpoints", "100000"]
    sharded = ["--training.devices", "2", "--training.strategy", "fsdp"]
    process = start(*command, "--data", text, *STEADY, *sharded, *endless)
    wait_for_checkpoint(process, folder, after=0)
    first = int(holder(folder).split()[1])
    (second,) = {*workers_of(process)} - {first}
    os.kill(second, signal.SIGKILL)
    code, _, err = end_of(process)
    said = [line for line in err.splitlines() if line.startswith("torchsru: ")]
    assert code == 2 and "Traceback" not in err
    assert said[-1] == (
        f"torchsru: rank 1 of the run (process {second}) was killed by SIGKILL; the others were "
        "stopped, what was saved is kept: go on with --resume"
    )
    for line in said[:-1]:  # the first may be stopped before it meets the gap
        assert line.startswith("torchsru: rank 0 of 2 lost the others: one of the run's processes")
        assert "is the newest checkpoint" in line

    saved = load_checkpoint(folder / "checkpoints").facts
    assert saved["ranks"] == 2
    process = start(*command, "--resume")
    wait_for_checkpoint(process, folder, after=saved["step"])
    os.kill(process.pid, signal.SIGINT)
    code, out, err = end_of(process)
    assert (code, out) == (130, "") and "Traceback" not in err
    stopped = load_checkpoint(folder / "checkpoints").facts["step"]
    (line,) = [line for line in err.splitlines() if line.startswith("torchsru: ")]
    again = f"go on with: torchsru train python-bytes_debug --out {folder} --resume"
    assert line == (
        f"torchsru: stopped; step-{stopped:09d} is the newest checkpoint in {folder}; {again}"
    )

    steps = ["--training.steps", str(stopped + 5), "--training.checkpoints", "1"]
    assert main([*command[1:], "--resume", *steps, "--training.devices", "1"]) == 0
    rows = [row["step"] for row in read_log(folder) if row["kind"] == "train"]
    assert rows == list(range(1, stopped + 6))
    assert_curve_of_one(folder, text, tmp_path)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def on_two_nodes(folder, *texts):
    """Two machines that are one: each starts the same command, and they meet on the loopback.

    Returns: of each the exit code; stdout; stderr.
    """
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [*RECIPE, "--out", str(folder), *STEADY]
    command += ["--training.nodes", "2", "--training.steps", "20"]
    nodes = [
        start(*command, "--data", text, **meeting, NODE_RANK=str(rank))
        for rank, text in enumerate(texts)
    ]
    return zip(*map(end_of, nodes), strict=True)


@pytest.mark.slow
def test_two_nodes_are_one_run(tmp_path, text):
    codes, outs, errs = on_two_nodes(tmp_path / "run", text, text)
    assert codes == (0, 0), errs
    assert outs[0].startswith("held-out bits per byte")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["devices"] == 2
    assert_curve_of_one(tmp_path / "run", text, tmp_path)


@pytest.mark.slow
def test_a_node_without_the_data_is_named_by_both(tmp_path, text):
    codes, outs, errs = on_two_nodes(tmp_path / "run", text, text + "2")
    told = f"torchsru: rank 1 of 2, on {platform.node()}: data path '{text}2' does not exist\n"
    assert (codes, outs, errs) == ((2, 2), ("", ""), (told, told))
    assert not (tmp_path / "run").exists()


def test_nodes_must_be_told_where_to_meet(tmp_path, monkeypatch, capsys):
    for name in launch.MEETING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    argv = [*RECIPE[1:], "--out", str(tmp_path / "run"), "--training.nodes", "2"]
    assert main(argv) == 2
    told = "nodes = 2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK in the environment, found no "
    assert told + "MASTER_ADDR and no NODE_RANK" in capsys.readouterr().err
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for given in ("", "first", "2", "-1"):
        monkeypatch.setenv("NODE_RANK", given)
        assert main(argv) == 2
        told = f"NODE_RANK must be 0 to 1, this machine's number, got {given!r}"
        assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_signal_leaves_time_to_save(monkeypatch):
    limits = []

    def signalled(config, program):
        limits.append(getattr(config, "shutdown_timeout", None))

        def run(*arguments):
            raise SignalException("", signal.SIGTERM)

        return run

    monkeypatch.setattr(launch, "elastic_launch", signalled)
    for own in ({}, {launch.SHUTDOWN: "45"}):
        with patch.dict(os.environ):
            os.environ.pop(launch.SHUTDOWN, None)
            os.environ.update(own)
            assert launch.launch("nothing", [], processes=2, nodes=1) == 130
    if limits == [None, None]:
        pytest.skip("this PyTorch has a fixed limit")
    assert limits == [launch.SHUTDOWN_S, 45]


def test_processes_that_had_to_be_killed_are_followed_by_what_is_saved(ran, monkeypatch, capsys):
    monkeypatch.setattr("torchsru.cli.train.launch", lambda *arguments, **options: 130)
    argv = [*RECIPE[1:], "--training.devices", "2", "--out"]
    assert main([*argv, str(ran / "ddp")]) == main([*argv, str(ran / "nothing")]) == 130
    err = capsys.readouterr().err
    assert err.startswith("torchsru: stopped; step-000000010 is the newest checkpoint in ")
    assert err.count("\n") == 1 and err.endswith(f"--out {ran / 'ddp'} --resume\n")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_bad_input_is_said_by_the_first_process_of_a_machine(tmp_path, monkeypatch, capsys, rank):
    monkeypatch.setenv("LOCAL_RANK", rank)
    argv = [*RECIPE[1:], "--out", str(tmp_path / "run"), "--data", str(tmp_path / "nowhere")]
    assert main(argv) == 2
    assert ("does not exist" in capsys.readouterr().err) == (rank == "0")


def test_several_processes_are_not_started_from_python():
    with pytest.raises(RunError, match="ask for 6 processes, but this is one alone: start it with"):
        make_fabric(replace(TRAINING, devices=3, nodes=2))
    assert make_fabric(replace(TRAINING, devices=3), alone=True).world_size == 1
    assert processes_here(replace(TRAINING, devices="auto")) == 1


def test_alone_every_exchange_is_the_identity():
    def refuse():
        raise RunError("no")

    assert ALONE.sum(1.5, True) == [1.5, True] and ALONE.share("a") == "a"
    assert ALONE.gather(3) == [3] and ALONE.first(lambda: 4) == ALONE.all(lambda: 4) == 4
    for act in (ALONE.first, ALONE.all):
        with pytest.raises(RunError, match="no"):
            act(refuse)
    with pytest.raises(RuntimeError, match="of another kind"), ALONE.naming_lost():
        raise RuntimeError("of another kind")


def test_states_are_dealt_out_anew_row_by_row():
    rows = {"c": torch.arange(24.0).view(2, 6, 2), "n": (torch.arange(6)[None], None)}

    def part(i, of):
        n = 6 // of
        here = slice(i * n, (i + 1) * n)
        return {"c": rows["c"][:, here], "n": (rows["n"][0][:, here], None)}

    for before in (1, 2, 3, 6):
        states = [part(i, before) for i in range(before)]
        for after in (1, 2, 3, 6):
            expected = [part(i, after) for i in range(after)]
            torch.testing.assert_close(deal(states, after), expected, rtol=0, atol=0)
    with pytest.raises(RunError, match=r"6 rows can't be cut into 4 equal parts"):
        deal([rows], 4)
    assert deal([None, None], 3) == [None] * 3


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (7, "failed with exit code 7"),
        (-9, "was killed by SIGKILL"),
        (-99, "was killed by signal 99"),
    ],
)
def test_an_exit_code_in_words(code, words):
    assert launch.ending(code).endswith(words)
