"""Every reader's recipe, small, on texts made here: who lives where."""

import io
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from torchsru.cli import main
from torchsru.recipes import from_json, get_recipe, to_json
from torchsru.recipes.reading import RECIPES, ReadingRecipe, TextReader
from torchsru.recipes.run import evaluate_run, open_run, train
from torchsru.train import RunError

NAMES = ["Ada", "Bob", "Eve", "Max", "Ida", "Tom", "Una", "Leo"]
TOWNS = ["Rome", "Oslo", "Bonn", "Lima", "Cork", "Kiel", "Nice", "Bath"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "cache"))


def text_of(people, towns):
    return " ".join(f"{n} lives in old {t}." for n, t in zip(people, towns, strict=True))


@pytest.fixture
def towns(tmp_path):
    draw = random.Random(0)
    data = []
    for i in range(48):
        people, homes = draw.sample(NAMES, 4), draw.sample(TOWNS, 4)
        context, asked = text_of(people, homes), []
        for k in range(3):
            answer = {"text": homes[k], "answer_start": context.index(homes[k])}
            question = f"Where does {people[k]} live?"
            asked.append({"id": f"{i}-{k}", "question": question, "answers": [answer]})
        data.append({"title": f"T{i}", "paragraphs": [{"context": context, "qas": asked}]})
    file = tmp_path / "towns.json"
    file.write_text(json.dumps({"data": data}))
    return file


@pytest.fixture
def vectors(tmp_path):
    draw = np.random.default_rng(0)
    words = {*NAMES, *TOWNS, "lives", "in", "old", ".", "Where", "does", "live", "?"} - {"Leo"}
    rows = {word: draw.normal(size=12) for word in sorted(words)}
    file = tmp_path / "vectors"
    file.write_text("".join(f"{w} {' '.join(map(str, row))}\n" for w, row in rows.items()))
    return file


def make(name, file, steps=None, **data):
    """The debug recipe; of a few steps, if so many are named, the last weights are kept."""
    recipe = get_recipe(f"answer-{name}_debug")
    recipe = replace(recipe, data=replace(recipe.data, paths=(str(file),), **data))
    if steps:
        training = replace(recipe.training, steps=steps, keep="last")
        recipe = replace(recipe, training=training)
    return f"answer-{name}_debug", recipe


def untrained(recipe):
    """The task's numbers of fresh weights."""
    prepared = recipe.prepare()
    return prepared.task.evaluate(prepared.make_model().eval())


@pytest.mark.parametrize("name", [name.removeprefix("answer-") for name in RECIPES])
def test_every_recipe_learns(tmp_path, towns, name):
    name, recipe = make(name, towns)
    result = train(name, recipe, tmp_path / "run")
    assert untrained(recipe)["f1"] < 40  # of the four towns one is right
    assert result["f1"] >= 80 and next(iter(result)) == "f1"
    found = evaluate_run(open_run(tmp_path / "run"), split="test")
    assert found["f1"] >= 70 and found["questions"] == 36 and found["unanswerable"] == 0
    valid = evaluate_run(open_run(tmp_path / "run"), split="valid")
    assert valid["f1"] == pytest.approx(
        result["f1"]
    )  # the weights are those of the best evaluation
    assert valid["nats"] == pytest.approx(result["nats"], rel=1e-3)


@pytest.mark.parametrize("name", RECIPES)
def test_json_brings_a_recipe_back(name):
    recipe = get_recipe(name)
    assert from_json(ReadingRecipe, json.loads(json.dumps(to_json(recipe)))) == recipe


def test_a_run_is_stopped_and_resumed(tmp_path, towns):
    name, whole = make("sru-3", towns, steps=8)
    at_once = train(name, whole, tmp_path / "whole")
    train(name, make("sru-3", towns, steps=5)[1], tmp_path / "parts")
    result = train(name, whole, tmp_path / "parts", resume=True)
    assert result["steps"] == 8 and result["nats"] == at_once["nats"]
    with pytest.raises(RunError, match=r"data\.folds was 4 in .*, got 5"):
        train(
            name, replace(whole, data=replace(whole.data, folds=5)), tmp_path / "parts", resume=True
        )


