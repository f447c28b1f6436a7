"""Launches that the recurrences share: a kernel over all chunks, and from chunk to chunk."""

from typing import Any

import torch
from torch import Tensor
from torch.library import wrap_triton

from torchsru.ops import _triton_kernels
from torchsru.ops._triton import Launch, Tiles


def wrap(kernel: Any, launch: Launch, tiles: Tiles, chunks: int | None = None) -> Any:
    """The kernel on a grid of all channels and of all chunks, or of so many."""
    grid = (launch.programs(tiles.block), launch.chunks if chunks is None else chunks)
    # PyTorch's wrapper costs ten launches, and keeps what it has seen for ever
    return (wrap_triton(kernel) if launch.traced else kernel)[grid]


def maps(row: Tensor, launch: Launch, count: int) -> list[Tensor]:
    """`count` tensors [C, R, D] of the type of row [R, D]."""
    return [row.new_empty(launch.chunks, *row.shape) for _ in range(count)]


def first_states(
    decays: Tensor,
    ends: Tensor,
    s0: Tensor | None,
    cu_seqlens: Tensor | None,
    L: int,
    launch: Launch,
    tiles: Tiles,
) -> Tensor:
    """First states of all chunks [C, R, D] from their affine maps and s0 [R, D], the first."""
    starts = torch.empty_like(ends)
    _, R, D = ends.shape
    wrap(_triton_kernels.chain, launch, tiles, 1)(
        decays, ends, s0, starts, cu_seqlens, L, R, D, launch.d, launch.length,
        DOUBLE=ends.dtype == torch.float64, HAS_S0=s0 is not None,
        DOCUMENTS=cu_seqlens is not None, DIRECTIONS=launch.rows // R, **tiles.options,
    )  # fmt: skip
    return starts
