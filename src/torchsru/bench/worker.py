"""Cases run in a child process that their limit can end, and that a crash takes down alone.

`python -m torchsru.bench.worker` reads requests and writes replies, a JSON object a line:

    {"ask": "absent"}                          {"absent": {peer: why}}
    {"ask": "case", "case", "setting",         {"rows": [...], "left_out": {variant: why}}
     "budget_s", "limit_s", "about"}           {"refused": why} or {"failed": why}

After an error that it did not expect it answers, then ends: a GPU that has failed once fails every
later call of the same process. `Worker` starts the next one by itself.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from queue import Empty, Queue
from typing import Any

import torch

from torchsru._machine import busy_cores
from torchsru.bench.cases import BenchError, Case
from torchsru.bench.check import CheckError
from torchsru.bench.clock import tf32
from torchsru.bench.measure import MIN_ROUNDS, interleave
from torchsru.bench.peers import PEERS, missing
from torchsru.bench.process import last_line
from torchsru.bench.rows import BUSY, Row, make_rows
from torchsru.bench.variants import Setting, build, clock_for

START_S = 60.0  # a fresh worker may take so long more: it imports torch and starts the GPU
SHARE = 0.8  # of its limit that a case may sample in
QUIET_S, QUIET_SHARE = 10.0, 0.1  # a case waits so long for other processes to rest, or so much


@dataclass(frozen=True)
class Measured:
    """A case's rows, and why each variant that is not among them was left out."""

    rows: list[Row]
    left_out: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    """Whether a process of its own should run the next case."""


def run_case(
    case: Case,
    setting: Setting,
    budget_s: float,
    about: dict[str, Any],
    limit_s: float = float("inf"),
) -> Measured:
    """Check a case, let its variants take turns, and return its rows; in this process.

    Args:
        budget_s: of sampling.
        limit_s: of everything; what is begun is finished.
    """
    start_s = time.perf_counter()
    on_cpu = setting.device == "cpu"  # a GPU's minutes are not spent on waiting
    busy = wait_for_quiet(min(QUIET_S, QUIET_SHARE * limit_s) if on_cpu else 0.0)
    torch.manual_seed(0)
    clock = clock_for(case, setting)
    stack = case.shape is not None and case.shape.layers > 1
    few = stack or case.kind in ("memory", "recurrence")
    with tf32(case.tf32), clock.scope():
        contest = build(case, setting, clock)
        try:
            left_s = SHARE * limit_s - (time.perf_counter() - start_s)
            samples = interleave(
                contest.variants,
                min(budget_s, max(0.0, left_s)),
                limit_s=max(0.0, left_s),
                min_rounds=3 if few else MIN_ROUNDS,
                warm_up=case.kind != "memory",  # a process each, the first like the last
            )
        finally:
            contest.close()
    rows = make_rows(case, contest.variants, samples, about, busy)
    return Measured(rows, contest.left_out, contest.broken)


def wait_for_quiet(
    limit_s: float,
    busy: Callable[[], float | None] = busy_cores,
    now: Callable[[], float] = time.monotonic,
) -> float | None:
    """Wait until other processes leave the cores alone, or so long; the cores that they keep busy.

    None where the system does not say.
    """
    end_s = now() + limit_s
    while (found := busy()) is not None and found > BUSY and now() < end_s:
        pass  # looking takes a moment, asleep
    return found


class Worker:
    """The parent's side. It starts the child when first asked, and again after one has ended."""

    def __init__(self, command: list[str] | None = None):
        self._command = command or [sys.executable, "-m", "torchsru.bench.worker"]
        self._child: subprocess.Popen[str] | None = None
        self._replies: Queue[str | None] = Queue()

    def absent(self, limit_s: float) -> dict[str, str]:
        """Peers that cannot run, and why. Importing them may compile for a minute."""
        found = self._ask({"ask": "absent"}, limit_s)
        return dict(found["absent"])

    def run(
        self,
        case: Case,
        setting: Setting,
        budget_s: float,
        about: dict[str, Any],
        limit_s: float,
    ) -> Measured:
        """Run a case.

        Raises: CheckError if it was refused; BenchError if it failed, crashed or outlasted its
            limit, after which the child is gone.
        """
        found = self._ask(
            {
                "ask": "case",
                "case": case.to_json(),
                "setting": asdict(setting),
                "budget_s": budget_s,
                "limit_s": limit_s,
                "about": about,
            },
            limit_s,
        )
        if "refused" in found:
            raise CheckError(found["refused"])
        if "failed" in found:
            raise BenchError(found["failed"])
        rows = [Row.from_json(json.dumps(row)) for row in found["rows"]]
        return Measured(rows, found["left_out"])

    def close(self) -> None:
        """End the child and all that it started."""
        if self._child is None:
            return
        child, self._child = self._child, None
        if child.poll() is None:
            if hasattr(os, "killpg"):
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            else:  # Windows
                child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
        self._errors.close()

    def _ask(self, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._start()
            limit_s += START_S
        child = self._child
        assert child is not None and child.stdin is not None
        try:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            line = self._replies.get(timeout=limit_s)
        except BrokenPipeError:
            line = None
        except Empty:
            self.close()
            raise BenchError(f"stopped after its limit of {limit_s:.0f} s") from None
        if line is None:
            child.wait()
            self._errors.seek(0)
            words = last_line(self._errors.read())
            code = child.returncode
            self.close()
            raise BenchError(f"its process ended with exit code {code}: {words}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _start(self) -> None:
        replies: Queue[str | None] = Queue()
        self._replies = replies
        # a file, not a pipe: a full pipe would stop the child
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        child = self._child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # so that its own children end with it
        )

        def read() -> None:
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    replies.put(line)
            except ValueError:  # closed while we read
                pass
            replies.put(None)

        threading.Thread(target=read, daemon=True).start()


# -- in the child ---------------------------------------------------------------------------------


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The reply, and whether this process may go on."""
    if request["ask"] == "absent":
        reasons = {name: missing(name) for name in PEERS}
        return {"absent": {name: why for name, why in reasons.items() if why}}, True
    case, setting = Case.from_json(request["case"]), Setting(**request["setting"])
    torch.set_num_threads(setting.threads)
    try:
        measured = run_case(
            case, setting, request["budget_s"], request["about"], request["limit_s"]
        )
    except CheckError as error:
        return {"refused": str(error)}, True
    except BenchError as error:
        return {"failed": str(error)}, True
    except Exception as error:
        words = (str(error).splitlines() or [""])[0]
        return {"failed": f"{type(error).__name__}: {words}"}, False
    if setting.device == "cuda":
        torch.cuda.empty_cache()
    rows = [json.loads(row.to_json()) for row in measured.rows]
    return {"rows": rows, "left_out": measured.left_out}, not measured.broken


def _main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not a reply
    for line in sys.stdin:
        reply, go_on = _answer(json.loads(line))
        print(json.dumps(reply), file=out, flush=True)
        if not go_on:
            break


if __name__ == "__main__":
    _main()
