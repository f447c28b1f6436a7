"""The choice of backend, in the open."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from torchsru.ops import _triton
from torchsru.ops._library import LOAD_ERROR, cpu_info, warn_if_not_compiled


def _no_transforms() -> str | None:
    if forward_ad._current_level >= 0:  # autograd would take our ops for constants, in silence
        return "it has no forward-mode derivatives"
    if torch._C._are_functorch_transforms_active():
        return "it does not serve torch.func's transforms"
    return None


#: name: why it cannot run a call on this tensor, or None; "auto" takes the first that can
BACKENDS: dict[str, Callable[[Tensor], str | None]] = {
    "cpu": lambda u: LOAD_ERROR or (_no_transforms() if u.is_cpu else "needs CPU tensors"),
    "triton": lambda u: _triton.why_not(u.is_cuda) or _no_transforms(),
    "torch": lambda u: _no_transforms(),
    # by name only: "auto" takes these ways within the two above, where they are worth while
    "triton_parallel": lambda u: _triton.why_not(u.is_cuda) or _no_transforms(),
    "torch_parallel": lambda u: _no_transforms(),
    "reference": lambda u: None,
}


def choose(name: str, u: Tensor) -> str:
    """Return the backend for a call on u. "auto" may choose; a name is an order.

    Raises: ValueError if the name is unknown; RuntimeError if that backend cannot run the call.
    """
    if name == "auto":
        if LOAD_ERROR is None and u.is_cpu and _no_transforms() is None:
            return "cpu"  # what the lines below would find, sooner
        if LOAD_ERROR is not None and u.is_cpu:
            warn_if_not_compiled()
        return next(name for name, why_not in BACKENDS.items() if why_not(u) is None)
    if name not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {list(BACKENDS)}, got {name!r}")
    if reason := BACKENDS[name](u):
        raise RuntimeError(
            f"backend {name!r} cannot run this call: {reason}; got {u.dtype} on {u.device}, "
            f"'auto' would use {choose('auto', u)!r}"
        )
    return name


def backends() -> dict[str, str | None]:
    """Return for each backend why it cannot run on this machine, or None if it can."""
    return {
        "cpu": cpu_info()["error"],
        "triton": (why_not_triton := _triton.why_not(torch.cuda.is_available())),
        "torch": None,
        "triton_parallel": why_not_triton,
        "torch_parallel": None,
        "reference": None,
    }
