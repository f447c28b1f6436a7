"""Packages that SRU is measured beside where they are installed; an absent one is no error.

The original `sru` 2.6.0 as a layer and its CUDA kernel alone; HGRN of flash-linear-attention
(`fla`); Mamba's selective scan (`mamba_ssm`), with its default of 16 states a channel.

Letters: L time steps, B batch rows, D channels, N states a channel.
"""

import importlib.util
import math
import os
import sys
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from torchsru._machine import installed
from torchsru.bench.cases import HGRN, MAMBA, ORIGINAL, Shape

PEERS = (ORIGINAL, HGRN, MAMBA)
STATES = 16

#: A recurrence as a function of tensors, and those tensors; all want gradients.
Recurrence = tuple[Callable[..., Tensor], tuple[Tensor, ...]]


@cache
def missing(name: str) -> str | None:
    """Why a package cannot run, or None. Importing the original compiles C++ at first."""
    if name == ORIGINAL:
        return _original_missing()
    modules = {HGRN: "fla.ops.hgrn", MAMBA: "mamba_ssm.ops.selective_scan_interface"}
    return _import_error(modules[name]) if name in modules else None


def _original_missing() -> str | None:
    if installed("sru") is None:
        return "it is not installed (pip install --no-build-isolation --no-deps sru==2.6.0)"
    if installed("sru") != "2.6.0":
        return f"version 2.6.0 is asked for, {installed('sru')} is installed"
    # its extension is built by ninja, which pip puts beside the interpreter
    bin = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([bin, os.environ.get("PATH", "")])
    # that it warns about missing CUDA, and at each training step on a CPU, is no news here
    warnings.filterwarnings("ignore", module=r"sru\.")
    return _import_error("sru")


def _import_error(module: str) -> str | None:
    package = module.split(".")[0]
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        there = importlib.util.find_spec(package) is not None
        return f"it needs {error.name}" if there else "it is not installed"
    except Exception as error:
        words = (str(error).splitlines() or [""])[0]
        return f"importing it failed: {type(error).__name__}: {words}"
    return None


def recurrence(name: str, shape: Shape, dtype: torch.dtype, device: str) -> Recurrence:
    """The recurrence of a peer that is not missing, on random inputs."""
    L, B, D = shape.L, shape.B, shape.d

    def randn(*sizes: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(sizes, dtype=dtype, device=device)

    if name == HGRN:
        hgrn = import_module("fla.ops.hgrn").fused_recurrent_hgrn
        return lambda x, g: hgrn(x, g)[0], (randn(B, L, D), randn(B, L, D).sigmoid().log())
    if name == MAMBA:
        scan = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
        a_DN = -torch.rand(D, STATES, device=device).exp()
        inputs = (randn(B, D, L), randn(B, D, L), a_DN, randn(B, STATES, L), randn(B, STATES, L))
        return lambda *tensors: scan(*tensors, delta_softplus=True), inputs
    ops = import_module("sru.ops")
    c0, scale = torch.zeros(B, D, device=device), torch.full((1,), math.sqrt(3), device=device)

    def original(u: Tensor, x: Tensor, v: Tensor, b: Tensor) -> Tensor:
        h: Tensor = ops.elementwise_recurrence_gpu(u, x, v, b, c0, 0, D, False, True, scale)[0]
        return h

    single = torch.float32  # it computes in no other type
    v_bound = math.sqrt(1.5)
    v = (2 * torch.rand(2 * D, device=device) - 1) * v_bound
    b = torch.zeros(2 * D, device=device)
    return original, (randn(L, B, 3 * D, dtype=single), randn(L, B, D, dtype=single), v, b)
