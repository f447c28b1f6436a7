"""What the models of sound share: a stack of layers, and features of mean 0 and deviation 1."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from torchsru.nn import RNNS

Kind = Literal["sru", "lstm", "gru", "qrnn", "ssru", "mingru", "kernelnn"]


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """A stack of recurrent layers; subclasses say what is around it."""

    rnn: Kind = "sru"
    """Kind of layer; see torchsru.nn.RNNS."""
    width: int = 128
    """d, channels of each layer and direction."""
    layers: int = 4
    """Layers, stacked."""
    bidirectional: bool = False
    """Half of each layer runs backward in time; without it, sound can be heard live."""
    dropout: float = 0.0
    """Between layers; of sru, of the states' part alone: the highway stays whole."""
    highway_bias: float = 0.0
    """sru: initial bias of the reset gate."""

    def __post_init__(self) -> None:
        if self.rnn not in get_args(Kind):
            raise ValueError(f"rnn must be one of {', '.join(get_args(Kind))}, got {self.rnn!r}")
        for name in ("width", "layers"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if not -100 < self.highway_bias < 100:
            raise ValueError(f"highway_bias must lie in (-100, 100), got {self.highway_bias}")
        if self.highway_bias and self.rnn != "sru":
            raise ValueError(f"highway_bias needs rnn='sru', got {self.highway_bias}")

    def make(self, features: int) -> Any:
        """The layers, a `Recurrent`, for so many features a step."""
        options: dict[str, Any] = {"bidirectional": self.bidirectional}
        if self.rnn == "sru":
            options |= {"state_dropout": self.dropout, "highway_bias": self.highway_bias}
        else:
            options["dropout"] = self.dropout
        return RNNS[self.rnn](features, self.width, self.layers, **options)


class Standardized(nn.Module):
    """(x - mean) / deviation, both saved with the weights.

    Args:
        features: F.
        mean, deviation: [F] in the training data; default: 0 and 1.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, mean: Tensor | None = None, deviation: Tensor | None = None):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features) if mean is None else mean.float())
        ones = torch.ones(features)
        self.register_buffer("deviation", ones if deviation is None else deviation.float())

    def forward(self, x: Tensor) -> Tensor:
        """x [..., F] -> the same shape."""
        return (x - self.mean) / self.deviation
