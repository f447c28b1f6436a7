import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from torchsru.data import DataError, TextData, load_corpus
from torchsru.data.prepare import expected_symbols
from torchsru.data.published import PUBLISHED
from torchsru.models import LanguageModel
from torchsru.recipes import (
    LanguageModelRecipe,
    find_recipes,
    from_json,
    get_recipe,
    python_4m,
    to_json,
)
from torchsru.recipes.language_model import load_model, load_vocabulary
from torchsru.recipes.run import evaluate_run, open_run, train
from torchsru.train import RunError
from torchsru.train.checkpoint import summary
from torchsru.train.log import read_log
from torchsru.train.schedule import learning_rate

MODELS = [n for n in find_recipes() if isinstance(get_recipe(n), LanguageModelRecipe)]
NAMES = [name for name in MODELS if not name.endswith("_debug")]


@torch.no_grad()
def scores(model):
    """Of what may follow each of two symbols."""
    assert not model.training
    return model(torch.tensor([[1], [2]]))[0]


@pytest.mark.parametrize("name", NAMES)
def test_debug_twins_run_the_code_of_their_recipe(name):
    recipe, twin = get_recipe(name), get_recipe(name + "_debug")
    for part, field in [
        *(("model", f) for f in ("rnn", "tie", "layer_norm", "rescale", "highway_bias")),
        *(("training", f) for f in ("optimizer", "schedule", "weight_decay", "clip")),
        ("data", "vocabulary"),
    ]:
        values = [getattr(getattr(r, part), field) for r in (recipe, twin)]
        assert values[0] == values[1], field
    assert bool(recipe.model.cutoffs) == bool(twin.model.cutoffs)


@pytest.mark.parametrize("name", NAMES)
def test_debug_twins_loss_falls_and_the_run_can_be_opened(tmp_path, name):
    folder = tmp_path / "run"
    result = train(name + "_debug", get_recipe(name + "_debug"), folder)
    rows = [row for row in read_log(folder) if row["kind"] == "train"]
    assert rows[0]["bits_per_byte"] > 6
    assert rows[-1]["bits_per_byte"] < rows[0]["bits_per_byte"] - 1.5

    run = open_run(folder)
    assert run.recipe == get_recipe(name + "_debug") and run.name == name + "_debug"
    assert run.result == result
    again = evaluate_run(run)
    assert again["bytes"] == len(load_corpus().valid.ids)  # the run itself used a part of them
    assert abs(again["bits_per_byte"] / result["bits_per_byte"] - 1) < 0.2
    assert scores(load_model(run)).shape == (2, 1, load_vocabulary(run).size)

    about = json.loads((folder / "recipe.json").read_text())
    assert about["recipe"]["training"]["seed"] == 0
    assert about["environment"].keys() == {"machine", "versions", "commit", "dirty"}


MILLIONS = {  # parameters, as published
    "enwik8-sru": 37,
    "enwik8-sru-47m": 47,
    "enwik8-sru-49m": 49,
    "enwik8-srupp-base": 108,
    "enwik8-srupp-large": 191,
    "enwik8-srupp-k5": 98,
    "enwik8-transformer-xl": 41,
    "wikitext-103-srupp-base": 148,
    "wikitext-103-srupp-large": 232,
    "billion-word-srupp-base": 328,
    "billion-word-srupp-large": 465,
    "ptb-sru": 24,
}


def test_the_papers_recipes_have_the_papers_sizes():
    assert MILLIONS.keys() == {n for n in NAMES if get_recipe(n).data.source != "text"}
    for name, millions in MILLIONS.items():
        recipe = get_recipe(name)
        with torch.device("meta"):
            model = LanguageModel(recipe.model, expected_symbols(recipe.data))
        found = sum(p.numel() for p in model.parameters()) / 1e6
        assert abs(found - millions) <= 0.6, f"{name}: {found:.1f}M"


