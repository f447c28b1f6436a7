"""The networks that SRU is measured beside, and one training step, the same for all.

Letters: L time steps, B batch rows, F input features, C channels put out.
"""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

import torchsru
from torchsru._machine import installed
from torchsru.bench.cases import CONV, GRU, LSTM, ORIGINAL, SRU, BenchError, Shape


@dataclass(frozen=True)
class Where:
    """What tensors are made of."""

    dtype: torch.dtype
    device: str

    def randn(self, *sizes: int) -> Tensor:
        return torch.randn(sizes).to(self.device, self.dtype)


@dataclass(frozen=True)
class Network:
    """A module with its input x: [L, B, F], or for a convolution [B, F, L]."""

    module: nn.Module
    x: Tensor

    def output(self) -> Tensor:
        out = self.module(self.x)
        return out[0] if isinstance(out, tuple) else out

    def training_step(self) -> Callable[[], object]:
        """Forward and backward; gradients of x and of all parameters."""
        self.module.train()
        x = self.x.requires_grad_()
        inputs = [x, *self.module.parameters()]
        seed = torch.randn(self.output_sizes()).to(x)
        return lambda: torch.autograd.grad(self.output(), inputs, seed)

    def output_sizes(self) -> tuple[int, ...]:
        """Sizes of the output, without running it."""
        if isinstance(self.module, nn.Conv1d):
            return (self.x.shape[0], self.module.out_channels, self.x.shape[2])
        L, B = self.x.shape[:2]
        size, twice = self.module.hidden_size, self.module.bidirectional
        assert isinstance(size, int)
        return (L, B, 2 * size if twice else size)


def sru_layers(module: nn.Module) -> list[torchsru.SRUCell]:
    """The layers of a `torchsru.SRU`."""
    assert isinstance(module, torchsru.SRU)
    layers = list(module.layers)
    assert all(isinstance(layer, torchsru.SRUCell) for layer in layers)
    return layers  # type: ignore[return-value]


def weights(module: nn.Module) -> list[Tensor]:
    """The matrix [E, F] of each layer of a `torchsru.SRU`."""
    found = [layer.transform.weight for layer in sru_layers(module)]
    return [w.detach() for w in found if isinstance(w, Tensor)]


def make(name: str, shape: Shape, where: Where) -> Network:
    """Build a network by the name of its variant. Raises BenchError if it cannot be had."""
    x_LBF = where.randn(shape.L, shape.B, shape.features)
    if name == CONV:
        convolution = nn.Conv1d(shape.features, shape.d, 3, padding=1)
        x_BFL = x_LBF.permute(1, 2, 0).contiguous()
        return Network(convolution.to(where.device, where.dtype), x_BFL)
    if name == ORIGINAL and (reason := original_missing()):
        raise BenchError(f"{ORIGINAL} cannot run: {reason}")
    classes: dict[str, Callable[..., nn.Module]] = {
        SRU: torchsru.SRU,
        LSTM: nn.LSTM,
        GRU: nn.GRU,
        ORIGINAL: _original,
    }
    sizes = (shape.features, shape.d, shape.layers)
    module = classes[name](*sizes, bidirectional=shape.bidirectional)
    return Network(module.to(where.device, where.dtype), x_LBF)


def _original(*sizes: int, bidirectional: bool) -> nn.Module:
    return import_module("sru").SRU(*sizes, bidirectional=bidirectional)


@cache
def original_missing() -> str | None:
    """Why the original package cannot run, or None. Importing it compiles C++ at first."""
    if installed("sru") is None:
        return "it is not installed (pip install --no-build-isolation --no-deps sru==2.6.0)"
    if installed("sru") != "2.6.0":
        return f"version 2.6.0 is asked for, {installed('sru')} is installed"
    # its extension is built by ninja, which pip puts beside the interpreter
    bin = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([bin, os.environ.get("PATH", "")])
    # that it warns about missing CUDA, and at each training step on a CPU, is no news here
    warnings.filterwarnings("ignore", module=r"sru\.")
    try:
        import_module("sru")
    except Exception as error:
        return f"importing it failed: {type(error).__name__}: {str(error).splitlines()[0]}"
    return None