def test_vectors_are_fixed_but_for_frequent_words_of_questions(tmp_path, towns, vectors, capsys):
    name, recipe = make("sru-3", towns, steps=4, vectors=str(vectors))
    recipe = replace(recipe, model=replace(recipe.model, tuned=4))
    train(name, recipe, tmp_path / "run")
    capsys.readouterr()
    reader = TextReader(open_run(tmp_path / "run"))
    assert {"?", "Where", "does", "live"} == set(list(reader.words.place)[:4])
    before = reader.words.vectors.find(list(reader.words.place))
    after = reader.model.words.all()
    assert (before[4:] == after[4:]).all() and (before[:4] != after[:4]).any(1).all()
    (found,) = reader.answer("Zoe lives in new Ulm.", ["Where does Zoe live?"], 3)
    assert len(found) == 3 and capsys.readouterr().err == ""
    vectors.unlink()
    reader = TextReader(open_run(tmp_path / "run"))
    for _ in range(2):
        (again,) = reader.answer("Zoe lives in new Ulm.", ["Where does Zoe live?"], 3)
    # drawn from a hash either way
    assert [f[:3] for f in again] == [f[:3] for f in found]
    assert capsys.readouterr().err.count("get random vectors") == 1
    vectors.write_text("Zoe 1 2 3\n")
    reader = TextReader(open_run(tmp_path / "run"))
    for _ in range(2):
        assert reader.answer("Zoe lives in new Ulm.", ["Where does Zoe live?"], 3) == [again]
    assert capsys.readouterr().err.count("holds other vectors than the run was made with") == 1


def test_an_unlikely_answer_is_given_too(tmp_path, towns, monkeypatch):
    """Where no span is likely, the best one's probability underflows in float32."""
    train(*make("sru-3", towns, steps=2), tmp_path / "run")
    reader = TextReader(open_run(tmp_path / "run"))
    ends = torch.tensor([[-200.0, 0.0]]), torch.tensor([[0.0, -201.0]])
    monkeypatch.setattr(reader, "_read", lambda *_: ends)
    (found,) = reader.answer("in Rome", ["Where?"], 9)
    assert [f.text for f in found] == ["in", "Rome", "in Rome"]  # not what ends before it begins
    assert [f.probability for f in found] == pytest.approx([math.exp(-n) for n in (200, 201, 401)])


def test_answers_are_slices_and_those_of_one_question_alone(tmp_path, towns):
    train(*make("lstm-3", towns, steps=4), tmp_path / "run")
    reader = TextReader(open_run(tmp_path / "run"))
    context = "Ada  lives\nin “Rome”.\n"
    asked = ["Where does Ada live?", "Where?"]
    together = reader.answer(context, asked, 5)
    for question, found in zip(asked, together, strict=True):
        assert [context[f.start : f.end] for f in found] == [f.text for f in found]
        values = [f.probability for f in found]
        assert values == sorted(values, reverse=True) and len(values) == 5 and sum(values) <= 1
        (alone,) = reader.answer(reader.cut(context), [question], 5)
        assert [f[:3] for f in alone] == [f[:3] for f in found]
        assert [f.probability for f in alone] == pytest.approx(values, rel=1e-4)
    assert len(reader.answer("Rome", asked, 5)[0]) == 1  # a span is all that there is
    with pytest.raises(ValueError, match="context must hold a word at least, got ' '"):
        reader.answer(" ", asked)
    with pytest.raises(ValueError, match="question must hold a word at least, got ''"):
        reader.answer(context, [""])


class Stdin:
    """Standard input that is no terminal."""

    def __init__(self, content):
        self.buffer = io.BytesIO(content)

    def isatty(self):
        return False


