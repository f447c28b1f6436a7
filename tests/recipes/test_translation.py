"""Every translator's recipe, small, on a language made here: word for word, in the same order."""

import io
import json
import math
import random
from dataclasses import replace

import pytest
import torch

from torchsru.cli import main
from torchsru.models.beam import Search
from torchsru.models.translator import Translator
from torchsru.recipes import from_json, get_recipe, to_json
from torchsru.recipes.run import evaluate_run, open_run, train
from torchsru.recipes.translation import RECIPES, TextTranslator, TranslationRecipe
from torchsru.train import RunError
from torchsru.train.checkpoint import load_checkpoint
from torchsru.train.schedule import learning_rate

SOURCE = ["abide", "cedar", "dune", "ember", "fable", "glade", "haven", "ivory"]
TARGET = ["adlo", "bremu", "cista", "dorva", "erlin", "fomek", "guspa", "hante"]


def in_both(count, seed=0):
    draw = random.Random(seed)
    pairs = []
    for _ in range(count):
        chosen = draw.choices(range(len(SOURCE)), k=draw.randint(3, 6))
        pairs.append([" ".join(words[i] for i in chosen) for words in (SOURCE, TARGET)])
    return pairs


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "cache"))


def write(folder, name, pairs):
    files = []
    for language, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
        file = folder / f"{name}.{language}"
        file.write_text("".join(f"{line}\n" for line in lines))
        files.append(str(file))
    return tuple(files)


@pytest.fixture
def paths(tmp_path):
    return write(tmp_path, "train", in_both(300))


def make(name, paths, training=None, **data):
    recipe = get_recipe(f"{name}_debug")
    return f"{name}_debug", replace(
        recipe,
        data=replace(recipe.data, paths=paths, **data),
        training=replace(recipe.training, **(training or {})),
    )


def untrained(run):
    """nats of a model that knows nothing: those of chance, about."""
    return math.log(TextTranslator(run).subwords.size)


#: of recipes whose debug twins are the same one
DIFFERENT = list({get_recipe(f"{name}_debug"): name for name in RECIPES}.values())


