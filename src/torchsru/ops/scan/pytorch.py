"""Linear recurrence in pure PyTorch, forward and hand-written backward, on any device.

Computes   c_t = a_t c_{t-1} + b_t, the steps of all rows and channels at once
Layout     a, b, c [L, B, D]; states [B, D]
Precision  reads and writes the type of a; computes and carries c in the state's type
Memory     the backward pass reads the output c
Check      tests/ops/test_scan.py
"""

import torch
from torch import Tensor

from torchsru.ops._dtypes import state_dtype
from torchsru.ops._sequences import Documents, flip


def linear_forward(a, b, c0, mask, cu_seqlens, num_directions) -> tuple[Tensor, Tensor]:
    """Return c [L, B, D] and the last state [B or N, D]."""
    if cu_seqlens is not None:
        docs = Documents.from_bounds(cu_seqlens, a.shape[0])
        c, c_last = linear_forward(docs.pad(a), docs.pad(b), c0, docs.mask, None, num_directions)
        return docs.unpad(c), c_last

    S = state_dtype(a)
    L, B, D = a.shape
    c = torch.empty(L, B, D, dtype=S, device=a.device)
    last = torch.zeros(B, D, dtype=S, device=a.device) if c0 is None else c0.to(S)
    a_S, b_S = _skip(a.to(S), mask, 1), _skip(b.to(S), mask, 0)
    a_S, b_S = flip(a_S, num_directions), flip(b_S, num_directions)
    for t in range(L):
        last = torch.addcmul(b_S[t], a_S[t], last, out=c[t])
    return flip(c, num_directions).to(a.dtype), last.clone()


def linear_backward(
    gc, gc_last, a, b, c0, mask, cu_seqlens, c, num_directions
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
            gc, gc_last, docs.pad(a), b, c0, docs.mask, None, c, num_directions
        )
        return docs.unpad(ga), docs.unpad(gb), gc0

    S = state_dtype(a)
    _, B, D = a.shape
    a_S, c_S = flip(_skip(a.to(S), mask, 1), num_directions), flip(c.to(S), num_directions)
    gc = flip(gc.to(S), num_directions)
    first = torch.zeros(B, D, dtype=S, device=a.device) if c0 is None else c0.to(S)
    c_prev = torch.cat([first[None], c_S])[:-1]
    carried = torch.zeros_like(first) if gc_last is None else gc_last.to(S)
    gb = torch.empty_like(c_S)
    for t in reversed(range(a.shape[0])):
        torch.add(gc[t], carried, out=gb[t])
        carried = a_S[t] * gb[t]
    ga = _skip(flip(gb * c_prev, num_directions), mask, 0)
    gb = _skip(flip(gb, num_directions), mask, 0)
    return ga.to(a.dtype), gb.to(a.dtype), carried.new_empty(0) if c0 is None else carried.clone()


def _skip(t: Tensor, mask: Tensor | None, value: float) -> Tensor:
    """t [L, B, D] with a value at padding."""
    return t if mask is None else t.masked_fill(mask[:, :, None], value)
