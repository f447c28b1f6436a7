"""The networks that SRU is measured beside, and one training step, the same for all.

Letters: L time steps, B batch rows, F input features, C channels put out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import torchsru
from torchsru.bench.cases import (
    CONV,
    CONV2,
    GRU,
    LSTM,
    ORIGINAL,
    PACKED_GRU,
    PACKED_LSTM,
    PACKED_SRU,
    PADDED_GRU,
    PADDED_LSTM,
    PADDED_SRU,
    QRNN,
    SRU,
    BenchError,
    Shape,
)
from torchsru.bench.peers import missing


@dataclass(frozen=True)
class Where:
    """What tensors are made of."""

    dtype: torch.dtype
    device: str

    def randn(self, *sizes: int) -> Tensor:
        return torch.randn(sizes, device=self.device, dtype=self.dtype)


@dataclass(frozen=True)
class Network:
    """A module with its input x: [L, B, F], or for a convolution [B, F, L].

    run: what is called in the module's place.
    """

    module: nn.Module
    x: Tensor
    run: Callable[[Tensor], Tensor] | None = None

    def output(self) -> Tensor:
        out = (self.run or self.module)(self.x)
        return out[0] if isinstance(out, tuple) else out

    def training_step(self) -> Callable[[], object]:
        """Forward and backward; gradients of x and of all parameters."""
        self.module.train()
        x = self.x.requires_grad_()
        inputs = [x, *self.module.parameters()]
        seed = torch.randn(self.output_sizes(), device=x.device, dtype=x.dtype)
        return lambda: torch.autograd.grad(self.output(), inputs, seed)

    def output_sizes(self) -> tuple[int, ...]:
        """Sizes of the output, without running it."""
        if isinstance(self.module, nn.Conv1d):
            B, _, L = self.x.shape
            window, padding = self.module.kernel_size[0], self.module.padding[0]
            assert isinstance(padding, int)
            return (B, self.module.out_channels, L + 2 * padding - window + 1)
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
    if name in (CONV, CONV2):
        window, padding = (3, 1) if name == CONV else (2, 0)
        convolution = nn.Conv1d(shape.features, shape.d, window, padding=padding)
        x_BFL = x_LBF.permute(1, 2, 0).contiguous()
        return Network(convolution.to(where.device, where.dtype), x_BFL)
    if reason := missing(name):
        raise BenchError(f"{name} cannot run: {reason}")
    classes: dict[str, Callable[..., nn.Module]] = {
        SRU: torchsru.SRU,
        LSTM: nn.LSTM,
        GRU: nn.GRU,
        QRNN: _qrnn,
        ORIGINAL: _original,
    }
    sizes = (shape.features, shape.d, shape.layers)
    module = classes[name](*sizes, bidirectional=shape.bidirectional)
    return Network(module.to(where.device, where.dtype), x_LBF)


#: Networks over rows of unequal lengths by the name of their variant; whether they are packed.
UNEQUAL: dict[str, tuple[Callable[..., nn.Module], bool]] = {
    PACKED_SRU: (torchsru.SRU, True),
    PADDED_SRU: (torchsru.SRU, False),
    PADDED_LSTM: (torchsru.nn.LSTM, False),
    PACKED_LSTM: (nn.LSTM, True),
    PADDED_GRU: (torchsru.nn.GRU, False),
    PACKED_GRU: (nn.GRU, True),
}


def make_unequal(name: str, shape: Shape, where: Where) -> Network:
    """Build one of UNEQUAL over rows of L / 4 to L steps: with a mask, or packed and unpacked."""
    make_module, packs = UNEQUAL[name]
    module = make_module(shape.features, shape.d, shape.layers, bidirectional=shape.bidirectional)
    lengths_B = torch.linspace(shape.L / 4, shape.L, shape.B).round().long()
    mask_LB = (torch.arange(shape.L)[:, None] >= lengths_B).to(where.device)

    def padded(x_LBF: Tensor) -> Tensor:
        return module(x_LBF, mask=mask_LB)[0]

    def packed(x_LBF: Tensor) -> Tensor:
        rows = pack_padded_sequence(x_LBF, lengths_B, enforce_sorted=False)
        return pad_packed_sequence(module(rows)[0])[0]

    x_LBF = where.randn(shape.L, shape.B, shape.features)
    module = module.to(where.device, where.dtype)
    return Network(module, x_LBF, packed if packs else padded)


def _qrnn(*sizes: int, bidirectional: bool) -> nn.Module:
    """As the SRU paper compares with: window 1, with highway."""
    return torchsru.nn.QRNN(*sizes, highway=True, bidirectional=bidirectional)


def _original(*sizes: int, bidirectional: bool) -> nn.Module:
    return import_module("sru").SRU(*sizes, bidirectional=bidirectional)
