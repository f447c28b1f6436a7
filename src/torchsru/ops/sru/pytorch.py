"""SRU recurrence in pure PyTorch, forward and hand-written backward, on any device.

Computes   eqs. (1)-(4) of arXiv 1709.02755: the states, a step of all rows and channels at once
           or in parallel (parallel.py), then everything else, all steps at once
Layout     u [L, B, k, D]; x, h, c [L, B, D]; v [2, D] or [L, B, 2, D]; b [2, D]; states [B, D]
Precision  reads and writes the type of u; computes and carries c in the state's type
Memory     keeps c of every step for the backward pass, computes the gates again
Speed      three launches a step forward, one backward: it works everywhere, slowly
Check      tests/ops/test_sru.py
"""

import torch
from torch import Tensor

from torchsru.ops._dtypes import state_dtype
from torchsru.ops._parallel import worth_while
from torchsru.ops._sequences import Documents, flip
from torchsru.ops.scan.pytorch import scan_back
from torchsru.ops.sru.parallel import Forget, solve
from torchsru.ops.sru.reference import CONTRACTIVE_BOUND


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
    u, x, v, b, c0, mask, cu_seqlens, out_mask,
    num_directions, tanh, contractive, alpha, parallel=None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return h [L, B, D], the last state [B or N, D] and c of every step [L, B, D].

    parallel: in time; None: where that is worth while.
    """
    if cu_seqlens is not None:
        docs = Documents.from_bounds(cu_seqlens, u.shape[0])
        x = None if x is None else docs.pad(x)
        v = docs.pad(v) if v is not None and v.dim() == 4 else v
        h, c_last, c = sru_forward_train(
            docs.pad(u), x, v, b, c0, docs.mask, None, out_mask,
            num_directions, tanh, contractive, alpha, parallel,
        )  # fmt: skip
        return docs.unpad(h), c_last, docs.unpad(c)

    out_dtype, linear = u.dtype, v is None
    u, x, v, b, c0, m, pad = _prepare(u, x, v, b, c0, mask, out_mask, num_directions)
    if parallel is None:
        parallel = worth_while("torch", len(u), c0.numel())
    forget = Forget(u[:, :, 0], u[:, :, 1] + b[0], v.select(-2, 0), pad, contractive, linear)
    c = solve(forget, c0)[0] if parallel else forget.run(c0)
    c_prev = torch.cat([c0[None], c])[:-1]  # (3) reads c_{t-1}
    r = m * torch.sigmoid(u[:, :, 2] + v.select(-2, 1) * c_prev + b[1])
    h = r * (torch.tanh(c) if tanh else c)
    if x is not None:
        h = h + (1 - r) * (alpha * x)
    if pad is not None:
        h = h.masked_fill(pad, 0)
    c_last = c[-1] if len(c) else c0
    return flip(h, num_directions).to(out_dtype), c_last.clone(), flip(c, num_directions)


def sru_forward(*args, **options) -> tuple[Tensor, Tensor]:
    """Return h and the last state; arguments as in `sru_forward_train`."""
    return sru_forward_train(*args, **options)[:2]


def sru_backward(
    gh, gc_last, u, x, v, b, c0, mask, cu_seqlens, out_mask, c,
    num_directions, tanh, contractive, alpha, parallel=None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of u, x, v, b, c0 and out_mask; of an absent input, an empty tensor.

    parallel: see `sru_forward_train`.
    """
    if cu_seqlens is not None:
        docs = Documents.from_bounds(cu_seqlens, u.shape[0])
        steps = v is not None and v.dim() == 4
        # backward in time, the padding comes first, where the state is still c0
        before = c.new_zeros(1, c.shape[-1]) if c0 is None else c0
        c = torch.where(docs.mask[:, :, None], before, docs.pad(c))
        gu, gx, gv, gb, gc0, gm = sru_backward(
            docs.pad(gh), gc_last, docs.pad(u), None if x is None else docs.pad(x),
            docs.pad(v) if steps else v, b, c0, docs.mask, None, out_mask, c,
            num_directions, tanh, contractive, alpha, parallel,
        )  # fmt: skip
        gx = gx if x is None else docs.unpad(gx)
        return docs.unpad(gu), gx, docs.unpad(gv) if steps else gv, gb, gc0, gm

    given = {"x": x, "v": v, "b": b, "c0": c0, "out_mask": out_mask}
    out_dtype, k = u.dtype, u.shape[2]
    u, x, v, b, c0, m, pad = _prepare(u, x, v, b, c0, mask, out_mask, num_directions)
    c, gh = flip(c, num_directions), flip(gh.to(c.dtype), num_directions)
    c_prev = torch.cat([c0[None], c])[:-1]
    z = u[:, :, 0]
    v_f, v_r = v.unbind(-2)

    forget = Forget(z, u[:, :, 1] + b[0], v_f, pad, contractive)
    f, s, df, J = forget.derivatives(c_prev)
    r = torch.sigmoid(u[:, :, 2] + v_r * c_prev + b[1])
    g, dg = (torch.tanh(c), 1 - torch.tanh(c) ** 2) if tanh else (c, torch.ones_like(c))
    x_term = torch.zeros_like(c) if x is None else alpha * x
    if pad is not None:
        gh = gh.masked_fill(pad, 0)
    gm = gh * (g - x_term) * r
    gr = gm * m * (1 - r)
    direct = gh * m * r * dg  # what h_t tells c_t
    side = gr * v_r  # what r_t tells c_{t-1}
    if len(c):
        direct[:-1] += side[1:]
    gc, carried = scan_back(J, direct, gc_last, parallel)
    if len(c):
        carried = carried + side[0]

    if pad is not None:
        gc = gc.masked_fill(pad, 0)
    gf = gc * df
    gz = gc * (1 - J) if contractive else gc * (1 - f)
    gx = alpha * gh * (1 - m * r)
    gu = torch.stack([gz, gf, gr, gx] if k == 4 else [gz, gf, gr], dim=2)
    inside = (v_f.abs() <= CONTRACTIVE_BOUND).to(c.dtype) if contractive else 1
    gv = torch.stack([gf * s * inside, gr * c_prev], dim=2)
    gb = torch.stack([gf, gr], dim=2)

    per_step = given["v"] is not None and given["v"].dim() == 4
    grads = {
        "x": flip(gx, num_directions).to(out_dtype),
        "v": flip(gv, num_directions) if per_step else gv.sum((0, 1)),
        "b": gb.sum((0, 1)),
        "c0": carried,
        "out_mask": gm.sum(0),
    }
    gu = flip(gu, num_directions).to(out_dtype)
    gx, gv, gb, gc0, gm = (
        grad if given[name] is not None else grad.new_empty(0) for name, grad in grads.items()
    )
    return gu, gx, gv, gb, gc0, gm
