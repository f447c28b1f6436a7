"""The command line: `torchsru bench`, also `python -m torchsru.bench`.

Exit codes: 0 done, 1 a case was refused by its check or failed, 2 bad input, 130 stopped by Ctrl-C.
"""

import argparse
import datetime
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from torchsru._machine import busy_cores, commit, cores, machine, versions
from torchsru.bench import cases, report
from torchsru.bench.cases import BenchError, Case
from torchsru.bench.check import CheckError
from torchsru.bench.figures import FORMATS
from torchsru.bench.measure import MIN_ROUNDS, interleave
from torchsru.bench.networks import original_missing
from torchsru.bench.rows import Row, make_rows, read_rows
from torchsru.bench.variants import Setting, build

SECONDS = 200.0  # of sampling; building and checking come on top
LOCAL = Path("results/local")
VERBS = ("list", "run", "compare", "report")


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
    run.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    run.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16", "float64"), default=None,
        help="run every case in this type; targets hold for a case's own type only",
    )  # fmt: skip
    run.add_argument("--threads", type=_positive(int), help="default: torch's")
    run.add_argument(
        "--seconds", type=_positive(float), default=SECONDS,
        help="time budget of all cases together, %(default)s by default",
    )  # fmt: skip
    run.add_argument("--out", type=Path, help=f"rows go here; default: {LOCAL}/TIME-DEVICE.jsonl")
    compare = verb("compare", "put two runs' rows beside each other")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    drawing = verb("report", "draw tables and figures from rows")
    drawing.add_argument("rows", type=Path)
    drawing.add_argument("--figures", type=Path, metavar="DIR", help="draw the figures there")
    drawing.add_argument("--format", nargs="+", choices=FORMATS, default=["png"])
    drawing.add_argument(
        "--page", type=Path,
        help=f"put the tables between {report.BEGIN} and {report.END} of this file",
    )  # fmt: skip
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
    for case in cases.find(options.case):
        print(case.name)
        for target in case.targets:
            over = f" over {target.over}" if target.over else ""
            print(f"    {target.variant}{over}: {report.bound(target.bound, target.value, case)}")
    return 0


def _run(options: argparse.Namespace) -> int:
    chosen = _for_device(cases.find(options.case), options.device)
    if options.dtype:
        chosen = [case.with_dtype(options.dtype) for case in chosen]
    if options.threads:
        torch.set_num_threads(options.threads)
    setting = Setting(options.device, torch.get_num_threads())
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    head, dirty = commit()
    about = {
        "device": setting.device,
        "threads": setting.threads,
        "machine": machine(),
        "versions": versions(),
        "commit": head,
        "dirty": dirty,
        "date": now.isoformat(),
    }
    out = options.out or LOCAL / f"{now:%Y%m%d-%H%M%S}-{setting.device}.jsonl"
    report.show(report.heading(about))
    if any(c.kind in ("training", "networks") for c in chosen) and (why := original_missing()):
        report.show(f"sru 2.6.0 is left out: {why}")
    rows, failed = run_cases(chosen, setting, options.seconds, about, out)
    report.show(report.summary(rows))
    if rows:
        report.show(f"rows: {out}    figures: torchsru bench report {out} --figures DIR")
    return 1 if failed else 0


def _for_device(chosen: list[Case], device: str) -> list[Case]:
    """Targets are the CPU's; what only a CPU has is left out elsewhere."""
    if device == "cpu":
        return chosen
    if not torch.cuda.is_available():
        raise BenchError(f"--device cuda needs a GPU that torch {torch.__version__} can use")
    return [c.without_targets() for c in chosen if c.kind not in ("backends", "import")]


def run_cases(
    chosen: list[Case], setting: Setting, budget_s: float, about: dict[str, Any], out: Path
) -> tuple[list[Row], list[str]]:
    """Check and measure cases one after the other, show each, and write its rows at once.

    Returns: the rows, and the names of the cases that their check refused or that failed.
    """
    if setting.threads > cores():
        report.show(f"{setting.threads} threads share {cores()} cores: times will be noisy")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file = out.open("w", encoding="utf-8")
    except OSError as error:
        raise BenchError(f"--out {out} cannot be written: {error}") from error
    rows: list[Row] = []
    failed = []
    weights = sum(case.weight for case in chosen)
    with file:
        for case in chosen:
            try:
                measured = run_case(case, setting, budget_s * case.weight / weights, about)
            except BenchError as error:
                what = "refused" if isinstance(error, CheckError) else "failed"
                report.show(f"{what}, {case.name}: {error}")
                failed.append(case.name)
                continue
            file.writelines(row.to_json() + "\n" for row in measured)
            file.flush()
            rows += measured
            report.show_table(case.name, report.columns(case.kind), report.cells(measured))
    return rows, failed


def run_case(case: Case, setting: Setting, budget_s: float, about: dict[str, Any]) -> list[Row]:
    """Check a case, let its variants take turns, and return its rows."""
    busy = busy_cores()
    torch.manual_seed(0)
    variants = build(case, setting)
    try:
        samples = interleave(
            variants,
            budget_s,
            min_rounds=3 if case.kind in ("memory", "networks") else MIN_ROUNDS,
            warm_up=case.kind != "memory",  # a process each, the first like the last
        )
    finally:
        for variant in variants:
            variant.close()
    return make_rows(case, variants, samples, about, busy)


def _compare(options: argparse.Namespace) -> int:
    old, new = read_rows(options.old), read_rows(options.new)
    report.show(report.differences(old[0], new[0]))
    report.show_table("new over old", report.COMPARE_COLUMNS, report.compare(old, new))
    return 0


def _report(options: argparse.Namespace) -> int:
    rows = read_rows(options.rows)
    text = report.markdown(rows)
    if options.figures:
        from torchsru.bench.figures import draw

        files = draw(rows, options.figures, options.format)
        for path in files:
            report.show(f"figure: {path}")
        if options.page:
            shown = [path for path in files if path.suffix == f".{options.format[0]}"]
            text = report.images(shown, options.page) + text
    if options.page:
        report.insert(text, options.page)
        report.show(f"tables: {options.page}")
    else:
        print(text)
    return 0
