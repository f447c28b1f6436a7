import json
import re
from pathlib import Path

import pytest

from torchsru.cli import main
from torchsru.cli.estimate import estimate_recipe, rate_of
from torchsru.recipes.language_model import load_vocabulary
from torchsru.recipes.run import open_run

NAME = "python-bytes_debug"


def printed(capsys, *argv):
    assert main(["estimate", *argv]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[:17].strip(): line[17:].strip() for line in lines}


def number(words):
    return float(re.match(r"[\d.,e+-]+", words)[0].replace(",", ""))


def test_it_prints_parameters_memory_flops_and_hours(capsys):
    budget = ["--training.steps", "400000", "--training.seconds", "100"]
    found = printed(capsys, "python-bytes", *budget, "--rate", "1e12")
    assert found["parameters"] == "921,856"
    assert found["step"] == "32 rows of 64 = 2,048 symbols, on 1 device, each in 1 part"
    assert "weights 3.7 MB, gradients 3.7 MB, optimiser 7.4 MB" in found["memory a device"]
    flops, all_flops = number(found["FLOPs a step"]), number(found["FLOPs in all"])
    assert all_flops == pytest.approx(400_000 * flops, rel=1e-2)
    assert number(found["hours"]) == pytest.approx(all_flops / 1e12 / 3600, rel=1e-2)
    assert number(found["in its seconds"]) == pytest.approx(100 * 1e12 / flops, rel=1e-2)
    passes = printed(capsys, "python-bytes", "--training.epochs", "2", "--rate", "1e12")
    assert "how many steps an epoch has" in passes["hours"] and "in its seconds" not in passes


def test_the_page_shows_what_is_printed(capsys):
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    command, shown = re.search(
        r"\ntorchsru (estimate [^\n]*)\n```\n\n```text\n(.*?)```", page, re.S
    ).groups()
    assert main([*command.split(), "--training.device", "cpu"]) == 0
    assert capsys.readouterr().out == shown


def test_fields_and_devices_count(capsys):
    options = ("--training.devices", "4", "--training.nodes", "2", "--training.strategy", "fsdp")
    found = printed(capsys, "python-bytes", *options, "--model.layers", "8")
    assert "on 8 devices (fsdp), each in 1 part" in found["step"]
    weights = number(found["parameters"]) * 4 / 8
    assert f"weights {weights / 1e3:.1f} kB" in found["memory a device"]
    assert "hours" in found and "--rate" in found["hours"]


def test_the_rate_of_a_finished_run_gives_its_time(tmp_path, capsys):
    """A longer run like it: as many times the seconds as it has steps."""
    run = str(tmp_path / "run")
    data = tmp_path / "text"
    data.write_bytes(bytes(range(256)) * 40)
    steps = ("--training.steps", "40")
    assert main(["train", NAME, "--out", run, "--data", str(data), *steps]) == 0
    seconds = json.loads((tmp_path / "run" / "result.json").read_text())["seconds"]
    capsys.readouterr()
    found = printed(capsys, NAME, "--like", run, "--training.steps", "4000000")
    assert number(found["hours"]) == pytest.approx(100_000 * seconds / 3600, rel=0.01)


def test_the_rate_of_a_run_counts_the_vocabulary_it_has(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").write_text("".join(f"the cat {i} sat on the mat .\n" for i in range(300)))
    run = tmp_path / "run"
    words = ("--data.vocabulary", "words", "--data.vocabulary_size", "9000")  # there are fewer
    argv = ["train", NAME, "--out", str(run), "--data", str(tmp_path / "text"), *words]
    assert main([*argv, "--training.steps", "4"]) == 0
    result, recipe = json.loads((run / "result.json").read_text()), open_run(run).recipe
    size = load_vocabulary(open_run(run)).size
    assert 200 < size < 400
    rates = [
        estimate_recipe(recipe, 1, n).step_flops * result["steps"] / result["seconds"]
        for n in (size, 9000)
    ]
    assert rate_of(run) == rates[0] < rates[1]


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_symbols_that_only_the_data_tell_are_given(capsys, kind):
    argv = ["--data.vocabulary", kind]
    assert main(["estimate", NAME, *argv]) == 2
    assert capsys.readouterr().err == (
        f"torchsru: how many {kind} the data have is known only once they are read: "
        "give --symbols N\n"
    )
    few, many = (printed(capsys, NAME, *argv, "--symbols", n) for n in ("256", "1000"))
    assert few == printed(capsys, NAME)  # in bytes
    assert number(few["parameters"]) < number(many["parameters"])


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--symbols", "0"], "symbols must be at least 1, got 0"),
        (["--rate", "0"], "rate must be positive and finite, got 0.0"),
        (["--rate", "1e12", "--like", "x"], "rate must be left out beside --like"),
        (["--like", "nowhere"], "nowhere is not a run"),
        (["--training.devices", "3"], "data.batch must be a multiple of devices * training.acc"),
        (["--training.lr", "-1"], "training.lr must be positive"),
    ],
)
def test_bad_input_is_one_line(capsys, argv, told):
    assert main(["estimate", NAME, *argv]) == 2
    assert told in capsys.readouterr().err


def test_a_run_that_is_not_finished_has_no_rate(tmp_path, capsys):
    run = tmp_path / "run"
    argv = ["train", NAME, "--out", str(run), "--training.steps", "4"]
    assert main(argv) == 0
    (run / "result.json").unlink()
    assert main(["estimate", NAME, "--like", str(run)]) == 2
    assert "is not finished: it has no speed to go by" in capsys.readouterr().err
