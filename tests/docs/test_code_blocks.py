"""Every Python block of the README and the docs runs.

The blocks of a page run in order and share their names, as a reader would type them. A block that
can't run is preceded by a line `<!-- skip: reason -->`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

FENCE = re.compile(r"^( *)```+ *(\w*)")
SKIP = re.compile(r"^<!-- skip: (.+) -->$")


@dataclass(frozen=True)
class Block:
    line: int  # of its first line of code, from 1
    code: str
    skip: str | None  # the reason


def python_blocks(text: str) -> list[Block]:
    """Find the fenced Python blocks of a Markdown page."""
    blocks: list[Block] = []
    lines = text.splitlines()
    i = 0
    while i < len(lines):
        opening = FENCE.match(lines[i])
        if not opening:
            i += 1
            continue
        indent, language = opening.groups()
        if language.lower() in ("py", "python3", "pycon"):
            raise ValueError(f"line {i + 1}: write ```python, got ```{language}: it would not run")
        start = i + 1
        i = start
        while i < len(lines) and not lines[i].strip().startswith("```"):
            i += 1
        if i == len(lines):
            raise ValueError(f"line {start}: the block is not closed")
        if language == "python":
            reason = SKIP.match(lines[start - 2].strip()) if start >= 2 else None
            code = "\n".join(line.removeprefix(indent) for line in lines[start:i])
            blocks.append(Block(start + 1, code, reason[1] if reason else None))
        i += 1
    return blocks


def run_page(name: str, text: str) -> tuple[int, int]:
    """Run a page's blocks; return how many ran and how many are marked as not to be run."""
    blocks = python_blocks(text)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        if block.skip is None:
            padded = "\n" * (block.line - 1) + block.code  # a traceback shows the page's own line
            exec(compile(padded, name, "exec"), names)
    skipped = sum(block.skip is not None for block in blocks)
    return len(blocks) - skipped, skipped


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(str(page), page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/index.md",
        "docs/compat.md",
        "docs/ops/sru.md",
        "docs/nn/sru.md",
        "docs/recurrences.md",
    ],
)
def test_pages_with_examples_have_blocks(page):
    blocks = python_blocks((ROOT / page).read_text(encoding="utf-8"))
    assert [b for b in blocks if b.skip is None]


def test_a_broken_block_fails_and_names_its_line():
    text = (
        "# Page\n\n```bash\nls\n```\n\n"
        "```python\na = 1\n```\n\n"
        "- item\n\n  ```python\n  a / 0\n  ```\n"
    )
    assert [b.line for b in python_blocks(text)] == [8, 14]
    with pytest.raises(ZeroDivisionError) as error:
        run_page("page.md", text)
    last = error.traceback[-1]
    assert (str(last.path).endswith("page.md"), last.lineno + 1) == (True, 14)


def test_only_a_reason_skips():
    text = "{}\n```python\n1 / 0\n```\n"
    assert run_page("page.md", text.format("<!-- skip: needs a GPU -->")) == (0, 1)
    for no_reason in ("", "<!-- skip -->", "<!-- skip: -->"):
        with pytest.raises(ZeroDivisionError):
            run_page("page.md", text.format(no_reason))


@pytest.mark.parametrize("text", ["```py\n1\n```\n", "```python\n1\n"])
def test_a_block_that_would_not_be_found_is_an_error(text):
    with pytest.raises(ValueError, match="line 1"):
        python_blocks(text)
