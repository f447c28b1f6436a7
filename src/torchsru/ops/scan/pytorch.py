"""Linear recurrence in pure PyTorch, forward and hand-written backward, on any device.

Computes   c_t = a_t c_{t-1} + b_t, the steps of all rows and channels at once; or, parallel in
           time, those of all chunks of `torchsru.ops._parallel` too
Layout     a, b, c [L, B, D]; states [B, D]
Precision  reads and writes the type of a; computes and carries c in the state's type
Memory     the backward pass reads the output c
Check      tests/ops/test_scan.py
"""

import torch
from torch import Tensor

from torchsru.ops._dtypes import state_dtype
from torchsru.ops._parallel import cut, worth_while
from torchsru.ops._sequences import Documents, flip


def scan(a: Tensor, b: Tensor, c0: Tensor, parallel: bool | None) -> Tensor:
    """c [L, ...] of a, b [L, ...] and c0 [...], all of one type.

    parallel: in time; None: where that is worth while.
    """
    L = a.shape[0]
    if parallel is None:
        parallel = worth_while("torch", L, c0.numel())
    chunks, length = cut(L, c0.numel()) if parallel else (1, L)
    last = c0[None]
    if chunks > 1:
        decay, end = torch.ones_like(b[::length]), torch.zeros_like(b[::length])
        for t in range(length):
            at = slice(t, None, length)  # step t of every chunk that has one
            n = len(b[at])
            decay[:n] *= a[at]
            end[:n] = torch.addcmul(b[at], a[at], end[:n])
        last = chain(decay, end, c0)
        sure = decay.isfinite().all(0)
        if not sure.all():  # what has overflowed need not reach a state: one loop says
            return torch.where(sure, _run(a, b, last, length), _run(a, b, c0[None], L))
    return _run(a, b, last, length)


def _run(a: Tensor, b: Tensor, last: Tensor, length: int) -> Tensor:
    """c [L, ...] of chunks of `length` steps, each from its own first state in last [C, ...]."""
    c = torch.empty_like(b)
    for t in range(length):
        at = slice(t, None, length)
        last = torch.addcmul(b[at], a[at], last[: len(b[at])], out=c[at])
    return c


def chain(decay: Tensor, end: Tensor, c0: Tensor) -> Tensor:
    """First states of all chunks: each is the one before it through the affine map of its chunk.

    decay, end: [chunks, ...] what a chunk does to a state, and what it makes of 0.
    """
    starts = [c0]
    for decay_n, end_n in zip(decay[:-1], end[:-1], strict=True):
        starts.append(torch.addcmul(end_n, decay_n, starts[-1]))
    return torch.stack(starts)


def linear_forward(
    a, b, c0, mask, cu_seqlens, num_directions, parallel=None
) -> tuple[Tensor, Tensor]:
    """Return c [L, B, D] and the last state [B or N, D]; parallel: see `scan`."""
    if cu_seqlens is not None:
        docs = Documents.from_bounds(cu_seqlens, a.shape[0])
        c, c_last = linear_forward(
            docs.pad(a), docs.pad(b), c0, docs.mask, None, num_directions, parallel
        )
        return docs.unpad(c), c_last

    S = state_dtype(a)
    first = torch.zeros(a.shape[1:], dtype=S, device=a.device) if c0 is None else c0.to(S)
    a_S, b_S = _skip(a.to(S), mask, 1), _skip(b.to(S), mask, 0)
    c = scan(flip(a_S, num_directions), flip(b_S, num_directions), first, parallel)
    last = c[-1] if len(c) else first
    return flip(c, num_directions).to(a.dtype, copy=True), last.clone()


def linear_backward(
    gc, gc_last, a, b, c0, mask, cu_seqlens, c, num_directions, parallel=None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, b and c0; of an absent c0, an empty tensor.

    b itself is not read: second derivatives are, through the reference.
    """
    if cu_seqlens is not None:
        docs = Documents.from_bounds(cu_seqlens, a.shape[0])
        # backward in time, the padding comes first, where the state is still c0
        before = c.new_zeros(1, c.shape[-1]) if c0 is None else c0.to(c.dtype)
        c = torch.where(docs.mask[:, :, None], before, docs.pad(c))
        gc = docs.pad(gc).masked_fill(docs.mask[:, :, None], 0)
        ga, gb, gc0 = linear_backward(
            gc, gc_last, docs.pad(a), b, c0, docs.mask, None, c, num_directions, parallel
        )
        return docs.unpad(ga), docs.unpad(gb), gc0

    S = state_dtype(a)
    a_S, c_S = flip(_skip(a.to(S), mask, 1), num_directions), flip(c.to(S), num_directions)
    gc = flip(gc.to(S), num_directions)
    first = torch.zeros(a.shape[1:], dtype=S, device=a.device) if c0 is None else c0.to(S)
    c_prev = torch.cat([first[None], c_S])[:-1]
    gb, carried = scan_back(a_S, gc, gc_last, parallel)
    ga = _skip(flip(gb * c_prev, num_directions), mask, 0)
    gb = _skip(flip(gb, num_directions), mask, 0)
    return ga.to(a.dtype), gb.to(a.dtype), carried.new_empty(0) if c0 is None else carried


def scan_back(
    a: Tensor, gc: Tensor, gc_last: Tensor | None, parallel: bool | None
) -> tuple[Tensor, Tensor]:
    """The gradient of every state, g_t = gc_t + a_{t+1} g_{t+1}, and of the state before.

    Args:
        a, gc: [L, ...] how c_t depends on c_{t-1}, and the gradient that reaches c_t directly.
        gc_last: [...] gradient of the last state, added to gc's last, or None.
        parallel: see `scan`.
    """
    last = gc.new_zeros(gc.shape[1:]) if gc_last is None else gc_last.to(gc.dtype)
    if not len(gc):
        return gc, last.clone()
    later = torch.cat([torch.ones_like(a[:1]), a[1:].flip(0)])
    g = scan(later, gc.flip(0), last, parallel).flip(0)
    return g, a[0] * g[0]


def _skip(t: Tensor, mask: Tensor | None, value: float) -> Tensor:
    """t [L, B, D] with a value at padding."""
    return t if mask is None else t.masked_fill(mask[:, :, None], value)
