"""Minimal GRU (Feng et al. 2024, "Were RNNs all we needed?", arXiv 2410.01201).

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
d hidden size per direction, n directions, D = n d.
"""

import torch

from torchsru.nn.stack import Layer, Stack, state_type


class MinGRULayer(Layer):
    """One layer; see `MinGRU`.

    Attributes:
        transform: [2 D, F], blocks of rows: candidate, update gate.
    """

    def __init__(self, features, channels, num_directions, *, positive, device, dtype):
        super().__init__(
            features, channels, num_directions, 2, bias=True, device=device, dtype=dtype
        )
        self.positive = positive

    def _run(self, x, state, mask, cu_seqlens):
        u = self._transform(x)
        candidate, z_in = u.to(state_type(u)).unbind(2)
        if self.positive:
            candidate = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
        z, keep = z_in.sigmoid(), torch.sigmoid(-z_in)  # keep = 1 - z, true where z is near 1
        h, state = self._recur(keep, z * candidate, state, mask, cu_seqlens)
        return h.to(u.dtype), state


class MinGRU(Stack):
    """A stack of minGRU layers, called and stepped as `torchsru.SRU`.

        z_t = sigmoid(W_z x_t + b_z)
        h_t = (1 - z_t) h_{t-1} + z_t g(W x_t + b)

    From Feng et al. 2024 (arXiv 2410.01201, section 3.1): g is the identity; with `positive`,
    g(x) = x + 0.5 where x >= 0 and sigmoid(x) elsewhere, as in the paper's log-space form
    (appendix B), so that a state that starts at 0 or above stays there. The state is h
    [num_layers * directions, R, d].

    Args:
        input_size: features of x.
        hidden_size: d, channels per direction.
        num_layers: layers, each fed with the one below.
        positive: see above.
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
        positive: bool = False,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        n = 2 if bidirectional else 1
        super().__init__(
            lambda features: MinGRULayer(
                features, hidden_size * n, n, positive=positive, device=device, dtype=dtype
            ),
            input_size, hidden_size, num_layers,
            batch_first=batch_first, bidirectional=bidirectional, dropout=dropout,
        )  # fmt: skip
        self.positive = positive

    def _options(self):
        return {"positive": (self.positive, False)}
