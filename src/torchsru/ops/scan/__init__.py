"""The linear recurrence: public function, checks, and the op's registration with PyTorch.

reference.py is the definition, pytorch.py the pure-PyTorch path, csrc/ the compiled one.
"""

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
from torchsru.ops.scan import pytorch
from torchsru.ops.scan.reference import linear_reference


def linear_recurrence(
    a: Tensor,
    b: Tensor,
    c0: Tensor | None = None,
    *,
    num_directions: int = 1,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run c_t = a_t c_{t-1} + b_t over L steps: what QRNN, SSRU or minGRU need of a kernel.

    Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
    D channels = num_directions times hidden size; the second half of D runs backward in time.

    Args:
        a: [L, B, D] decay. float64, float32, bfloat16 or float16.
        b: [L, B, D] input, in a's type.
        c0: [R, D] state before the first step, float32, or float64 when a is. Default: zeros.
        num_directions: 1, or 2 for a bidirectional recurrence.
        mask: [L, B] bool, True at padding: such a step is skipped, c_t = c_{t-1}.
        cu_seqlens: [N + 1] int32 or int64, the bounds of documents laid end to end when B = 1.
        backend: "auto" or a name from `torchsru.ops.backends()`; a name is an order, not a wish.

    Returns:
        c [L, B, D] in a's type and the last state [R, D] in float32 or float64, both
        differentiable, as are a, b and c0; again and again in eager mode, and in forward mode,
        through the reference.

    Raises:
        ValueError: if shapes, types or devices disagree.
        RuntimeError: if the named backend cannot run, or if the values of cu_seqlens do not rise
            from 0 to L (they are read inside the op;
            on a GPU that is a device assertion, reported later).
    """
    check_input("a", a, "L, B, D")
    L, B, D = a.shape
    check_shape("b", b, (L, B, D), "L, B, D", "a", a.device)
    if b.dtype != a.dtype:
        raise ValueError(f"b must be {a.dtype} like a, got {b.dtype}")
    check_directions(num_directions, D, "a")
    R = check_sequences(mask, cu_seqlens, L, B, "a", a.device)
    if c0 is not None:
        check_shape("c0", c0, (R, D), "B, D" if cu_seqlens is None else "N, D", "a", a.device)
        c0 = as_dtype("c0", c0, state_dtype(a), "a")

    arguments = (a, b, c0, mask, cu_seqlens, num_directions)
    chosen = choose(backend, a)
    if chosen == "reference":
        return _reference(*arguments)
    grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (a, b, c0))
    return overload(overload_for(backend, chosen)).call(grad, arguments)


# -- registration ---------------------------------------------------------------------------------

#: The same text as in csrc/torch_ops.cpp, which defines the ops when it is there.
SCHEMAS = {
    **{
        name: f"{name}(Tensor a, Tensor b, Tensor? c0, Tensor? mask, Tensor? cu_seqlens, "
        "int num_directions) -> (Tensor c, Tensor c_last)"
        for name in ("linear_forward", "linear_forward_train")
    },
    "linear_backward": "linear_backward(Tensor gc, Tensor? gc_last, Tensor a, Tensor b, "
    "Tensor? c0, Tensor? mask, Tensor? cu_seqlens, Tensor c, int num_directions) -> "
    "(Tensor ga, Tensor gb, Tensor gc0)",
}


def _reference(a, b, c0, mask, cu_seqlens, num_directions):
    """The definition, computed in the state's type."""
    S = state_dtype(a)
    c, c_last = linear_reference(
        a.to(S), b.to(S), c0, num_directions=num_directions, mask=mask, cu_seqlens=cu_seqlens
    )
    return c.to(a.dtype), c_last


def _fake_forward(a, b, c0, mask, cu_seqlens, num_directions):
    L, B, D = a.shape
    R = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return a.new_empty(L, B, D), a.new_empty(R, D, dtype=state_dtype(a))


def _fake_backward(gc, gc_last, a, b, c0, *rest):
    gc0 = a.new_empty(0 if c0 is None else c0.shape, dtype=state_dtype(a))
    return a.new_empty(a.shape), a.new_empty(a.shape), gc0


def _setup_train(ctx, inputs, output):
    a, b, c0, mask, cu_seqlens, ctx.num_directions = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(a, b, c0, mask, cu_seqlens, output[0])


def _backward_train(name, ctx, gc, gc_last):
    *tensors, c = ctx.saved_tensors
    op = overload(name).differentiable_backward()
    gc = torch.zeros_like(c) if gc is None else gc
    ga, gb, gc0 = op(gc, gc_last, *tensors, c, ctx.num_directions)
    return ga, gb, None if tensors[2] is None else gc0, None, None, None


def _setup_backward(ctx, inputs, output):
    *tensors, _, ctx.num_directions = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _double_backward(name, ctx, *grads):
    gc, gc_last, *tensors = ctx.saved_tensors
    (g_gc, g_gc_last), (ga, gb, gc0) = second_gradients(
        lambda a, b, c0, mask, cu_seqlens: _reference(
            a, b, c0, mask, cu_seqlens, ctx.num_directions
        ),
        tensors,
        (0, 1, 2),
        (gc, gc_last),
        grads,
    )
    return g_gc, g_gc_last, ga, gb, gc0, None, None, None, None


overload = register(
    SCHEMAS,
    (pytorch.linear_forward, pytorch.linear_forward, pytorch.linear_backward),
    (_fake_forward, _fake_forward, _fake_backward),
    train=(_setup_train, _backward_train),
    double=(_setup_backward, _double_backward),
    triton="torchsru.ops.scan.triton",
)
