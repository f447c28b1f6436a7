"""First check, then time: a fast wrong kernel has no speed.

What a case runs is compared, outputs and all gradients, with the definition in float64, on fewer
steps and rows of the same width. The bar is measured: how far the exact answer moves when every
input moves by one rounding (`UNITS` times that is allowed).

Letters: L time steps, B batch rows, F input features, k matrices, D channels, E = k D.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

import torchsru
from torchsru.bench.cases import BenchError, Shape
from torchsru.bench.networks import sru_layers
from torchsru.ops import sru_recurrence
from torchsru.ops.sru.reference import sru_reference

MAX_L, MAX_B = 16, 4
#: Roundings that are allowed, of the input's type: the layer's matrix product rounds u to it. The
#: tests of the op alone have a bar of their own (tests/ops/helpers.py), in roundings of the state's
#: type, which for the half types are 2^13 and 2^16 times finer; the layer could not meet it.
UNITS = {torch.float64: 16, torch.float32: 16, torch.bfloat16: 4, torch.float16: 4}

Tensors = dict[str, Tensor]


class CheckError(BenchError):
    """A variant computes something else than the definition."""


def check_layer(
    network: nn.Module, reference: torchsru.SRU, shape: Shape, dtype: torch.dtype
) -> None:
    """Check an SRU network that has the parameters of `reference`.

    Raises: CheckError naming what is wrong and by how much.
    """
    device = next(reference.parameters()).device
    small = replace(shape, L=min(shape.L, MAX_L), B=min(shape.B, MAX_B))
    x = torch.randn(small.L, small.B, small.features).to(device, dtype)
    inputs = {"x": x, **{name: p.detach() for name, p in reference.named_parameters()}}

    def actual(inputs: Tensors) -> Tensor:
        parameters = {name: t for name, t in inputs.items() if name != "x"}
        return torch.func.functional_call(network, parameters, (inputs["x"],))[0]

    _compare(str(shape), actual, lambda inputs: _stack(reference, inputs), inputs, dtype)


def check_op(
    backend: str,
    shape: Shape,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    contractive: bool = False,
    steps: int = MAX_L,
) -> None:
    """Check the recurrence of one backend, on `steps` steps at most; raises CheckError."""
    L, B, D = min(shape.L, steps), min(shape.B, MAX_B), shape.d
    state = torch.promote_types(dtype, torch.float32)
    inputs = {  # in the order of the arguments
        "u": torch.randn(L, B, 3, D).to(device, dtype),
        "x": torch.randn(L, B, D).to(device, dtype),
        "v": torch.randn(2, D).to(device, state),
        "b": torch.randn(2, D).to(device, state),
        "c0": torch.randn(B, D).to(device, state),
    }
    _compare(
        f"backend {backend!r}{', contractive,' if contractive else ''} at {shape}",
        lambda inputs: sru_recurrence(*inputs.values(), backend=backend, contractive=contractive)[
            0
        ],
        lambda inputs: sru_reference(*inputs.values(), contractive=contractive)[0],
        inputs,
        dtype,
    )


def _stack(sru: torchsru.SRU, inputs: Tensors) -> Tensor:
    """The layers of `sru` by their definition, with other parameters."""
    h_LBF = inputs["x"]
    for i, layer in enumerate(sru_layers(sru)):
        name = f"layers.{i}"
        w_EF = inputs[f"{name}.transform.weight"]
        u_LBkD = (h_LBF @ w_EF.T).unflatten(-1, (layer.num_matrices, -1))
        h_LBF, _ = sru_reference(
            u_LBkD,
            h_LBF if layer.num_matrices == 3 else None,
            inputs[f"{name}.weight_c"],
            inputs[f"{name}.bias"],
            num_directions=layer.num_directions,
            alpha=layer.alpha,
        )
    return h_LBF


def _compare(
    what: str,
    actual: Callable[[Tensors], Tensor],
    definition: Callable[[Tensors], Tensor],
    inputs: Tensors,
    dtype: torch.dtype,
) -> None:
    eps = torch.finfo(dtype).eps
    doubles = {name: t.double() for name, t in inputs.items()}
    exact = _run(definition, doubles)
    unit = dict.fromkeys(exact, eps)
    for _ in range(4):
        moved = {name: t * (1 + eps * torch.randn_like(t).sign()) for name, t in doubles.items()}
        for name, t in _run(definition, moved).items():
            unit[name] = max(unit[name], eps + _worst(t, exact[name]))
    with torch.no_grad():
        inference = actual(inputs)
    for name, t in {**_run(actual, inputs), "h without gradients": inference}.items():
        key = "h" if name == "h without gradients" else name
        error = _worst(t, exact[key]) / unit[key]
        if not error <= UNITS[dtype]:
            raise CheckError(
                f"{what} in {dtype}: {name} is {error:.1f} roundings off the definition, "
                f"{UNITS[dtype]} are allowed; not timed"
            )


def _run(function: Callable[[Tensors], Tensor], inputs: Tensors) -> Tensors:
    """h and the gradient of every input for a fixed upstream gradient."""
    leaves = {name: t.detach().clone().requires_grad_() for name, t in inputs.items()}
    h = function(leaves)
    generator = torch.Generator().manual_seed(0)
    seed = torch.randn(h.shape, generator=generator).bfloat16()  # exact in every wider type
    seed = seed.to(h.device, h.dtype)
    grads = torch.autograd.grad(h, list(leaves.values()), seed, materialize_grads=True)
    return {"h": h.detach(), **{f"d{n}": g for n, g in zip(leaves, grads, strict=True)}}


def _worst(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |b|; NaN where either has one."""
    if a.numel() == 0:
        return 0.0
    a, b = a.double(), b.double()
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item()
