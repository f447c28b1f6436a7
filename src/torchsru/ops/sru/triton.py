"""The SRU ops on the GPU: allocation and launches around the kernels of triton_kernels.py.

Importing this module imports Triton; `torchsru.ops` does so at the first call that needs it.

Eager      calls the launchers as they are: a registered op would cost more than the kernel
Tracing    sees `torchsru::sru_*_triton`, which torch.compile and AOTInductor look into: the
           kernels become part of what they build, and no Python is left
Check      tests/ops/test_triton.py
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from torchsru.ops._dtypes import state_dtype
from torchsru.ops._triton import FP_FUSION, block_and_warps, check_bounds, contiguous
from torchsru.ops.sru import triton_kernels


def _shape(u: Tensor, cu_seqlens: Tensor | None) -> tuple[int, int, int, int, int]:
    """L, B, k, D, R."""
    L, B, k, D = u.shape
    return L, B, k, D, B if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _options(
    tensors: Sequence[Any], num_directions: int, tanh: bool, contractive: bool, alpha: float
) -> dict[str, Any]:
    """The kernels' compile-time arguments."""
    u, x, v, b, c0, mask, cu_seqlens, out_mask = tensors
    return {
        "DOUBLE": u.dtype == torch.float64,
        "K": u.shape[2],
        "HAS_X": x is not None,
        "V": 0 if v is None else v.dim() // 2,
        "HAS_B": b is not None,
        "HAS_C0": c0 is not None,
        "MASK": mask is not None,
        "DOCUMENTS": cu_seqlens is not None,
        "OUT_MASK": out_mask is not None,
        "DIRECTIONS": num_directions,
        "TANH": tanh,
        "CONTRACTIVE": contractive,
        "ALPHA": alpha,
    }


def _forward(arguments, keep):
    *tensors, num_directions, tanh, contractive, alpha = arguments
    tensors = contiguous(tensors)
    u, _, _, _, _, _, cu_seqlens, _ = tensors
    L, B, _, D, R = _shape(u, cu_seqlens)
    S = state_dtype(u)
    h, c_last = u.new_empty(L, B, D), u.new_empty(R, D, dtype=S)
    c = u.new_empty(L, B, D, dtype=S) if keep else None
    if cu_seqlens is not None:
        check_bounds(cu_seqlens, L)
    d = D // num_directions
    programs, block, warps = block_and_warps(R * num_directions, d)
    if programs:
        wrap_triton(triton_kernels.sru_forward)[(programs,)](
            *tensors, h, c_last, c, L, B, D, d,
            **_options(tensors, num_directions, tanh, contractive, alpha),
            KEEP=keep, BLOCK=block, num_warps=warps, enable_fp_fusion=FP_FUSION,
        )  # fmt: skip
    return h, c_last, c


def _backward(gh, gc_last, arguments, c):
    *tensors, num_directions, tanh, contractive, alpha = arguments
    gh, gc_last, c, *tensors = contiguous([gh, gc_last, c, *tensors])
    u, x, v, b, c0, _, cu_seqlens, out_mask = tensors
    L, B, _, D, R = _shape(u, cu_seqlens)
    S = state_dtype(u)
    v_varies = v is not None and v.dim() == 4

    def like(t, dtype=S):
        return u.new_empty(t.shape if t is not None else (0,), dtype=dtype)

    gu, gx, gv, gc0, gm = like(u, u.dtype), like(x, u.dtype), like(v), like(c0), like(out_mask)
    sums = u.new_empty(R, 4, D, dtype=S)
    d = D // num_directions
    programs, block, warps = block_and_warps(R * num_directions, d)
    if programs:
        wrap_triton(triton_kernels.sru_backward)[(programs,)](
            gh, gc_last, *tensors, c, gu, gx, gv, gc0, gm, sums, L, B, D, d,
            **_options(tensors, num_directions, tanh, contractive, alpha),
            HAS_GC=gc_last is not None, BLOCK=block, num_warps=warps, enable_fp_fusion=FP_FUSION,
        )  # fmt: skip
    if v is not None and not v_varies:
        gv = sums[:, :2].sum(0)
    gb = sums[:, 2:].sum(0) if b is not None else like(None)
    return gu, gx, gv, gb, gc0, gm


def _direct_forward(*arguments):
    return _forward(arguments, keep=False)[:2]  # no c of every step


def _direct_forward_train(*arguments):
    return _forward(arguments, keep=True)  # three tensors


def _direct_backward(gh, gc_last, *arguments):
    *tensors, c, num_directions, tanh, contractive, alpha = arguments
    return _backward(gh, gc_last, (*tensors, num_directions, tanh, contractive, alpha), c)


#: Forward, forward for training, backward: called as they are in eager mode.
DIRECT = (_direct_forward, _direct_forward_train, _direct_backward)


@triton_op("torchsru::sru_forward_triton", mutates_args=())
def sru_forward(
    u: Tensor, x: Tensor | None, v: Tensor | None, b: Tensor | None, c0: Tensor | None,
    mask: Tensor | None, cu_seqlens: Tensor | None, out_mask: Tensor | None,
    num_directions: int, tanh: bool, contractive: bool, alpha: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return h [L, B, D] and the last state [R, D]."""
    return _direct_forward(
        u, x, v, b, c0, mask, cu_seqlens, out_mask, num_directions, tanh, contractive, alpha
    )


@triton_op("torchsru::sru_forward_train_triton", mutates_args=())
def sru_forward_train(
    u: Tensor, x: Tensor | None, v: Tensor | None, b: Tensor | None, c0: Tensor | None,
    mask: Tensor | None, cu_seqlens: Tensor | None, out_mask: Tensor | None,
    num_directions: int, tanh: bool, contractive: bool, alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return h [L, B, D], the last state [R, D] and c of every step [L, B, D]."""
    return _direct_forward_train(
        u, x, v, b, c0, mask, cu_seqlens, out_mask, num_directions, tanh, contractive, alpha
    )


@triton_op("torchsru::sru_backward_triton", mutates_args=())
def sru_backward(
    gh: Tensor, gc_last: Tensor | None,
    u: Tensor, x: Tensor | None, v: Tensor | None, b: Tensor | None, c0: Tensor | None,
    mask: Tensor | None, cu_seqlens: Tensor | None, out_mask: Tensor | None, c: Tensor,
    num_directions: int, tanh: bool, contractive: bool, alpha: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of u, x, v, b, c0, out_mask; of an absent input an empty tensor."""
    return _direct_backward(
        gh, gc_last, u, x, v, b, c0, mask, cu_seqlens, out_mask, c,
        num_directions, tanh, contractive, alpha,
    )  # fmt: skip
