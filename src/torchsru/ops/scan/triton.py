"""The linear recurrence's ops on the GPU: allocation and launches around triton_kernels.py.

Importing this module imports Triton; see `torchsru.ops.sru.triton`, its sibling.
"""

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from torchsru.ops._dtypes import state_dtype
from torchsru.ops._triton import FP_FUSION, block_and_warps, check_bounds, contiguous
from torchsru.ops.scan import triton_kernels


def forward(a, b, c0, mask, cu_seqlens, num_directions):
    """Return c [L, B, D] and the last state [R, D]."""
    a, b, c0, mask, cu_seqlens = contiguous([a, b, c0, mask, cu_seqlens])
    L, B, D = a.shape
    R = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    c, c_last = a.new_empty(L, B, D), a.new_empty(R, D, dtype=state_dtype(a))
    if cu_seqlens is not None:
        check_bounds(cu_seqlens, L)
    d = D // num_directions
    programs, block, warps = block_and_warps(R * num_directions, d)
    if programs:
        wrap_triton(triton_kernels.linear_forward)[(programs,)](
            a, b, c0, mask, cu_seqlens, c, c_last, L, B, D, d,
            DOUBLE=a.dtype == torch.float64, HAS_C0=c0 is not None, MASK=mask is not None,
            DOCUMENTS=cu_seqlens is not None, DIRECTIONS=num_directions,
            BLOCK=block, num_warps=warps, enable_fp_fusion=FP_FUSION,
        )  # fmt: skip
    return c, c_last


def backward(gc, gc_last, a, b, c0, mask, cu_seqlens, c, num_directions):
    """Return the gradients of a, b and c0; of an absent c0 an empty tensor."""
    gc, gc_last, a, c0, mask, cu_seqlens, c = contiguous([gc, gc_last, a, c0, mask, cu_seqlens, c])
    L, B, D = a.shape
    R = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    ga, gb = a.new_empty(L, B, D), a.new_empty(L, B, D)
    gc0 = a.new_empty((R, D) if c0 is not None else (0,), dtype=state_dtype(a))
    d = D // num_directions
    programs, block, warps = block_and_warps(R * num_directions, d)
    if programs:
        wrap_triton(triton_kernels.linear_backward)[(programs,)](
            gc, gc_last, a, c0, mask, cu_seqlens, c, ga, gb, gc0, L, B, D, d,
            DOUBLE=a.dtype == torch.float64, HAS_C0=c0 is not None, MASK=mask is not None,
            DOCUMENTS=cu_seqlens is not None, DIRECTIONS=num_directions,
            HAS_GC_LAST=gc_last is not None, BLOCK=block, num_warps=warps,
            enable_fp_fusion=FP_FUSION,
        )  # fmt: skip
    return ga, gb, gc0


@triton_op("torchsru::linear_forward_triton", mutates_args=())
def linear_forward(
    a: Tensor, b: Tensor, c0: Tensor | None, mask: Tensor | None, cu_seqlens: Tensor | None,
    num_directions: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return c [L, B, D] and the last state [R, D]."""
    return forward(a, b, c0, mask, cu_seqlens, num_directions)


@triton_op("torchsru::linear_forward_train_triton", mutates_args=())
def linear_forward_train(
    a: Tensor, b: Tensor, c0: Tensor | None, mask: Tensor | None, cu_seqlens: Tensor | None,
    num_directions: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The same, with autograd."""
    return forward(a, b, c0, mask, cu_seqlens, num_directions)


@triton_op("torchsru::linear_backward_triton", mutates_args=())
def linear_backward(
    gc: Tensor, gc_last: Tensor | None, a: Tensor, b: Tensor, c0: Tensor | None,
    mask: Tensor | None, cu_seqlens: Tensor | None, c: Tensor, num_directions: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of a, b and c0; of an absent c0 an empty tensor."""
    return backward(gc, gc_last, a, b, c0, mask, cu_seqlens, c, num_directions)
