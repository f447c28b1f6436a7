"""The SRU ops on the GPU: allocation and launches around the kernels of triton_kernels.py.

Importing this module imports Triton; `torchsru.ops` does so at the first call that needs it.

Check      tests/ops/test_triton.py
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchsru.ops._dtypes import state_dtype
from torchsru.ops._parallel import ITERATIONS, TOLERANCE
from torchsru.ops._triton import Launch, Tiles, check_bounds, contiguous, run
from torchsru.ops._triton_chunks import first_states, maps, wrap
from torchsru.ops._triton_kernels import MAPS, STEPS, WHOLE
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


def _forward(arguments, keep, parallel, traced):
    *tensors, num_directions, tanh, contractive, alpha = arguments
    tensors = contiguous(tensors)
    u, *_, cu_seqlens, _ = tensors
    L, B, _, D, R = _shape(u, cu_seqlens)
    S = state_dtype(u)
    h, c_last = u.new_empty(L, B, D), u.new_empty(R, D, dtype=S)
    c = u.new_empty(L, B, D, dtype=S) if keep else None
    if cu_seqlens is not None:
        check_bounds(cu_seqlens, L)
    launch = Launch.of(u, R, num_directions, parallel, traced)
    if launch.empty:
        return h, c_last, c
    options = _options(tensors, num_directions, tanh, contractive, alpha)
    options["KEEP"] = keep

    def start(tiles: Tiles) -> None:
        starts = None
        if launch.chunks > 1:
            starts = _solve(tensors, options, c_last, launch, tiles)
        wrap(triton_kernels.sru_forward, launch, tiles)(
            *tensors, starts, h, c_last, c, L, B, R, D, launch.d, launch.length, **options,
            PASS=(WHOLE if starts is None else STEPS).value, **tiles.options,
        )  # fmt: skip

    run("sru_forward", options, launch, start)
    return h, c_last, c


def _solve(
    tensors: Sequence[Any], options: dict[str, Any], row: Tensor, launch: Launch, tiles: Tiles
) -> Tensor:
    """First states of all chunks [C, R, D]; row: any state [R, D]. `torchsru.ops.sru.parallel` has
    the method. No waiting for the device: programs whose chunk is solved end at once."""
    u, _, v, b, c0, mask, cu_seqlens, _ = tensors
    L, B, _, D, R = _shape(u, cu_seqlens)
    forget = {
        n: options[n] for n in ("DOUBLE", "K", "HAS_B", "MASK", "DOCUMENTS", "DIRECTIONS")
    } | tiles.options
    chunks = {n: options[n] for n in ("DOUBLE", "DOCUMENTS", "DIRECTIONS")} | tiles.options
    nonlinear = {"V": options["V"], "CONTRACTIVE": options["CONTRACTIVE"]}
    shape = (L, B, R, D, launch.d, launch.length)

    ends, slopes, scales, low, high = maps(row, launch, 5)
    wrap(triton_kernels.sru_guess, launch, tiles)(
        u, b, mask, cu_seqlens, ends, slopes, low, high, *shape, **forget
    )
    starts = first_states(slopes, ends, c0, cu_seqlens, L, launch, tiles)
    if v is None:  # the guess is the solution
        return starts
    solved = torch.ones_like(row, dtype=torch.int32)
    for _ in range(ITERATIONS):
        wrap(triton_kernels.sru_run, launch, tiles)(
            u, v, b, mask, cu_seqlens, starts, solved, ends, slopes, scales, *shape,
            **nonlinear, **forget,
        )  # fmt: skip
        wrap(triton_kernels.sru_newton, launch, tiles, 1)(
            c0, cu_seqlens, ends, slopes, scales, low, high, starts, solved,
            L, R, D, launch.d, launch.length, HAS_C0=options["HAS_C0"], TOLERANCE=TOLERANCE,
            **chunks,
        )  # fmt: skip
    wrap(triton_kernels.sru_finish, launch, tiles, 1)(
        u, v, b, mask, cu_seqlens, solved, starts, *shape, **nonlinear, **forget
    )
    return starts


def _backward(gh, gc_last, arguments, c, parallel, traced):
    *tensors, num_directions, tanh, contractive, alpha = arguments
    gh, gc_last, c, *tensors = contiguous([gh, gc_last, c, *tensors])
    u, x, v, b, c0, _, cu_seqlens, out_mask = tensors
    L, B, _, D, R = _shape(u, cu_seqlens)
    S = state_dtype(u)
    v_varies = v is not None and v.dim() == 4
    launch = Launch.of(u, R, num_directions, parallel, traced)

    def like(t, dtype=S):
        return u.new_empty(t.shape if t is not None else (0,), dtype=dtype)

    gu, gx, gv, gc0 = like(u, u.dtype), like(x, u.dtype), like(v), like(c0)
    gm = u.new_empty((launch.chunks, R, D) if out_mask is not None else (0, 0), dtype=S)
    sums = u.new_empty((launch.chunks, R, 4, D), dtype=S)
    options = _options(tensors, num_directions, tanh, contractive, alpha)
    options["HAS_GC"] = gc_last is not None

    def start(tiles: Tiles) -> None:
        def go(PASS, starts=None, ends=None, decays=None):
            wrap(triton_kernels.sru_backward, launch, tiles)(
                gh, gc_last, *tensors, c, starts, gu, gx, gv, gc0, gm, sums, ends, decays,
                L, B, R, D, launch.d, launch.length, **options, PASS=PASS.value, **tiles.options,
            )  # fmt: skip

        if launch.chunks == 1:
            return go(WHOLE)
        ends, decays = maps(u.new_empty(R, D, dtype=S), launch, 2)
        go(MAPS, ends=ends, decays=decays)
        return go(STEPS, first_states(decays, ends, gc_last, cu_seqlens, L, launch, tiles))

    if not launch.empty:
        run("sru_backward", options, launch, start)
    if v is not None and not v_varies:
        gv = sums[:, :, :2].sum((0, 1))
    gb = sums[:, :, 2:].sum((0, 1)) if b is not None else like(None)
    return gu, gx, gv, gb, gc0, gm.sum(0)


def forward(*arguments, parallel=None, traced=False):
    """Return h [L, B, D] and the last state [R, D].

    parallel: in time; None: where that is worth while.
    traced: whether PyTorch is to see the launches.
    """
    return _forward(arguments, False, parallel, traced)[:2]  # no c of every step


def forward_train(*arguments, parallel=None, traced=False):
    """The same, and c of every step [L, B, D]."""
    return _forward(arguments, True, parallel, traced)


def backward(gh, gc_last, *arguments, parallel=None, traced=False):
    """Return the gradients of u, x, v, b, c0, out_mask; of an absent input an empty tensor."""
    *tensors, c, num_directions, tanh, contractive, alpha = arguments
    arguments = (*tensors, num_directions, tanh, contractive, alpha)
    return _backward(gh, gc_last, arguments, c, parallel, traced)


#: Forward, forward for training, backward: called as they are in eager mode.
LAUNCHERS = (forward, forward_train, backward)
KERNELS = [
    *(triton_kernels.sru_forward, triton_kernels.sru_backward, triton_kernels.sru_guess),
    *(triton_kernels.sru_run, triton_kernels.sru_newton, triton_kernels.sru_finish),
]
