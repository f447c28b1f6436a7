import json
import sys

import pytest

from torchsru.cli import main

NAME = "python-bytes_debug"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text").write_text("to be or not to be\n" * 200)
    return str(tmp_path / "text")


def refused(capsys, *argv):
    """The one line that a refused command prints."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("torchsru: ")
    return err


def test_data_says_what_a_set_holds_and_where_it_is_kept(capsys, text, tmp_path):
    assert main(["data", "text", text, "--vocabulary", "words", "--heldout", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{text}: 6 different words"
    assert " ".join(lines[1].split()) == "train 1,260 words 3,420 bytes 3,420 characters"
    assert " ".join(lines[2].split()) == "valid 140 words 380 bytes 380 characters"
    assert lines[3].startswith(f"kept in {tmp_path / 'cache' / 'text'}")
    assert main(["data", "text", text]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["train", "3,610", "bytes"] and len(lines) == 3


def test_data_refuses_what_training_would(capsys, tmp_path, text):
    assert "source must be one of text, " in refused(capsys, "data", "enwik9")
    assert "enwik8 needs one path" in refused(capsys, "data", "enwik8")
    assert f"{str(tmp_path)!r} lacks ptb.train.txt" in refused(capsys, "data", "ptb", str(tmp_path))
    assert "vocabulary" in refused(capsys, "data", "text", text, "--vocabulary", "syllables")
    argv = ["--vocabulary", "words", "--vocabulary_size", "1"]
    assert "must be at least 3, got 1" in refused(capsys, "data", "text", text, *argv)


def test_a_published_set_is_found_on_its_shelf(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSRU_DATA", str(tmp_path))
    (tmp_path / "ptb").mkdir()
    assert f"{str(tmp_path / 'ptb')!r} lacks ptb.train.txt" in refused(capsys, "data", "ptb")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--data.eval_memory", "5"], "eval_memory must be 0 for a model without attention, got 5"),
        (["--model.cutoffs", "1000"], "cutoffs must rise between 0 and vocabulary_size = 256"),
        (["--model.cutoffs", "32", "96", "--model.embedding", "4"], "must be at least div_value^2"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_training(capsys, text, tmp_path, argv, told):
    out = tmp_path / "run"
    assert told in refused(capsys, "train", NAME, "--data", text, "--out", str(out), *argv)
    assert not out.exists()


@pytest.mark.parametrize(
    ("argv", "extra"),
    [
        (["data", "hub", "x"], "'torchsru[hub]'"),
        (["data", "text", "{}", "--vocabulary", "subwords"], "'torchsru[subwords]'"),
    ],
)
def test_a_missing_package_names_its_extra(capsys, text, monkeypatch, argv, extra):
    for package in ("datasets", "tokenizers"):
        monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install {extra}" in refused(capsys, *(part.format(text) for part in argv))


@pytest.mark.parametrize("kind", ["characters", "words", "subwords"])
def test_training_and_evaluating_in_other_symbols(capsys, text, tmp_path, kind):
    run = str(tmp_path / "run")
    argv = ["--data", text, "--data.vocabulary", kind, "--training.steps", "30"]
    if kind == "subwords":
        argv += ["--data.vocabulary_size", "260"]
    assert main(["train", NAME, "--out", run, *argv]) == 0
    name = {"characters": "bits_per_character"}.get(kind, "perplexity")
    assert f"held-out {name.replace('_', ' ')} " in capsys.readouterr().out
    assert main(["eval", run, "--batch", "1", "--unroll", "32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert next(iter(found)) == name and found[name] > 0
    assert ("word_perplexity" in found) is (kind == "subwords")
    assert "has no 'test'" in refused(capsys, "eval", run, "--split", "test")
    assert "eval_batch must be at least 1, got 0" in refused(capsys, "eval", run, "--batch", "0")
