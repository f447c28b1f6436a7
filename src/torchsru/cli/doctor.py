"""`torchsru doctor`: what runs here, and why the rest does not. Needs only torch."""

import argparse
import importlib.util
import platform
from collections.abc import Sequence

import torch

import torchsru
from torchsru import ops
from torchsru.cli import TRAIN_EXTRA


def main(argv: Sequence[str]) -> int:
    """Print the report; returns 0."""
    argparse.ArgumentParser("torchsru doctor", description=__doc__).parse_args(argv)
    print("\n".join(f"{name:<18} {value}" for name, value in report()))
    return 0


def report() -> list[tuple[str, str]]:
    """Lines of (what, how it is here)."""
    cpu = ops.cpu_info()
    lines = [
        ("torchsru", torchsru.__version__),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("CPU instructions", f"{', '.join(cpu['isa_available']) or 'none found'}"),
        ("  used", cpu["isa_used"] or f"none: {cpu['error']}"),
        ("compiled kernels", str(cpu["library"] or f"absent: {cpu['error']}")),
        ("GPU", torch.cuda.get_device_name() if torch.cuda.is_available() else gpu_absent()),
    ]
    for name, why_not in ops.backends().items():
        lines.append((f"backend {name}", "runs here" if why_not is None else f"no: {why_not}"))
    missing = sorted(name for name in TRAIN_EXTRA if importlib.util.find_spec(name) is None)
    hint = f"no: {', '.join(missing)} not installed; pip install 'torchsru[train]'"
    lines.append(("training", hint if missing else "runs here"))
    return lines


def gpu_absent() -> str:
    """Why torch uses no GPU."""
    built = torch.version.cuda or torch.version.hip
    return "none found" if built else "none: this PyTorch is built for the CPU alone"
