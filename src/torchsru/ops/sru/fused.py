"""The recurrence on u = x W^T in one call and one node of autograd's graph, for eager mode.

Computes   what `linear` followed by `sru_recurrence` computes
Why        one node costs less than two and a sum, and the matrix product of x's gradient adds to
           the highway's in place
Check      tests/ops/test_fused.py
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsru.ops._backends import choose
from torchsru.ops._dtypes import state_dtype
from torchsru.ops._library import overload_for
from torchsru.ops.sru import _DIFFERENTIABLE, _NUM_TENSORS, overload

_PLAIN = (Tensor, torch.nn.Parameter)


def can_fuse(
    x: Tensor, weight: Tensor, v: Tensor | None, b: Tensor, c0: Tensor | None, k: int
) -> bool:
    """Whether `fused_layer` can take these: plain tensors in eager mode, nothing to be cast."""
    S = state_dtype(x)
    return (
        type(x) in _PLAIN
        and type(weight) in _PLAIN
        and weight.shape[0] == k * b.shape[1]
        and x.dtype == weight.dtype
        and x.device == weight.device
        and b.dtype == S
        and (v is None or v.dtype == S)
        and (c0 is None or c0.dtype == S)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled(x.device.type)
        and choose("auto", x) != "reference"
    )


def fused_layer(
    x: Tensor,
    weight: Tensor,
    v: Tensor | None,
    b: Tensor,
    c0: Tensor | None,
    highway: bool,
    *,
    num_directions: int,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    out_mask: Tensor | None,
    activation: str,
    contractive: bool,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """`sru_recurrence` on u = x W^T, where `can_fuse` says so and the layer has checked the rest.

    Args:
        x: [L, B, I] input, and highway input if `highway`, for which I = D.
        weight: W [k D, I], rows gate-major.
        v, b: [2, D]; see `sru_recurrence`, as for all the rest.
    """
    L, B, _ = x.shape
    D = b.shape[1]
    ops = overload(overload_for("auto", choose("auto", x)))
    grad = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, v, b, c0)
    )
    if grad:
        with torch.no_grad():
            u = F.linear(x, weight)
    else:
        u = F.linear(x, weight)
    arguments = (
        u.view(L, B, weight.shape[0] // D, D), x if highway else None, v, b, c0,
        mask, cu_seqlens, out_mask, num_directions, activation == "tanh", contractive, alpha,
    )  # fmt: skip
    if grad:
        return _FusedLayer.apply(ops, x, weight, *arguments)
    return ops.forward(*arguments)


class _FusedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, ops, x, weight, *arguments):
        h, c_last, c = ops.forward_train(*arguments)
        ctx.ops = ops
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, *arguments[:_NUM_TENSORS], c)
        ctx.options = arguments[_NUM_TENSORS:]
        return h, c_last

    @staticmethod
    def backward(ctx, gh, gc_last):
        x, weight, u, *tensors, c = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: u is a function of x and W
            u = F.linear(x, weight).view(u.shape)
        if gh is None:
            gh = torch.zeros_like(c, dtype=x.dtype)
        op = ctx.ops.differentiable_backward()
        gu, gx, *others = op(gh, gc_last, u, *tensors, c, *ctx.options)
        gu_NE, x_NI = gu.flatten(2).flatten(0, 1), x.flatten(0, 1)  # N = L * B
        gweight = gu_NE.t() @ x_NI if ctx.needs_input_grad[2] else None
        if not ctx.needs_input_grad[1]:
            gx = None
        elif tensors[0] is None:  # no highway, or one of its own matrix
            gx = (gu_NE @ weight).view(x.shape)
        elif torch.is_grad_enabled():
            gx = gx + (gu_NE @ weight).view(x.shape)
        else:
            gx.view(x_NI.shape).addmm_(gu_NE, weight)
        gv, gb, gc0, gout_mask = (
            grad if ctx.needs_input_grad[3 + i] else None
            for i, grad in zip(_DIFFERENTIABLE[2:], others, strict=True)
        )
        return (
            None,
            gx,
            gweight,
            None,
            None,
            gv,
            gb,
            gc0,
            None,
            None,
            gout_mask,
            *(None for _ in ctx.options),
        )
