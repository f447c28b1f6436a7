"""The linear recurrence on the GPU: allocation and launches around triton_kernels.py.

Importing this module imports Triton; `torchsru.ops` does so at the first call that needs it.
"""

import torch

from torchsru.ops._dtypes import state_dtype
from torchsru.ops._triton import Launch, Tiles, check_bounds, contiguous, run
from torchsru.ops._triton_chunks import first_states, maps, wrap
from torchsru.ops._triton_kernels import MAPS, STEPS, WHOLE
from torchsru.ops.scan import triton_kernels


def forward(a, b, c0, mask, cu_seqlens, num_directions, parallel=None, traced=False):
    """Return c [L, B, D] and the last state [R, D].

    parallel: in time; None: where that is worth while.
    traced: whether PyTorch is to see the launches.
    """
    a, b, c0, mask, cu_seqlens = contiguous([a, b, c0, mask, cu_seqlens])
    L, B, D = a.shape
    R = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    S = state_dtype(a)
    c, c_last = a.new_empty(L, B, D), a.new_empty(R, D, dtype=S)
    if cu_seqlens is not None:
        check_bounds(cu_seqlens, L)
    launch = Launch.of(a, R, num_directions, parallel, traced)
    if launch.empty:
        return c, c_last
    options = {
        "DOUBLE": torch.float64 == S, "HAS_C0": c0 is not None, "MASK": mask is not None,
        "DOCUMENTS": cu_seqlens is not None, "DIRECTIONS": num_directions,
    }  # fmt: skip

    def start(tiles: Tiles) -> None:
        def go(PASS, starts=None, ends=None, decays=None):
            wrap(triton_kernels.linear_forward, launch, tiles)(
                a, b, c0, mask, cu_seqlens, starts, c, c_last, ends, decays,
                L, B, R, D, launch.d, launch.length, PASS=PASS.value, **options, **tiles.options,
            )  # fmt: skip

        if launch.chunks == 1:
            return go(WHOLE)
        ends, decays = maps(c_last, launch, 2)
        go(MAPS, ends=ends, decays=decays)
        return go(STEPS, first_states(decays, ends, c0, cu_seqlens, L, launch, tiles))

    run("linear_forward", options, launch, start)
    return c, c_last


def backward(
    gc, gc_last, a, b, c0, mask, cu_seqlens, c, num_directions, parallel=None, traced=False
):
    """Return the gradients of a, b and c0; of an absent c0 an empty tensor."""
    gc, gc_last, a, c0, mask, cu_seqlens, c = contiguous([gc, gc_last, a, c0, mask, cu_seqlens, c])
    L, B, D = a.shape
    R = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    S = state_dtype(a)
    ga, gb = a.new_empty(L, B, D), a.new_empty(L, B, D)
    gc0 = a.new_empty((R, D) if c0 is not None else (0,), dtype=S)
    launch = Launch.of(a, R, num_directions, parallel, traced)
    if launch.empty:
        return ga, gb, gc0
    options = {
        "DOUBLE": torch.float64 == S, "HAS_C0": c0 is not None, "MASK": mask is not None,
        "DOCUMENTS": cu_seqlens is not None, "DIRECTIONS": num_directions,
        "HAS_GC_LAST": gc_last is not None,
    }  # fmt: skip

    def start(tiles: Tiles) -> None:
        def go(PASS, starts=None, ends=None, decays=None):
            wrap(triton_kernels.linear_backward, launch, tiles)(
                gc, gc_last, a, c0, mask, cu_seqlens, c, starts, ga, gb, gc0, ends, decays,
                L, B, R, D, launch.d, launch.length, PASS=PASS.value, **options, **tiles.options,
            )  # fmt: skip

        if launch.chunks == 1:
            return go(WHOLE)
        ends, decays = maps(a.new_empty(R, D, dtype=S), launch, 2)
        go(MAPS, ends=ends, decays=decays)
        return go(STEPS, first_states(decays, ends, gc_last, cu_seqlens, L, launch, tiles))

    run("linear_backward", options, launch, start)
    return ga, gb, gc0


#: Forward, forward for training, backward.
LAUNCHERS = (forward, forward, backward)
KERNELS = [triton_kernels.linear_forward, triton_kernels.linear_backward]
