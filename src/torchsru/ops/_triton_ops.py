"""Triton's ops and their autograd, made alike for every recurrence. Importing this imports Triton.

Each op comes three times: `NAME_triton` goes through time in one loop, `NAME_triton_parallel`
computes in parallel in time, and `NAME_triton_auto` does what is worth while.

Eager      calls the launchers as they are: a registered op would cost more than the kernel
Tracing    sees `torchsru::NAME_triton` and so on, which torch.compile and AOTInductor look into:
           the kernels become part of what they build, and no Python is left
"""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from torchsru.ops._library import Overload

PARALLEL = {"triton": False, "triton_parallel": True, "triton_auto": None}


def make_overloads(
    schemas: Mapping[str, str],
    launchers: tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]],
    train: tuple[Callable[..., None], Callable[..., Any]],
    double: tuple[Callable[..., None], Callable[..., Any]],
) -> dict[str, Overload]:
    """Register a recurrence's ops.

    Args:
        schemas: of forward, forward for training and backward, by name and in this order.
        launchers: their functions; a last argument `parallel` is True, False, or None for either.
        train: set-up of the context and backward pass of forward for training; the latter is told
            the overload's name first.
        double: the same of the backward op.
    """
    overloads = {}
    for suffix, parallel in PARALLEL.items():
        direct = [partial(launcher, parallel=parallel) for launcher in launchers]
        ops: list[Any] = []
        for (name, schema), launcher in zip(schemas.items(), direct, strict=True):
            ops.append(
                triton_op(
                    f"torchsru::{name}_{suffix}",
                    _with_signature(launcher, schema),
                    mutates_args=(),
                )
            )
        for op, (set_up, backward) in ((ops[1], train), (ops[2], double)):
            op.register_autograd(partial(backward, suffix), setup_context=set_up)
        traced = [op._opoverload for op in ops]
        overloads[suffix] = Overload.of(suffix, *train, direct, traced)
    return overloads


_TYPES = {
    "Tensor": Tensor,
    "Optional[Tensor]": Tensor | None,
    "int": int,
    "bool": bool,
    "float": float,
}


def _with_signature(launcher: Callable[..., Any], schema: str) -> Callable[..., Any]:
    """The launcher as a function that says what it takes: `triton_op` reads the schema off it."""

    def op(*arguments: Any) -> Any:
        return launcher(*arguments)

    parsed = torch._C.parse_schema(schema)
    op.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(a.name, Parameter.POSITIONAL_OR_KEYWORD, annotation=_TYPES[str(a.type)])
            for a in parsed.arguments
        ],
        return_annotation=tuple[(Tensor,) * len(parsed.returns)],  # type: ignore[misc]
    )
    return op