@pytest.mark.parametrize("name", DIFFERENT)
def test_every_recipe_learns(tmp_path, paths, name):
    test = write(tmp_path, "test", in_both(50, 1))
    result = train(*make(name, paths, test_paths=test), tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert result["bleu"] > 20 and result["nats"] < 0.4 * untrained(run)
    found = evaluate_run(run, split="test")
    assert found["sentences"] == 50 and found["bleu"] > 20 and found["chrf"] > 40
    assert found["beam"] == 2 and found["subwords_per_second"] > 0
    valid = evaluate_run(run, layout={"eval_beam": 1})
    if get_recipe(name).training.average == 1:  # the weights are those that were judged
        assert valid["bleu"] == result["bleu"]
        assert valid["nats"] == pytest.approx(result["nats"], rel=1e-3)


MILLIONS = {
    "wmt14-en-de-transformer": 76,
    "wmt14-en-de-sru-4": 79,
    "wmt14-en-de-sru-5": 90,
    "wmt14-en-de-ssru": 73,  # not in the table: 6 layers with 2 D^2 in place of 4 D^2 each
}


def count(name, symbols):
    with torch.device("meta"):
        model = Translator(get_recipe(name).model, symbols)
    return sum(p.numel() for p in model.parameters())


def test_the_papers_recipes_have_the_papers_sizes():
    """Table 3, which cuts off what is below a million."""
    found = {name: count(name, get_recipe(name).data.vocabulary_size) for name in MILLIONS}
    assert {name: number // 10**6 for name, number in found.items()} == MILLIONS


def test_the_small_recipes_are_of_one_size():
    names = [name for name in RECIPES if name.startswith("multi30k")]
    found = {name: count(name, get_recipe(name).data.vocabulary_size) for name in names}
    assert len(names) == 3 and max(found.values()) / min(found.values()) < 1.01, found
    first = get_recipe(names[0])
    for name in names[1:]:
        assert get_recipe(name).data == first.data and get_recipe(name).training == first.training


def test_the_rate_is_vaswanis():
    training = get_recipe("wmt14-en-de-transformer").training
    for step in (1, 3_999, 4_000, 50_000):
        published = 512**-0.5 * min(step**-0.5, step * 4_000**-1.5)
        found = learning_rate(training, (step - 1) / training.steps)
        assert found == pytest.approx(published, rel=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_json_brings_a_recipe_back(name):
    recipe = get_recipe(name)
    assert from_json(TranslationRecipe, json.loads(json.dumps(to_json(recipe)))) == recipe


def test_a_run_is_stopped_and_resumed(tmp_path, paths):
    training = {"steps": 20, "schedule": "constant", "warmup": 0.0}
    name, recipe = make("multi30k-sru", paths, training)
    train(name, recipe, tmp_path / "parts")
    longer = replace(recipe, training=replace(recipe.training, steps=40))
    parts = train(name, longer, tmp_path / "parts", resume=True)
    train(name, longer, tmp_path / "whole")
    assert parts["steps"] == 40
    at_end = [load_checkpoint(tmp_path / run / "checkpoints").model for run in ("whole", "parts")]
    torch.testing.assert_close(at_end[1], at_end[0], rtol=0, atol=0)
    other = replace(longer, data=replace(longer.data, heldout=7))
    with pytest.raises(RunError, match=r"data\.heldout was 1000 in .*, got 7"):
        train(name, other, tmp_path / "parts", resume=True)


def test_files_to_judge_by_may_move_but_not_change(tmp_path, paths):
    valid = write(tmp_path, "valid", in_both(20, 1))
    name, recipe = make("multi30k-sru", paths, {"steps": 2}, valid_paths=valid)
    train(name, recipe, tmp_path / "run")
    longer = replace(recipe.training, steps=4)
    for count in (20, 19):
        moved = write(tmp_path, "moved", in_both(count, 1))
        data = replace(recipe.data, valid_paths=moved)
        again = replace(recipe, data=data, training=longer)
        if count == 20:
            assert train(name, again, tmp_path / "run", resume=True)["steps"] == 4
    with pytest.raises(RunError, match="other data"):
        train(name, again, tmp_path / "run", resume=True)


def test_the_mean_of_checkpoints_is_what_a_run_gives(tmp_path, paths):
    training = {"steps": 20, "checkpoints": 5, "evaluations": 1, "keep": "last", "average": 3}
    train(*make("multi30k-transformer", paths, training), tmp_path / "run")
    folders = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert [folder.name for folder in folders] == [f"step-{n:09}" for n in (12, 16, 20)]
    from safetensors.torch import load_file

    saved = [load_file(folder / "model.safetensors") for folder in folders]
    translator = TextTranslator(open_run(tmp_path / "run"))
    for name, weight in translator.model.module.state_dict().items():
        mean = sum(tensors[name].double() for tensors in saved) / 3
        torch.testing.assert_close(weight, mean.float(), rtol=1e-6, atol=1e-7)
    assert translator.facts["step"] == 20


def test_averaging_and_keeping_the_best_exclude_each_other(paths):
    with pytest.raises(ValueError, match="average must be 1 with keep 'best', got 3"):
        make("multi30k-sru", paths, {"average": 3})


def test_the_command_from_training_to_translations(tmp_path, paths, capsys, monkeypatch):
    run = str(tmp_path / "run")
    assert main(["train", "multi30k-ssru_debug", "--data", *paths, "--out", run]) == 0
    said = capsys.readouterr().out
    assert "held-out bleu" in said and "torchsru translate" in said
    pairs = write(tmp_path, "other", in_both(20, 1))
    assert main(["eval", run, "--data", *pairs, "--beam", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bleu"] > 20 and found["beam"] == 3 and "tok:13a" in found["signature"]

    translator = TextTranslator(open_run(tmp_path / "run"))
    lines = ["cedar dune", "", "ivory abide cedar"]

    def translate(**options):
        return translator.translate(lines, Search(**options))

    text = tmp_path / "text"
    text.write_text("\n".join(lines) + "\n")
    assert main(["translate", run, str(text), "--beam", "1"]) == 0
    shown = capsys.readouterr().out.split("\n")
    assert shown == [*(best[0].text for best in translate(beam=1)), ""]
    assert shown[1] == "" and shown[0] and shown[2]
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + text.read_bytes()))
    )
    options = ["--beam", "4", "--best", "2", "--length-penalty", "0"]
    assert main(["translate", run, "-", "--json", *options]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["source"] for row in rows] == lines
    for row, best in zip(rows, translate(beam=4, wanted=2, length_penalty=0.0), strict=True):
        assert [t["text"] for t in row["translations"]] == [t.text for t in best]
        scores = [t["score"] for t in row["translations"]]
        assert scores == pytest.approx([t.log_probability for t in best], rel=1e-4)  # alpha is 0


def test_the_command_refuses_bad_input(tmp_path, paths, capsys):
    run = str(tmp_path / "run")
    train_it = ["train", "multi30k-sru_debug", "--training.steps", "2", "--out", run, "--data"]
    assert main([*train_it[:-1]]) == 2
    assert "name it with --data" in capsys.readouterr().err
    (tmp_path / "short").write_text("adlo\n")
    assert main([*train_it, paths[0], str(tmp_path / "short")]) == 2
    assert "short' ends before line 2, " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*train_it, *paths]) == 0
    capsys.readouterr()
    for argv, told in (
        (["translate", run, str(tmp_path / "nowhere")], "nowhere"),
        (["translate", run, paths[0], "--beam", "0"], "beam must be at least 1, got 0"),
        (["translate", run, paths[0], "--best", "2"], "best must be 1 without --json, got 2"),
        (["translate", run, paths[0], "--best", "0"], "best must lie in [1, beam = 2], got 0"),
        (
            ["translate", run, paths[0], "--json", "--best", "4", "--beam", "3"],
            "best must lie in [1, beam = 3], got 4",
        ),
        (["eval", run, "--split", "test"], "the data have no 'test' part"),
        (["eval", run, "--unroll", "5"], "eval_unroll is of language models"),
        (["eval", run, "--data", paths[0]], "--data takes two files"),
        (["classify", run, paths[0]], "must be a run of task classification, got one of transl"),
    ):
        assert main(argv) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "run" / "subwords.model").write_text("{}")
    assert main(["translate", run, paths[0]]) == 2
    assert "subwords.model is damaged: expected a model of sentencepiece" in capsys.readouterr().err