def test_the_papers_recipes_are_evaluated_in_one_stream_and_drop_where_the_scripts_do():
    for name in MILLIONS:
        assert get_recipe(name).data.eval_batch == 1, name
    for name, p in (("enwik8-sru", 0.2), ("enwik8-sru-47m", 0.3), ("enwik8-sru-49m", 0.3)):
        model = LanguageModel(get_recipe(name + "_debug").model)
        assert model.rnn.dropout == 0  # nothing between layers
        config = get_recipe(name).model
        found = config.embedding_dropout, config.state_dropout, config.output_dropout
        assert (config.dropout, *found) == (0, p, p, p)
    ptb = get_recipe("ptb-sru").model
    assert (ptb.dropout, ptb.state_dropout, ptb.input_dropout) == (0, 0.2, 0.2)
    assert ptb.embedding_dropout == ptb.output_dropout == 0.7


def test_the_papers_recipes_start_and_drop_in_the_embedding_as_the_scripts_do():
    """U(+-sqrt(3 / n)): n the symbols of enwik8, else the width; Transformer-XL's is not uniform.
    Dropout inside embedding and softmax is for WikiText-103 alone."""
    found = {}
    for name in MILLIONS:
        model = get_recipe(name).model
        n = None if model.init_range is None else round(3 / model.init_range**2)
        found[name] = n, model.adaptive_dropout
        assert (n is None) == (get_recipe(name + "_debug").model.init_range is None)
    enwik8 = dict.fromkeys((name for name in MILLIONS if "enwik8" in name), (205, 0.0))
    assert found == enwik8 | {
        "enwik8-transformer-xl": (None, 0.0),
        "wikitext-103-srupp-base": (3072, 0.15),
        "wikitext-103-srupp-large": (4096, 0.2),
        "billion-word-srupp-base": (4096, 0.0),
        "billion-word-srupp-large": (7616, 0.0),
        "ptb-sru": (910, 0.0),
    }


def test_a_step_of_ptb_is_the_scripts():
    """Its loss: summed over the 35 steps, a mean over the rows; then lr 1, clip 5."""
    training = get_recipe("ptb-sru").training
    for scale in (1e-3, 10.0):  # below and above the clip
        w = torch.ones(4, dtype=torch.float64, requires_grad=True)
        x = scale * torch.randn(35, 32, 4, dtype=torch.float64, generator=torch.manual_seed(0))
        ours, script = w.detach().clone().requires_grad_(), w
        (x * script).sum((0, 2)).mean().backward()
        torch.nn.utils.clip_grad_norm_([script], 5.0)
        expected = script.detach() - script.grad
        (x * ours).sum(2).mean().backward()
        torch.nn.utils.clip_grad_norm_([ours], training.clip)
        got = ours.detach() - training.lr * ours.grad
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_the_four_million_are_four_million_and_differ_in_layers_and_what_was_tuned_alone():
    recipes = {n: get_recipe(n) for n in NAMES if n.startswith("python-4m-")}
    assert len(recipes) == 9
    first = recipes["python-4m-sru"]
    for name, recipe in recipes.items():
        with torch.device("meta"):
            model = LanguageModel(recipe.model)
        found = sum(p.numel() for p in model.parameters())
        assert abs(found / 4e6 - 1) <= 0.02, f"{name}: {found:,}"
        assert replace(recipe.data, unroll=64) == replace(first.data, unroll=64)
        assert replace(recipe.training, lr=0.1) == replace(first.training, lr=0.1)


def test_the_four_million_hold_what_the_trials_chose():
    path = Path(__file__).parents[2] / "results" / "python-4m.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for name in python_4m.MODELS:
        tried = [row for row in rows if row["kind"] == "tune" and row["model"] == name]
        assert len(tried) == 4
        best = min(tried, key=lambda row: row["bits_per_byte"] or math.inf)
        recipe = get_recipe(f"python-4m-{name}")
        assert (recipe.training.lr, recipe.data.unroll) == (best["lr"], best["unroll"]), name


