"""Rows of an earlier run: a file's, or a commit's."""

import subprocess
from dataclasses import replace

import pytest

from torchsru.bench import history
from torchsru.bench.cases import BenchError
from torchsru.bench.history import COMMITTED, rows_of


@pytest.fixture
def checkout(rows, tmp_path):
    """A folder with code, rows measured at it, then others; the first two commits."""
    folder = tmp_path / "checkout"
    (folder / "results").mkdir(parents=True)

    def git(*arguments):
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        command = ["git", *identity, *arguments]
        run = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    def write(commit):
        text = "".join(replace(row, commit=commit).to_json() + "\n" for row in rows[:3])
        (folder / COMMITTED["cpu"][0]).write_text(text)
        (folder / COMMITTED["cpu"][1]).write_text(text.replace("Test CPU", "Other CPU"))
        git("add", ".")
        git("commit", "-m", "rows")
        return git("rev-parse", "HEAD")

    git("init", "-b", "main")
    git("commit", "--allow-empty", "-m", "code")
    code = git("rev-parse", "HEAD")
    measured = write(code)
    write("f" * 40)
    return folder, code, measured


def test_a_commits_rows_are_those_measured_at_it(checkout):
    folder, code, _ = checkout
    assert {r.commit for r in rows_of(code, "cpu", folder)} == {code}
    assert {r.commit for r in rows_of(code[:10], "cpu", folder)} == {code}


def test_else_those_that_it_holds(checkout):
    folder, code, measured = checkout
    assert {r.commit for r in rows_of("main", "cpu", folder)} == {"f" * 40}
    assert {r.commit for r in rows_of(measured, "cpu", folder)} == {code}


@pytest.mark.parametrize(
    ("isa", "cpu"),
    [("avx512", "Test CPU"), ("avx2", "Other CPU"), (None, "Test CPU")],
)
def test_rows_of_a_cpu_like_this_one_come_first(isa, cpu, checkout, monkeypatch):
    folder, code, measured = checkout
    monkeypatch.setattr(history, "cpu_info", lambda: {"isa_used": isa})
    for commit in (code, measured, "main"):
        assert {row.machine["cpu"] for row in rows_of(commit, "cpu", folder)} == {cpu}


def test_a_file_is_read(rows, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(rows[0].to_json() + "\n")
    assert rows_of(str(file), "cpu") == rows[:1]


def test_what_is_neither_is_named(checkout):
    folder, *_ = checkout
    with pytest.raises(BenchError, match="nothing must be a file of rows or a commit"):
        rows_of("nothing", "cpu", folder)
    with pytest.raises(BenchError, match=r"holds no results/gpu\.jsonl"):
        rows_of("main", "cuda", folder)
