"""The SRU recurrence: public function, checks, and the op's registration with PyTorch.

reference.py is the definition, pytorch.py the pure-PyTorch path, csrc/ the compiled one.
"""

import math

import torch
from torch import Tensor

from torchsru.ops._autograd import second_gradients
from torchsru.ops._backends import choose
from torchsru.ops._checks import (
    as_dtype,
    check_directions,
    check_input,
    check_sequences,
    check_shape,
)
from torchsru.ops._dtypes import state_dtype
from torchsru.ops._library import overload_for, register
from torchsru.ops.sru import pytorch
from torchsru.ops.sru.reference import sru_reference

ACTIVATIONS = ("identity", "tanh")


def sru_recurrence(
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
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Run the SRU recurrence over L steps (Lei et al. 2018, arXiv 1709.02755, eqs. 1-4).

        f_t = sigmoid(u_f + v_f c_{t-1} + b_f)
        c_t = f_t c_{t-1} + (1 - f_t) u_c
        r_t = m sigmoid(u_r + v_r c_{t-1} + b_r)
        h_t = r_t g(c_t) + (1 - r_t) alpha x_t

    With `contractive`, f_t = sigmoid(u_f + w tanh(c_{t-1} - u_c) + b_f), w = v_f clipped to
    +-2.2334. With delta = c_{t-1} - u_c,

        J = dc_t / dc_{t-1} = f + delta w sech^2(delta) f (1 - f),

    and since |delta sech^2(delta)| <= 0.447744 < 0.447747 < 1 / 2.2334, the factor beside f (1 - f)
    lies in (-1, 1): f^2 < J < f (2 - f), so J is in [0, 1]. A gradient through time can then
    neither grow nor change sign.

    Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
    D channels = num_directions times hidden size; the second half of D runs backward in time.

    Args:
        u: [L, B, k, D] candidate, forget and reset pre-activations; with k = 4, the highway
            input as well. float64, float32, bfloat16 or float16.
        x: [L, B, D] highway input, in u's type (under autocast it is cast). None with k = 4, or
            for no highway: h_t = r_t g(c_t).
        v: [2, D] state weights of the forget and reset gates, or [L, B, 2, D], varying in time.
            None: no state in the gates, as in the paper's first version.
        b: [2, D] biases of the gates. Default: zeros.
        c0: [R, D] state before the first step. Default: zeros.
        num_directions: 1, or 2 for a bidirectional recurrence.
        mask: [L, B] bool, True at padding: such a step is skipped, c_t = c_{t-1} and h_t = 0.
        cu_seqlens: [N + 1] int32 or int64, the documents' bounds when u is [T, 1, k, D] and holds
            documents end to end: document n is steps cu_seqlens[n] to cu_seqlens[n + 1]. Equal to
            running the documents one by one.
        out_mask: [R, D] m above: dropout of the state's way to the output, shared over time.
        activation: g, "identity" or "tanh".
        contractive: see above.
        alpha: scale of the highway input, sqrt(1 + 2 e^b_r) in the paper.
        backend: "auto" or a name from `torchsru.ops.backends()`; a name is an order, not a wish.

    v, b, c0 and out_mask are float32, or float64 when u is; narrower ones are widened.

    Returns:
        h [L, B, D] in u's type and the last state c [R, D], in float32 or float64. For the
        second direction, the last state is that of the first step. Both are differentiable, and
        so are all floating-point arguments; again and again in eager mode, in forward mode and
        under `torch.func`'s transforms through the reference, slowly.

    Raises:
        TypeError: if what should be a tensor is none.
        ValueError: if shapes, types or devices disagree.
        RuntimeError: if the named backend cannot run, or if the values of cu_seqlens do not rise
            from 0 to L (they are read inside the op;
            on a GPU that is a device assertion, reported later).
    """
    arguments = _check(
        u, x, v, b, c0, mask, cu_seqlens, out_mask,
        num_directions, activation, contractive, alpha,
    )  # fmt: skip
    chosen = choose(backend, u)
    if chosen == "reference":
        return _reference(*arguments)
    grad = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (u, x, v, b, c0, out_mask)
    )
    return overload(overload_for(backend, chosen)).call(grad, arguments)[:2]


def _check(
    u, x, v, b, c0, mask, cu_seqlens, out_mask, num_directions, activation, contractive, alpha
):
    """Check the arguments of `sru_recurrence`; return those of the ops, states and weights widened.

    Raises: TypeError or ValueError.
    """
    check_input("u", u, "L, B, k, D")
    L, B, k, D = u.shape
    device, dtype = u.device, u.dtype
    if k not in (3, 4):
        raise ValueError(f"u must be [L, B, k, D] with k = 3 or 4, got k = {k}")
    if x is not None:
        if k == 4:
            raise ValueError("x must be None when u holds the highway input (k = 4)")
        check_shape("x", x, (L, B, D), "L, B, D", "u", device)
        if x.dtype != dtype:
            if not torch.is_autocast_enabled(device.type):
                raise ValueError(f"x must be {dtype} like u, got {x.dtype}")
            x = x.to(dtype)
    check_directions(num_directions, D, "u")
    R = B
    if mask is not None or cu_seqlens is not None:
        R = check_sequences(mask, cu_seqlens, L, B, "u", device)
    S = state_dtype(u)
    if v is not None:
        per_step = isinstance(v, Tensor) and v.dim() == 4
        shape = (L, B, 2, D) if per_step else (2, D)
        check_shape("v", v, shape, "L, B, 2, D" if per_step else "2, D", "u", device)
        v = as_dtype("v", v, S, "u")
    if b is not None:
        check_shape("b", b, (2, D), "2, D", "u", device)
        b = as_dtype("b", b, S, "u")
    rows = "B, D" if cu_seqlens is None else "N, D"
    if c0 is not None:
        check_shape("c0", c0, (R, D), rows, "u", device)
        c0 = as_dtype("c0", c0, S, "u")
    if out_mask is not None:
        check_shape("out_mask", out_mask, (R, D), rows, "u", device)
        out_mask = as_dtype("out_mask", out_mask, S, "u")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {activation!r}")
    if not -math.inf < alpha < math.inf:
        raise ValueError(f"alpha must be finite, got {alpha}")

    return (
        u, x, v, b, c0, mask, cu_seqlens, out_mask,
        num_directions, activation == "tanh", contractive, alpha,
    )  # fmt: skip


# -- registration ---------------------------------------------------------------------------------

_INPUTS = (
    "Tensor u, Tensor? x, Tensor? v, Tensor? b, Tensor? c0, "
    "Tensor? mask, Tensor? cu_seqlens, Tensor? out_mask"
)
_OPTIONS = "int num_directions, bool tanh, bool contractive, float alpha"

#: The same text as in csrc/torch_ops.cpp, which defines the ops when it is there.
SCHEMAS = {
    "sru_forward": f"sru_forward({_INPUTS}, {_OPTIONS}) -> (Tensor h, Tensor c_last)",
    "sru_forward_train": (
        f"sru_forward_train({_INPUTS}, {_OPTIONS}) -> (Tensor h, Tensor c_last, Tensor c)"
    ),
    "sru_backward": (
        f"sru_backward(Tensor gh, Tensor? gc_last, {_INPUTS}, Tensor c, {_OPTIONS}) -> "
        "(Tensor gu, Tensor gx, Tensor gv, Tensor gb, Tensor gc0, Tensor gout_mask)"
    ),
}

_NUM_TENSORS = 8  # u, x, v, b, c0, mask, cu_seqlens, out_mask
_DIFFERENTIABLE = (0, 1, 2, 3, 4, 7)


def _reference(
    u, x, v, b, c0, mask, cu_seqlens, out_mask, num_directions, tanh, contractive, alpha
):
    """The definition, computed in the state's type."""
    S = state_dtype(u)
    h, c = sru_reference(
        u.to(S), None if x is None else x.to(S), v, b, c0,
        num_directions=num_directions, mask=mask, cu_seqlens=cu_seqlens, out_mask=out_mask,
        activation="tanh" if tanh else "identity", contractive=contractive, alpha=alpha,
    )  # fmt: skip
    return h.to(u.dtype), c


def _fake_forward(u, x, v, b, c0, mask, cu_seqlens, *rest):
    L, B, _, D = u.shape
    R = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return u.new_empty(L, B, D), u.new_empty(R, D, dtype=state_dtype(u))


def _fake_forward_train(u, *rest):
    h, c_last = _fake_forward(u, *rest)
    return h, c_last, u.new_empty(h.shape, dtype=c_last.dtype)


def _fake_backward(gh, gc_last, u, x, v, b, c0, mask, cu_seqlens, out_mask, c, *options):
    S = state_dtype(u)

    def like(t, dtype=S):
        return u.new_empty(0 if t is None else t.shape, dtype=dtype)

    gx = like(x, u.dtype)
    return u.new_empty(u.shape), gx, like(v), like(b), like(c0), like(out_mask)


def _setup_train(ctx, inputs, output):
    c = output[2]
    ctx.mark_non_differentiable(c)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:_NUM_TENSORS], c)
    ctx.options = inputs[_NUM_TENSORS:]