def test_the_rates_are_the_published_schedules():
    sru = get_recipe("enwik8-sru").training
    for step in (1, 5_000, 31_999, 32_000, 200_000):
        noam = 3 / math.sqrt(1152) * min(step**-0.5, step * 32_000**-1.5)
        assert learning_rate(sru, (step - 1) / sru.steps) == pytest.approx(noam, rel=1e-6)
    srupp = get_recipe("enwik8-srupp-base").training
    assert learning_rate(srupp, 15_999 / 400_000) == pytest.approx(3e-4)
    ptb = get_recipe("ptb-sru").training
    epoch = ptb.steps / 300
    for epochs, decayed in ((100, 0), (175, 0), (176, 1), (299, 124)):
        rate = learning_rate(ptb, epochs * epoch / ptb.steps)
        assert rate == pytest.approx(35 * 0.98**decayed, rel=1e-6)


def test_the_lstm_has_as_many_parameters_as_the_sru():
    sru, lstm = (
        sum(p.numel() for p in LanguageModel(get_recipe(name).model).parameters())
        for name in ("python-bytes", "python-bytes-lstm")
    )
    assert abs(lstm / sru - 1) <= 0.02


def test_the_pair_differs_in_the_layers_and_the_learning_rate_alone():
    sru, lstm = get_recipe("python-bytes"), get_recipe("python-bytes-lstm")
    assert lstm.model.rnn == "lstm"
    assert lstm.data == sru.data
    assert replace(lstm.training, lr=sru.training.lr) == sru.training


@pytest.mark.parametrize("name", MODELS)
def test_json_brings_a_recipe_back(name):
    recipe = get_recipe(name)
    assert from_json(LanguageModelRecipe, json.loads(json.dumps(to_json(recipe)))) == recipe


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("model", "wdith", 3, r"model\.wdith is unknown; fields are .*width"),
        ("model", "width", "3", r"model\.width must be int, got '3'"),
        ("model", "width", -3, r"model\.width must be at least 1, got -3"),
        ("model", "width", True, r"model\.width must be int, got True"),
        ("model", "rnn", "os.system", r"model\.rnn must be .*got 'os.system'"),
        ("data", "paths", [1], r"data\.paths must be .*got \[1\]"),
        ("training", "lr", float("nan"), r"training\.lr must be positive and finite, got nan"),
        ("training", "betas", [0.9], r"training\.betas must be .*got \[0.9\]"),
        ("training", "accumulate", 5, r"training\.accumulate must divide data\.batch"),
    ],
)
def test_bad_values_are_refused_by_full_name(part, field, value, message):
    values = to_json(get_recipe("python-bytes_debug"))
    values[part][field] = value
    with pytest.raises(ValueError, match=message):
        from_json(LanguageModelRecipe, values)


def test_missing_parts_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match="model must be a table of fields, got 3"):
        from_json(LanguageModelRecipe, {"model": 3})
    with pytest.raises(ValueError, match=r"missing .*data"):
        from_json(LanguageModelRecipe, {"model": {}})


def test_unknown_recipe_names_the_known():
    with pytest.raises(ValueError, match=r"'enwik9' is unknown; there is .*, and what"):
        get_recipe("enwik9")


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        open_run(tmp_path)
    with pytest.raises(RunError, match="can't be read: File name too long"):
        open_run(tmp_path / ("a" * 300))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is damaged: expected JSON, found 1 bytes, b'{' first"),
        ("", "is damaged: expected JSON, found an empty file"),
        ("[" * 10**6, "is damaged: expected JSON"),
        ("[]", "is damaged: expected a table, found list"),
        ("{}", "found format None, written by torchsru None; expected 1, which torchsru"),
        (
            '{"format": 2, "torchsru": "0.9"}',
            "found format 2, written by torchsru '0.9'; expected 1",
        ),
        (
            '{"format": 1, "torchsru": "0.9"}',
            "by torchsru '0.9', is no recipe of torchsru .*'name'",
        ),
        (
            '{"format": 1, "name": "x", "recipe": {"model": {"width": -1}}}',
            "model.width must be at least 1, got -1",
        ),
        (
            '{"format": 1, "torchsru": "0.2", "name": "x", "recipe": {"model": {"wings": 2}}}',
            r"by torchsru '0\.2', is no recipe of .*: model.wings is unknown; fields are",
        ),
        ('{"format": 1, "name": "x", "resumed": 3}', "is no recipe of torchsru"),
    ],
)
def test_recipes_damaged_or_of_another_version_are_named(tmp_path, content, told):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(RunError, match=rf"recipe\.json.*{told}"):
        open_run(tmp_path)


