"""Tables from rows: on the terminal with rich, in pages as markdown."""

import importlib.util
import os
from collections import Counter
from pathlib import Path
from typing import Any

from torchsru.bench.cases import (
    GEMM_FRESH,
    GEMM_REUSED,
    GEMMS,
    GRU,
    LSTM,
    ORIGINAL,
    SRU,
    BenchError,
    Case,
)
from torchsru.bench.rows import Row
from torchsru.bench.suites import TABLE

WIDTH = 132  # of tables that go to a file

NO_FLOORS = "No floors: other processes kept the CPU busy while its ceilings were measured."

MARKS = {True: "met", False: "MISSED", None: ""}


# -- numbers --------------------------------------------------------------------------------------


def seconds(value_s: float) -> str:
    """A time with three digits and its unit."""
    factor, unit = (1.0, "s") if value_s >= 1 else (1e3, "ms") if value_s >= 1e-3 else (1e6, "us")
    return f"{_digits(value_s * factor)} {unit}"


def amount(value: float, unit: str) -> str:
    """A measured value with its unit, one of `rows.UNITS`."""
    if unit == "s":
        return seconds(value)
    if unit == "bytes":
        return f"{_digits(value / 2**20)} MiB"
    factor, prefix = (1e12, "T") if value >= 1e12 else (1e9, "G")
    return f"{_digits(value / factor)} {prefix}{'B' if unit == 'bytes_per_s' else 'FLOP'}/s"


def times(ratio: float) -> str:
    """A ratio with three digits or so."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def emulated_words(dtype: str, slower: float) -> str:
    """Why cases of a type are left out."""
    return f"products of {dtype} are {times(slower)} times slower here than of float32"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def bound(which: str, value: float, case: Case | None = None) -> str:
    """A target as text; a case whose target stands alone has it in seconds."""
    sign = "<=" if which == "at most" else ">="
    alone = case is not None and any(t.over is None and t.value == value for t in case.targets)
    return f"{sign} {seconds(value) if alone else f'{value:g}'}"


def _target(row: Row) -> str:
    if row.target is None or row.bound is None:
        return ""
    value = f"{row.target:g}" if row.over else amount(row.target, row.unit)
    return f"{'<=' if row.bound == 'at most' else '>='} {value}"


# -- a table per case -----------------------------------------------------------------------------

COLUMNS = ("variant", "median", "quartiles", "n", "ratio", "over", "quartiles", "target", "")


def columns(rows: list[Row]) -> tuple[str, ...]:
    """Column titles of a case's table."""
    more = [title for title, wanted in _more(rows).items() if wanted]
    return (*COLUMNS, *more)


def _more(rows: list[Row]) -> dict[str, bool]:
    """Which of the columns that not every case has are there."""
    return {
        "times its floor": any(row.floor_s for row in rows),
        "ns per element": rows[0].kind in ("kernel", "backends", "recurrence"),
    }


def cells(rows: list[Row]) -> list[list[str]]:
    """The rows of one case as text; a variant that has several rows states its times once."""
    out: list[list[str]] = []
    last = None
    for row in rows:
        first = row.variant != last
        last = row.variant
        spread = f"{amount(row.q1, row.unit)} - {amount(row.q3, row.unit)}"
        own = [row.variant, amount(row.median, row.unit), spread, str(row.n)]
        compared = ["", "", ""]
        if row.ratio is not None and row.ratio_q1 is not None and row.ratio_q3 is not None:
            quartiles = f"{times(row.ratio_q1)} - {times(row.ratio_q3)}"
            compared = [times(row.ratio), row.over or "", quartiles]
        mark = " ".join(filter(None, [MARKS[row.met], "noisy" if row.noisy else ""]))
        line = [*(own if first else [""] * 4), *compared, _target(row), mark]
        more = {"times its floor": "", "ns per element": ""}
        if first and row.floor_s:
            more["times its floor"] = times(row.median / row.floor_s)
        if first and row.kind in ("kernel", "backends", "recurrence"):
            L, B, d = (row.shape[name] for name in "LBd")
            more["ns per element"] = f"{1e9 * row.median / (L * B * d):.3g}"
        line += [more[title] for title, wanted in _more(rows).items() if wanted]
        out.append(line)
    return out


