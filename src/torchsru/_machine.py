"""What a number depends on besides the code: machine, versions, commit.

No host name and no path: rows are published.
"""

import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from torchsru._version import version
from torchsru.ops import cpu_info

IDLE_S = 0.3


def machine() -> dict[str, Any]:
    """Processor, cores, caches, instruction sets, memory; the GPU if torch sees one."""
    info = cpu_info()
    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": cores(),
        "caches": caches(),
        "isa_torch": torch.backends.cpu.get_cpu_capability(),
        "isa_torchsru": info["isa_used"],
        "isa_available": info["isa_available"],
        "ram_gib": ram_gib(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = properties.name
        found["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
    return found


def versions() -> dict[str, str | None]:
    """Versions of everything that a time may depend on."""
    config = torch.__config__.show()
    mkl = re.search(r"Math Kernel Library Version (\S+)", config)
    onednn = re.search(r"MKL-DNN v(\S+)", config)
    return {
        "torch": torch.__version__,
        "torchsru": version(),
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.machine()} {'-'.join(platform.libc_ver())}".strip(),
        "mkl": mkl[1] if mkl else None,
        "onednn": onednn[1] if onednn else None,
        "cuda": torch.version.cuda,
        "sru": installed("sru"),
    }


def installed(package: str) -> str | None:
    """Version of an installed package, None without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether tracked code differs from it.

    Results and docs do not count as code: writing rows must not make their commit dirty.
    (None, None) outside of a checkout.
    """
    here = Path(__file__)

    def git(*args: str) -> str:
        run = subprocess.run(
            ["git", *args], cwd=here.parent, check=True, capture_output=True, text=True
        )
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not a copy inside another repository
        root = ":/"
        changes = git(
            "status", "--porcelain", "--untracked-files=no",
            "--", root, ":/!results", ":/!docs", ":/!*.md",
        )  # fmt: skip
        return git("rev-parse", "HEAD"), bool(changes)
    except (OSError, subprocess.CalledProcessError):
        return None, None


def cpu_name() -> str:
    """Name of the processor, as the system gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return name[1].strip() if name else platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def caches() -> dict[str, str]:
    """Sizes of the first core's caches: {"L1d": "32K", "L2": "1024K", ...}."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = (
                (index / name).read_text(encoding="utf-8").strip()
                for name in ("level", "type", "size")
            )
        except OSError:
            continue
        suffix = {"Data": "d", "Instruction": "i"}.get(kind, "")
        found[f"L{level}{suffix}"] = size
    return found


def busy_cores() -> float | None:
    """How many cores other processes keep busy, watched for a moment while we sleep.

    Anything but 0 disturbs whatever runs on all cores. None where the system does not say.
    """

    def ticks() -> tuple[int, int]:
        found = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, found)
        return user + nice + system + irq + softirq + steal, idle + iowait

    try:
        before = ticks()
        time.sleep(IDLE_S)
        busy, idle = (after - b for after, b in zip(ticks(), before, strict=True))
    except (OSError, ValueError):
        return None
    return round((os.cpu_count() or 1) * busy / max(1, busy + idle), 2)


def ram_gib() -> float | None:
    """Memory of the machine in GiB."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