def _backward_train(name, ctx, gh, gc_last, _):
    *tensors, c = ctx.saved_tensors
    if gh is None:
        gh = torch.zeros_like(c, dtype=tensors[0].dtype)
    op = overload(name).differentiable_backward()
    gu, gx, gv, gb, gc0, gm = op(gh, gc_last, *tensors, c, *ctx.options)
    _, x, v, b, c0, _, _, out_mask = tensors
    return (
        gu,
        gx if x is not None else None,
        gv if v is not None else None,
        gb if b is not None else None,
        gc0 if c0 is not None else None,
        None,
        None,
        gm if out_mask is not None else None,
        *(None for _ in ctx.options),
    )


def _setup_backward(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[: 2 + _NUM_TENSORS])
    ctx.options = inputs[3 + _NUM_TENSORS :]


def _double_backward(name, ctx, *grads):
    gh, gc_last, *tensors = ctx.saved_tensors
    (g_gh, g_gc_last), (gu, gx, gv, gb, gc0, gm) = second_gradients(
        lambda *tensors: _reference(*tensors, *ctx.options),
        tensors,
        _DIFFERENTIABLE,
        (gh, gc_last),
        grads,
    )
    return (
        g_gh,
        g_gc_last,
        gu,
        gx,
        gv,
        gb,
        gc0,
        None,
        None,
        gm,
        None,
        *(None for _ in ctx.options),
    )


overload = register(
    SCHEMAS,
    (pytorch.sru_forward, pytorch.sru_forward_train, pytorch.sru_backward),
    (_fake_forward, _fake_forward_train, _fake_backward),
    train=(_setup_train, _backward_train),
    double=(_setup_backward, _double_backward),
    triton="torchsru.ops.sru.triton",
)
