"""Quasi-recurrent network (QRNN; Bradbury et al. 2016, arXiv 1611.01576).

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
F input features of a layer, d hidden size per direction, n directions, D = n d, k matrices.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torchsru.nn.recurrent import (
    check_probabilities,
    check_state_tensor,
    is_plain_linear,
    to_channels,
    to_directions,
    wrong_type,
)
from torchsru.nn.stack import Layer, Stack, previous, state_type
from torchsru.ops import sru_recurrence

POOLINGS = ("f", "fo", "ifo")


class QRNNLayer(Layer):
    """One layer: a convolution over `window` steps, then pooling; see `QRNN`.

    Its state is c [n, R, d], or with window = 2 the pair of c and the last input [1, R, F]; with
    two directions the latter is [2, R, F], the last and the first input.

    Attributes:
        transform: [k D, window * F], blocks of rows: candidate, forget, then output ("fo",
            "ifo"), input ("ifo"), highway input (if F differs from D); columns: x_t, then the
            step before.
    """

    def __init__(self, features, channels, num_directions, *, window, pooling, highway, zoneout,
                 device, dtype):  # fmt: skip
        own_highway = highway and features != channels
        super().__init__(
            window * features, channels, num_directions, len(pooling) + 1 + own_highway,
            bias=True, device=device, dtype=dtype,
        )  # fmt: skip
        self.window = window
        self.pooling = pooling
        self.highway = highway
        self.own_highway = own_highway
        self.zoneout = zoneout

    def _run(self, x, state, mask, cu_seqlens):
        c, u, end = state, None, None
        if self.window == 1:
            u = self._transform(x)
        else:
            c, before = (None, None) if state is None else state
            u, end = self._convolve(x, before, mask, cu_seqlens)
        h, c = self._pool(u, x, c, mask, cu_seqlens)
        return h, c if self.window == 1 else (c, end)

    def _convolve(self, x, start, mask, cu_seqlens):
        """u_t = W_0 x_t + W_1 x_{t-1} + b; the second direction has x_{t+1} in its place."""
        n = self.num_directions
        us, ends = [], []
        for q in range(n):
            before, end = previous(
                x, None if start is None else start[q], mask, cu_seqlens, backward=q == 1
            )
            both = torch.cat([x, before], dim=-1)
            us.append(self._transform(both) if n == 1 else self._transform_half(both, q))
            ends.append(end.to(state_type(end)))
        return us[0] if n == 1 else torch.cat(us, dim=-1), torch.stack(ends)

    def _transform_half(self, x, q):
        """The rows of one direction of two: x [L, B, 2 F] -> [L, B, k, d]."""
        linear = self.transform
        if not is_plain_linear(linear):  # it may do more than its weight says
            return self._transform(x).unflatten(-1, (2, -1))[..., q, :]
        weight, bias = (
            p.unflatten(0, (self.matrices, 2, -1))[:, q] for p in (linear.weight, linear.bias)
        )
        try:
            u = F.linear(x, weight.flatten(0, 1), bias.flatten())
        except RuntimeError as error:
            if reason := wrong_type(x, linear):
                raise ValueError(reason) from error
            raise
        return u.unflatten(-1, (self.matrices, -1))

    def _pool(self, u, x, c, mask, cu_seqlens):
        """From pre-activations [L, B, k, D] to h [L, B, D] and the last c [n, R, d]."""
        if self.pooling == "fo" and not self.zoneout:  # SRU's first version, of tanh(z)
            h, c = sru_recurrence(
                torch.cat([u[:, :, :1].tanh(), u[:, :, 1:]], dim=2),
                x if self.highway and not self.own_highway else None,
                c0=to_channels(c), num_directions=self.num_directions,
                mask=mask, cu_seqlens=cu_seqlens,
            )  # fmt: skip
            return h, to_directions(c, self.num_directions)

        blocks = u.to(state_type(u)).unbind(2)
        z, f = blocks[0].tanh(), blocks[1].sigmoid()
        i = blocks[3].sigmoid() if self.pooling == "ifo" else 1 - f
        if self.zoneout:
            # the share of the update that stays: 0 or 1 at random, in evaluation its expectation
            stay = torch.full_like(f, 1 - self.zoneout)
            stay = stay.bernoulli() if self.training else stay
            f, i = 1 - stay * (1 - f), stay * i
        h, c = self._recur(f, i * z, c, mask, cu_seqlens)
        if self.pooling != "f":
            o = blocks[2].sigmoid()
            h = o * h
            if self.highway:
                h = h + (1 - o) * (blocks[-1] if self.own_highway else x)
        return h.to(u.dtype), c


class QRNN(Stack):
    """A stack of QRNN layers, called and stepped as `torchsru.SRU`.

        z_t = tanh(W_z x_t + V_z x_{t-1} + b_z)            V only with window = 2
        f_t = sigmoid(W_f x_t + V_f x_{t-1} + b_f)         o_t and i_t alike
        c_t = f_t c_{t-1} + (1 - f_t) z_t                  pooling "f" and "fo"
        c_t = f_t c_{t-1} + i_t z_t                        pooling "ifo"
        h_t = c_t                                          pooling "f"
        h_t = o_t c_t                                      pooling "fo" and "ifo"
        h_t = o_t c_t + (1 - o_t) x_t                      with highway

    From section 2 of Bradbury et al. 2016 (arXiv 1611.01576), biases added. The
    highway is that of the SRU paper's baseline "QRNN + highway". x_{t-1} is the step before in the
    same row or document, 0 before the first.

    The state is c [num_layers * directions, R, d]. With window = 2 it is a tuple: c, then what
    stood last in the input of each layer, [directions, R, features]. With two directions, the
    second one's step before is x_{t+1}.

    Args:
        input_size: features of x.
        hidden_size: d, channels per direction.
        num_layers: layers, each fed with the one below.
        window: steps that the convolution sees: 1, x_t alone; 2, x_{t-1} as well.
        pooling: "f", "fo" or "ifo".
        highway: add (1 - o_t) x_t; if x_t's size is not D, a further block of the convolution
            stands for x_t. Not with pooling "f", which has no o_t.
        zoneout: probability with which a channel keeps its state at a step: f_t becomes
            1 - m (1 - f_t) with m drawn 0 or 1, and i_t becomes m i_t. In evaluation, m is its
            expectation, 1 - zoneout, as in the authors' PyTorch code.
        batch_first: x and out are [B, L, ...] and mask is [B, L]. States keep batch at dim 1.
        bidirectional: each layer runs in both directions; out has 2 d features.
        dropout: of each layer's output but the last one's, with one mask for all time steps.
        device: where the parameters are made.
        dtype: type of the parameters; states are float32 at least.

    Raises:
        ValueError: naming the argument, if a size is not positive, a probability not in [0, 1),
            or a choice unknown.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        window: int = 1,
        pooling: str = "fo",
        highway: bool = False,
        zoneout: float = 0.0,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if window not in (1, 2):
            raise ValueError(f"window must be 1 or 2, got {window!r}")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}")
        if highway and pooling == "f":
            raise ValueError("highway must be False with pooling 'f', which has no output gate")
        check_probabilities(zoneout=zoneout)
        n = 2 if bidirectional else 1
        super().__init__(
            lambda features: QRNNLayer(
                features, hidden_size * n, n, window=window, pooling=pooling, highway=highway,
                zoneout=zoneout, device=device, dtype=dtype,
            ),
            input_size, hidden_size, num_layers,
            batch_first=batch_first, bidirectional=bidirectional, dropout=dropout,
        )  # fmt: skip
        self.window = window
        self.pooling = pooling
        self.highway = highway
        self.zoneout = zoneout

    def _split(self, state: Any) -> Any:
        if self.window == 1:
            return super()._split(state)
        return list(zip(super()._split(state[0]), state[1:], strict=True))

    def _join(self, states: Any) -> Any:
        if self.window == 1:
            return super()._join(states)
        return super()._join([c for c, _ in states]), *(x for _, x in states)

    def _check_state(self, state, rows):
        if self.window == 1:
            return self._check_c("state", state, rows)
        if not isinstance(state, tuple) or len(state) != 1 + self.num_layers:
            got = f"{len(state)}" if isinstance(state, tuple) else type(state).__name__
            raise TypeError(
                f"state must be a tuple of c and each layer's last input, {1 + self.num_layers} "
                f"tensors, got {got}"
            )
        self._check_c("state[0]", state[0], rows)
        like = self._state_like()
        for i, last in enumerate(state[1:]):
            name = f"state[{i + 1}]"
            if not isinstance(last, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(last).__name__}")
            sizes = (self.num_directions, self.output_size if i else self.input_size)
            check_state_tensor(name, last, sizes, "directions, features", rows, like)

    def _options(self):
        return {
            "window": (self.window, 1),
            "pooling": (self.pooling, "fo"),
            "highway": (self.highway, False),
            "zoneout": (self.zoneout, 0.0),
        }
