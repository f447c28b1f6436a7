"""What the Triton launchers share; imports no Triton, only says whether there is one."""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Programs enough to keep every multiprocessor of today's GPUs busy; below, blocks get narrower.
PROGRAMS = 512
LARGEST_BLOCK, SMALLEST_BLOCK = 128, 32

#: Whether a product and a sum may become one rounding: not, so that every GPU rounds alike.
FP_FUSION = False


INSTALLED = importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 asks for kernels that run on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not(on_gpu: bool) -> str | None:
    """Why Triton kernels cannot run on a tensor, or None; on_gpu: on a CUDA or ROCm device."""
    if not INSTALLED:
        return "triton is not installed"
    if not on_gpu and not interpreted():
        return "needs a CUDA or ROCm GPU"
    return None


def block_and_warps(rows: int, d: int) -> tuple[int, int, int]:
    """Programs, channels a program and warps a program, for `rows` times d channels.

    A function of the shape alone, and one that moves no result: channels do not meet.
    """
    block = LARGEST_BLOCK
    while block > SMALLEST_BLOCK and (block >= 2 * d or rows * -(-d // block) < PROGRAMS):
        block //= 2
    return rows * -(-d // block), block, block // 32


def contiguous(tensors: Sequence[Tensor | None]) -> list[Any]:
    """The tensors, copied where the kernels' layout needs it."""
    return [None if t is None else t.contiguous() for t in tensors]


def check_bounds(cu_seqlens: Tensor, total: int) -> None:
    """Assert, without waiting for the device, that the bounds rise from 0 to `total`."""
    rise = (cu_seqlens[1:] >= cu_seqlens[:-1]).all()
    fits = rise & (cu_seqlens[0] == 0) & (cu_seqlens[-1] == total)
    torch._assert_async(fits, f"cu_seqlens must rise from 0 to the number of steps, {total}")