def test_evaluation_refuses_data_that_has_changed(tmp_path):
    """What is held out now may have been trained on."""
    text, name = tmp_path / "text", "python-bytes_debug"
    text.write_bytes(bytes(range(256)) * 40)
    recipe = get_recipe(name)
    recipe = replace(recipe, data=replace(recipe.data, paths=(str(text),)))
    train(name, recipe, tmp_path / "run")
    text.write_bytes(bytes(range(256)) * 41)
    with pytest.raises(RunError, match="was trained on other data than what is there now"):
        evaluate_run(open_run(tmp_path / "run"))
    assert evaluate_run(open_run(tmp_path / "run"), paths=(str(text),))["bytes"] > 0


def test_evaluation_counts_every_byte_of_any_file(tmp_path):
    name = "python-bytes_debug"
    train(name, get_recipe(name), tmp_path / "run")
    run, text = open_run(tmp_path / "run"), tmp_path / "text"
    for count in (1, 2, 300, 4 * 256 + 3):
        text.write_bytes((b"def f(x):\n    return x\n" * 60)[:count])
        assert evaluate_run(run, paths=(str(text),))["bytes"] == count


@pytest.fixture
def own_text(tmp_path, monkeypatch):
    """A run's data named relative to a folder that is then left."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "text").write_bytes(bytes(range(256)) * 40)
    monkeypatch.chdir(tmp_path / "here")
    recipe = get_recipe("python-bytes_debug")
    return replace(
        recipe,
        data=replace(recipe.data, paths=("text",)),
        training=replace(recipe.training, steps=4),
    )


def longer(recipe, steps, **data):
    return replace(
        recipe,
        data=replace(recipe.data, **data),
        training=replace(recipe.training, steps=steps),
    )


def test_a_run_finds_its_data_from_anywhere(tmp_path, own_text, monkeypatch):
    name, folder = "python-bytes_debug", tmp_path / "run"
    train(name, own_text, folder)
    assert open_run(folder).recipe.data.paths == (str(tmp_path / "here" / "text"),)
    monkeypatch.chdir(tmp_path)
    train(name, longer(open_run(folder).recipe, 5), folder, resume=True)
    assert evaluate_run(open_run(folder))["bytes"] == 512
    (tmp_path / "here" / "text").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="does not exist"):
        train(name, longer(open_run(folder).recipe, 6), folder, resume=True)
    train(name, longer(open_run(folder).recipe, 6, paths=("moved",)), folder, resume=True)
    assert open_run(folder).recipe.data.paths == (str(tmp_path / "moved"),)
    assert open_run(folder).result["steps"] == 6


def test_what_a_resumption_changed_holds_for_the_next_one(tmp_path, own_text):
    name, folder = "python-bytes_debug", tmp_path / "run"
    train(name, own_text, folder)
    started = json.loads((folder / "recipe.json").read_text())
    train(name, longer(own_text, 5), folder, resume=True)
    about = json.loads((folder / "recipe.json").read_text())
    assert {key: about[key] for key in started} == started
    assert open_run(folder).recipe.training.steps == 5
    with pytest.raises(RunError, match=r"data\.unroll was 16 in .*, got 8"):
        train(name, longer(own_text, 9, unroll=8), folder, resume=True)


def test_another_seed_is_refused_on_resume(tmp_path, own_text):
    """It would read on at another place in the text, with the state of the first."""
    name, folder = "python-bytes_debug", tmp_path / "run"
    train(name, own_text, folder)
    other = longer(own_text, 5)
    other = replace(other, training=replace(other.training, seed=1))
    with pytest.raises(RunError, match=r"training\.seed was 0 in .*, got 1"):
        train(name, other, folder, resume=True)


def test_only_the_weights_are_read_to_use_a_model(tmp_path, own_text):
    train("python-bytes_debug", own_text, tmp_path / "run")
    checkpoint = max((tmp_path / "run" / "checkpoints").iterdir())
    (checkpoint / "training.safetensors").write_bytes(b"gone")
    run = open_run(tmp_path / "run")
    assert scores(load_model(run)).shape == (2, 1, 256)
    assert evaluate_run(run)["bytes"] == 512
    with pytest.raises(RunError, match=r"training\.safetensors is damaged"):
        train("python-bytes_debug", longer(own_text, 5), tmp_path / "run", resume=True)


@pytest.mark.parametrize("foreign", ["vocabulary", "layers"])
def test_weights_of_another_model_are_named_with_both_shapes(tmp_path, own_text, foreign):
    train("python-bytes_debug", own_text, tmp_path / "run")
    checkpoint = max((tmp_path / "run" / "checkpoints").iterdir())
    file = checkpoint / "model.safetensors"
    weights = load_file(file)
    if foreign == "vocabulary":
        for name in ("embedding.weight", "output.weight"):
            weights[name] = torch.zeros(300, 32)
        weights["output.bias"] = torch.zeros(300)
        told = r"embedding\.weight: found \[300, 32\] float32, expected \[256, 32\] float32; 2 more"
    else:
        weights = {name: w for name, w in weights.items() if "1" not in name}
        told = "found nothing, expected"
    file.write_bytes(save(weights))
    facts = json.loads((checkpoint / "training.json").read_text())
    facts["files"][file.name] = summary(file.read_bytes())
    (checkpoint / "training.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match=f"do not fit the recipe: .*{told}") as error:
        load_model(open_run(tmp_path / "run"))
    assert "\n" not in str(error.value)
    with pytest.raises(RunError, match=told):
        train("python-bytes_debug", longer(own_text, 5), tmp_path / "run", resume=True)


def test_a_run_of_before_there_were_vocabularies_opens(tmp_path, own_text):
    """Its recipe.json names eval_bytes and no source; it has no vocabulary.json."""
    name, folder = "python-bytes_debug", tmp_path / "run"
    train(name, own_text, folder)
    before = json.loads((Path(__file__).parent / "recipe_bytes.json").read_text())
    before["recipe"]["data"]["paths"] = own_text.data.paths
    (folder / "recipe.json").write_text(json.dumps(before))
    (folder / "vocabulary.json").unlink()
    run = open_run(folder)
    assert run.recipe.data.eval_tokens == 2048 and run.recipe.data.source == "text"
    assert load_vocabulary(run).size == 256 and evaluate_run(run)["bytes"] == 512
    train(name, longer(run.recipe, 6), folder, resume=True)
    assert (folder / "vocabulary.json").exists()


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A word model's run, its data gone."""
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").write_text("the cat sat on the mat .\n" * 200)
    recipe = get_recipe("python-bytes_debug")
    data = replace(recipe.data, paths=(str(tmp_path / "text"),), vocabulary="words")
    recipe = replace(recipe, data=data, training=replace(recipe.training, steps=4))
    train("python-bytes_debug", recipe, tmp_path / "run")
    (tmp_path / "text").unlink()
    shutil.rmtree(tmp_path / "cache")
    return open_run(tmp_path / "run")


