"""Results as rows of data: one JSON object a line, one comparison a row.

A variant that is compared with two others has two rows; one that is compared with none has one,
with `over` null. Times are `median_s`, memory is `median_bytes`; quartiles likewise.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torchsru.bench.cases import BenchError, Case, shape_to_json
from torchsru.bench.measure import Spread, Variant, ratio

VALUES = ("median", "q1", "q3")
UNITS = ("s", "bytes")
BUSY = 0.25  # cores


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison. Quartiles are q1 and q3; `unit` is "s" or "bytes"."""

    case: str
    kind: str
    variant: str
    shape: dict[str, int | bool]
    dtype: str
    device: str
    threads: int
    unit: str
    median: float
    q1: float
    q3: float
    n: int
    over: str | None
    ratio: float | None
    ratio_q1: float | None
    ratio_q3: float | None
    noisy: bool  # quartiles far apart, or times taken while other processes were at work
    busy_cores: float | None  # kept busy by other processes just before the case
    target: float | None
    bound: str | None  # "at most" or "at least" the target
    met: bool | None
    machine: dict[str, Any]
    versions: dict[str, str | None]
    commit: str | None
    dirty: bool | None
    date: str

    @property
    def key(self) -> tuple[str, str, str | None, str, str, int]:
        """What makes two rows of different runs the same measurement."""
        return (self.case, self.variant, self.over, self.dtype, self.device, self.threads)

    @property
    def table_size(self) -> tuple[int, ...] | None:
        """L, B, d where this is one layer in float32, as in the table of targets."""
        one_layer = self.shape.get("layers") == 1 and self.dtype == "float32"
        return tuple(self.shape[name] for name in "LBd") if one_layer else None

    def to_json(self) -> str:
        out = {}
        for name, value in asdict(self).items():
            if name != "unit":
                out[f"{name}_{self.unit}" if name in VALUES else name] = value
        return json.dumps(out)

    @classmethod
    def from_json(cls, line: str) -> "Row":
        """Raises ValueError naming what is missing or unknown."""
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        unit = next((u for u in UNITS if f"median_{u}" in found), None)
        if unit is None:
            raise ValueError("median_s or median_bytes is missing")
        found["unit"] = unit
        for name in VALUES:
            found[name] = found.pop(f"{name}_{unit}", None)
        names = {f.name for f in fields(cls)}
        if missing := names - found.keys():
            raise ValueError(f"{sorted(missing)} missing")
        if unknown := found.keys() - names:
            raise ValueError(f"{sorted(unknown)} unknown")
        return cls(**found)


def make_rows(
    case: Case,
    variants: list[Variant],
    samples: dict[str, list[float]],
    about: dict[str, Any],
    busy_cores: float | None = None,
) -> list[Row]:
    """Rows of one measured case.

    Args:
        samples: of each variant, by its name.
        about: device, threads, machine, versions, commit, dirty, date.
        busy_cores: kept busy by other processes just before.
    """
    unit = "bytes" if case.kind == "memory" else "s"
    targets = {(t.variant, t.over): t for t in case.targets}
    rows = []
    for variant in variants:
        own = Spread.of(samples[variant.name])
        for over in variant.over or (None,):
            quotient = ratio(samples[variant.name], samples[over]) if over else None
            target = targets.get((variant.name, over))
            measured = quotient or own
            rows.append(
                Row(
                    case=case.name,
                    kind=case.kind,
                    variant=variant.name,
                    shape=shape_to_json(case.shape),
                    dtype=case.dtype,
                    unit=unit,
                    median=own.median,
                    q1=own.q1,
                    q3=own.q3,
                    n=own.n,
                    over=over,
                    ratio=quotient.median if quotient else None,
                    ratio_q1=quotient.q1 if quotient else None,
                    ratio_q3=quotient.q3 if quotient else None,
                    noisy=measured.noisy or (unit == "s" and (busy_cores or 0) > BUSY),
                    busy_cores=busy_cores,
                    target=target.value if target else None,
                    bound=target.bound if target else None,
                    met=target.met(measured.median) if target else None,
                    **about,
                )
            )
    return rows


def read_rows(path: Path) -> list[Row]:
    """Rows of a file. Raises BenchError naming file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(Row.from_json(line))
        except (ValueError, TypeError) as error:
            raise BenchError(f"{path}, line {number} is not a row: {error}") from error
    if not rows:
        raise BenchError(f"{path} holds no rows")
    return rows
