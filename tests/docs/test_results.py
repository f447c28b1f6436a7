"""The scripts of results/ refuse half a table, and do not choose by what they test on."""

import importlib.util
import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "results"


def load(name, rows, folder, monkeypatch):
    spec = importlib.util.spec_from_file_location(f"results_{name}", RESULTS / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    file, page = folder / "rows.jsonl", folder / "page.md"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    page.write_text(f"before\n{script.BEGIN}\nan earlier one\n{script.END}\nafter\n")
    monkeypatch.setattr(script, "ROWS", file)
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "draw", lambda found: None)
    return script, page


ABOUT = {"machine": {"cpu": "a CPU", "threads": 2}, "versions": {"torch": "2"}}


def translator(model, seed):
    test = {"bleu": 30.0 + seed, "chrf": 50.0, "subwords_per_second": 9.0, "signature": "s"}
    return {
        "kind": "run", "model": model, "seed": seed, "lr": 0.1, "parameters": 5,
        "environment": ABOUT, "subwords_per_second": 7.0, "test": {"1": test, "5": test},
    }  # fmt: skip


def test_a_table_of_translators_has_all_models_and_seeds(tmp_path, monkeypatch):
    rows = [translator(m, s) for m in ("transformer", "sru", "ssru") for s in (0, 1)]
    script, page = load("translation", rows[:-1], tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="lacks runs of ssru: `run FOLDER` comes first"):
        script.table()
    assert "earlier" in page.read_text()
    script, page = load("translation", rows, tmp_path, monkeypatch)
    script.table()
    written = page.read_text()
    assert "earlier" not in written and written.count("| 30.5 ± 0.7 |") == 6  # beam 5 and greedy


def test_readers_are_tuned_on_what_is_not_tested_on(tmp_path, monkeypatch):
    script, _ = load("reading", [], tmp_path, monkeypatch)
    asked = []
    monkeypatch.setattr(script, "measure", lambda *about: asked.append(about))
    script.tune("file")
    assert {kind for kind, *_ in asked} == {"tune"}
    judged = {(fold + 1) % script.FOLDS for *_, fold, _ in asked}
    assert len(judged) == 1 and not judged & set(script.TESTED)


def test_a_table_of_readers_shows_its_figure(tmp_path, monkeypatch):
    models = ("sru-3", "sru-4", "sru-6", "lstm-3", "qrnn-4")
    rows = [
        {"kind": "run", "model": m, "fold": f, "lr": 0.1, "parameters": 5,
         "scores": [[f"article {f}", f"question {f}", 1.0, 1.0]]}
        for m in models for f in range(4)
    ]  # fmt: skip
    times = {"rnn_seconds": 1.0, "seconds": 2.0, "words_per_second": 3.0, "environment": ABOUT}
    rows += [{"kind": "time", "model": m, "repeat": 0, **times} for m in models]
    script, page = load("reading", rows[1:], tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match="lacks runs or times"):
        script.table()
    script, page = load("reading", rows, tmp_path, monkeypatch)
    script.table()
    assert "](../figures/reading.png)" in page.read_text()
