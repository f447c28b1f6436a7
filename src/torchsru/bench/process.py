"""What needs fresh processes: a CPU's peak memory, import time, instruction sets.

Run as `python -m torchsru.bench.process JOB`, a child prints numbers, one a line: a memory job
prints one and ends; a kernel job prints one for each line that it reads, so that the parent can
let several children take turns. (The cases themselves run in a child too: worker.py.)
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import torch

from torchsru.bench.cases import BenchError, Shape
from torchsru.bench.check import CheckError, check_op
from torchsru.bench.clock import HostClock, timed
from torchsru.bench.networks import Where, make

IMPORT = """
import time
start_s = time.perf_counter()
import torch
torch_s = time.perf_counter()
import torchsru
print(torch_s - start_s if {torch} else time.perf_counter() - torch_s)
"""


def import_seconds(torch_itself: bool) -> float:
    """Time to import torch, or torchsru after it, in a fresh interpreter."""
    code = IMPORT.format(torch=torch_itself)
    return float(_finish(subprocess.Popen([sys.executable, "-c", code], **_PIPES)))


def peak_bytes(network: str, shape: Shape, where: Where, threads: int) -> float:
    """Most memory that a training step holds beyond weights and input.

    On a CPU, of a fresh process; on a GPU, of torch's allocator, which counts exactly anywhere.
    """
    if where.device != "cpu":
        return _measure_memory(network, shape, where)
    return float(_finish(_start("memory", shape, where, threads, network=network)))


class KernelWorker:
    """A process that times the forward op of one backend on demand.

    isa: value of TORCHSRU_ISA for the "cpu" backend.
    Raises: CheckError if its check refuses the backend; BenchError with the child's last words if
        it ends for another reason.
    """

    def __init__(self, backend: str, isa: str | None, shape: Shape, where: Where, threads: int):
        environment = {} if isa is None else {"TORCHSRU_ISA": isa}
        # a file, not a pipe: nobody reads while the child works, and a full pipe would stop it
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._child = _start(
            "kernel", shape, where, threads, environment, self._errors, backend=backend
        )
        self.sample()

    def sample(self) -> float:
        """Seconds of one call."""
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write("\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._failure()
        return float(line)

    def _failure(self) -> BenchError:
        self._child.communicate()
        self._errors.seek(0)
        words = last_line(self._errors.read())
        self.close()
        return CheckError(words) if self._child.returncode == REFUSED else BenchError(words)

    def close(self) -> None:
        if self._child.poll() is None:
            self._child.communicate()  # end of input ends the child
        self._errors.close()


REFUSED = 3  # a child's exit code if its check refuses what it should time

_PIPES: dict[str, Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "text": True,
}


def _start(
    job: str,
    shape: Shape,
    where: Where,
    threads: int,
    environment: dict[str, str] | None = None,
    errors: IO[str] | None = None,
    **more: str,
) -> subprocess.Popen[str]:
    spec = {
        "job": job,
        "shape": asdict(shape),
        "dtype": str(where.dtype).removeprefix("torch."),
        "device": where.device,
        "threads": threads,
        **more,
    }
    command = [sys.executable, "-m", "torchsru.bench.process", json.dumps(spec)]
    pipes = _PIPES if errors is None else {**_PIPES, "stderr": errors}
    return subprocess.Popen(command, env={**os.environ, **(environment or {})}, **pipes)


def _finish(child: subprocess.Popen[str]) -> str:
    out, error = child.communicate()
    if child.returncode:
        raise BenchError(last_line(error))
    return out


def last_line(error: str) -> str:
    """The last words of a child, from what it wrote to stderr."""
    return (error.strip().splitlines() or ["a child process ended without a word"])[-1]


# -- in the child ---------------------------------------------------------------------------------


def _measure_memory(network: str, shape: Shape, where: Where) -> int:
    """Peak memory of one training step over what was resident before, in bytes.

    On a CPU it is resident memory, so it counts what libraries allocate past torch. A step at two
    time steps comes first: code, thread pools and kernels made at run time are loaded by then.
    """
    make(network, replace(shape, L=2, B=min(shape.B, 2)), where).training_step()()
    net = make(network, shape, where)
    step = net.training_step()
    gc.collect()
    before_bytes = _reset_peak(where.device)
    step()
    return _peak(where.device) - before_bytes


def _reset_peak(device: str) -> int:
    """Start a new peak; returns what is held now, in bytes."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        return _status_bytes("VmRSS")
    except OSError:  # not Linux, or not allowed: the peak of the process so far
        return _max_rss_bytes()


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        return _status_bytes("VmHWM")
    except OSError:
        return _max_rss_bytes()


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kib) * 1024


def _max_rss_bytes() -> int:
    import resource  # absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _serve_kernel(backend: str, shape: Shape, where: Where) -> None:
    from torchsru.bench.variants import kernel_call  # which imports this module

    try:
        check_op(backend, shape, where.dtype, where.device)
    except CheckError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
    sample: Callable[[], float] = timed(kernel_call(backend, shape, where), HostClock())
    for _ in sys.stdin:
        print(sample(), flush=True)


def _main(spec: dict[str, Any]) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(spec["threads"])
    shape = Shape(**spec["shape"])
    where = Where(getattr(torch, spec["dtype"]), spec["device"])
    if spec["job"] == "memory":
        print(_measure_memory(spec["network"], shape, where))
    else:
        _serve_kernel(spec["backend"], shape, where)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
