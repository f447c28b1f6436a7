"""The compiled library: where it is, whether it loaded, and how ops are registered with PyTorch.

Each op has three overloads of one schema. `default` is the best that the device has: the compiled
kernels on a CPU, pure PyTorch elsewhere or where the library is absent. `torch` is pure PyTorch
everywhere, one loop over time, and `torch_parallel` the same in parallel in time. The library
registers the first from C++, so that an AOTInductor package runs in a process without Python; here
they get what tracing and autograd need. Where PyTorch refuses that, nothing of the library's is
left registered, and pure PyTorch serves under the same names; a name that someone else has taken
stays theirs, and every call goes to `torch` then.
"""

import ctypes
import importlib
import os
import platform
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from torchsru.ops._autograd import eager_function

SUFFIX = ".dylib" if platform.system() == "Darwin" else ".so"
PATH = Path(__file__).parents[1] / "lib" / f"libtorchsru{SUFFIX}"


def _load() -> str | None:
    """Load the compiled library; return why it could not be, or None."""
    if os.environ.get("TORCHSRU_DISABLE_COMPILED") == "1":
        return "TORCHSRU_DISABLE_COMPILED=1 is set"
    if not PATH.exists():
        note = PATH.with_name("not_built.txt")  # what the installation recorded
        return note.read_text().strip() if note.exists() else f"{PATH.name} was not built"
    try:
        torch.ops.load_library(PATH)
    except OSError as error:
        return f"{PATH} does not load: {error}"
    library = ctypes.CDLL(str(PATH))
    library.torchsru_load_error.restype = ctypes.c_char_p
    if why := library.torchsru_load_error():
        return f"{PATH} registers no op: {why.decode()}"
    return None


#: Why the compiled kernels are not there, or None.
LOAD_ERROR = _load()

_definitions = torch.library.Library("torchsru", "FRAGMENT")
_taken: set[str] = set()  # ops that someone else had defined under our names
_loading = threading.Lock()  # held by whoever loads ops at a first call


def overload_for(backend: str, chosen: str) -> str:
    """Return the name of the overload that calls go to: `backend` asked for, `chosen` will run.

    Those of Triton are no overloads but ops of their own, see `torchsru.ops._triton_ops`.
    """
    if backend != "auto":
        return "default" if chosen == "cpu" else chosen
    if chosen == "triton":
        return "triton_auto"
    return "torch" if _taken else "default"


@dataclass(frozen=True)
class Overload:
    """One implementation of a recurrence, as eager mode calls it and as tracing sees it."""

    forward: Callable[..., Any]
    forward_train: Callable[..., Any]
    backward: Callable[..., Any]
    #: with autograd
    train: Callable[..., Any]
    traced_forward: Callable[..., Any]
    traced_train: Callable[..., Any]
    traced_backward: Callable[..., Any]

    @classmethod
    def of(
        cls,
        name: str,
        setup_context: Callable[..., None],
        backward: Callable[..., Any],
        direct: Sequence[Callable[..., Any]],
        traced: Sequence[Callable[..., Any]],
    ) -> "Overload":
        """Of the three ops as eager mode and as tracing calls them; autograd as in `register`."""
        train = eager_function(direct[1], setup_context, partial(backward, name))
        return cls(direct[0], direct[1], direct[2], train, traced[0], traced[1], traced[2])

    def call(self, grad: bool, arguments: tuple[Any, ...]) -> Any:
        """Call the op that this mode wants; grad: with autograd."""
        if torch.compiler.is_compiling():
            return (self.traced_train if grad else self.traced_forward)(*arguments)
        return (self.train if grad else self.forward)(*arguments)

    def differentiable_backward(self) -> Callable[..., Any]:
        """The backward op: the registered one where it is to be differentiated again."""
        again = torch.compiler.is_compiling() or torch.is_grad_enabled()
        return self.traced_backward if again else self.backward


Functions = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
#: Set-up of the context, and backward pass; the latter is told the overload's name first.
Autograd = tuple[Callable[..., None], Callable[..., Any]]