def test_other_data_than_a_run_was_trained_on_are_refused(tmp_path, paths):
    train(*make("multi30k-sru", paths, {"steps": 2}), tmp_path / "run")
    write(tmp_path, "train", in_both(301))
    with pytest.raises(RunError, match="was trained on other data than what is there now"):
        evaluate_run(open_run(tmp_path / "run"))


def test_pairs_that_are_too_long_are_told_of(tmp_path, paths, capsys):
    some = make("multi30k-sru", paths, longest=5)[1].prepare().task
    told = capsys.readouterr().err
    assert 0 < some.dropped < 270 and len(some.train.source) == 270
    assert f"{some.dropped} of 270 pairs are not trained on: a side has more than 5" in told
    assert make("multi30k-sru", paths)[1].prepare().task.dropped == 0
    assert "not trained on" not in capsys.readouterr().err


def test_a_text_without_a_word_has_an_empty_translation(tmp_path, paths):
    train(*make("multi30k-sru", paths, {"steps": 2}), tmp_path / "run")
    translator = TextTranslator(open_run(tmp_path / "run"))
    found = translator.translate([" ", "dune", ""], Search(beam=2, wanted=2))
    assert [[t.text for t in best] for best in found][::2] == [[""], [""]] and len(found[1]) == 2


def test_missing_packages_are_named(tmp_path, paths, monkeypatch, capsys):
    for name in ("sentencepiece", "sacrebleu"):
        with monkeypatch.context() as patched:
            patched.setitem(__import__("sys").modules, name, None)
            argv = ["train", "multi30k-sru_debug", "--data", *paths, "--out", str(tmp_path / "r")]
            assert main(argv) == 2
        assert f"train needs {name}: pip install 'torchsru[translate]'" in capsys.readouterr().err
