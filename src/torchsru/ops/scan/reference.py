"""The linear recurrence c_t = a_t c_{t-1} + b_t: the definition, true to float64.

Letters: L time steps, B batch rows, D channels (directions times hidden size), N documents.
"""

from itertools import pairwise

import torch
from torch import Tensor


def linear_reference(
    a: Tensor,
    b: Tensor,
    c0: Tensor | None = None,
    *,
    num_directions: int = 1,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """c_t = a_t c_{t-1} + b_t; arguments and shapes as in `linear_recurrence`."""
    L, B, D = a.shape
    if cu_seqlens is not None:  # documents laid end to end: each on its own, one after the other
        bounds = cu_seqlens.tolist()
        cs, lasts = [b[:0]], [a.new_empty(0, D)]
        for n, (start, end) in enumerate(pairwise(bounds)):
            c0_n = None if c0 is None else c0[n : n + 1]
            c_n, last_n = linear_reference(
                a[start:end], b[start:end], c0_n, num_directions=num_directions
            )
            cs.append(c_n)
            lasts.append(last_n)
        return torch.cat(cs), torch.cat(lasts)

    c0 = a.new_zeros(B, D) if c0 is None else c0
    if mask is not None:
        a, b = a.masked_fill(mask[:, :, None], 1), b.masked_fill(mask[:, :, None], 0)
    halves, lasts = [], []
    d = D // num_directions
    for q in range(num_directions):
        j = slice(q * d, (q + 1) * d)
        last = c0[:, j]
        c = [last] * L
        a_t, b_t = a[..., j].unbind(), b[..., j].unbind()  # at once: autograd pays for every slice
        for t in range(L) if q == 0 else reversed(range(L)):
            last = a_t[t] * last + b_t[t]
            c[t] = last
        halves.append(torch.stack(c) if L else b[..., j])
        lasts.append(last)
    return torch.cat(halves, dim=-1), torch.cat(lasts, dim=-1)
