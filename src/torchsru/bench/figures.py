"""Figures from rows, with matplotlib (torchsru[bench]): on white, readable on any page."""

from pathlib import Path
from typing import Any

from torchsru.bench.cases import (
    CONV,
    GEMM_FRESH,
    GEMM_REUSED,
    GEMMS,
    GRU,
    LSTM,
    ORIGINAL,
    SRU,
    BenchError,
)
from torchsru.bench.report import seconds, times
from torchsru.bench.rows import Row
from torchsru.bench.suites import TABLE

FORMATS = ("png", "svg")

# Okabe and Ito's palette: told apart by every eye
COLOURS = {
    GEMMS: "#999999",
    SRU: "#0072B2",
    CONV: "#56B4E9",
    LSTM: "#E69F00",
    GRU: "#D55E00",
    ORIGINAL: "#CC79A7",
}
OVERHEADS = {  # label: kind, over, colour
    "inference, GEMM's output reused": ("inference", GEMM_REUSED, "#0072B2"),
    "inference, GEMM's output fresh": ("inference", GEMM_FRESH, "#56B4E9"),
    "training, three GEMMs": ("training", GEMMS, "#E69F00"),
}


def draw(rows: list[Row], folder: Path, formats: list[str], run: str) -> list[Path]:
    """Draw a run's training times and overheads on a CPU, and times by length; returns the files.

    Args:
        run: a name that theirs begin with.

    Raises: BenchError if matplotlib is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise BenchError("figures need matplotlib: pip install 'torchsru[bench]'") from error
    table = [row for row in rows if row.table_size in TABLE and row.device == "cpu"]
    figures = {
        "training": _training(table, Figure),
        "overhead": _overhead(table, Figure),
        "length": _length(rows, Figure),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in figures.items():
        for suffix in formats if figure else ():
            files.append(folder / f"bench-{run}-{name}.{suffix}")
            # no date and no random ids: the same rows give the same file
            metadata = {"Date": None} if suffix == "svg" else {"Software": None}
            with rc_context({"svg.hashsalt": "torchsru"}):
                figure.savefig(files[-1], dpi=160, facecolor="white", metadata=metadata)
    return files


def _sizes(rows: list[Row], kind: str) -> dict[tuple[int, ...], list[Row]]:
    """Rows of a kind by L, B, d, in the order of the table."""
    found: dict[tuple[int, ...], list[Row]] = {size: [] for size in TABLE}
    for row in rows:
        if row.kind == kind and row.table_size is not None:
            found[row.table_size].append(row)
    return {size: some for size, some in found.items() if some}


def _subtitle(row: Row) -> str:
    machine = row.machine
    where = machine["gpu"] if row.device == "cuda" else f"{machine['cpu']}, {row.threads} threads"
    if row.device == "cpu" and machine["isa_torchsru"]:
        where += f", {machine['isa_torchsru']}"
    return f"{where}, {row.dtype}, torch {row.versions['torch']}"


def _training(rows: list[Row], figure_class: Any) -> Any:
    """A panel per shape: milliseconds per training step; labels give multiples of SRU."""
    groups = _sizes(rows, "training")
    if not groups:
        return None
    counts = [len({row.variant for row in some}) for some in groups.values()]
    figure = figure_class(figsize=(7.5, 1.2 + 0.2 * sum(counts) + 0.5 * len(counts)))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=counts)[:, 0]
    for axis, (size, some) in zip(axes, groups.items(), strict=True):
        medians = {row.variant: row for row in some}
        names = [name for name in COLOURS if name in medians]
        widths = [1e3 * medians[name].median for name in names]
        errors = [
            [1e3 * (medians[n].median - medians[n].q1) for n in names],
            [1e3 * (medians[n].q3 - medians[n].median) for n in names],
        ]
        axis.barh(names, widths, color=[COLOURS[n] for n in names], height=0.75)
        axis.errorbar(widths, names, xerr=errors, fmt="none", ecolor="black", elinewidth=1)
        for name, width, above in zip(names, widths, errors[1], strict=True):
            multiple = _multiple(name, some)
            label = seconds(width / 1e3) + (f"  {times(multiple)}x" if multiple else "")
            axis.annotate(
                label, (width + above, name), (4, 0), textcoords="offset points", va="center",
                fontsize=8,
            )  # fmt: skip
        axis.set_xlim(0, 1.22 * max(w + e for w, e in zip(widths, errors[1], strict=True)))
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title("L = {}, B = {}, d = {}".format(*size), fontsize=9, loc="left")
    axes[-1].set_xlabel(
        "ms per training step (forward, backward, all gradients); x: over SRU", fontsize=9
    )
    figure.suptitle(f"Training step of one layer\n{_subtitle(rows[0])}", fontsize=10)
    return figure


def _multiple(variant: str, rows: list[Row]) -> float | None:
    """A variant's time over SRU's, paired within turns like every ratio here."""
    for row in rows:
        if (row.variant, row.over) == (variant, SRU):
            return row.ratio
        if (row.variant, row.over) == (SRU, variant) and row.ratio:
            return 1 / row.ratio
    return None


def _overhead(rows: list[Row], figure_class: Any) -> Any:
    """Per shape: the layer's time over that of its matrix products; targets as black lines."""
    both = [row for kind in ("inference", "training") for row in rows if row.kind == kind]
    sizes = [size for size in TABLE if any(row.table_size == size for row in both)]
    if not sizes:
        return None
    figure = figure_class(figsize=(7.5, 3.6), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(OVERHEADS)
    top = 1.0
    for i, (label, (kind, over, colour)) in enumerate(OVERHEADS.items()):
        for j, size in enumerate(sizes):
            at = j + (i - 1) * width
            for row in both:
                if row.kind != kind or row.over != over or row.table_size != size:
                    continue
                if row.variant != SRU or row.ratio is None:
                    continue
                assert row.ratio_q1 is not None and row.ratio_q3 is not None
                errors = [[row.ratio - row.ratio_q1], [row.ratio_q3 - row.ratio]]
                axis.bar(at, row.ratio, width * 0.94, color=colour, label=label)
                axis.errorbar(at, row.ratio, errors, fmt="none", ecolor="#444444", elinewidth=1)
                axis.annotate(
                    f"{row.ratio:.2f}", (at, 0), (0, 4), textcoords="offset points",
                    ha="center", fontsize=8, color="white" if i == 0 else "black",
                )  # fmt: skip
                if row.target is not None:
                    axis.hlines(row.target, at - width / 2, at + width / 2, color="black", lw=2)
                top = max(top, row.ratio_q3, row.target or 0)
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles, fontsize=8, ncols=3, loc="upper center", frameon=False)
    axis.axhline(1, color="#666666", linewidth=1, linestyle="--")
    axis.set_ylim(0, 1.22 * top)
    axis.set_xticks(range(len(sizes)), ["L={} B={}\nd={}".format(*size) for size in sizes])
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_ylabel("time over GEMM")
    title = "One SRU layer over its matrix products (black: target, at most)"
    axis.set_title(f"{title}\n{_subtitle(both[0])}", fontsize=10)
    return figure


