import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import torchsru
from torchsru import ops
from torchsru.cli import COMMANDS, main
from torchsru.data import DataError
from torchsru.recipes import NAMED
from torchsru.train import RunError
from torchsru.train.log import read_log

NAME = "python-bytes_debug"
SHORT = ["--training.steps", "4"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", NAME, "--out", str(folder), *SHORT]) == 0
    return folder


def refused(capsys, *argv):
    """The one line that a refused command prints."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("torchsru: ")
    return err


def spawn(*argv, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "torchsru.cli", *argv],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def test_help_names_every_command(capsys):
    assert main([]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == torchsru.__version__


def test_what_is_refused_is_named_as_it_is_on_one_line(capsys):
    assert main(["eval", "no  such"]) == 2
    err = capsys.readouterr().err
    assert "no  such is not a run" in err and err.count("\n") == 1
    assert main(["nothing\n  at all"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_doctor_tells_what_runs_and_why_the_rest_does_not(capsys, monkeypatch):
    found = {"isa_used": None, "isa_available": [], "library": None, "error": "no compiler"}
    monkeypatch.setattr(ops, "cpu_info", lambda: found)
    monkeypatch.setattr(ops, "backends", lambda: {"cpu": "was not built", "reference": None})
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    report = {line[:18].strip(): line[19:] for line in lines}
    assert report["torchsru"] == torchsru.__version__
    assert report["compiled kernels"] == "absent: no compiler"
    assert report["used"] == "none: no compiler"
    assert report["backend cpu"] == "no: was not built"
    assert report["backend reference"] == "runs here"
    assert report["training"] == "runs here"


def test_doctor_on_this_machine(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(f"backend {name}" in out for name in ops.backends())


def test_recipes_lists_and_shows(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("  ")]
    assert sorted(names) == sorted(NAMED)
    language_models = listed.partition("classification:")[0]
    assert "enwik8-sru " in language_models and "classify-sru " not in language_models
    assert main(["recipes", NAME]) == 0
    out = capsys.readouterr().out
    assert "--model.width" in out and " 32 " in out
    assert "enwik9" in refused(capsys, "recipes", "enwik9")


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--model.wdith", "3"], "--model.wdith"),
        (["--model.width", "wide"], "model.width"),
        (["--model.width", "-3"], "model.width must be at least 1, got -3"),
        (["--model.dropout", "1"], "model.dropout must lie in [0, 1), got 1"),
        (["--model.rnn", "rnn"], "model.rnn"),
        (["--training.lr", "-1"], "training.lr must be positive and finite, got -1"),
        (["--training.accumulate", "3"], "training.accumulate must divide data.batch = 4"),
        (["--training.steps", "null"], "training.steps, epochs or seconds must be set"),
        (["--data", "/nowhere/at/all"], "'/nowhere/at/all' does not exist"),
        (["surplus"], "surplus"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(capsys, tmp_path, argv, named):
    folder = tmp_path / "run"
    assert named in refused(capsys, "train", NAME, "--out", str(folder), *argv)
    assert not folder.exists()


def test_unknown_names_are_refused(capsys):
    assert "'trian' is unknown" in refused(capsys, "trian")
    assert "train needs a recipe" in refused(capsys, "train")
    assert "'enwik9' is unknown" in refused(capsys, "train", "enwik9")
    assert "is not a run" in refused(capsys, "eval", "/nowhere")
    assert "is not a run" in refused(capsys, "generate", "/nowhere")


def test_a_missing_package_names_the_extra(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "torchsru.cli.recipes", raising=False)
    monkeypatch.delitem(sys.modules, "torchsru.cli.arguments", raising=False)
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert "pip install 'torchsru[train]'" in refused(capsys, "recipes")


def test_train_leaves_what_it_says(run_folder):
    about = json.loads((run_folder / "recipe.json").read_text())
    assert about["name"] == NAME and about["recipe"]["training"]["steps"] == 4
    assert json.loads((run_folder / "result.json").read_text())["steps"] == 4


def test_a_run_is_not_overwritten(run_folder, tmp_path, capsys):
    before = (run_folder / "log.jsonl").read_text()
    assert "add --resume" in refused(capsys, "train", NAME, "--out", str(run_folder), *SHORT)
    assert (run_folder / "log.jsonl").read_text() == before
    (tmp_path / "thesis.tex").write_text("")
    assert "not an empty folder" in refused(capsys, "train", NAME, "--out", str(tmp_path))
    assert "is not a run" in refused(capsys, "train", NAME, "--out", str(tmp_path), "--resume")


def test_resume_goes_on_with_the_runs_own_numbers(tmp_path, capsys):
    where = ["--out", str(tmp_path / "run")]
    assert main(["train", NAME, *where, *SHORT, "--model.width", "24"]) == 0
    assert main(["train", NAME, *where, "--resume", "--training.steps", "6"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 6
    capsys.readouterr()
    argv = ["train", NAME, *where, "--resume", "--model.width", "32"]
    assert "model.width was 24" in refused(capsys, *argv)
    argv = ["train", "python-bytes-lstm_debug", *where, "--resume"]
    assert f"holds a run of {NAME}" in refused(capsys, *argv)


def test_options_stand_in_any_order(tmp_path):
    for i, argv in enumerate(
        (
            ["--out", "{}", NAME, "--training.steps", "2"],
            ["--training.steps=2", "--out={}", NAME],
            ["--data", "{}.txt", "--training.steps", "2", NAME, "--out", "{}"],
            [NAME, "--out", "elsewhere", "--training.steps", "2", "--out", "{}"],
        )
    ):
        folder = tmp_path / str(i)
        folder.with_suffix(".txt").write_text("a text of some length. " * 50)
        assert main(["train", *(part.format(folder) for part in argv)]) == 0
        assert json.loads((folder / "result.json").read_text())["steps"] == 2
        assert main(["train", "--resume", "--out", str(folder), NAME]) == 0


def test_a_field_set_to_null_is_not_a_field_left_out(tmp_path):
    where = ["--out", str(tmp_path / "run"), NAME]
    assert main(["train", *where, *SHORT, "--training.clip", "null"]) == 0
    assert main(["train", *where, "--resume", "--training.steps", "5"]) == 0
    about = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert about["recipe"]["training"]["clip"] is None and about["recipe"]["training"]["steps"] == 4
    resumed = about["resumed"][0]["recipe"]["training"]
    assert resumed["clip"] is None and resumed["steps"] == 5


def test_a_recipe_swallowed_by_data_is_explained(capsys, tmp_path):
    err = refused(capsys, "train", "--out", str(tmp_path / "run"), "--data", "a.txt", NAME)
    assert "train needs a recipe" in err and "not right after --data" in err


def test_help_of_train_names_every_field(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "--help"])
    out = capsys.readouterr().out
    assert left.value.code == 0
    for field in ("--model.width", "--data.paths", "--training.skip_nonfinite", "--resume"):
        assert field in out


@pytest.mark.parametrize("kind", ["a file", "below a file", "name too long"])
@pytest.mark.parametrize("command", ["train", "compare", "demo", "eval", "generate", "resume"])
def test_folders_that_cannot_be_are_one_line(capsys, tmp_path, kind, command):
    (tmp_path / "file").write_text("mine")
    out = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "run",
        "name too long": tmp_path / ("a" * 300),
    }[kind]
    argv = {
        "train": ["train", NAME, "--out", str(out)],
        "compare": ["compare", NAME, "--out", str(out)],
        "demo": ["demo", "--debug", "--out", str(out)],
        "eval": ["eval", str(out)],
        "generate": ["generate", str(out)],
        "resume": ["train", NAME, "--resume", "--out", str(out)],
    }[command]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and str(out.name) in err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("command", ["train", "compare", "demo"])
def test_a_folder_that_cannot_be_written_is_one_line(
    capsys, tmp_path, monkeypatch, number, command
):
    """As another user than root would find it, or on a read-only or full disk."""

    def fail(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("torchsru.train.folder.Path.mkdir", fail)
    out = tmp_path / "run"
    argv = ["demo", "--debug"] if command == "demo" else [command, NAME]
    assert main([*argv, "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and os.strerror(number) in err and str(out) in err


def test_demo_with_bad_data_or_weights_is_one_line(capsys, tmp_path, monkeypatch):
    def no_sources():
        raise DataError("this Python has no source files")

    def damaged(run):
        raise RunError(f"{run.folder} is damaged")

    argv = ["demo", "--debug", "--out", str(tmp_path / "a")]
    with monkeypatch.context() as patched:
        patched.setattr("torchsru.cli.demo.load_corpus", no_sources)
        assert "no source files" in refused(capsys, *argv)
    monkeypatch.setattr("torchsru.cli.demo.load_model", damaged)
    assert main(argv) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("python-bytes is damaged")


def test_a_loss_that_is_not_finite_is_told(capsys, tmp_path):
    where = ["--out", str(tmp_path / "run")]
    assert main(["train", NAME, *where, "--training.lr", "1e30", "--training.clip", "null"]) == 1
    err = capsys.readouterr().err
    assert f"torchsru: {tmp_path / 'run'}: step " in err and "at learning rate" in err
    assert "--training.lr" in err and "Traceback" not in err


def test_training_on_own_files_and_evaluating_on_others(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("to be or not to be\n" * 200)
    (tmp_path / "b.txt").write_text("that is the question\n" * 50)
    run = str(tmp_path / "run")
    data = ["--data", str(tmp_path / "a.txt")]
    assert main(["train", NAME, "--out", run, "--training.steps", "80", *data]) == 0
    capsys.readouterr()
    numbers = []
    for argv in ([], ["--data", str(tmp_path / "b.txt")]):
        assert main(["eval", run, *argv]) == 0
        numbers.append(json.loads(capsys.readouterr().out)["bits_per_byte"])
    assert numbers[0] < 2 < numbers[1]
    assert "does not exist" in refused(capsys, "eval", run, "--data", str(tmp_path / "c"))
    both = refused(capsys, "eval", run, "--split", "test", "--data", str(tmp_path / "b.txt"))
    assert "split must be left out beside --data, all of whose text counts; got 'test'" in both


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path, number):
    folder = tmp_path / "run"
    endless = ["--training.steps", "100000000"]
    process = spawn("train", NAME, "--out", str(folder), *endless)
    while not read_log(folder):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with: torchsru train {NAME} --out {folder} --resume" in err
    assert "Traceback" not in err
    (checkpoint,) = (folder / "checkpoints").iterdir()
    stopped_at = int(checkpoint.name.removeprefix("step-"))
    steps = str(stopped_at + 5)
    argv = ["train", NAME, "--out", str(folder), "--resume", "--training.steps", steps]
    assert main(argv) == 0
    assert json.loads((folder / "result.json").read_text())["steps"] == stopped_at + 5


def test_a_killed_run_goes_on_and_its_log_has_no_holes(tmp_path, capsys):
    folder = tmp_path / "run"
    command = ["train", NAME, "--out", str(folder)]
    endless = ["--training.steps", "1000000", "--training.checkpoints", "50000"]
    process = spawn(*command, *endless, stdin=subprocess.DEVNULL)
    while len(read_log(folder)) < 5:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    assert "in use by process" in refused(capsys, *command, "--resume")
    process.kill()
    process.communicate()
    (newest, *_) = sorted((folder / "checkpoints").glob("step-*"))[::-1]
    steps = int(newest.name.removeprefix("step-")) + 25
    assert main([*command, "--resume", "--training.steps", str(steps)]) == 0
    rows = [row["step"] for row in read_log(folder) if row["kind"] == "train"]
    assert rows == [*range(10, steps, 10), steps]


def test_bench_gets_its_arguments(monkeypatch):
    import types

    seen = []
    bench = types.ModuleType("torchsru.bench")
    bench.main = lambda argv: seen.append(argv) or 0
    monkeypatch.setitem(sys.modules, "torchsru.bench", bench)
    assert main(["bench", "--case", "lm"]) == 0
    assert seen == [["--case", "lm"]]


def test_demo_trains_both_and_shows_them(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--debug", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    rows = json.loads((out / "results.json").read_text())
    assert [row["model"] for row in rows] == ["SRU", "nn.LSTM"]
    for row in rows:
        assert {"bits_per_byte", "parameters", "bytes_per_second", "environment"} <= row.keys()
        assert f"{row['bits_per_byte']:.3f}" in text and f"{row['parameters']:,}" in text
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "def read_lines(path" in text and f"torchsru generate {out / 'python-bytes'}" in text
    assert "name another --out" in refused(capsys, "demo", "--debug", "--out", str(out))
    assert "seconds must be positive" in refused(
        capsys, "demo", "--seconds", "-1", "--out", str(tmp_path / "other")
    )
