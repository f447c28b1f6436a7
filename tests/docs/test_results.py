"""The scripts of results/ refuse half a table, and do not choose by what they test on."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "results"


def load(name, rows, folder, monkeypatch):
    monkeypatch.syspath_prepend(RESULTS)
    spec = importlib.util.spec_from_file_location(f"results_{name}", RESULTS / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    file, page = folder / "rows.jsonl", folder / "page.md"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    page.write_text(
        "before\n<!-- begin table, by x -->\nan earlier one\n<!-- end table -->\nafter\n"
    )
    monkeypatch.setattr(script, "ROWS", script.Rows("rows.jsonl"))
    monkeypatch.setattr(script.ROWS, "file", file)
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "draw", lambda *about, **style: None)
    return script, page


ABOUT = {"machine": {"cpu": "a CPU", "threads": 2}, "versions": {"torch": "2"}}


def translator(model, seed):
    test = {"bleu": 30.0 + seed, "chrf": 50.0, "subwords_per_second": 9.0, "signature": "s"}
    return {
        "kind": "run", "model": model, "seed": seed, "lr": 0.1, "parameters": 5,
        "environment": ABOUT, "subwords_per_second": 7.0, "curve": [],
        "test": {"1": test, "5": test},
    }  # fmt: skip


def test_a_table_of_translators_has_all_models_and_seeds(tmp_path, monkeypatch):
    rows = [translator(m, s) for m in ("transformer", "sru", "ssru") for s in (0, 1)]
    script, page = load("translation", rows[:-1], tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="lacks runs of ssru: `run FOLDER` comes first"):
        script.show()
    assert "earlier" in page.read_text()
    script, page = load("translation", rows, tmp_path, monkeypatch)
    script.show()
    written = page.read_text()
    assert "earlier" not in written and written.count("| 30.5 ± 0.7 |") == 6  # beam 5 and greedy


def test_readers_are_tuned_on_what_is_not_tested_on(tmp_path, monkeypatch):
    script, _ = load("reading", [], tmp_path, monkeypatch)
    asked = []
    monkeypatch.setattr(script, "measure", lambda key, file: asked.append(key))
    script.tune("file")
    assert {key["kind"] for key in asked} == {"tune"}
    judged = {(key["fold"] + 1) % script.FOLDS for key in asked}
    assert len(judged) == 1 and not judged & set(script.TESTED)


def test_a_table_of_readers_shows_its_figure(tmp_path, monkeypatch):
    models = ("sru-3", "sru-4", "sru-6", "lstm-3", "qrnn-4")
    rows = [
        {"kind": "run", "model": m, "fold": f, "lr": 0.1, "parameters": 5, "curve": [],
         "scores": [[f"article {f}", f"question {f}", 1.0, 1.0]]}
        for m in models for f in range(4)
    ]  # fmt: skip
    times = {"rnn_seconds": 1.0, "seconds": 2.0, "words_per_second": 3.0, "environment": ABOUT}
    rows += [{"kind": "time", "model": m, "repeat": 0, **times} for m in models]
    script, page = load("reading", rows[1:], tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="lacks runs or times"):
        script.show()
    script, page = load("reading", rows, tmp_path, monkeypatch)
    script.show()
    assert "](../figures/reading.png)" in page.read_text()


def classifier(kind, model, source, repeat):
    fold, seed = (0, repeat) if source == "trec" else (repeat, 0)
    row = {"kind": kind, "model": model, "set": source, "lr": 0.1, "fold": fold, "seed": seed}
    numbers = {"test_accuracy": 0.5, "parameters": 5, "curve": [], "environment": ABOUT}
    return {**row, **numbers, "seconds_an_epoch": 6.0 if model == "lstm" else 2.0}


def test_a_table_of_classifiers_says_how_much_faster_than_lstm_they_are(tmp_path, monkeypatch):
    script, _ = load("classification", [], tmp_path, monkeypatch)
    rows = [
        classifier(kind, model, source, repeat)
        for kind in ("time", "run")
        for model in script.NAMES
        for source in script.SETS
        for repeat in range(3 if kind == "run" else 1)
    ]
    script, page = load("classification", rows[:-1], tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="lacks runs or times"):
        script.show()
    script, page = load("classification", rows, tmp_path, monkeypatch)
    script.show()
    line = next(x for x in page.read_text().splitlines() if x.startswith("| SRU, 2 layers |"))
    assert line.endswith("| 50.0 ± 0.0 | 50.0 | 8.0 | 3.00 |")


def test_several_scripts_share_all_that_is_to_be_measured(monkeypatch):
    monkeypatch.syspath_prepend(RESULTS)
    import rows

    parts = [rows.share(list(range(7)), f"{n}/3") for n in (1, 2, 3)]
    assert sorted(n for part in parts for n in part) == list(range(7))
    for part in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(SystemExit, match="PART must be like 1/2"):
            rows.share([], part)


def test_the_command_of_a_script(monkeypatch, capsys):
    monkeypatch.syspath_prepend(RESULTS)
    import rows

    asked = []
    actions = {"run": lambda folder, part="1/1": asked.append((folder, part)), "table": asked.copy}
    for words in ([], ["walk"], ["run"], ["table", "x"]):
        monkeypatch.setattr(sys, "argv", ["script.py", *words])
        with pytest.raises(
            SystemExit, match=r"usage: python script.py run FOLDER \[PART\] \| table"
        ):
            rows.command(actions)
    monkeypatch.setattr(sys, "argv", ["script.py", "run", "x", "1/2"])
    rows.command(actions)
    assert asked == [("x", "1/2")]


def test_a_page_keeps_what_is_not_generated(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(RESULTS)
    import rows

    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin x, by y -->\nold\n<!-- end x -->\nb\n")
    rows.put(page, "x", ["| new |"])
    assert page.read_text() == "a\n<!-- begin x, by y -->\n\n| new |\n\n<!-- end x -->\nb\n"
    with pytest.raises(ValueError, match="must hold one part 'z'"):
        rows.put(page, "z", [])
