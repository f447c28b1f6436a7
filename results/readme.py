"""The tables in README.md, of tasks and of speeds.

python results/readme.py    from the rows of the scripts beside this one, and of
                            `torchsru bench --out results/cpu.jsonl`, cpu-avx2.jsonl
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import classification
import python_4m
import reading
import speech
import translation
from rows import put, table

from torchsru.bench import cases
from torchsru.bench.report import TABLE, TABLE_COLUMNS, about, times
from torchsru.bench.rows import Row, read_rows

FOLDER = Path(__file__).parent
RUNS = {"AVX-512": FOLDER / "cpu.jsonl", "AVX2": FOLDER / "cpu-avx2.jsonl"}
README = FOLDER.parent / "README.md"
SHOWN = {  # heading: that of docs/performance.md's table
    "SRU over its matrix products": "training over its three GEMMs",
    "`nn.LSTM` over SRU": "faster than nn.LSTM",
    "`nn.GRU` over SRU": "than nn.GRU",
    "package `sru` 2.6.0 over SRU": "than sru 2.6.0",
}
#: task and data: its page, the measure, its decimals, from a model to what it reached, and which of
#: SRU's stands beside which other one
TASKS = {
    "Byte language model, Python's sources, 180 s": (
        *("results.md", "bits per byte, less is better", 3),
        *(python_4m.reached, "sru", "lstm"),
    ),
    "Sentence classification, CR, SUBJ, MR, TREC": (
        *("tasks/classification.md", "accuracy, %", 1),
        *(classification.reached, "sru", "lstm"),
    ),
    "Question answering, XQuAD": (
        *("tasks/reading.md", "F1, %", 1),
        *(reading.reached, "sru-3", "lstm-3"),
    ),
    "Translation, Multi30k en-de": (
        *("tasks/translation.md", "BLEU", 1),
        *(translation.reached, "sru", "transformer"),
    ),
    "Speech recognition, spoken digits": (
        *("tasks/speech.md", "word error rate, %, less is better", 1),
        *(partial(speech.reached, "recognition"), "sru", "lstm"),
    ),
    "Denoising, spoken digits": (
        *("tasks/speech.md#denoising", "SI-SDR improvement, dB", 1),
        *(partial(speech.reached, "denoising"), "sru", "lstm"),
    ),
}


def tasks() -> list[str]:
    """Lines of the block of tasks."""
    cells = []
    for what, (page, measure, digits, reached, *models) in TASKS.items():
        ours, other = map(reached, models)
        cells.append([
            f"[{what}](docs/{page})",
            measure,
            *(f"{found.said}: {found.score:.{digits}f}" for found in (ours, other)),
            f"{ours.seconds / other.seconds:.2f}",
        ])  # fmt: skip
    return table(["task, data", "measure", "SRU", "beside it", "training time"], cells)


def speeds(runs: Mapping[str, Sequence[Row]]) -> list[str]:
    """Lines of the block of speeds, of rows by instruction set."""
    cells = [
        [
            ", ".join(map(str, size)),
            name,
            *(_shown(rows, size, TABLE_COLUMNS[c]) for c in SHOWN.values()),
        ]
        for size in TABLE
        for name, rows in runs.items()
    ]
    return [
        *table(["steps, batch, width", "CPU", *SHOWN], cells),
        "",
        "Time of a training step of one layer in float32, medians of ratios; `~`: a noisy one.",
        *(f"{name}: {_source(rows, RUNS[name])}" for name, rows in runs.items()),
    ]


def unequal(rows: Sequence[Row], path: Path) -> list[str]:
    """Lines of the block of rows of unequal lengths."""
    found = [row for row in rows if row.kind == "unequal" and row.over == cases.PACKED_SRU]
    shape = found[0].shape
    return [
        *table([f"{row.variant} over {row.over}" for row in found], [map(_ratio, found)]),
        "",
        f"Time of a training step over {shape['B']} rows of {shape['L'] // 4} to {shape['L']} "
        f"steps, {shape['layers']} bidirectional layers of {shape['d']}, medians of ratios; "
        f"packing and unpacking count. {_source(rows, path)}",
    ]


def _shown(rows: Sequence[Row], size: tuple[int, ...], column: tuple[str, str, str]) -> str:
    (row,) = [r for r in rows if (r.table_size, r.kind, r.variant, r.over) == (size, *column)]
    return _ratio(row)


def _ratio(row: Row) -> str:
    return f"{'~' if row.noisy else ''}{times(row.ratio)}"


def _source(rows: Sequence[Row], path: Path) -> str:
    facts = about(rows[0])
    return (
        f"{facts['machine']['cpu']}, {facts['threads']} threads, torch "
        f"{facts['versions']['torch']}, commit {facts['commit'][:7]}; rows: `results/{path.name}`."
    )


if __name__ == "__main__":
    runs = {name: read_rows(path) for name, path in RUNS.items()}
    put(README, "tasks", tasks())
    put(README, "speed", speeds(runs))
    put(README, "unequal", unequal(runs["AVX2"], RUNS["AVX2"]))
