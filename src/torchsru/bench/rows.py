"""Results as rows of data: one JSON object a line, one comparison a row.

A variant that is compared with two others has two rows; one that is compared with none has one,
with `over` null. Times are `median_s`, memory is `median_bytes`, rates are `median_bytes_per_s`
and `median_operations_per_s`; quartiles likewise. `over` may be "floor": see floor.py.
"""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torchsru.bench.cases import FLOOR, BenchError, Case, shape_to_json
from torchsru.bench.measure import Spread, Variant, ratio

VALUES = ("median", "q1", "q3")
UNITS = ("s", "bytes", "bytes_per_s", "operations_per_s")
BUSY = 0.25  # cores that other processes may keep busy without a row being called noisy


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison. Quartiles are q1 and q3; fields with a default came later."""

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
    mode: str = "eager"  # or "graph": replays of a CUDA graph
    tf32: bool = False  # float32 products, cuDNN's included, may use it
    floor_s: float | None = None  # see floor.py

    @property
    def key(self) -> tuple[str, str, str | None, str, str, int, str, bool]:
        """What makes two rows of different runs the same measurement."""
        what = (self.case, self.variant, self.over, self.dtype)
        return (*what, self.device, self.threads, self.mode, self.tf32)

    @property
    def table_size(self) -> tuple[int, ...] | None:
        """L, B, d where this is one layer in float32, as in the table of a CPU's targets."""
        one_layer = self.shape.get("layers") == 1 and self.dtype == "float32"
        one_layer &= self.case.startswith(f"{self.kind}: ")  # and has no title of its own
        return tuple(self.shape[name] for name in "LBd") if one_layer else None

    @property
    def shared(self) -> bool:
        """Whether other processes kept the CPU busy that it was measured on."""
        return self.device == "cpu" and (self.busy_cores or 0) > BUSY

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
        optional = {f.name for f in fields(cls) if f.default is not MISSING}
        if missing := names - optional - found.keys():
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
    targets = {(t.variant, t.over): t for t in case.targets}
    rows = []
    for variant in variants:
        own = Spread.of(samples[variant.name])
        for over in variant.over or (None,):
            quotient = _quotient(variant, over, samples)
            target = targets.get((variant.name, over))
            measured = quotient or own
            rows.append(
                Row(
                    case=case.name,
                    kind=case.kind,
                    variant=variant.name,
                    shape=shape_to_json(case.shape),
                    dtype=case.dtype,
                    unit=variant.unit,
                    median=own.median,
                    q1=own.q1,
                    q3=own.q3,
                    n=own.n,
                    over=over,
                    ratio=quotient.median if quotient else None,
                    ratio_q1=quotient.q1 if quotient else None,
                    ratio_q3=quotient.q3 if quotient else None,
                    noisy=measured.noisy or _disturbed(case, variant, busy_cores, about),
                    busy_cores=busy_cores,
                    target=target.value if target else None,
                    bound=target.bound if target else None,
                    met=target.met(measured.median) if target else None,
                    mode=case.mode,
                    tf32=case.tf32,
                    floor_s=variant.floor_s,
                    **about,
                )
            )
    return rows


def rates(rows: list[Row]) -> dict[str, float]:
    """The ceilings among rows, by name: upper quartiles, since whatever disturbs lowers a rate."""
    return {row.variant: row.q3 for row in rows if row.kind == "ceilings"}


def _quotient(variant: Variant, over: str | None, samples: dict[str, list[float]]) -> Spread | None:
    own = samples[variant.name]
    if over is None:
        return None
    if over == FLOOR:
        assert variant.floor_s
        return ratio(own, [variant.floor_s] * len(own))
    return ratio(own, samples[over])


def _disturbed(
    case: Case, variant: Variant, busy_cores: float | None, about: dict[str, Any]
) -> bool:
    """Whether other processes may have moved it; they do not touch a GPU's replay of a graph."""
    on_cpu = about["device"] == "cpu" or not case.graph
    return on_cpu and variant.unit != "bytes" and (busy_cores or 0) > BUSY


def read_rows(path: Path) -> list[Row]:
    """Rows of a file. Raises BenchError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} cannot be read: {error}") from error
    return parse_rows(text, str(path))


def parse_rows(text: str, source: str) -> list[Row]:
    """Rows of a text. Raises BenchError naming source and line."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(Row.from_json(line))
        except (ValueError, TypeError) as error:
            raise BenchError(f"{source}, line {number} is not a row: {error}") from error
    if not rows:
        raise BenchError(f"{source} holds no rows")
    return rows
