"""`torchsru generate`: what it prints, when, and how it ends."""

import io
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from torchsru.cli import generate as command
from torchsru.cli import main
from torchsru.cli.generate import in_order
from torchsru.models.generate import Piece, generate_text
from torchsru.recipes.language_model import load_model
from torchsru.recipes.run import open_run

NUMBERS = ("--temperature", "--top-p", "--repetition-penalty")
WHOLE = ("--count", "--top-k", "--seed", "--memory")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate") / "run"
    argv = ["--out", str(folder), "--training.steps", "2", "--training.checkpoints", "1"]
    assert main(["train", "python-bytes_debug", *argv]) == 0
    return folder


@pytest.fixture
def generate(run_folder, capfdbinary):
    """Run the command; returns what it printed, as bytes."""

    def run(*argv):
        assert main(["generate", str(run_folder), *argv]) == 0
        return capfdbinary.readouterr().out

    return run


def refused(capsys, *argv):
    """The one line that a refused command prints."""
    assert main(["generate", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("torchsru: ")
    return err


def test_prints_prompt_and_text(generate):
    argv = ["--prompt", "é def", "--count", "20", "--seed", "3"]
    first = generate(*argv).decode()
    assert first.startswith("é def") and first.endswith("\n") and len(first) > len("é def") + 10
    assert generate(*argv).decode() == first
    assert generate(*argv, "--seed", "4").decode() != first
    assert generate(*argv[:2], "--bytes", "20", *argv[4:]).decode() == first  # of before


def test_prints_as_it_goes(run_folder, monkeypatch):
    class Terminal(io.StringIO):
        flushed = 0

        def flush(self):
            self.flushed += 1

    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert main(["generate", str(run_folder), "--count", "40", "--temperature", "0"]) == 0
    assert terminal.flushed >= 30


def test_a_batch_of_prompts_is_printed_in_order(generate):
    argv = ["--count", "12", "--temperature", "0"]
    prompts = ["class A", "x", "def f(a, b)"]
    alone = [generate("--prompt", prompt, *argv) for prompt in prompts]
    assert generate("--prompt", *prompts, *argv) == b"".join(alone)
    rows = [json.loads(row) for row in generate("--prompt", *prompts, *argv, "--json").splitlines()]
    assert [row["prompt"] for row in sorted(rows, key=lambda row: row["row"])] == prompts
    for row in rows:
        assert (row["prompt"] + row["text"] + "\n").encode() == alone[row["row"]]


def test_prompts_and_stops_that_are_given_again_add_up(generate):
    argv = ["--count", "12", "--temperature", "0"]
    together = generate("--prompt", "class A", "x", "def f", *argv)
    assert generate("--prompt", "class A", "x", *argv, "--prompt", "def f") == together
    whole = generate("--prompt", "ab", *argv)[2:-1].decode()
    stop = whole[3:5]
    cut = generate("--prompt", "ab", *argv, "--stop", stop, "--stop", "no such text")
    assert cut == f"ab{whole[: whole.index(stop)]}\n".encode()


def test_the_memory_is_the_evaluations_or_what_is_asked_for(tmp_path, capsys, monkeypatch):
    """What attention sees, at every step."""
    run, seen = str(tmp_path / "run"), []
    argv = ["--model.rnn", "srupp", "--model.memory", "4", "--data.eval_memory", "6"]
    argv += ["--training.steps", "2", "--training.checkpoints", "1"]
    assert main(["train", "python-bytes_debug", "--out", run, *argv]) == 0

    def watched(model, *arguments, **options):
        model.rnn.register_forward_hook(
            lambda _, args, out: seen.append(out[1]["keys_values"][0].shape[0])
        )
        return generate_text(model, *arguments, **options)

    monkeypatch.setattr("torchsru.cli.generate.generate_text", watched)
    for given, expected in ([], 6), (["--memory", "0"], 4), (["--memory", "9"], 9):
        seen.clear()
        assert main(["generate", run, "--prompt", "class Reader", "--count", "3", *given]) == 0
        assert seen == [expected] * 3
    capsys.readouterr()
    assert "memory must not be negative, got -1" in refused(capsys, run, "--memory", "-1")


def test_the_device_is_the_recipes(run_folder, tmp_path, capsys, monkeypatch):
    """A GPU that is not there is the CPU, as for `eval`; one that is there holds the model."""
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    about = json.loads((run / "recipe.json").read_text())
    about["recipe"]["training"]["device"] = "cuda"
    (run / "recipe.json").write_text(json.dumps(about))
    with monkeypatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        assert main(["generate", str(run), "--count", "3"]) == 0
    there = SimpleNamespace(to_device=lambda model: model.to("meta"))
    monkeypatch.setattr(command, "make_fabric", lambda training, alone: there)
    assert command.load_on_device(open_run(run), None).output.weight.is_meta


def test_rows_take_turns():
    pieces = [(0, "a", False), (1, "b", True), (0, "c", True), (2, "", False), (2, "d", True)]
    assert list(in_order(iter(Piece(*piece) for piece in pieces), 3)) == [
        *("a", "c", "\n"),
        *("b", "\n"),
        *("d", "\n"),
    ]


def test_stop_strings_end_a_text(generate):
    argv = ["--prompt", "ab", "--count", "40", "--temperature", "0"]
    whole = generate(*argv)[2:-1].decode()
    stop = whole[3:5]
    cut = generate(*argv, "--stop", stop, "no such text")
    assert cut == f"ab{whole[: whole.index(stop)]}\n".encode()


@pytest.mark.parametrize("how", ["whole", "lines"])
def test_prompts_from_standard_input(run_folder, monkeypatch, how):
    """Also where standard output knows no more than ASCII."""
    given = "one\ncafé\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written := io.BytesIO(), "ascii"))
    argv = [str(run_folder), "--stdin", how, "--count", "5", "--temperature", "0"]
    assert main(["generate", *argv, *(["--json"] if how == "lines" else [])]) == 0
    out = written.getvalue()
    if how == "whole":
        assert out.startswith(b"one\ncaf?\n") and len(out) > len(given)
    else:
        assert [json.loads(row)["prompt"] for row in out.splitlines()] == ["one", "café"]


def test_a_run_speaks_its_own_vocabulary(tmp_path, capsys):
    (tmp_path / "text").write_text("to be or not to be\nthat is the question\n" * 60)
    run = str(tmp_path / "run")
    data = ["--data", str(tmp_path / "text"), "--data.vocabulary", "words"]
    assert main(["train", "python-bytes_debug", "--out", run, "--training.steps", "2", *data]) == 0
    capsys.readouterr()
    assert main(["generate", run, "--prompt", "to be", "--count", "9"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("to be ") and text.endswith("\n")
    drawn = text.removeprefix("to be ").removesuffix("\n")
    words = drawn.replace("\n", " <eos> ").split()
    assert len(words) == 9
    known = ["to", "be", "or", "not", "that", "is", "the", "question", "<eos>", "<unk>"]
    assert set(words) <= set(known)


def test_a_pipe_that_closes_is_no_failure(run_folder):
    """As in `| head`: exit code 0, also under `set -o pipefail`, and not a word."""
    process = subprocess.Popen(
        [sys.executable, "-m", "torchsru.cli", "generate", str(run_folder), "--count", "100000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""


def test_bad_input_is_one_line(run_folder, capsys, monkeypatch):
    run = str(run_folder)
    assert "top_k must not be negative, got -1" in refused(capsys, run, "--top-k", "-1")
    assert "top_p must lie in (0, 1], got 2" in refused(capsys, run, "--top-p", "2")
    assert "count must not be negative" in refused(capsys, run, "--count", "-1")
    assert "stop strings must not be empty" in refused(capsys, run, "--stop", "")
    both = ("--prompt", "a", "--stdin", "whole")
    assert "--prompt and --stdin can't both be given" in refused(capsys, run, *both)
    assert "seed must be less than 2^63" in refused(capsys, run, "--seed", str(2**64))
    assert "memory_length needs attention" in refused(capsys, run, "--memory", "5")
    for option in ("--prompt", "--stop"):
        swallowed = refused(capsys, option, "x", run)
        assert "RUN is missing: it comes before --prompt and --stop" in swallowed
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert "--stdin lines found no line" in refused(capsys, run, "--stdin", "lines")


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        *((name, value, "a finite number") for name in NUMBERS for value in ("nan", "inf", "warm")),
        *((name, value, "a whole number") for name in WHOLE for value in ("1.5", "nan", "")),
    ],
)
def test_what_is_no_number_is_refused_by_option_rule_and_value(capsys, option, value, rule):
    """Before the run is opened, which is not there."""
    error = refused(capsys, "no-such-run", option, value)
    assert error == f"torchsru: {option} must be {rule}, got {value!r}\n"


@pytest.mark.parametrize("option", ["--temperature", "--repetition-penalty"])
def test_the_smallest_numbers_are_no_failure(generate, option):
    assert len(generate("--prompt", "ab", "--count", "5", option, "1e-50")) > 3


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_a_diverged_run_is_one_line(run_folder, capsys, monkeypatch, temperature):
    def diverged(run):
        model = load_model(run)
        torch.nn.init.constant_(model.output.bias, torch.nan)
        return model

    monkeypatch.setattr(command, "load_model", diverged)
    error = refused(capsys, str(run_folder), "--temperature", temperature)
    assert "scores must be finite to draw from, got NaN: did its training diverge?" in error
