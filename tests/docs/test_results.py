"""The scripts of results/: what they measure, and what they make of it."""

import importlib
import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

RESULTS = Path(__file__).parents[2] / "results"
ABOUT = {
    "machine": {"cpu": "a CPU", "threads": 2},
    "versions": {"torch": "2"},
    "commit": "0123456789abcdef",
}
SCRIPTS = ("classification", "reading", "speech", "translation")
NEEDS = {"classification": ["F"], "reading": ["F"], "speech": ["denoising", "F"]}
NEEDS["translation"] = ["F"]
NUMBERS = {  # of any run and any test
    "accuracy": 0.5, "sentences": 9, "f1": 50.0, "bleu": 30.0, "chrf": 50.0, "nats": 1.0,
    "signature": "s", "subwords_per_second": 7.0, "wer": 0.25, "cer": 0.5, "beam_wer": 0.25,
    "si_sdr_improvement_db": 4.0, "improvement_under": {"white": 4, "pink": 4, "speakers": 4},
    "improvement_at_snr_db": {"-5.0": 4, "0.0": 4, "5.0": 4, "10.0": 4},
    "parameters": 5, "steps": 40, "environment": ABOUT,
}  # fmt: skip


@pytest.fixture
def shared(monkeypatch):
    monkeypatch.syspath_prepend(RESULTS)
    return importlib.import_module("rows")


def load(name, folder, shared, monkeypatch):
    """A script whose rows, page and figures are in a folder, and that trains nothing; what it would
    have trained."""
    script = importlib.import_module(name)
    trained = []

    @contextmanager
    def pretend(name, recipe):
        trained.append(recipe)
        # the more it learns at once, the better, and LSTMs take three times as long
        better = {key: recipe.training.lr for key in ("accuracy", "f1", "si_sdr_improvement_db")}
        result = {**NUMBERS, **better, "seconds": 60.0 if "lstm" in name else 20.0}
        yield result, SimpleNamespace(folder=folder)

    (folder / "figures").mkdir(exist_ok=True)
    names = ("table",) if name != "speech" else ("recognition", "denoising")
    pages = [f"<!-- begin {n}, by x -->\nan earlier one\n<!-- end {n} -->\n" for n in names]
    (folder / "page.md").write_text("before\n" + "".join(pages) + "after\n")
    monkeypatch.setattr(script.ROWS, "file", folder / "rows.jsonl")
    monkeypatch.setattr(script, "PAGE", folder / "page.md")
    monkeypatch.setattr(script, "DOCS", folder)
    monkeypatch.setattr(shared, "DOCS", folder)
    monkeypatch.setattr(script, "trained", pretend)
    monkeypatch.setattr(script, "curve", lambda where, number: [(20, 0.2), (40, 0.5)])
    if name == "reading":
        scored = [SimpleNamespace(article="a", id="q", exact_match=1.0, f1=0.5)]
        reader = SimpleNamespace(paragraphs=lambda split: [], score=lambda *about: scored)
        monkeypatch.setattr(script, "TextReader", lambda run: reader)
        monkeypatch.setattr(script, "means", lambda found: {})
        times = {"rnn_seconds": 1.0, "seconds": 2.0, "steps": 4, "words": 6}
        monkeypatch.setattr(script, "time_pass", lambda recipe: times | {"words_per_second": 3.0})
        monkeypatch.setattr(script.environment, "describe", lambda: ABOUT)
    else:
        monkeypatch.setattr(script, "evaluate_run", lambda run, **about: NUMBERS)
    if name == "translation":
        monkeypatch.setattr(script, "KEPT", folder / "kept")
        monkeypatch.setattr(script, "open_run", lambda where: SimpleNamespace(folder=where))
        monkeypatch.setattr(script.shutil, "copytree", lambda old, new: None)
    return script, trained


