"""What each step towards the recipe `python-bytes` gave: 100 s of training for each row.

    python results/python_bytes.py run     append a row a step to results/python-bytes.jsonl
    python results/python_bytes.py table   draw the newest rows into docs/training.md

Run it on a quiet machine with torchsru[train] installed; about 20 minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import DOCS, Rows, command, put, table

ROWS = Rows("python-bytes.jsonl")
PAGE = DOCS / "training.md"

FIRST = (
    "--model.width=512 --data.unroll=128 --training.embedding_lr=1 --training.lr=2e-3 "
    "--training.precision=float32"
)
STEPS = {  # what it is: recipe, options, environment
    "SRU, 4 layers of 512, float32, pure PyTorch": (
        "python-bytes",
        FIRST,
        {"TORCHSRU_DISABLE_COMPILED": "1"},
    ),
    "compiled kernels": ("python-bytes", FIRST, {}),
    "bfloat16": ("python-bytes", FIRST.replace("float32", "auto"), {}),
    "layers of 256, 64 steps a segment, learning rate 4e-3": (
        "python-bytes",
        "--training.embedding_lr=1",
        {},
    ),
    "embeddings at three times the rate: the recipe": ("python-bytes", "", {}),
    "nn.LSTM, half its learning rate": ("python-bytes-lstm", "--training.lr={half}", {}),
    "nn.LSTM, the recipe": ("python-bytes-lstm", "", {}),
    "nn.LSTM, twice its learning rate": ("python-bytes-lstm", "--training.lr={twice}", {}),
    "nn.LSTM, embeddings at the rate of the rest": (
        "python-bytes-lstm",
        "--training.embedding_lr=1",
        {},
    ),
}


def run() -> None:
    """Train each step and append its row."""
    from torchsru.recipes import get_recipe

    lr = get_recipe("python-bytes-lstm").training.lr
    for step, (recipe, options, environment) in STEPS.items():
        with tempfile.TemporaryDirectory() as folder:
            words = [
                *(sys.executable, "-m", "torchsru.cli", "train", recipe, "--out", f"{folder}/run"),
                *options.format(half=lr / 2, twice=2 * lr).split(),
                *("--training.evaluations=1", "--training.checkpoints=0"),
            ]
            subprocess.run(words, check=True, env={**os.environ, **environment})
            result = json.loads(Path(folder, "run", "result.json").read_text(encoding="utf-8"))
        ROWS.add({"step": step, "recipe": recipe, "options": options, **result})


def show() -> None:
    """Put the newest row of each step into the page."""
    rows = ROWS.newest("step")
    cells = [
        [step, f"{r['parameters']:,}", f"{r['bytes_per_second']:,.0f}", f"{r['bits_per_byte']:.3f}"]
        for (step,), r in rows.items()
    ]
    headings = ["step", "parameters", "bytes/s", "held-out bits per byte"]
    put(PAGE, "steps", [*table(headings, cells), "", ROWS.about(rows.values())])


if __name__ == "__main__":
    command({"run": run, "table": show})
