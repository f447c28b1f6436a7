"""Kinds of layers beside each other: equal parameters, equal budgets, one table."""

import json
import os
import shlex
import signal
from dataclasses import replace

import pytest

from torchsru.cli import main
from torchsru.cli.arguments import add_recipe_options, make_parser, options_of, parse, recipe_from
from torchsru.cli.compare import FAR, Comparison, Planned, line, plan
from torchsru.models import LanguageModel
from torchsru.models.language_model import KINDS
from torchsru.recipes import LanguageModelRecipe, get_recipe
from torchsru.recipes.comparison import (
    DEFAULT,
    count_parameters,
    nearest_width,
    width_unit,
    with_kind,
)
from torchsru.recipes.run import open_run
from torchsru.train.language_model import LanguageModelling

NAME = "python-bytes_debug"
BYTES = 256


@pytest.fixture
def words(tmp_path):
    """Of a comparison of two kinds on a small text."""
    text = tmp_path / "text"
    text.write_text("to be or not to be, that is the question\n" * 200)
    return [
        *("compare", NAME, "--data", str(text), "--rnn", "sru", "lstm"),
        *("--training.steps", "4", "--training.log_every", "1", "--out", str(tmp_path / "out")),
    ]


def result_of(out, kind):
    return json.loads((out / kind / "result.json").read_text())


