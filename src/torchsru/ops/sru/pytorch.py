"""SRU recurrence in pure PyTorch, forward and hand-written backward, on any device.

Computes   eqs. (1)-(4) of arXiv 1709.02755, the steps of all rows and channels at once
Layout     u [L, B, k, D]; x, h, c [L, B, D]; v [2, D] or [L, B, 2, D]; b [2, D]; states [B, D]
Precision  reads and writes the type of u; computes and carries c in the state's type
Memory     keeps c of every step for the backward pass, computes the gates again
Speed      ten-odd launches a step forward, three backward: it works everywhere, slowly
Check      tests/ops/test_sru.py
"""

import torch
from torch import Tensor

from torchsru.ops._dtypes import state_dtype
from torchsru.ops._sequences import Documents, flip
from torchsru.ops.sru.reference import CONTRACTIVE_BOUND


def _gates(u, v, b, c_prev, contractive):
    """f, r and what f's argument takes from the state, for every step that c_prev covers."""
    v_f, v_r = v.unbind(-2)
    b_f, b_r = b.unbind(-2)
    if contractive:
        v_f = v_f.clamp(-CONTRACTIVE_BOUND, CONTRACTIVE_BOUND)
        s = torch.tanh(c_prev - u[..., 0, :])
    else:
        s = c_prev
    f = torch.sigmoid(u[..., 1, :] + v_f * s + b_f)
    r = torch.sigmoid(u[..., 2, :] + v_r * c_prev + b_r)
    return f, r, s, v_f, v_r


def _prepare(u, x, v, b, c0, mask, out_mask, num_directions):
    """Everything in the state's type, present, and running forward in time."""
    L, B, k, D = u.shape
    S = state_dtype(u)
    if k == 4:
        x = u[:, :, 3]
    zeros = torch.zeros((), dtype=S, device=u.device)
    v = zeros.expand(2, D) if v is None else v.to(S)
    v = flip(v, num_directions) if v.dim() == 4 else v
    b = zeros.expand(2, D) if b is None else b.to(S)
    c0 = zeros.expand(B, D) if c0 is None else c0.to(S)
    m = torch.ones_like(zeros).expand(B, D) if out_mask is None else out_mask.to(S)
    x = None if x is None else flip(x.to(S), num_directions)
    u = flip(u[:, :, :3].to(S), num_directions)
    if mask is None:
        pad = None
    else:  # [L, B, D]: the directions meet the same padding at different times
        pad = flip(mask[:, :, None].expand(L, B, D), num_directions)
        u = u.masked_fill(pad[:, :, None], 0)
        x = None if x is None else x.masked_fill(pad, 0)
        v = v.masked_fill(pad[:, :, None], 0) if v.dim() == 4 else v
    return u, x, v, b, c0, m, pad


def sru_forward_train(
    u, x, v, b, c0, mask, cu_seqlens, out_mask, num_directions, tanh, contractive, alpha
) -> tuple[Tensor, Tensor, Tensor]:
    """Return h [L, B, D], the last state [B or N, D] and c of every step [L, B, D]."""
    if cu_seqlens is not None:
        docs = Documents.from_bounds(cu_seqlens, u.shape[0])
        x = None if x is None else docs.pad(x)
        v = docs.pad(v) if v is not None and v.dim() == 4 else v
        h, c_last, c = sru_forward_train(
            docs.pad(u), x, v, b, c0, docs.mask, None, out_mask,
            num_directions, tanh, contractive, alpha,
        )  # fmt: skip
        return docs.unpad(h), c_last, docs.unpad(c)

    out_dtype = u.dtype
    u, x, v, b, c, m, pad = _prepare(u, x, v, b, c0, mask, out_mask, num_directions)
    L, B, _, D = u.shape
    h, cs = u.new_empty(L, B, D), u.new_empty(L, B, D)
    for t in range(L):
        f, r, *_ = _gates(u[t], v[t] if v.dim() == 4 else v, b, c, contractive)
        c_new = f * c + (1 - f) * u[t, :, 0]
        r = m * r
        h_t = r * (torch.tanh(c_new) if tanh else c_new)
        if x is not None:
            h_t = h_t + (1 - r) * (alpha * x[t])
        if pad is not None:
            h_t, c_new = h_t.masked_fill(pad[t], 0), torch.where(pad[t], c, c_new)
        h[t], cs[t], c = h_t, c_new, c_new
    return flip(h, num_directions).to(out_dtype), c.clone(), flip(cs, num_directions)


