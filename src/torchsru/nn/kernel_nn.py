"""String-kernel network (KNN; Lei et al. 2017, arXiv 1705.09037).

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
d hidden size per direction, n directions, D = n d, J the order of the n-grams.
"""

from typing import Any

import torch
from torch import Tensor, nn

from torchsru.nn.recurrent import check_positive, check_state_tensor
from torchsru.nn.stack import Layer, Stack, previous, state_type

DECAYS = ("learned", "gate")


class KernelNNLayer(Layer):
    """One layer; see `KernelNN`. Its state is [n, R, J, d].

    Attributes:
        transform: [J D, F], blocks of rows: W_1 to W_J, and with decay "gate" its W. No bias.
        bias: [D] of the decay, unless it is constant.
    """

    bias: nn.Parameter | None

    def __init__(self, features, channels, num_directions, *, order, decay, additive,
                 device, dtype):  # fmt: skip
        super().__init__(
            features, channels, num_directions, order + (decay == "gate"),
            bias=False, device=device, dtype=dtype,
        )  # fmt: skip
        self.order = order
        self.decay = decay
        self.additive = additive
        learned = isinstance(decay, str)
        bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype)) if learned else None
        self.register_parameter("bias", bias)

    def reset_parameters(self) -> None:
        """Draw weights of variance 1 / fan-in, as in SRU; biases start at 0: a decay of 1/2."""
        super().reset_parameters()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _run(self, x, state, mask, cu_seqlens):
        u = self._transform(x)
        blocks = u.to(state_type(u)).unbind(2)
        decay = self._decay(blocks)
        ends: list[Tensor] = []
        starts = (None,) * self.order if state is None else state.unbind(2)
        c = blocks[0]
        for j, b in enumerate(blocks[: self.order]):
            if j:
                below = self._shift(c, starts[j - 1], cu_seqlens)
                b = below + b if self.additive else below * b
            c, end = self._recur(decay, (1 - decay) * b, starts[j], mask, cu_seqlens)
            ends.append(end)
        return c.tanh().to(u.dtype), torch.stack(ends, dim=2)

    def _decay(self, blocks):
        """λ [L, B, D]."""
        if self.bias is None:
            return torch.full_like(blocks[0], self.decay)
        if self.decay == "learned":
            return self.bias.to(blocks[0].dtype).sigmoid().expand_as(blocks[0])
        return torch.sigmoid(blocks[-1] + self.bias)

    def _shift(self, c, start, cu_seqlens):
        """c_{t-1} [L, B, D]; at padding c stands still, so the step before is the right one."""
        n = self.num_directions
        starts = [None] * n if start is None else start
        befores = [
            previous(half, starts[q], cu_seqlens=cu_seqlens, backward=q == 1)[0]
            for q, half in enumerate(c.chunk(n, dim=-1))
        ]
        return befores[0] if n == 1 else torch.cat(befores, dim=-1)


class KernelNN(Stack):
    """A stack of string-kernel layers, called and stepped as `torchsru.SRU`.

        c^1_t = λ_t c^1_{t-1} + (1 - λ_t) W_1 x_t
        c^j_t = λ_t c^j_{t-1} + (1 - λ_t) (c^{j-1}_{t-1} * W_j x_t)       j = 2 ... J
        h_t = tanh(c^J_t)

    From Lei et al. 2017 (arXiv 1705.09037, section 2): c^j sums over all n-grams of j steps, gaps
    allowed and decayed. With `additive`, c^{j-1}_{t-1} + W_j x_t stands in the brackets. It is a
    baseline of the SRU paper. J calls of `torchsru.ops.linear_recurrence` a layer.

    The state holds every c^j: [num_layers * directions, R, J, d].

    Args:
        input_size: features of x.
        hidden_size: d, channels per direction.
        num_layers: layers, each fed with the one below.
        order: J, the length of the n-grams.
        decay: λ_t: a number in [0, 1); "learned", sigmoid(b), one number a channel; or "gate",
            sigmoid(W x_t + b). A gate that reads h_{t-1} too is not offered: it would need a
            matrix product at each step.
        additive: see above.
        batch_first: x and out are [B, L, ...] and mask is [B, L]. States keep batch at dim 1.
        bidirectional: each layer runs in both directions; out has 2 d features.
        dropout: of each layer's output but the last one's, with one mask for all time steps.
        device: where the parameters are made.
        dtype: type of the parameters; states are float32 at least.

    Raises:
        ValueError: naming the argument, if a size is not positive, dropout not in [0, 1), or
            decay neither a number in [0, 1) nor one of the names.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        order: int = 2,
        decay: float | str = "gate",
        additive: bool = False,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_positive(order=order)
        number = isinstance(decay, (int, float)) and not isinstance(decay, bool)
        if not (0 <= decay < 1 if number else decay in DECAYS):  # type: ignore[operator]
            raise ValueError(f"decay must be a number in [0, 1) or one of {DECAYS}, got {decay!r}")
        n = 2 if bidirectional else 1
        super().__init__(
            lambda features: KernelNNLayer(
                features, hidden_size * n, n, order=order, decay=decay, additive=additive,
                device=device, dtype=dtype,
            ),
            input_size, hidden_size, num_layers,
            batch_first=batch_first, bidirectional=bidirectional, dropout=dropout,
        )  # fmt: skip
        self.order = order
        self.decay = decay
        self.additive = additive

    def _check_state(self, state: Any, rows: int | None) -> None:
        if not isinstance(state, Tensor):
            raise TypeError(f"state must be one tensor, got {type(state).__name__}")
        sizes = (self.num_layers * self.num_directions, self.order, self.hidden_size)
        letters = "layers * directions, order, hidden_size"
        check_state_tensor("state", state, sizes, letters, rows, self._state_like())

    def _options(self):
        return {
            "order": (self.order, 2),
            "decay": (self.decay, "gate"),
            "additive": (self.additive, False),
        }
