"""What the Triton launchers share; imports no Triton, only says whether there is one."""

import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchsru.ops._parallel import cut, worth_while

#: Programs enough to keep every multiprocessor of today's GPUs busy; below, blocks get narrower.
PROGRAMS = 512
LARGEST_BLOCK = 128
LANES = 64 if torch.version.hip else 32  # threads a warp

#: Whether a product and a sum may become one rounding: not, so that a step rounds alike wherever
#: it stands. torch.compile's own backend decides for itself.
FP_FUSION = False

_COMPILER = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
INSTALLED = importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 asks for kernels that run on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not(on_gpu: bool) -> str | None:
    """Why Triton kernels cannot run on a tensor, or None; on_gpu: on a CUDA or ROCm device."""
    if not INSTALLED:
        return "triton is not installed"
    if interpreted():
        return None
    if not on_gpu:
        return "needs a CUDA or ROCm GPU"
    if not _COMPILER:
        return "Triton starts kernels through a C compiler, and CC, gcc and clang are all absent"
    return None


def has_memory(t: Tensor) -> bool:
    """Whether a kernel can be given the tensor: not if its class answers for it, as the classes do
    that PyTorch traces with."""
    return type(t).__torch_dispatch__ is Tensor.__torch_dispatch__


class Tiles(NamedTuple):
    """Channels a program, warps a program, turns of the loop whose loads are under way at once, and
    steps a turn. They move no result: channels do not meet."""

    block: int
    warps: int
    stages: int
    unroll: int

    @property
    def options(self) -> dict[str, Any]:
        """As a launch takes them."""
        return {
            "BLOCK": self.block,
            "STAGES": self.stages,
            "UNROLL": self.unroll,
            "num_warps": self.warps,
            "enable_fp_fusion": FP_FUSION,
        }


CANDIDATES = tuple(
    Tiles(block, warps, stages, unroll)
    for block in (32, 64, 128, 256)
    for warps in (1, 2, 4)
    if warps * 32 <= block
    for stages, unroll in ((1, 1), (8, 1), (5, 2), (3, 4))
)


@dataclass(frozen=True)
class Launch:
    """How a call is spread over programs.

    rows: R times directions, of d channels each.
    chunks, length: of time, and steps a chunk; `chunks` is 1 if time is one loop.
    dtype: of the call's tensors.
    gpu: on which kernels start; None: they run in the interpreter, or PyTorch only traces them.
    traced: whether PyTorch is to see the launches: within its op, and not when called directly.
    """

    rows: int
    d: int
    chunks: int
    length: int
    dtype: torch.dtype
    gpu: torch.device | None
    traced: bool

    @classmethod
    def of(
        cls, t: Tensor, R: int, num_directions: int, parallel: bool | None, traced: bool
    ) -> "Launch":
        """For R states and the tensor t [L, ..., D]; parallel: in time; None: where that is worth
        while."""
        L, D = t.shape[0], t.shape[-1]
        if parallel is None:
            parallel = worth_while("triton", L, R * D)
        chunks, length = cut(L, R * D) if parallel else (1, L)
        d = D // num_directions
        gpu = t.device if t.is_cuda and has_memory(t) else None
        return cls(R * num_directions, d, chunks, length, t.dtype, gpu, traced)

    @property
    def empty(self) -> bool:
        """Whether there is no channel at all."""
        return self.rows * self.d == 0

    def tiles(self) -> Tiles:
        """A fixed function of the shape; of d alone in a graph of any other sizes, which a choice
        would bind. On NVIDIA a thread must load four bytes: less can't be under way."""
        block, fixed = LARGEST_BLOCK, type(self.rows) is int and type(self.chunks) is int
        size = self.dtype.itemsize
        warp = LANES * max(1, 4 // size)
        while block > warp and (
            block >= 2 * self.d or (fixed and self.programs(block) * self.chunks < PROGRAMS)
        ):
            block //= 2
        # eight-byte numbers need twice the registers, and more stages would spill them
        return Tiles(block, block // warp, 2 if size > 4 else 8, 1)

    def programs(self, block: int) -> int:
        """Programs for all channels, of one chunk."""
        return self.rows * -(-self.d // block)


_tuned: dict[Any, Tiles] = {}
_tuning = os.environ.get("TORCHSRU_TUNE") == "1"


def run(
    kernel: str, options: Mapping[str, Any], launch: Launch, start: Callable[[Tiles], None]
) -> None:
    """Start kernels on the launch's tiles, or with TORCHSRU_TUNE=1 on those found the fastest.

    Tuning tries the launch's and every candidate at the first eager call of a kernel with these
    options and shape, which a CUDA graph's warm-up is; no result depends on it, since no candidate
    changes the order of any sum.

    Args:
        kernel, options: what the speed depends on beside the launch; the values hashable.
        start: starts them; may be called any number of times.
    """
    with nullcontext() if launch.gpu is None else torch.cuda.device(launch.gpu):
        if launch.traced or not _tuning:
            return start(launch.tiles())
        key = (kernel, *options.values(), launch)
        if key not in _tuned:
            if launch.gpu is not None and torch.cuda.is_current_stream_capturing():
                return start(launch.tiles())
            candidates = (launch.tiles(), *CANDIDATES)
            _tuned[key] = min(candidates, key=lambda tiles: _seconds(start, tiles))
        return start(_tuned[key])


def _seconds(start: Callable[[Tiles], None], tiles: Tiles, repeats: int = 5) -> float:
    """The shortest of a few timed starts, after one to compile; infinity if they don't fit."""
    from triton.runtime.errors import OutOfResources

    def once() -> float:
        began = perf_counter()
        start(tiles)
        if not interpreted():
            torch.cuda.synchronize()
        return perf_counter() - began

    try:
        once()
    except OutOfResources:  # of this GPU's shared memory, say
        return math.inf
    return min(once() for _ in range(1 if interpreted() else repeats))


def contiguous(tensors: Sequence[Tensor | None]) -> list[Any]:
    """The tensors, copied where the kernels' layout needs it: a mask, to four bytes a step."""
    rows = [None if t is None else t.contiguous() for t in tensors]
    return [t.int() if t is not None and t.dtype == torch.bool else t for t in rows]


def check_bounds(cu_seqlens: Tensor, total: int) -> None:
    """Assert, without waiting for the device, that the bounds rise from 0 to `total`."""
    rise = (cu_seqlens[1:] >= cu_seqlens[:-1]).all()
    fits = rise & (cu_seqlens[0] == 0) & (cu_seqlens[-1] == total)
    torch._assert_async(fits, f"cu_seqlens must rise from 0 to the number of steps, {total}")