def register(
    schemas: Mapping[str, str],
    implementations: Functions,
    fakes: Functions,
    train: Autograd,
    double: Autograd,
    triton: str,
) -> Callable[[str], Overload]:
    """Register a recurrence's ops: forward, forward for training and backward, in this order.

    Args:
        schemas: by the ops' names.
        implementations: in pure PyTorch; their last argument, `parallel`, says whether to compute
            in parallel in time, None: where that is worth while.
        fakes: what `torch.library.register_fake` takes.
        train: autograd of forward for training.
        double: autograd of backward.
        triton: module of the Triton launchers, imported at the first call that needs it.

    Returns: a function from an overload's name to its ops.
    """
    for (name, schema), implementation, fake, autograd in zip(
        schemas.items(), implementations, fakes, (None, train, double), strict=True
    ):
        _register_op(name, schema, implementation, fake, autograd)
    overloads = {}
    for suffix in ("default", "torch", "torch_parallel"):
        ops = [getattr(getattr(torch.ops.torchsru, name), suffix) for name in schemas]
        overloads[suffix] = Overload.of(suffix, *train, ops, ops)

    def load_triton() -> bool:
        with _loading:
            if "triton" not in overloads:
                from torchsru.ops import _triton_ops

                module = importlib.import_module(triton)
                overloads.update(
                    _triton_ops.make_overloads(
                        schemas, module.LAUNCHERS, module.KERNELS, train, double
                    )
                )
        return True

    # torch.compile calls it when it meets it, instead of looking into it: what
    # torch.compiler.assume_constant_result asks for, without importing all of dynamo
    load_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def overload(name: str) -> Overload:
        """The ops of an overload."""
        if name.startswith("triton"):
            load_triton()
        return overloads[name]

    return overload


def _register_op(
    name: str,
    schema: str,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
    autograd: Autograd | None,
) -> None:
    """Register one op's overloads in pure PyTorch, and what tracing and autograd need of them."""
    overloads = {"default": None, "torch": False, "torch_parallel": True}
    if LOAD_ERROR is not None and hasattr(torch.ops.torchsru, name):
        _taken.add(name)
        del overloads["default"]
    elif LOAD_ERROR is not None:
        _definitions.define(schema)
    for overload, parallel in overloads.items():
        qualified = name if overload == "default" else f"{name}.{overload}"
        if overload != "default":
            _definitions.define(schema.replace(name, qualified, 1))
        _definitions.impl(
            qualified, _laid_out(implementation, parallel), "CompositeExplicitAutograd"
        )
        torch.library.register_fake(f"torchsru::{qualified}", fake, lib=_definitions)
        if autograd is not None:
            setup_context, backward = autograd
            torch.library.register_autograd(
                f"torchsru::{qualified}",
                partial(backward, overload),
                setup_context=setup_context,
                lib=_definitions,
            )


def _laid_out(implementation: Callable[..., Any], parallel: bool | None) -> Callable[..., Any]:
    """The implementation with its outputs contiguous, as the fakes promise: PyTorch's own functions
    lay out what they return as their inputs were."""

    def run(*arguments: Any) -> Any:
        outputs = implementation(*arguments, parallel=parallel)
        return tree_map_only(torch.Tensor, torch.Tensor.contiguous, outputs)

    return run


_warned = False


def warn_if_not_compiled() -> None:
    """Say once that the CPU runs without compiled kernels."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"torchsru runs on the slow pure-PyTorch path on this CPU: {LOAD_ERROR}. "
            "`torchsru doctor` says more.",
            RuntimeWarning,
            stacklevel=4,
        )


def cpu_info() -> dict[str, Any]:
    """Describe the compiled CPU kernels: isa_used, isa_available, library and error.

    error: why they cannot run, or None; with a library, it is TORCHSRU_ISA that asks for what this
    CPU lacks.
    """
    if LOAD_ERROR is not None:
        return {"isa_used": None, "isa_available": [], "library": None, "error": LOAD_ERROR}
    library = ctypes.CDLL(str(PATH))
    for function in (library.torchsru_isa_used, library.torchsru_isa_available):
        function.restype = ctypes.c_char_p
    used: str = library.torchsru_isa_used().decode()  # or why there is none
    available = library.torchsru_isa_available().decode().split()
    runs = used in available
    return {
        "isa_used": used if runs else None,
        "isa_available": available,
        "library": str(PATH),
        "error": None if runs else used,
    }
