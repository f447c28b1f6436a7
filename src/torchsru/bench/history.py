"""Rows of an earlier run: of a file, or of a commit of this checkout."""

import subprocess
from pathlib import Path

from torchsru.bench.cases import BenchError
from torchsru.bench.rows import Row, parse_rows, read_rows
from torchsru.ops import cpu_info

#: Where a checkout keeps the rows that its pages are drawn from, by device.
COMMITTED = {
    "cpu": ("results/cpu.jsonl", "results/cpu-avx2.jsonl"),
    "cuda": ("results/gpu.jsonl",),
}


def rows_of(source: str, device: str, folder: Path | None = None) -> list[Row]:
    """Rows of a file, or of a commit: those measured at it, else those that it holds.

    Of a commit's files the one named after this CPU's instruction set comes first.

    Args:
        source: a path, or whatever git takes for a commit.
        device: whose rows, for a commit.
        folder: inside the checkout. Default: that of this package.

    Raises: BenchError if it is neither, or there are no rows.
    """
    if Path(source).exists():
        return read_rows(Path(source))
    isa = str(cpu_info()["isa_used"])
    files = sorted(COMMITTED[device], key=lambda file: isa not in file)
    here = folder or Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            run = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
        except OSError:
            return None
        return run.stdout if run.returncode == 0 else None

    commit = git("rev-parse", "--verify", "--quiet", f"{source}^{{commit}}")
    if commit is None:
        raise BenchError(f"{source} must be a file of rows or a commit of this checkout")
    commit = commit.strip()
    for file in files:
        for version in (git("log", "--format=%H", "--all", "--", f":/{file}") or "").split():
            text = git("show", f"{version}:{file}")
            if text and f'"commit": "{commit}"' in text:
                return parse_rows(text, f"{file} of {version[:12]}")
    for file in files:
        if text := git("show", f"{commit}:{file}"):
            return parse_rows(text, f"{file} of {commit[:12]}")
    raise BenchError(f"no rows were measured at {source}, and it holds no {' or '.join(files)}")