def _length(rows: list[Row], figure_class: Any) -> Any:
    """Microseconds by length, a panel per pass, a line per backend."""
    found: dict[str, dict[str, dict[int, Row]]] = {}  # pass: backend: L
    for row in rows:
        if row.kind == "recurrence" and row.case.startswith("length"):
            backend, _, name = row.variant.partition(", ")
            found.setdefault(name, {}).setdefault(backend, {})[int(row.shape["L"])] = row
    if not found:
        return None
    figure = figure_class(figsize=(7.5, 3.4), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    colours = list(COLOURS.values())[1:]
    for axis, (name, backends) in zip(axes, found.items(), strict=True):
        for colour, (backend, points) in zip(colours, backends.items(), strict=False):
            lengths = sorted(points)
            axis.plot(
                lengths, [1e6 * points[L].median for L in lengths],
                marker="o", markersize=3, color=colour, label=backend,
            )  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("microseconds", fontsize=9)
    axes[0].legend(fontsize=8, frameon=False)
    row = next(iter(points.values()))
    figure.supxlabel("steps L", fontsize=9)
    title = f"The recurrence by length, B = {row.shape['B']}, d = {row.shape['d']}"
    figure.suptitle(f"{title}\n{_subtitle(row)}", fontsize=10)
    return figure
