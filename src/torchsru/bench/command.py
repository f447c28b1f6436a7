"""The command line: `torchsru bench`, also `python -m torchsru.bench`.

Exit codes: 0 done, 1 a case was refused by its check or failed, 2 bad input, 130 stopped by Ctrl-C.
"""

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from torchsru._machine import commit, cores, installed, machine, versions
from torchsru.bench import cases, report
from torchsru.bench.cases import BenchError, Case
from torchsru.bench.check import CheckError
from torchsru.bench.figures import FORMATS
from torchsru.bench.floor import emulated
from torchsru.bench.history import rows_of
from torchsru.bench.page import page
from torchsru.bench.peers import PEERS
from torchsru.bench.rows import Row, rates, read_rows
from torchsru.bench.suites import CEILINGS, SUITES
from torchsru.bench.variants import Setting
from torchsru.bench.worker import Measured, Worker

SECONDS = {"cpu": 220.0, "cuda": 90.0}  # of sampling; building and checking come on top
PEERS_S = 180.0  # to import the peers: the original compiles
LOCAL = Path("results/local")
PRODUCTS = ("inference", "forward", "training")  # kinds of case that multiply matrices
FLOORS = (*PRODUCTS, "recurrence", "kernel")  # and those that have floors


class Runner(Protocol):
    """What runs a case: a `Worker`, or a test's own."""

    def absent(self, limit_s: float) -> dict[str, str]: ...
    def run(
        self, case: Case, setting: Setting, budget_s: float, about: dict[str, Any], limit_s: float
    ) -> Measured: ...
    def close(self) -> None: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: the process's own); returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "run")
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": _list,
        "run": _run,
        "compare": _compare,
        "report": _report,
    }
    try:
        return verbs[options.verb](options)
    except BenchError as error:
        print(f"torchsru bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("torchsru bench: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchsru bench",
        description="Check, then time the layer on this machine. Without a verb: run.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{list,run,compare,report}")

    def verb(name: str, what: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=what, description=what, allow_abbrev=False)

    listing = verb("list", "list the cases and their targets")
    run = verb("run", "check and time cases, print tables, write rows")
    for one in (listing, run):
        one.add_argument("--case", metavar="PATTERN", help="cases whose name matches or contains")
        one.add_argument("--device", choices=tuple(SUITES), default="cpu")
    run.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16", "float64"), default=None,
        help="run every case in this type; targets hold for a case's own type only",
    )  # fmt: skip
    run.add_argument("--threads", type=_positive(int), help="default: torch's")
    run.add_argument(
        "--seconds", type=_positive(float),
        help="of sampling, all cases together; checks and warming up come on top; "
        "{cpu:.0f} on a CPU, {cuda:.0f} on a GPU by default".format(**SECONDS),
    )  # fmt: skip
    run.add_argument(
        "--limit", type=_positive(float), metavar="SECONDS",
        help="end after so long, whatever is left to do; the rows so far are there",
    )  # fmt: skip
    run.add_argument("--out", type=Path, help=f"rows go here; default: {LOCAL}/TIME-DEVICE.jsonl")
    run.add_argument(
        "--commit", metavar="HASH", help="what the rows name, for a copy that git knows nothing of"
    )
    run.add_argument(
        "--against", metavar="ROWS|COMMIT", help="then compare with an earlier run's rows"
    )
    compare = verb("compare", "put two runs' rows beside each other")
    for side in ("old", "new"):
        compare.add_argument(side, help="a file of rows, or a commit of this checkout")
    compare.add_argument(
        "--device", choices=tuple(SUITES), default="cpu", help="of a commit's rows"
    )
    drawing = verb("report", "draw tables and figures from rows")
    drawing.add_argument("rows", type=Path, nargs="+", help="files of rows, a run each")
    drawing.add_argument("--figures", type=Path, metavar="DIR", help="draw the figures there")
    drawing.add_argument("--format", nargs="+", choices=FORMATS, default=["png"])
    drawing.add_argument(
        "--page", type=Path, help="write this page, docs/performance.md in a checkout"
    )
    return parser


