"""The table of speeds in README.md.

python results/readme.py    from the rows of `torchsru bench --out results/cpu.jsonl`
"""

from collections.abc import Sequence
from pathlib import Path

from rows import put, table

from torchsru.bench.report import TABLE, TABLE_COLUMNS, about, times
from torchsru.bench.rows import Row, read_rows

ROWS = Path(__file__).with_name("cpu.jsonl")
README = ROWS.parents[1] / "README.md"
SHOWN = {  # heading: that of docs/performance.md's table
    "SRU over its matrix products": "training over its three GEMMs",
    "`nn.LSTM` over SRU": "faster than nn.LSTM",
    "`nn.GRU` over SRU": "than nn.GRU",
    "package `sru` 2.6.0 over SRU": "than sru 2.6.0",
}


def lines(rows: Sequence[Row]) -> list[str]:
    """Of the block."""
    found = {(row.table_size, row.kind, row.variant, row.over): row for row in rows}
    cells = []
    for size in TABLE:
        ratios = [found[(size, *TABLE_COLUMNS[column])] for column in SHOWN.values()]
        shown = [f"{'~' if r.noisy else ''}{times(r.ratio)}" for r in ratios]
        cells.append([", ".join(map(str, size)), *shown])
    facts = about(rows[0])
    machine = f"{facts['machine']['cpu']}, {facts['threads']} threads"
    return [
        *table(["steps, batch, width", *SHOWN], cells),
        "",
        f"Time of a training step of one layer in float32, medians of ratios; `~`: a noisy one. "
        f"{machine}, torch {facts['versions']['torch']}, commit {facts['commit'][:7]}; rows: "
        f"`results/{ROWS.name}`.",
    ]


if __name__ == "__main__":
    put(README, "speed", lines(read_rows(ROWS)))
