"""What a number depends on besides the recipe: machine, versions, commit, precision."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import torchsru

PACKAGES = ("torch", "lightning", "safetensors")


def describe() -> dict[str, Any]:
    """Machine, versions and commit as one JSON-ready dict, to store beside results."""
    return {
        "machine": {
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.platform(),
        },
        "versions": {
            "torchsru": torchsru.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "commit": commit(),
    }


def version(package: str) -> str | None:
    """Version of an installed package, None if it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Commit of the checkout this package runs from ("-dirty" if changed), None outside of one."""
    here = Path(__file__)
    try:
        # A copy installed below someone else's repository is not tracked in it.
        git("ls-files", "--error-unmatch", here.name, cwd=here.parent)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*", cwd=here.parent)
    except (OSError, subprocess.CalledProcessError):
        return None


def git(*args: str, cwd: Path) -> str:
    """Output of a git command, without the final newline."""
    run = subprocess.run(["git", *args], cwd=cwd, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def cpu_name() -> str:
    """Name of the processor, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bfloat16 itself rather than by emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return False
