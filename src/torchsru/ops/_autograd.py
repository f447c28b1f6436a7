"""What autograd needs around ops whose backward pass is itself one op."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def eager_function(
    forward: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., Any]:
    """The op `forward` with the backward pass that `register_autograd` was given, called directly.

    Autograd of a registered op takes a detour through Python and the dispatcher, which tracing
    needs and small eager calls would pay for.
    """

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            output = forward(*arguments)
            setup_context(ctx, arguments, output)
            return output

    Eager.backward = staticmethod(backward)  # type: ignore[method-assign]
    return Eager.apply


def second_gradients(
    reference: Callable[..., tuple[Tensor, ...]],
    arguments: Sequence[Tensor | None],
    differentiable: Sequence[int],
    seeds: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Differentiate the first gradients through the reference, as autograd does: again and again,
    where it keeps a graph.

    Args:
        reference: from the arguments to its outputs.
        arguments: its tensors, None where absent.
        differentiable: places in `arguments` that the first gradients belong to.
        seeds: gradient of each output, None for zero: what the first gradients were seeded with.
        grads: gradient of each first gradient.

    Returns: gradients of the seeds and of the differentiable arguments, None where absent.
    """

    again = torch.is_grad_enabled()

    def own(t: Tensor | None) -> Tensor | None:
        """A tensor whose gradient is of its use here, not of what it was computed from."""
        if t is None or not t.is_floating_point():
            return t
        return t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_()

    arguments, seeds = [own(t) for t in arguments], [own(t) for t in seeds]
    inputs = [arguments[i] for i in differentiable]
    with torch.enable_grad():
        outputs = reference(*arguments)
        first = _gradients(outputs, seeds, inputs, create_graph=True)
    second = _gradients(first, grads, [*seeds, *inputs], create_graph=again)
    return second[: len(seeds)], second[len(seeds) :]


def _gradients(outputs, seeds, inputs, create_graph):
    """torch.autograd.grad that takes None for absent tensors and gives zeros for unused ones."""
    pairs = [
        (output, seed)
        for output, seed in zip(outputs, seeds, strict=True)
        if output is not None and seed is not None and output.requires_grad
    ]
    present = [t for t in inputs if t is not None]
    if pairs and present:
        grads = torch.autograd.grad(
            [output for output, _ in pairs],
            present,
            [seed for _, seed in pairs],
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    else:
        grads = tuple(torch.zeros_like(t) for t in present)
    by_input = iter(grads)
    return [None if t is None else next(by_input) for t in inputs]
