"""The log of a run: rows of JSON, and the same numbers as TensorBoard curves.

A row is {"kind": "train" | "eval", "step": ..., "seconds": ..., numbers}. After a resume the rows
continue without gaps or repeats: those written after the checkpoint are dropped.
"""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from torchsru.train.folder import RunError, found, make_folder, naming, write_file

FILE = "log.jsonl"
CURVES = "tensorboard"
ROW_START = b'{"kind": "'


class Log:
    """Appends rows to RUN/log.jsonl and RUN/tensorboard; `step` is the last one to keep.

    Raises: RunError, here and in `write` and `sync`, if they can't be written.
    """

    def __init__(self, folder: Path, step: int):
        self.path, curves = folder / FILE, folder / CURVES
        kept = [row for row in read_log(folder) if row["step"] <= step]
        write_file(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        make_folder(curves)
        with naming(folder):
            self._rows = open(self.path, "ab")  # noqa: SIM115 (closed by __exit__)
            # TensorBoard reads a folder's files sorted by name. Its own writer is a thread: what
            # that holds would be lost when the process is killed, its errors unseen
            part = len(list(curves.iterdir()))
            name = f"events.out.tfevents.{int(time.time()):010d}.{part:06d}"
            self._events = open(curves / name, "ab")  # noqa: SIM115
        self._curves = RecordWriter(self._events)
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, kind: str, step: int, seconds: float, numbers: dict[str, float]) -> None:
        """Add a row: its kind, the step and the training seconds it belongs to, its numbers."""
        row = {"kind": kind, "step": step, "seconds": seconds, **numbers}
        values = [Summary.Value(tag=f"{kind}/{k}", simple_value=v) for k, v in numbers.items()]
        with naming(self.path):
            self._rows.write(json.dumps(row).encode() + b"\n")
            self._rows.flush()
        self._add(Event(step=step, summary=Summary(value=values)))

    def sync(self) -> None:
        """Flush to disk all that was written."""
        with naming(self.path):
            os.fsync(self._rows.fileno())
            os.fsync(self._events.fileno())

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        with naming(Path(self._events.name)):
            self._curves.write(event.SerializeToString())
            self._curves.flush()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # all is flushed, but for what has already failed
            self._rows.close()
        with suppress(OSError):
            self._events.close()


def read_evaluation(folder: Path, step: int) -> dict[str, float]:
    """The numbers of the evaluation at a step, empty if the log has none. Raises RunError."""
    rows = (row for row in read_log(folder) if (row.get("kind"), row["step"]) == ("eval", step))
    apart = ("kind", "step", "seconds", "eval_seconds")
    return next(({k: v for k, v in row.items() if k not in apart} for row in rows), {})


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run's log; a last line cut short by a crash is left out.

    Raises: RunError if another line is no row.
    """
    file = folder / FILE
    with naming(file, "read"):
        content = file.read_bytes() if file.exists() else b""
    *lines, cut = content.split(b"\n")
    if not ROW_START.startswith(cut[: len(ROW_START)].rstrip(b"\0")):  # zeros: the power went
        lines.append(cut)
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
            if not isinstance(rows[-1]["step"], int):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RunError(
                f"{file} is damaged: line {number}: expected a row, found {found(line)}"
            ) from None
    return rows
