"""Triton's ops and their autograd, made alike for every recurrence. Importing this imports Triton.

Each op comes three times: `NAME_triton` goes through time in one loop, `NAME_triton_parallel`
computes in parallel in time, and `NAME_triton_auto` does what is worth while.

Eager      calls the launchers as they are: a registered op would cost more than the kernel; but
           what PyTorch must see, in a dispatch mode or on fake tensors, is the registered op
Tracing    sees `torchsru::NAME_triton` and so on, which torch.compile and AOTInductor look into:
           the kernels become part of what they build, and no Python is left
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op

from torchsru.ops import _triton_kernels
from torchsru.ops._library import Autograd, Functions, Overload
from torchsru.ops._triton import has_memory

PARALLEL = {"triton": False, "triton_parallel": True, "triton_auto": None}


def make_overloads(
    schemas: Mapping[str, str],
    launchers: Functions,
    kernels: Sequence[Any],
    train: Autograd,
    double: Autograd,
) -> dict[str, Overload]:
    """Register a recurrence's ops.

    Args:
        schemas: of forward, forward for training and backward, by name and in this order.
        launchers: their functions, with the options `parallel` and `traced`.
        kernels: all that they launch.
        train: autograd of forward for training.
        double: autograd of backward.
    """
    overloads = {}
    for suffix, parallel in PARALLEL.items():
        ops: list[Any] = []
        for (name, schema), launcher in zip(schemas.items(), launchers, strict=True):
            traced = partial(launcher, parallel=parallel, traced=True)
            qualified = f"torchsru::{name}_{suffix}"
            ops.append(triton_op(qualified, _with_signature(traced, schema), mutates_args=()))
            # PyTorch's caches of compiled graphs go by the kernels' source
            getattr(torch._library.triton, "triton_ops_to_kernels", {})[qualified] = [
                *kernels,
                _triton_kernels.chain,
            ]
        for op, (set_up, backward) in ((ops[1], train), (ops[2], double)):
            op.register_autograd(partial(backward, suffix), setup_context=set_up)
        registered = [op._opoverload for op in ops]
        direct = [
            _directly(partial(launcher, parallel=parallel), op)
            for launcher, op in zip(launchers, registered, strict=True)
        ]
        overloads[suffix] = Overload.of(suffix, *train, direct, registered)
    return overloads


def _directly(launcher: Callable[..., Any], op: Callable[..., Any]) -> Callable[..., Any]:
    """The launcher; the op where a kernel that is started behind PyTorch's back does nothing, or
    nothing that whoever listens would hear of."""

    def call(*arguments: Any) -> Any:
        if torch._C._len_torch_dispatch_stack() or not has_memory(arguments[0]):
            return op(*arguments)
        return launcher(*arguments)

    return call


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
