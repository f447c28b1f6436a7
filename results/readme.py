"""The tables in README.md, of tasks and of speeds.

python results/readme.py    from the rows of the scripts beside this one, and of
                            `torchsru bench --out results/cpu.jsonl`
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import classification
import python_4m
import reading
import speech
import translation
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


def lines(rows: Sequence[Row]) -> list[str]:
    """Lines of the block of speeds."""
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
    put(README, "tasks", tasks())
    put(README, "speed", lines(read_rows(ROWS)))
