"""Simpler Simple Recurrent Unit (SSRU; Kim et al. 2019, "From Research to Production and Back").

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
d hidden size per direction, n directions, D = n d.
"""

import torch
from torch import nn

from torchsru.nn.stack import Layer, Stack, state_type


class SSRULayer(Layer):
    """One layer; see `SSRU`.

    Attributes:
        transform: [2 D, F], blocks of rows: candidate, forget. No bias.
        bias: [D] of the forget gate.
    """

    def __init__(self, features, channels, num_directions, *, device, dtype):
        super().__init__(
            features, channels, num_directions, 2, bias=False, device=device, dtype=dtype
        )
        self.bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Draw weights of variance 1 / fan-in, as in SRU; biases start at 0."""
        super().reset_parameters()
        nn.init.zeros_(self.bias)

    def _run(self, x, state, mask, cu_seqlens):
        u = self._transform(x)
        z, f_in = u.to(state_type(u)).unbind(2)
        f = torch.sigmoid(f_in + self.bias)
        c, state = self._recur(f, (1 - f) * z, state, mask, cu_seqlens)
        return c.relu().to(u.dtype), state


class SSRU(Stack):
    """A stack of SSRU layers, called and stepped as `torchsru.SRU`: Marian's decoder cell.

        f_t = sigmoid(W_f x_t + b_f)
        c_t = f_t c_{t-1} + (1 - f_t) W x_t
        h_t = relu(c_t)

    From Kim et al. 2019 (WNGT, "From Research to Production and Back: Ludicrously Fast Neural
    Machine Translation"). The residual connection and layer norm around the cell are the
    decoder's, not the cell's. The state is c [num_layers * directions, R, d].

    Args:
        input_size: features of x.
        hidden_size: d, channels per direction.
        num_layers: layers, each fed with the one below.
        batch_first: x and out are [B, L, ...] and mask is [B, L]. States keep batch at dim 1.
        bidirectional: each layer runs in both directions; out has 2 d features.
        dropout: of each layer's output but the last one's, with one mask for all time steps.
        device: where the parameters are made.
        dtype: type of the parameters; states are float32 at least.

    Raises:
        ValueError: naming the argument, if a size is not positive or dropout not in [0, 1).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        n = 2 if bidirectional else 1
        super().__init__(
            lambda features: SSRULayer(features, hidden_size * n, n, device=device, dtype=dtype),
            input_size, hidden_size, num_layers,
            batch_first=batch_first, bidirectional=bidirectional, dropout=dropout,
        )  # fmt: skip