def summary(rows: list[Row]) -> str:
    """How many targets were met."""
    judged = [row for row in rows if row.met is not None]
    missed = [row for row in judged if not row.met]
    noisy = [row for row in judged if row.noisy]
    lines = [f"{len(judged) - len(missed)} of {len(judged)} targets met, {len(noisy)} noisy"]
    for row in missed:
        value = times(row.ratio) if row.ratio is not None else amount(row.median, row.unit)
        over = f" over {row.over}" if row.over else ""
        noise = ", noisy" if row.noisy else ""
        line = f"  missed: {row.case}: {row.variant}{over} {value}, {_target(row)}{noise}"
        lines.append(line + _limit(row, rows))
    return "\n".join(lines) if judged else "no targets among these cases"


def _limit(row: Row, rows: list[Row]) -> str:
    """Whether the machine allows a missed target: what SRU at its products' speed would reach."""
    if row.over != SRU:
        return ""
    for floor in rows:
        same = (floor.case, floor.variant, floor.over) == (row.case, row.variant, GEMMS)
        if same and floor.ratio is not None:
            return f" (over the {GEMMS} alone {times(floor.ratio)})"
    return ""


def heading(about: dict[str, Any]) -> str:
    """What the numbers were measured on, in a few lines."""
    machine, versions = about["machine"], about["versions"]
    tools = {
        "torchsru": "torchsru", "torch": "torch", "Python": "python", "CUDA": "cuda",
        "cuDNN": "cudnn", "Triton": "triton", "MKL": "mkl", "oneDNN": "onednn",
    }  # fmt: skip
    if about["device"] == "cuda":
        where = f"{machine['gpu']}, {machine['gpu_memory_gib']} GiB; on {machine['cpu']}"
        where += "; tiles tuned (TORCHSRU_TUNE=1)" if machine.get("tuned") else ""
        tools = {k: v for k, v in tools.items() if k not in ("MKL", "oneDNN")}
    else:
        caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
        where = (
            f"{machine['cpu']}, {machine['cores']} cores, {about['threads']} threads\n"
            f"caches {caches}; {machine['ram_gib']} GiB; torchsru uses "
            f"{machine['isa_torchsru'] or 'no compiled kernels'}"
        )
        tools = {k: v for k, v in tools.items() if k not in ("CUDA", "cuDNN", "Triton")}
    named = [f"{name} {versions[key]}" for name, key in tools.items() if versions.get(key)]
    return (
        f"{where}\n{', '.join(named)}, {versions['os']}\n"
        f"commit {(about['commit'] or 'unknown')[:12]}{', changed' if about['dirty'] else ''}, "
        f"{about['date']}"
    )


def about(row: Row) -> dict[str, Any]:
    """What a row says about where it was measured."""
    names = ("device", "threads", "machine", "versions", "commit", "dirty", "date")
    return {name: getattr(row, name) for name in names}


# -- two runs -------------------------------------------------------------------------------------

COMPARE_COLUMNS = ("case", "variant", "over", "old", "new", "new / old", "between", "verdict")


def differences(old: Row, new: Row) -> str:
    """What two runs do not share, one fact a line."""
    lines = [f"old: commit {(old.commit or 'unknown')[:12]}, {old.date}"]
    lines.append(f"new: commit {(new.commit or 'unknown')[:12]}, {new.date}")
    for what in ("machine", "versions"):
        one, two = getattr(old, what), getattr(new, what)
        for name in sorted(one.keys() | two.keys()):
            if one.get(name) != two.get(name):
                lines.append(f"{what} differs: {name} {one.get(name)} -> {two.get(name)}")
    return "\n".join(lines)


def compare(old: list[Row], new: list[Row]) -> list[list[str]]:
    """Rows of two runs side by side: ratios where a row has one, else its own values.

    A ratio to another variant of the same run is what survives a slower day of the machine. The
    change lies between the quotients of opposite quartiles; the verdict is "same" where they
    enclose 1, and noisy rows are marked. Raises BenchError if nothing is shared.
    """
    before = {row.key: row for row in old}
    out = []
    for row in new:
        if (was := before.get(row.key)) is None:
            continue
        one, two = _span(was), _span(row)
        if not all(one):
            continue
        change, low, high = two[1] / one[1], two[0] / one[2], two[2] / one[0]
        verdict = "lower" if high < 1 else "higher" if low > 1 else "same"
        noisy = ", noisy" if was.noisy or row.noisy else ""
        shown = [times(s[1]) if row.over else amount(s[1], row.unit) for s in (one, two)]
        between = f"{low:.3f} - {high:.3f}"
        out.append(
            [row.case, row.variant, row.over or "", *shown, f"{change:.3f}", between,
             verdict + noisy]
        )  # fmt: skip
    if not out:
        raise BenchError("the two runs share no case, variant, type, device, threads and mode")
    return out