def sru_forward(*args) -> tuple[Tensor, Tensor]:
    """Return h and the last state; arguments as in `sru_forward_train`."""
    return sru_forward_train(*args)[:2]


def sru_backward(
    gh, gc_last, u, x, v, b, c0, mask, cu_seqlens, out_mask, c,
    num_directions, tanh, contractive, alpha,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of u, x, v, b, c0 and out_mask; of an absent input, an empty tensor."""
    if cu_seqlens is not None:
        docs = Documents.from_bounds(cu_seqlens, u.shape[0])
        steps = v is not None and v.dim() == 4
        # backward in time, the padding comes first, where the state is still c0
        before = c.new_zeros(1, c.shape[-1]) if c0 is None else c0
        c = torch.where(docs.mask[:, :, None], before, docs.pad(c))
        gu, gx, gv, gb, gc0, gm = sru_backward(
            docs.pad(gh), gc_last, docs.pad(u), None if x is None else docs.pad(x),
            docs.pad(v) if steps else v, b, c0, docs.mask, None, out_mask, c,
            num_directions, tanh, contractive, alpha,
        )  # fmt: skip
        gx = gx if x is None else docs.unpad(gx)
        return docs.unpad(gu), gx, docs.unpad(gv) if steps else gv, gb, gc0, gm

    given = {"x": x, "v": v, "b": b, "c0": c0, "out_mask": out_mask}
    out_dtype, k = u.dtype, u.shape[2]
    u, x, v, b, c0, m, pad = _prepare(u, x, v, b, c0, mask, out_mask, num_directions)
    c, gh = flip(c, num_directions), flip(gh.to(c.dtype), num_directions)
    L = u.shape[0]
    c_prev = torch.cat([c0[None], c])[:-1]
    z = u[:, :, 0]

    f, r, s, v_f, v_r = _gates(u, v, b, c_prev, contractive)
    g, dg = (torch.tanh(c), 1 - torch.tanh(c) ** 2) if tanh else (c, torch.ones_like(c))
    x_term = torch.zeros_like(c) if x is None else alpha * x
    if pad is not None:
        gh = gh.masked_fill(pad, 0)
    gm = gh * (g - x_term) * r
    gr = gm * m * (1 - r)
    direct = gh * m * r * dg  # what h_t tells c_t
    df = (c_prev - z) * f * (1 - f)  # dc_t / d(f's argument)
    J = f + df * v_f * (1 - s * s) if contractive else f + df * v_f
    side = gr * v_r  # what r_t tells c_{t-1}
    if pad is not None:
        J = J.masked_fill(pad, 1)

    carried = torch.zeros_like(c0) if gc_last is None else gc_last.to(c.dtype)
    gc = torch.empty_like(c)
    for t in reversed(range(L)):
        torch.add(direct[t], carried, out=gc[t])
        carried = gc[t] * J[t] + side[t]

    if pad is not None:
        gc = gc.masked_fill(pad, 0)
    gf = gc * df
    gz = gc * (1 - J) if contractive else gc * (1 - f)
    gx = alpha * gh * (1 - m * r)
    gu = torch.stack([gz, gf, gr, gx] if k == 4 else [gz, gf, gr], dim=2)
    inside = (v.select(-2, 0).abs() <= CONTRACTIVE_BOUND).to(c.dtype) if contractive else 1
    gv = torch.stack([gf * s * inside, gr * c_prev], dim=2)
    gb = torch.stack([gf, gr], dim=2)

    per_step = given["v"] is not None and given["v"].dim() == 4
    grads = {
        "x": flip(gx, num_directions).to(out_dtype),
        "v": flip(gv, num_directions) if per_step else gv.sum((0, 1)),
        "b": gb.sum((0, 1)),
        "c0": carried.clone(),
        "out_mask": gm.sum(0),
    }
    gu = flip(gu, num_directions).to(out_dtype)
    gx, gv, gb, gc0, gm = (
        grad if given[name] is not None else grad.new_empty(0) for name, grad in grads.items()
    )
    return gu, gx, gv, gb, gc0, gm