def test_a_run_keeps_its_vocabulary(words, tmp_path):
    assert load_vocabulary(words).words[:4] == ["<eos>", "<unk>", "the", "cat"]
    model = load_model(words)
    assert model.embedding.weight.shape[0] == load_vocabulary(words).size == 8
    assert words.result["words"] == 4 * 16 * 4
    (tmp_path / "other").write_text("the dog\n" * 100)
    found = evaluate_run(words, paths=(str(tmp_path / "other"),), layout={"eval_batch": 1})
    assert found["words"] == 300 and 1 < found["perplexity"] < 100
    with pytest.raises(DataError, match="text' does not exist"):
        evaluate_run(words)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "vocabulary.json can't be read: No such file"),
        ("{", "vocabulary.json is damaged: expected JSON"),
        ("{}", "vocabulary.json is damaged: expected a vocabulary of format 1"),
    ],
)
def test_a_vocabulary_that_is_gone_or_damaged_is_named(words, content, told):
    file = words.folder / "vocabulary.json"
    file.write_text(content) if content else file.unlink()
    with pytest.raises(RunError, match=told):
        load_model(words)


def test_each_split_is_evaluated_whole_and_laid_out_as_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "cache"))
    spec = replace(PUBLISHED["ptb"], tokens={}, vocabulary_size=0)
    monkeypatch.setitem(PUBLISHED, "ptb", spec)
    for split, lines in (("train", 300), ("valid", 30), ("test", 40)):
        (tmp_path / f"ptb.{split}.txt").write_text("the cat sat\n" * lines)
    recipe = get_recipe("python-bytes_debug")
    data = replace(recipe.data, source="ptb", paths=(str(tmp_path),), eval_tokens=50)
    recipe = replace(recipe, data=data, training=replace(recipe.training, steps=4))
    train("python-bytes_debug", recipe, tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert [evaluate_run(run, split=split)["words"] for split in ("valid", "test")] == [120, 160]
    one, many = (evaluate_run(run, layout={"eval_batch": n, "eval_unroll": 8}) for n in (1, 15))
    assert one["perplexity"] != many["perplexity"]
    with pytest.raises(ValueError, match="eval_batch must be at least 1, got 0"):
        evaluate_run(run, layout={"eval_batch": 0})
    with pytest.raises(ValueError, match="eval_memory must be 0 for a model without attention"):
        evaluate_run(run, layout={"eval_memory": 9})


def test_a_run_of_a_gpu_is_evaluated_on_a_machine_without(tmp_path, own_text, monkeypatch):
    training = replace(own_text.training, steps=4, precision="float32", device="cpu")
    train("python-bytes_debug", replace(own_text, training=training), tmp_path / "run")
    run = open_run(tmp_path / "run")
    on_gpu = replace(run.recipe, training=replace(training, device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    elsewhere = evaluate_run(replace(run, recipe=on_gpu))
    assert elsewhere["bits_per_byte"] == evaluate_run(run)["bits_per_byte"]
    with pytest.raises(RunError, match="device 'cuda' was asked for"):
        train("python-bytes_debug", on_gpu, tmp_path / "new")  # it would take far longer


def test_a_split_that_the_data_lack_is_named(tmp_path, own_text):
    train("python-bytes_debug", own_text, tmp_path / "run")
    with pytest.raises(DataError, match="has no 'test'; it has train, valid"):
        evaluate_run(open_run(tmp_path / "run"), split="test")


def test_a_name_on_the_hub_is_no_path_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    for name, kept in (("no/such", "no/such"), ("local", str(tmp_path / "local"))):
        recipe = get_recipe("python-bytes")
        recipe = replace(recipe, data=TextData(source="hub", paths=(name,)))
        assert recipe.with_absolute_paths().data.paths == (kept,)


def test_published_sets_are_looked_for_in_one_folder(tmp_path, monkeypatch):
    recipe = get_recipe("enwik8-sru_debug")
    enwik8 = replace(recipe, data=replace(recipe.data, source="enwik8"))
    assert enwik8.with_absolute_paths().data.paths == ()
    monkeypatch.setenv("TORCHSRU_DATA", str(tmp_path))
    assert enwik8.with_absolute_paths().data.paths == ()  # it is not there
    (tmp_path / "enwik8").mkdir()
    assert enwik8.with_absolute_paths().data.paths == (str(tmp_path / "enwik8"),)
    with pytest.raises(DataError, match="enwik8"):
        train("enwik8-sru_debug", enwik8, tmp_path / "run")
    named = replace(enwik8, data=replace(enwik8.data, paths=("mine",)))
    assert named.with_absolute_paths().data.paths == (os.path.abspath("mine"),)
    own = get_recipe("python-bytes")
    assert own.with_absolute_paths() == own
