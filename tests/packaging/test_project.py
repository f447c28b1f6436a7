"""The project's lists agree: dependencies, pins, versions."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML parser")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def test_the_build_does_not_ask_for_torch():
    requires = [name_of(r) for r in PYPROJECT["build-system"]["requires"]]
    assert requires == ["scikit-build-core"]


def test_every_dependency_is_pinned():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    rows = [row for row in pins.splitlines() if row and not row.startswith("#")]
    assert [row for row in rows if "==" not in row] == []
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = {name_of(r) for group in extras.values() for r in group} - {"torchsru"}
    wanted |= {name_of(r) for r in PYPROJECT["build-system"]["requires"]}
    assert len(wanted) > 10
    assert wanted - {name_of(row) for row in rows} == set()


def test_torch_is_pinned_where_the_readme_says():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^TORCH \?= torch==[\d.]+$", makefile, re.MULTILINE)


def test_changelog_has_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {PYPROJECT['project']['version']}" in changelog


def test_make_has_the_targets_that_the_docs_name():
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    targets = {line.split()[0] for line in shown.stdout.splitlines()}
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    named = set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named - targets == set()


def test_the_files_that_headers_name_exist():
    """A file's header says where it is checked, and where its speed is measured."""
    row = re.compile(r"^(?://)? *Check  .*(?:\n(?://)?  +\S.*)*", re.MULTILINE)
    name = re.compile(r"\b(?:tests|src|csrc)/[\w/]*\w(?:\.\w+)?")
    named = {
        (str(file.relative_to(ROOT)), path)
        for folder in ("src", "csrc")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in {".py", ".cpp", ".h"}
        for found in row.findall(file.read_text(encoding="utf-8"))
        for path in name.findall(found)
    }
    assert len(named) >= 30
    assert ("csrc/kernels.cpp", "csrc/tests/kernel_tests.cpp") in named  # the second of a line
    assert [(file, path) for file, path in sorted(named) if not (ROOT / path).exists()] == []
