"""The log of a run: rows of JSON, and the same numbers as TensorBoard curves.

A row is {"kind": "train" | "eval", "step": ..., "seconds": ..., numbers}. After a resume the rows
continue without gaps or repeats: those written after the checkpoint are dropped.
"""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from torchsru.train.checkpoint import write_file

FILE = "log.jsonl"


class Log:
    """Appends rows to RUN/log.jsonl and RUN/tensorboard; `step` is the last one to keep."""

    def __init__(self, folder: Path, step: int):
        kept = [row for row in read_log(folder) if row["step"] <= step]
        write_file(folder / FILE, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = open(folder / FILE, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        self._curves = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, seconds: float, numbers: dict[str, float]) -> None:
        """Add a row: its kind, the step and the training seconds it belongs to, its numbers."""
        row = {"kind": kind, "step": step, "seconds": seconds, **numbers}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            self._curves.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._curves.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run's log; a last line cut short by a crash is left out."""
    file = folder / FILE
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
