"""The SRU recurrence, written as its equations: the definition, true to float64.

Letters: L time steps, B batch rows, D channels (directions times hidden size), N documents.
"""

from itertools import pairwise

import torch
from torch import Tensor

#: Bound on |v_f| in the contractive recurrence, rounded down from
#: 2.233423 = 1 / max_d (d sech^2 d); see `sru_recurrence`.
CONTRACTIVE_BOUND = 2.2334


def sru_reference(
    u: Tensor,
    x: Tensor | None = None,
    v: Tensor | None = None,
    b: Tensor | None = None,
    c0: Tensor | None = None,
    *,
    num_directions: int = 1,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    out_mask: Tensor | None = None,
    activation: str = "identity",
    contractive: bool = False,
    alpha: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """SRU, eqs. (1)-(4) of Lei et al. 2018; arguments and shapes as in `sru_recurrence`.

    Everything is computed in the type of the arguments, which must agree.
    """
    L, B, k, D = u.shape
    if cu_seqlens is not None:  # documents laid end to end: each on its own, one after the other
        bounds = cu_seqlens.tolist()
        hs, cs = [u[:0, :, 0]], [u.new_empty(0, D)]
        for n, (start, end) in enumerate(pairwise(bounds)):
            h_n, c_n = sru_reference(
                u[start:end],
                None if x is None else x[start:end],
                v[start:end] if v is not None and v.dim() == 4 else v,
                b,
                None if c0 is None else c0[n : n + 1],
                num_directions=num_directions,
                out_mask=None if out_mask is None else out_mask[n : n + 1],
                activation=activation,
                contractive=contractive,
                alpha=alpha,
            )
            hs.append(h_n)
            cs.append(c_n)
        return torch.cat(hs), torch.cat(cs)

    if k == 4:
        x = u[:, :, 3]
    v = u.new_zeros(2, D) if v is None else v
    v = v.expand(L, B, 2, D)
    b = u.new_zeros(2, D) if b is None else b
    c0 = u.new_zeros(B, D) if c0 is None else c0
    m = u.new_ones(B, D) if out_mask is None else out_mask
    g = {"identity": lambda c: c, "tanh": torch.tanh}[activation]
    if mask is not None:  # what stands at a padding step, even NaN, reaches nothing
        u = u.masked_fill(mask[:, :, None, None], 0)
        v = v.masked_fill(mask[:, :, None, None], 0)
        x = None if x is None else x.masked_fill(mask[:, :, None], 0)

    h_halves, c_halves = [], []
    d = D // num_directions
    for q in range(num_directions):
        j = slice(q * d, (q + 1) * d)
        c = c0[:, j]
        h = [c] * L
        u_t, v_t = u[..., j].unbind(), v[..., j].unbind()  # at once: autograd pays for every slice
        x_t = None if x is None else x[..., j].unbind()
        for t in range(L) if q == 0 else reversed(range(L)):
            z, f_in, r_in, *_ = u_t[t].unbind(dim=1)
            v_f, v_r = v_t[t].unbind(dim=1)
            if contractive:
                v_f = v_f.clamp(-CONTRACTIVE_BOUND, CONTRACTIVE_BOUND)
                f = torch.sigmoid(f_in + v_f * torch.tanh(c - z) + b[0, j])
            else:
                f = torch.sigmoid(f_in + v_f * c + b[0, j])  # (1)
            r = torch.sigmoid(r_in + v_r * c + b[1, j])  # (3) reads c_{t-1}, so before (2)
            c_new = f * c + (1 - f) * z  # (2)
            r = m[:, j] * r
            h_t = r * g(c_new)  # (4)
            if x_t is not None:
                h_t = h_t + (1 - r) * (alpha * x_t[t])
            if mask is not None:
                h_t = h_t.masked_fill(mask[t, :, None], 0)
                c_new = torch.where(mask[t, :, None], c, c_new)
            c, h[t] = c_new, h_t
        h_halves.append(torch.stack(h) if L else u[:, :, 0, j])
        c_halves.append(c)
    return torch.cat(h_halves, dim=-1), torch.cat(c_halves, dim=-1)