def test_the_command_from_training_to_answers(tmp_path, towns, capsys, monkeypatch):
    run = str(tmp_path / "run")
    assert main(["train", "answer-sru-3_debug", "--data", str(towns), "--out", run]) == 0
    assert "torchsru answer" in capsys.readouterr().out
    assert main(["eval", run, "--split", "test"]) == 0
    assert json.loads(capsys.readouterr().out)["exact_match"] >= 60
    file = tmp_path / "text"
    text = text_of(["Ada", "Tom", "Una"], ["Kiel", "Rome", "Bath"])
    file.write_text(text)
    ask = ["answer", run, "--context", str(file)]
    assert main([*ask, "--question", "Where does Tom live?"]) == 0
    answer, probability, place = capsys.readouterr().out.rstrip("\n").split("\t")
    start, end = map(int, place.split(":"))
    assert answer == text[start:end] == "Rome" and 0 < float(probability) <= 1
    file.write_text(f"\ufeff{text}", encoding="utf-8")  # where words stand is told as in the file
    assert main([*ask, "--question", "Where does Tom live?"]) == 0
    marked = capsys.readouterr().out.rstrip("\n").split("\t")
    assert marked == [answer, probability, f"{start + 1}:{end + 1}"]
    asked = "\ufeffWhere does Una live?\n\nWhere does Ada live?"
    monkeypatch.setattr("sys.stdin", Stdin(asked.encode()))
    assert main([*ask, "--json", "--top", "2"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert [bool(line) for line in lines] == [True, False, True, False]
    rows = [json.loads(line) for line in lines if line]
    assert rows[0]["question"] == "Where does Una live?"
    assert [row["answers"][0]["text"] for row in rows] == ["Bath", "Kiel"]
    assert [len(row["answers"]) for row in rows] == [2, 2]


def test_the_command_refuses_bad_input(tmp_path, towns, capsys, monkeypatch):
    run = str(tmp_path / "run")
    assert main(["train", "answer-sru-3_debug", "--out", run]) == 2
    assert "name it with --data" in capsys.readouterr().err
    whole = json.loads(towns.read_text())
    whole["data"][3]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"] += 1
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(whole))
    assert main(["train", "answer-sru-3_debug", "--data", str(bad), "--out", run]) == 2
    assert "bad.json' article 'T3' question '3-1': answer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    train(*make("sru-3", towns, steps=2), tmp_path / "run")
    ask = ["answer", run, "--context", str(towns)]
    for argv, told in (
        (["answer", run], "context"),
        (["answer", run, "--context", str(tmp_path / "nowhere")], "nowhere"),
        ([*ask, "--question", " "], "question must hold a word at least"),
        ([*ask, "--top", "0"], "top must be at least 1, got 0"),
        (["eval", run, "--memory", "3"], "eval_memory is of language models"),
        (["classify", run, str(towns)], "must be a run of task classification, got one of reading"),
    ):
        assert main(argv) == 2
        assert told in capsys.readouterr().err
    bad.write_bytes(b"in Rome \xef")
    assert main([*ask[:2], "--context", str(bad)]) == 2
    assert "is not UTF-8: byte 0xef at 8" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Stdin(b"Where?\n\xff\n"))
    assert main(ask) == 2
    assert "standard input line 2 is not UTF-8" in capsys.readouterr().err
    (tmp_path / "run" / "words.json").write_text("{}")
    assert main([*ask, "--question", "Where?"]) == 2
    assert "words.json is damaged" in capsys.readouterr().err


def test_other_data_than_a_run_was_trained_on_are_refused(tmp_path, towns, capsys):
    train(*make("sru-3", towns, steps=2), tmp_path / "run")
    run = open_run(tmp_path / "run")
    whole = json.loads(towns.read_text())
    asked = whole["data"][0]["paragraphs"][0]["qas"]
    asked[0] |= {"answers": [], "is_impossible": True}
    towns.write_text(json.dumps(whole))
    with pytest.raises(RunError, match="was trained on other data than what is there now"):
        evaluate_run(run)
    found = evaluate_run(run, paths=(str(towns),))
    assert (found["questions"], found["unanswerable"]) == (143, 1)
    train(*make("sru-3", towns, steps=2), tmp_path / "another")
    assert "1 questions without an answer are left out" in capsys.readouterr().err
    own = [run.recipe.evaluate(open_run(tmp_path / "another"), paths=(), split=split, layout={})
           for split in ("train", "valid", "test")]  # fmt: skip
    assert sorted(found["unanswerable"] for found in own) == [0, 0, 1]  # each split's own
    assert [found["questions"] + found["unanswerable"] for found in own] == [72, 36, 36]


def test_a_run_with_files_to_choose_by_has_no_test_part(tmp_path, towns):
    whole = json.loads(towns.read_text())
    parts = {"train": whole["data"][:30], "valid": whole["data"][30:]}
    for name, data in parts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": data}))
    valid = str(tmp_path / "valid.json")
    train(*make("sru-3", tmp_path / "train.json", steps=2, valid_paths=(valid,)), tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert evaluate_run(run)["questions"] == 54
    with pytest.raises(RunError, match="has no test part beside its valid_paths"):
        evaluate_run(run, split="test")