def refused(capsys, *argv):
    """The one line that a refused command prints."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("torchsru: ")
    return err


# -- parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "symbols"),
    [
        *(("python-4m-sru", BYTES), ("enwik8-sru-47m", 205), ("enwik8-srupp-base", 205)),
        ("wikitext-103-srupp-base", 267_735),
    ],
)
def test_every_kind_has_as_many_parameters(name, symbols):
    recipe = get_recipe(name)
    asked = Comparison(name=name, recipe=recipe, rnn=KINDS)
    wanted = count_parameters(recipe.model, symbols)
    for kind in KINDS:
        its = plan(asked, kind, symbols, wanted)
        assert its.parameters == count_parameters(its.recipe.model, symbols)
        assert abs(its.parameters / wanted - 1) < FAR, kind
        assert its.recipe.model.rnn == kind
        assert its.recipe.model.layers == recipe.model.layers
        assert its.recipe.data.source == recipe.data.source
        assert its.recipe.training == recipe.training
    assert plan(asked, recipe.model.rnn, symbols, wanted).recipe == recipe


def test_parameters_are_counted_as_they_are():
    for kind in KINDS:
        values, _ = with_kind(get_recipe(NAME), kind)
        model = replace(get_recipe(NAME).model, rnn=kind, memory=values["model"]["memory"])
        made = sum(p.numel() for p in LanguageModel(model, 77).parameters())
        assert count_parameters(model, 77) == made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parameters", [30_000, 123_457])
def test_the_width_is_the_nearest(kind, parameters):
    """A multiple of 8 if one is within 1 %; if none is, no width that the kind takes is nearer."""
    own = {"heads": 3} if kind in ("srupp", "transformer-xl") else {}
    model = with_kind(get_recipe(NAME), kind)[0]["model"] | own

    def off(width):
        config = replace(get_recipe(NAME).model, **{**model, "width": width})
        return abs(count_parameters(config, BYTES) / parameters - 1)

    found, unit = nearest_width(model, BYTES, parameters), width_unit(model)
    assert found % unit == 0
    others = [width for width in range(unit, found + 30, unit) if width > found - 30]
    if off(found) > 0.01:
        assert off(found) == min(map(off, others))
    elif found % 8:
        assert not [width for width in others if width % 8 == 0 and off(width) <= 0.01]


def test_one_width_for_all_would_not_do():
    recipe = get_recipe("python-bytes")
    counts = {
        kind: count_parameters(replace(recipe.model, rnn=kind, heads=1), BYTES)
        for kind in ("sru", "lstm", "srupp")
    }
    wanted = count_parameters(recipe.model, BYTES)
    assert counts["sru"] == wanted and abs(counts["lstm"] / wanted - 1) > 0.2
    assert abs(counts["srupp"] / wanted - 1) > 0.2


def test_what_a_kind_does_not_take_is_dropped():
    recipe = get_recipe("enwik8-sru-47m")
    values, dropped = with_kind(recipe, "lstm")
    assert dropped == ["projection", "highway_bias", "state_dropout"]
    assert values["model"]["highway_bias"] is None and values["model"]["output_dropout"] == 0.3
    values, dropped = with_kind(recipe, "transformer-xl")
    assert {"embedding_dropout", "output_dropout"} < {*dropped}
    values, dropped = with_kind(get_recipe("enwik8-srupp-base"), "gru")
    assert "eval_memory" in dropped and values["data"]["eval_memory"] == 0
    assert with_kind(get_recipe("enwik8-srupp-base"), "transformer-xl")[1] == ["projection"]
    assert with_kind(recipe, "sru")[1] == []


def test_what_is_far_off_is_said():
    its = Planned(get_recipe(NAME), 1_021_000, [])
    assert "1,021,000 parameters (2.1% more than the 1,000,000 wanted)" in line("sru", its, 10**6)
    its = Planned(get_recipe(NAME), 979_000, ["projection"])
    assert "(2.1% fewer than" in (said := line("sru", its, 10**6)) and said.endswith(
        "; without projection"
    )
    assert "wanted" not in line("sru", Planned(get_recipe(NAME), 1_019_000, []), 10**6)


def test_the_recipes_own_kind_is_compared_where_none_are_named():
    lstm = get_recipe("python-bytes-lstm")
    kinds = Comparison(name="", recipe=lstm).kinds
    assert kinds == ["lstm", *(kind for kind in DEFAULT if kind != "lstm")]


# -- runs ------------------------------------------------------------------------------------------


def test_the_table_holds_what_the_runs_hold(words, tmp_path, capsys):
    out = tmp_path / "[old]"  # no markup
    words[words.index("--out") + 1] = str(out)
    assert main([*words, "--set", "lstm.training.lr=2e-2", "--model.highway_bias", "-1"]) == 0
    printed = capsys.readouterr().out
    assert f"curves: {out / 'curves.png'} " in printed
    rows = {row["model"]: row for row in json.loads((out / "results.json").read_text())}
    assert list(rows) == ["sru", "lstm"]
    table = {}
    for shown in printed.splitlines():
        cells = [cell.strip() for cell in shown.strip("│").split("│")]
        table[cells[0]] = cells[1:]
    for kind, lr in {"sru": 1e-2, "lstm": 2e-2}.items():
        result, recipe = result_of(out, kind), open_run(out / kind).recipe
        assert rows[kind].items() >= result.items()
        assert result["steps"] == 4 and recipe.training.lr == lr and recipe.model.rnn == kind
        assert table[kind] == [
            f"{recipe.model.width}",
            f"{result['parameters']:,}",
            f"{lr:g}",
            "4",
            f"{result['seconds']:.1f}",
            f"{result['bytes_per_second']:,.0f}",
            f"{result['bits_per_byte']:.3f}",
        ]
    wanted = result_of(out, "sru")["parameters"]
    assert all(row["parameters_wanted"] == wanted for row in rows.values())
    assert result_of(out, "lstm")["bytes"] == result_of(out, "sru")["bytes"]
    assert open_run(out / "sru").recipe.model.highway_bias == -1
    assert rows["lstm"]["dropped"] == ["highway_bias"] and "; without highway_bias" in printed
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "add --resume" in refused(capsys, *words)


def test_what_was_stopped_goes_on_and_what_is_finished_stays(words, tmp_path, capsys, monkeypatch):
    out, batches, batch = tmp_path / "out", [], LanguageModelling.batch

    def interrupting(task, step):
        batches.append(step)
        if batches == [0, 1, 2, 3, 0, 1]:  # in the second run
            os.kill(os.getpid(), signal.SIGINT)
        return batch(task, step)

    monkeypatch.setattr(LanguageModelling, "batch", interrupting)
    assert main(words) == 130
    err = capsys.readouterr().err
    command = f"torchsru compare {NAME} --out {out} --resume"
    assert "stopped at step 2 and saved; step-" in err and err.endswith(f"on with: {command}\n")
    assert not (out / "results.json").exists()
    finished = (out / "sru" / "result.json").stat().st_mtime_ns
    argv = shlex.split(command)[1:]
    assert main(argv) == 0
    assert batches == [0, 1, 2, 3, 0, 1, 2, 3]
    assert (out / "sru" / "result.json").stat().st_mtime_ns == finished
    resumed = json.loads((out / "lstm" / "recipe.json").read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [2]
    whole = tmp_path / "whole"
    assert main([*words, "--out", str(whole)]) == 0
    assert result_of(whole, "lstm")["bits_per_byte"] == result_of(out, "lstm")["bits_per_byte"]

    assert main([*argv, "--training.steps", "5", "--rnn", "gru", "lstm"]) == 0
    rows = json.loads((out / "results.json").read_text())
    assert [(row["model"], row["steps"]) for row in rows] == [("gru", 5), ("lstm", 5)]
    assert result_of(out, "sru")["steps"] == 4
    capsys.readouterr()
    assert "model.dropout was 0.0 in" in refused(capsys, *argv, "--model.dropout", "0.5")
    assert f"compares {NAME}, got ptb-sru" in refused(
        capsys, "compare", "ptb-sru", "--out", str(out), "--resume"
    )


def test_words_have_perplexities(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "cache"))
    assert main([*words, "--data.vocabulary", "words", "--parameters", "20000"]) == 0
    printed = capsys.readouterr().out
    for kind in ("sru", "lstm"):
        result = result_of(tmp_path / "out", kind)
        assert f"{result['perplexity']:.3f}" in printed
        assert abs(result["parameters"] / 20_000 - 1) < FAR
    assert "words/s" in printed


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--rnn", "lsmt"], "rnn must be of sru, lstm"),
        (["--parameters", "0"], "parameters must lie in [1, 2^40], got 0"),
        (["--parameters", "many"], "parameters must be a whole number, got 'many'"),
        (["--parameters", "9"], "sru: parameters must be at least"),
        (["--set", "gru.training.lr=1"], "set must be of sru, lstm, got 'gru.training.lr=1'"),
        (["--set", "lsmt.training.lr=1"], "set must be KIND.FIELD=VALUE"),
        (["--set", "lstm.training.lr"], "set must be KIND.FIELD=VALUE"),
        (["--set", "lstm.training.lr=-1"], "lstm: training.lr must be positive"),
        (["--set", "lstm.model.wdith=3"], "--model.wdith=3"),
        (["--set", "lstm.model.rnn=gru"], "lstm: model.rnn must be 'lstm', got 'gru'"),
        (["--set", "lstm.model.projection=3"], "lstm: model.projection needs rnn='sru'"),
        (["--training.nodes", "2"], "compare runs on one machine"),
        (["--data", "/nowhere/at/all"], "'/nowhere/at/all' does not exist"),
        (["--resume"], "out is not a comparison: it holds no compare.json"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(words, tmp_path, capsys, argv, told):
    assert told in refused(capsys, *words, *argv)
    assert not (tmp_path / "out").exists()


def test_other_recipes_and_folders_are_refused(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert "must be a language model's" in refused(capsys, "compare", "classify-sru", *out)
    assert "'enwik9' is unknown" in refused(capsys, "compare", "enwik9", *out)
    assert "compare needs a recipe" in refused(capsys, "compare", "--rnn", "sru", NAME)
    assert "is there already" in refused(capsys, "compare", NAME, "--out", str(tmp_path))
    (tmp_path / "compare.json").write_text('{"format": 2}')
    again = ["compare", NAME, "--out", str(tmp_path), "--resume"]
    assert "found format 2" in refused(capsys, *again)
    (tmp_path / "compare.json").write_text('{"format": 1, "asked": {"name": "x"}}')
    assert "is no comparison of torchsru" in refused(capsys, *again)


def test_several_processes_are_told_the_same(words, tmp_path, monkeypatch):
    """Each run is started as `torchsru train` with these words."""
    started = []

    def launch(module, argv, **how):
        started.append((argv, how))
        return 1

    monkeypatch.setattr("torchsru.cli.train.launch", launch)
    assert main([*words, "--training.devices", "2", "--rnn", "lstm"]) == 1
    ((argv, how),) = started
    assert argv[:4] == ["train", NAME, "--out", str(tmp_path / "out" / "lstm")]
    assert how == {"processes": 2, "nodes": 1}
    parser = make_parser("train", "")
    add_recipe_options(parser, LanguageModelRecipe)
    recipe = recipe_from(get_recipe(NAME), parse(parser, argv[4:]))
    assert (recipe.model.rnn, recipe.training.devices, recipe.training.steps) == ("lstm", 2, 4)
    assert options_of(recipe, get_recipe(NAME)) == argv[4:]