def verdicts(lines: list[list[str]]) -> str:
    """How many rows of `compare` changed which way."""
    counts = Counter(line[-1] for line in lines)
    return ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))


def _span(row: Row) -> tuple[float, float, float]:
    """q1, median, q3 of the ratio where there is one, else of the value."""
    if row.ratio is None or row.ratio_q1 is None or row.ratio_q3 is None:
        return row.q1, row.median, row.q3
    return row.ratio_q1, row.ratio, row.ratio_q3


# -- markdown -------------------------------------------------------------------------------------

TABLE_COLUMNS = {  # title: kind, variant, over
    "inference over its GEMM, reused": ("inference", SRU, GEMM_REUSED),
    "fresh": ("inference", SRU, GEMM_FRESH),
    "training over its three GEMMs": ("training", SRU, GEMMS),
    "faster than nn.LSTM": ("training", LSTM, SRU),
    "than nn.GRU": ("training", GRU, SRU),
    "than sru 2.6.0": ("training", ORIGINAL, SRU),
}


def markdown(rows: list[Row]) -> str:
    """All tables: the overview of one layer on a CPU first, then each case in full."""
    parts = ["```text\n" + heading(about(rows[0])) + "\n\n" + summary(rows) + "\n```"]
    if lines := overview(rows):
        parts.append(lines)
    return "\n\n".join([*parts, *case_tables(rows, "###")]) + "\n"


def overview(rows: list[Row]) -> str:
    """A line per shape of the table of a CPU's targets; empty without such rows."""
    lines = _overview(rows)
    if not lines:
        return ""
    said = "Median ratio (target): bold where the target is missed, `~` where it is noisy."
    return said + "\n\n" + markdown_table(("L, B, d", *TABLE_COLUMNS), lines)


def case_tables(rows: list[Row], level: str) -> list[str]:
    """A heading of this level and a table for each case."""
    parts = []
    for name in dict.fromkeys(row.case for row in rows):
        of_case = [row for row in rows if row.case == name]
        parts.append(f"{level} {name}")
        parts.append(markdown_table(columns(of_case), cells(of_case)))
    return parts


def _overview(rows: list[Row]) -> list[list[str]]:
    found = {}
    for row in rows:
        found[(row.table_size, row.kind, row.variant, row.over)] = row
    out = []
    for size in TABLE:
        line = [_overview_cell(found.get((size, *column))) for column in TABLE_COLUMNS.values()]
        if any(line):
            out.append([", ".join(map(str, size)), *line])
    return out


def _overview_cell(row: Row | None) -> str:
    if row is None or row.ratio is None:
        return ""
    value = ("~" if row.noisy else "") + times(row.ratio)
    value = f"**{value}**" if row.met is False else value
    return f"{value} ({_target(row)})" if row.target is not None else value


def markdown_table(titles: tuple[str, ...], lines: list[list[str]]) -> str:
    """A table in markdown."""
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [list(titles), ["---"] * len(titles), *escaped]
    )


def images(files: list[Path], page: Path) -> str:
    """Links from a page to figures, in markdown."""
    links = [Path(os.path.relpath(file, page.parent)).as_posix() for file in files]
    return "".join(f"![{file.stem}]({link})\n\n" for file, link in zip(files, links, strict=True))


# -- terminal -------------------------------------------------------------------------------------


def show(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def show_table(title: str, titles: tuple[str, ...], lines: list[list[str]]) -> None:
    """Print a table: with rich where it is installed, else as markdown."""
    if importlib.util.find_spec("rich") is None:
        show(f"\n{title}\n\n{markdown_table(titles, lines)}")
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in titles:
        left = name in ("case", "variant", "over", "verdict", "")
        whole = name in ("case", "variant", "over")
        table.add_column(name, justify="left" if left else "right", no_wrap=whole)
    for line in lines:
        style = "red" if any("MISSED" in cell for cell in line) else None
        if any("noisy" in cell for cell in line) and style is None:
            style = "yellow"
        table.add_row(*(Text(cell) for cell in line), style=style)
    console = Console()
    (console if console.is_terminal else Console(width=WIDTH)).print(table)