def run(script, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    actions = {n: getattr(script, n, None) for n in ("tune", "run", "time")}
    if script.__name__ == "reading":
        actions["time"] = script.time_models
    importlib.import_module("rows").command({**actions, "table": script.show})


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_table_and_a_figure_are_made_of_all_rows_and_of_no_less(
    name, tmp_path, shared, monkeypatch
):
    script, trained = load(name, tmp_path, shared, monkeypatch)
    run(script, monkeypatch, "all", *NEEDS[name])
    page = (tmp_path / "page.md").read_text()
    assert page.count("an earlier one") == (1 if name == "speech" else 0)
    assert "a CPU, 2 threads, torch 2, commit 0123456;" in page
    drawn = [file for file in (tmp_path / "figures").iterdir() if file.stat().st_size > 10_000]
    assert len(drawn) == 1 and f"figures/{drawn[0].name})" in page
    count = len(trained)
    run(script, monkeypatch, "run", *NEEDS[name])
    assert len(trained) == count  # all is there
    rows = script.ROWS.file.read_text().splitlines()
    kinds = [json.loads(row)["kind"] for row in rows]
    for kind in ("run", "time"):
        last = len(kinds) - 1 - kinds[::-1].index(kind)
        least = [row for i, row in enumerate(rows) if kinds[i] != kind or i == last]
        script.ROWS.file.write_text("\n".join(least) + "\n")
        with pytest.raises(SystemExit, match=r"lacks runs or times|holds no runs of all"):
            run(script, monkeypatch, "table")
        script.ROWS.file.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_rate_that_was_best_before_is_in_no_table(name, tmp_path, shared, monkeypatch):
    script, _ = load(name, tmp_path, shared, monkeypatch)
    run(script, monkeypatch, "all", *NEEDS[name])
    page, file = tmp_path / "page.md", script.ROWS.file
    before, rows = page.read_text(), file.read_text()
    file.write_text("")
    for row in map(json.loads, rows.splitlines()):
        if row["kind"] == "run":
            earlier = {**row, "lr": 0.7 * row["lr"], "parameters": 3}
            script.ROWS.add({**earlier, "recipe": shared.identity(script.recipe_for(earlier))})
    assert file.read_text()
    file.write_text(file.read_text() + rows)
    run(script, monkeypatch, "table")
    assert page.read_text() == before


@pytest.mark.parametrize("name", SCRIPTS)
def test_rows_of_another_recipe_are_measured_anew(name, tmp_path, shared, monkeypatch):
    script, trained = load(name, tmp_path, shared, monkeypatch)
    run(script, monkeypatch, "tune", *NEEDS[name])
    count = len(trained)
    rows = script.ROWS.file.read_text().splitlines()
    other = [json.dumps({**json.loads(row), "recipe": "another"}) for row in rows]
    script.ROWS.file.write_text("\n".join(other) + "\n")
    with pytest.raises(SystemExit, match="is not tuned"):
        run(script, monkeypatch, "run", *NEEDS[name])
    run(script, monkeypatch, "tune", *NEEDS[name])
    assert len(trained) == 2 * count


@pytest.mark.parametrize("name", SCRIPTS)
def test_nothing_is_tuned_on_what_is_tested_on(name, tmp_path, shared, monkeypatch):
    script, trained = load(name, tmp_path, shared, monkeypatch)
    run(script, monkeypatch, "tune", *NEEDS[name])
    tried = {}
    for recipe in trained:
        model = {k: v for k, v in shared.to_json(recipe)["model"].items() if k != "dropout"}
        tried.setdefault(json.dumps(model), set()).add((recipe.training.lr, recipe.model.dropout))
    assert len({len(trials) for trials in tried.values()}) == 1  # as many for each
    tuning, before = list(trained), len(trained)
    run(script, monkeypatch, "run", *NEEDS[name])
    tests = trained[before:]
    assert {recipe.training.lr for recipe in tests} <= {r.training.lr for r in tuning}

    def judged(recipe):  # by what the weights, and the rates, are chosen
        if name == "speech":
            names = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
            return names[names.index(recipe.data.speaker) + 1]
        return recipe.data.source, (recipe.data.fold + 1) % recipe.data.folds

    def tested(recipe):
        if name == "speech":
            return recipe.data.speaker
        return recipe.data.source, recipe.data.fold

    if name == "reading":
        judged, tested = (
            lambda recipe: (recipe.data.fold + 1) % recipe.data.folds,
            lambda recipe: recipe.data.fold,
        )
    if name != "translation":  # which has parts of its own for either
        assert not {judged(recipe) for recipe in tuning} & {tested(recipe) for recipe in tests}


def test_a_table_of_classifiers_says_how_much_faster_than_lstm_they_are(
    tmp_path, shared, monkeypatch
):
    script, _ = load("classification", tmp_path, shared, monkeypatch)
    run(script, monkeypatch, "all", "F")

    def row_of_sru():
        lines = (tmp_path / "page.md").read_text().splitlines()
        return next(x for x in lines if x.startswith("| SRU, 2 layers |"))

    # four sets of 20 s for 3 epochs
    assert row_of_sru().endswith("| 50.0 ± 0.0 | 50.0 | +0.0 ± 0.0 | 26.7 | 3.00 |")

    rows = list(map(json.loads, script.ROWS.file.read_text().splitlines()))
    for row in rows:  # LSTM is 0, 10 and 20 points worse on the folds of three sets
        if row["kind"] == "run" and row["model"] == "lstm":
            row["test_accuracy"] -= 0.1 * row["fold"]
    script.ROWS.file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(script, monkeypatch, "table")
    assert "| 50.0 | +7.5 ± 2.5 |" in row_of_sru()


def test_a_table_of_several_machines_is_refused(tmp_path, shared, monkeypatch):
    script, _ = load("classification", tmp_path, shared, monkeypatch)
    run(script, monkeypatch, "all", "F")
    first, *rows = script.ROWS.file.read_text().splitlines()[::-1]
    one_thread = first.replace('"threads": 2', '"threads": 1')
    script.ROWS.file.write_text("\n".join([*rows[::-1], one_thread]) + "\n")
    with pytest.raises(SystemExit, match="mixes a CPU, 1 thread, torch 2 and a CPU, 2 threads"):
        run(script, monkeypatch, "table")
    older = first.replace('"threads": 2', '"threads": 2, "isa_torch": "AVX2"')
    script.ROWS.file.write_text("\n".join([*rows[::-1], older]) + "\n")
    with pytest.raises(SystemExit, match=r"mixes a CPU, .* \(AVX2, .* and a CPU, .* \(None, "):
        run(script, monkeypatch, "table")


def test_half_a_table_of_language_models_is_refused(tmp_path, shared, monkeypatch):
    script = importlib.import_module("python_4m")
    rows = script.ROWS.find(kind="run")
    rows.remove(next(row for row in rows if row["model"] == "transformer-xl"))
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setattr(script.ROWS, "file", tmp_path / "rows.jsonl")
    with pytest.raises(SystemExit, match="lacks runs of transformer-xl: `run` comes first"):
        script.show()


def test_several_scripts_share_all_that_is_to_be_measured(shared):
    parts = [shared.share(list(range(7)), f"{n}/3") for n in (1, 2, 3)]
    assert sorted(n for part in parts for n in part) == list(range(7))
    for part in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(SystemExit, match="PART must be like 1/2"):
            shared.share([], part)


def test_the_command_of_a_script(shared, monkeypatch):
    asked = []
    actions = {
        "run": lambda folder, part="1/1": asked.append((folder, part)),
        "table": lambda: asked.append("table"),
    }
    usage = r"usage: python script.py run FOLDER \[PART\] \| table \| all FOLDER"
    for words in ([], ["walk"], ["run"], ["table", "x"], ["all"]):
        monkeypatch.setattr(sys, "argv", ["script.py", *words])
        with pytest.raises(SystemExit, match=usage):
            shared.command(actions)
    for words in (["run", "x", "1/2"], ["all", "y"]):
        monkeypatch.setattr(sys, "argv", ["script.py", *words])
        shared.command(actions)
    assert asked == [("x", "1/2"), ("y", "1/1"), "table"]


def test_a_page_keeps_what_is_not_generated(tmp_path, shared):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin x, by y -->\nold\n<!-- end x -->\nb\n")
    shared.put(page, "x", ["| new |"])
    assert page.read_text() == "a\n<!-- begin x, by y -->\n\n| new |\n\n<!-- end x -->\nb\n"
    with pytest.raises(ValueError, match="must hold one part 'z'"):
        shared.put(page, "z", [])


def test_the_readmes_tasks_are_those_of_the_rows(tmp_path, shared, monkeypatch):
    script = importlib.import_module("readme")
    before = script.README.read_text()
    monkeypatch.setattr(script, "README", tmp_path / "README.md")
    script.README.write_text(before)
    shared.put(script.README, "tasks", script.tasks())
    assert script.README.read_text() == before
    page, *said, reached, ours, theirs = script.TASKS["Question answering, XQuAD"]
    swapped = {"Question answering, XQuAD": (page, *said, reached, theirs, ours)}
    monkeypatch.setattr(script, "TASKS", swapped)
    assert script.tasks()[-1] not in before


def test_the_readmes_speeds_are_those_of_the_rows(tmp_path, shared, monkeypatch):
    script = importlib.import_module("readme")
    before = script.README.read_text()
    monkeypatch.setattr(script, "README", tmp_path / "README.md")
    script.README.write_text(before)
    runs = {name: script.read_rows(path) for name, path in script.RUNS.items()}
    shared.put(script.README, "speed", script.speeds(runs))
    shared.put(script.README, "unequal", script.unequal(runs["AVX2"], script.RUNS["AVX2"]))
    assert script.README.read_text() == before
    slower = {
        name: [replace(row, ratio=9 * row.ratio if row.ratio else None) for row in rows]
        for name, rows in runs.items()
    }
    assert script.speeds(slower) != script.speeds(runs)
    unequal = [script.unequal(some["AVX2"], script.RUNS["AVX2"]) for some in (slower, runs)]
    assert unequal[0] != unequal[1]
