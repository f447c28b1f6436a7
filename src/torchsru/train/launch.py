"""Start a command once per device of this machine, as torchrun does, and watch over the processes.

The same agent of torch.distributed.elastic as torchrun's: when one process ends badly it stops the
others, and a signal to it reaches all. Several machines meet at MASTER_ADDR:MASTER_PORT.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from torchsru.train.folder import RunError
from torchsru.train.ranks import RUN_ID

SPOKE = (1, 2, 130)  # exit codes of a process that has said why
SHUTDOWN = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # versions of PyTorch that don't read it stay at 30 s
SHUTDOWN_S = 300  # after a signal, to save
MEETING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


def launch(module: str, arguments: Sequence[str], *, processes: int, nodes: int) -> int:
    """Run `python -m module arguments` in so many processes here, of so many machines.

    Returns: the exit code; that of the processes if they said why they ended; 130 if they were
        asked to stop, of which they say nothing (`is_watched`).
    Raises: RunError if a process was killed or failed without a word, or if several machines are
        not told where to meet.
    """
    if nodes > 1 and (missing := [name for name in MEETING if name not in os.environ]):
        raise RunError(
            f"nodes = {nodes} needs {', '.join(MEETING)} in the environment, found no "
            f"{' and no '.join(missing)}"
        )
    node = os.environ.get("NODE_RANK", "")
    if nodes > 1 and not (node.isdecimal() and int(node) < nodes):
        raise RunError(f"NODE_RANK must be 0 to {nodes - 1}, this machine's number, got {node!r}")
    os.environ.setdefault(SHUTDOWN, str(SHUTDOWN_S))
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id=RUN_ID,
        rdzv_configs={"timeout": 900},
        max_restarts=0,
        monitor_interval=0.1,
    )
    if nodes == 1:
        config.rdzv_backend, config.rdzv_endpoint = "c10d", "127.0.0.1:0"  # any free port
        config.local_addr = "127.0.0.1"  # the name of this machine may lead nowhere
    else:
        address, port = (os.environ[name] for name in MEETING[:2])
        config.rdzv_backend, config.rdzv_endpoint = "static", f"{address}:{port}"
        config.rdzv_configs["rank"] = int(node)
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # the agent's own account of what is said below
    try:
        elastic_launch(config, sys.executable)("-u", "-m", module, *arguments)
    except SignalException:
        return 130
    except ChildFailedError as failed:
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        killed = [r for r, code in codes.items() if code < 0 and code != -signal.SIGTERM]
        if not killed and (spoke := [code for code in codes.values() if code in SPOKE]):
            return spoke[0]
        rank = min(killed or codes)
        pid = failed.failures[rank].pid
        raise RunError(
            f"rank {rank} of the run (process {pid}) {ending(codes[rank])}; the others were "
            "stopped, what was saved is kept: go on with --resume"
        ) from failed
    finally:
        logging.disable(before)
    return 0


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"failed with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