def _positive(kind: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be positive, got {text}")
        return value

    parse.__name__ = f"positive {kind.__name__}"  # argparse names it in its errors
    return parse


def _list(options: argparse.Namespace) -> int:
    for case in cases.find(options.case, SUITES[options.device]):
        print(case.name)
        for target in case.targets:
            over = f" over {target.over}" if target.over else ""
            print(f"    {target.variant}{over}: {report.bound(target.bound, target.value, case)}")
    return 0


def _run(options: argparse.Namespace) -> int:
    device = options.device
    chosen = cases.find(options.case, SUITES[device])
    if device == "cuda" and not torch.cuda.is_available():
        raise BenchError(f"--device cuda needs a GPU that torch {torch.__version__} can use")
    if options.dtype:
        chosen = [case.with_dtype(options.dtype) for case in chosen]
    if CEILINGS not in chosen and any(case.kind in FLOORS for case in chosen):
        chosen.insert(0, CEILINGS)
    before = rows_of(options.against, device) if options.against else None
    if options.threads:
        torch.set_num_threads(options.threads)
    setting = Setting(device, torch.get_num_threads())
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    about = about_now(setting, now)
    if options.commit and about["commit"] is None:
        about["commit"] = options.commit
    out = options.out or LOCAL / f"{now:%Y%m%d-%H%M%S}-{device}.jsonl"
    report.show(report.heading(about))
    worker = Worker()
    try:
        rows, failed = run_cases(
            chosen, setting, options.seconds or SECONDS[device], about, out, worker,
            limit_s=options.limit or float("inf"), asked=options.dtype is not None,
        )  # fmt: skip
    finally:
        worker.close()
    report.show(report.summary(rows))
    if rows:
        report.show(f"rows: {out}    figures: torchsru bench report {out} --figures DIR")
    if before and rows:
        _show_comparison(before, rows)
    return 1 if failed else 0


def about_now(setting: Setting, now: datetime.datetime) -> dict[str, Any]:
    """What every row of a run says about where and when it was measured."""
    head, dirty = commit()
    cudnn = torch.backends.cudnn.version() if setting.device == "cuda" else None
    return {
        "device": setting.device,
        "threads": setting.threads,
        "machine": {**machine(), "tuned": os.environ.get("TORCHSRU_TUNE") == "1"},
        "versions": {
            **versions(),
            "triton": installed("triton"),
            "cudnn": str(cudnn) if cudnn else None,
            "fla": installed("flash-linear-attention") or installed("fla-core"),
            "mamba_ssm": installed("mamba-ssm"),
        },
        "commit": head,
        "dirty": dirty,
        "date": now.isoformat(),
    }


def run_cases(
    chosen: list[Case],
    setting: Setting,
    budget_s: float,
    about: dict[str, Any],
    out: Path,
    worker: Runner,
    *,
    limit_s: float = float("inf"),
    asked: bool = False,
    now: Callable[[], float] = time.monotonic,
) -> tuple[list[Row], list[str]]:
    """Check and measure cases one after the other, show each, and write its rows at once.

    Args:
        budget_s: of sampling, shared out by the cases' weights.
        limit_s: of everything: no case begins after it, and one that runs then is ended.
        asked: for the cases' type, by name: one that is left out for it has failed.
        now: the clock that the limit is of.

    Returns: the rows, and the names of the cases that their check refused, that failed, or that
        the limit left no time for.
    """
    if setting.threads > cores():
        report.show(f"{setting.threads} threads share {cores()} cores: times will be noisy")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file = out.open("w", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"--out {out} cannot be written: {error}") from error
    end_s = now() + limit_s
    rows: list[Row] = []
    failed = []
    slow: dict[str, float] = {}  # types that the processor lacks
    weights = sum(case.weight for case in chosen)
    with file:
        setting = _without_absent(chosen, setting, worker, min(PEERS_S, limit_s / 3))
        for case in chosen:
            left_s = end_s - now()
            if left_s <= 0:
                report.show(f"no time left for {case.name}")
                failed.append(case.name)
                continue
            if case.kind in PRODUCTS and case.dtype in slow:
                why = report.emulated_words(case.dtype, slow[case.dtype])
                report.show(f"left out, {case.name}: {why}")
                failed += [case.name] if asked else []
                continue
            share_s = budget_s * case.weight / weights
            try:
                found = worker.run(case, setting, share_s, about, min(case.limit_s, left_s))
            except BenchError as error:
                what = "refused" if isinstance(error, CheckError) else "failed"
                report.show(f"{what}, {case.name}: {error}")
                failed.append(case.name)
                continue
            file.writelines(row.to_json() + "\n" for row in found.rows)
            file.flush()
            rows += found.rows
            if case.kind == "ceilings":
                slow = emulated(rates(found.rows))
                if found.rows[0].shared:
                    report.show(report.NO_FLOORS)
                else:
                    setting = replace(setting, ceilings=rates(found.rows))
            columns = report.columns(found.rows)
            report.show_table(case.name, columns, report.cells(found.rows))
            for name, why in found.left_out.items():
                if name not in setting.absent:
                    report.show(f"left out, {name}: {why}")
    return rows, failed


def _without_absent(
    chosen: list[Case], setting: Setting, worker: Runner, limit_s: float
) -> Setting:
    """Ask once which peers are there, and say so."""
    wanted = [name for name in PEERS if any(name in case.beside for case in chosen)]
    if not wanted:
        return setting
    try:
        absent = worker.absent(limit_s)
    except BenchError as error:
        absent = dict.fromkeys(PEERS, f"importing it: {error}")
    for name in wanted:
        if name in absent:
            report.show(f"absent, {name}: {absent[name]}")
    return replace(setting, absent=absent)


def _compare(options: argparse.Namespace) -> int:
    old, new = (rows_of(source, options.device) for source in (options.old, options.new))
    _show_comparison(old, new)
    return 0


def _show_comparison(old: list[Row], new: list[Row]) -> None:
    report.show(report.differences(old[0], new[0]))
    lines = report.compare(old, new)
    report.show_table("new over old", report.COMPARE_COLUMNS, lines)
    report.show(report.verdicts(lines))


def _report(options: argparse.Namespace) -> int:
    runs = {path.as_posix(): read_rows(path) for path in options.rows}
    for source, rows in runs.items():
        if len({row.device for row in rows}) > 1:
            raise BenchError(f"{source} must hold the rows of one device, got CPU and GPU")
    figures: dict[str, list[Path]] = {}
    if options.figures:
        from torchsru.bench.figures import draw

        if len({Path(source).stem for source in runs}) < len(runs):
            raise BenchError(f"figures are named after their rows: {', '.join(runs)} share a name")
        for source, rows in runs.items():
            files = draw(rows, options.figures, options.format, Path(source).stem)
            for path in files:
                report.show(f"figure: {path}")
            figures[source] = [path for path in files if path.suffix == f".{options.format[0]}"]
        if not any(figures.values()):
            raise BenchError("the rows hold no inference, training or length case to draw")
    if options.page is None:
        print("\n".join(map(report.markdown, runs.values())))
        return 0
    text = page(runs, figures, options.page)
    try:
        options.page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"--page {options.page} cannot be written: {error}") from error
    report.show(f"page: {options.page}")
    return 0
