"""What stacks of light layers share: one matrix product over all steps, then a linear recurrence.

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
F input features of a layer, d hidden size per direction, n directions, D = n d, k matrices.

Users     QRNN, SSRU, MinGRU and KernelNN, each a `Stack` of its own kind of `Layer`
Precision the product in the parameters' type (or autocast's), gates and recurrence in float32 at
          least, the output in the product's type
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchsru.nn.recurrent import (
    Recurrent,
    check_probabilities,
    check_state_tensor,
    describe,
    drop_over_time,
    to_channels,
    to_directions,
    wrong_type,
)
from torchsru.ops import linear_recurrence


class Layer(nn.Module):
    """One layer of a stack; `_run` holds its equations.

    Args:
        features: F, of its input.
        channels: D, of its output.
        num_directions: n; the second half of the channels runs backward in time.
        matrices: k, blocks of D rows in the transform.
        bias: whether the transform adds biases.

    Attributes:
        transform: `nn.Linear` to the k blocks, rows gate-major: block 0 of all directions first.
    """

    def __init__(
        self,
        features: int,
        channels: int,
        num_directions: int,
        matrices: int,
        *,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.num_directions = num_directions
        self.matrices = matrices
        self.transform = nn.Linear(
            features, matrices * channels, bias=bias, device=device, dtype=dtype
        )

    def reset_parameters(self) -> None:
        """Draw weights of variance 1 / fan-in, as in SRU; biases start at 0."""
        bound = math.sqrt(3 / self.transform.in_features)
        nn.init.uniform_(self.transform.weight, -bound, bound)
        if self.transform.bias is not None:
            nn.init.zeros_(self.transform.bias)

    def forward(
        self, x: Tensor, state: Any, mask: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Any]:
        """x [L, B, F] and a state [n, R, ...] or None -> h [L, B, D], 0 at padding, and state."""
        h, state = self._run(x, state, mask, cu_seqlens)
        if mask is not None:
            h = h.masked_fill(mask[:, :, None], 0)
        return h, state

    def _run(
        self, x: Tensor, state: Any, mask: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Any]:
        """The same; h at padding may be anything."""
        raise NotImplementedError

    def _transform(self, x: Tensor) -> Tensor:
        """x [L, B, F] -> pre-activations [L, B, k, D]."""
        try:
            u: Tensor = self.transform(x)
        except RuntimeError as error:
            if reason := wrong_type(x, self.transform):
                raise ValueError(reason) from error
            raise
        return u.unflatten(-1, (self.matrices, self.channels))

    def _recur(
        self,
        a: Tensor,
        b: Tensor,
        state: Tensor | None,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """c_t = a_t c_{t-1} + b_t of [L, B, D] from a state [n, R, d]; all c and the last state."""
        c, last = linear_recurrence(
            a, b, to_channels(state),
            num_directions=self.num_directions, mask=mask, cu_seqlens=cu_seqlens,
        )  # fmt: skip
        return c, to_directions(last, self.num_directions)


class Stack(Recurrent):
    """Layers on top of each other, dropout between them.

    Its state is one tensor [layers * n, R, d], unless a subclass says otherwise.

    Args:
        make_layer: from F to the layer that takes it.
    """

    def __init__(
        self,
        make_layer: Callable[[int], Layer],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        batch_first: bool,
        bidirectional: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self._set_sizes(input_size, hidden_size, num_layers, batch_first, bidirectional)
        check_probabilities(dropout=dropout)
        self.dropout = dropout
        self.layers = nn.ModuleList(
            make_layer(self.output_size if i else input_size) for i in range(num_layers)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every layer's parameters anew; see `Layer.reset_parameters`."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.reset_parameters()

    def _run(self, x, state, mask, cu_seqlens):
        states = [None] * self.num_layers if state is None else self._split(state)
        ends = []
        for i, layer in enumerate(self.layers):
            if i and self.training and self.dropout:
                x = drop_over_time(x, self.dropout, cu_seqlens)
            x, end = layer(x, states[i], mask, cu_seqlens)
            ends.append(end)
        return x, self._join(ends)

    def _steps_apart(self):
        return True

    def _split(self, state: Any) -> Sequence[Any]:
        """The state of each layer."""
        return state.split(self.num_directions)

    def _join(self, states: Sequence[Any]) -> Any:
        """The inverse of `_split`."""
        return states[0] if len(states) == 1 else torch.cat(list(states))

    def _check_state(self, state, rows):
        self._check_c("state", state, rows)

    def _check_c(self, name: str, c: Any, rows: int | None) -> None:
        """Raise unless c is a tensor [layers * n, rows, d]."""
        if not isinstance(c, Tensor):
            raise TypeError(f"{name} must be one tensor, got {type(c).__name__}")
        sizes = (self.num_layers * self.num_directions, self.hidden_size)
        check_state_tensor(
            name, c, sizes, "layers * directions, hidden_size", rows, self._state_like()
        )

    def _state_like(self) -> Tensor:
        """An empty tensor of the states' type and device."""
        layer = self.layers[0]
        assert isinstance(layer, Layer)
        weight = layer.transform.weight
        return weight.new_empty(0, dtype=state_type(weight))

    def extra_repr(self) -> str:
        """Sizes, and the options that differ from their defaults."""
        options = {
            "num_layers": (self.num_layers, 1),
            "batch_first": (self.batch_first, False),
            "bidirectional": (self.bidirectional, False),
            "dropout": (self.dropout, 0.0),
        }
        return describe((self.input_size, self.hidden_size), options | self._options())

    def _options(self) -> dict[str, tuple[Any, Any]]:
        """A subclass's own options, {name: (value, default)}."""
        return {}


def state_type(t: Tensor) -> torch.dtype:
    """float32, or float64 where t is: the type of states and gates."""
    return torch.promote_types(t.dtype, torch.float32)


def previous(
    x: Tensor,
    start: Tensor | None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    *,
    backward: bool = False,
) -> tuple[Tensor, Tensor]:
    """What stands before each step: of the same row or document, steps at padding left out.

    Args:
        x: [L, B, F].
        start: [R, F] what stands before the first step. None: zeros.
        mask, cu_seqlens: as in `linear_recurrence`.
        backward: time runs backward: the step before is t + 1.

    Returns: x_{t-1} [L, B, F], and the last step [R, F], which is what stands before whatever
        follows; both in x's type.
    """
    L, B, F = x.shape
    R = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    start = x.new_zeros(R, F) if start is None else start.to(x.dtype)
    if cu_seqlens is not None:
        place, end = _document_places(L, cu_seqlens, backward)
        together = torch.cat([start, x[:, 0]])
        return together.index_select(0, place)[:, None], together.index_select(0, end)
    if backward:
        x, mask = x.flip(0), None if mask is None else mask.flip(0)
    together = torch.cat([start[None], x])  # [L + 1, B, F]
    if mask is None:
        before, last = together[:-1], together[-1]
    else:
        step = torch.arange(1, L + 1, device=x.device)[:, None]
        place = torch.cat([mask.new_zeros(1, B, dtype=torch.int64), step.masked_fill(mask, 0)])
        place = place.cummax(0).values  # of the last real step up to and including each
        together = together.gather(0, place[:, :, None].expand(-1, -1, F))
        before, last = together[:-1], together[-1]
    return before.flip(0) if backward else before, last


def _document_places(L: int, bounds: Tensor, backward: bool) -> tuple[Tensor, Tensor]:
    """Where the step before each step [L], and each document's last step [N], stand in a row of N
    start values and L steps. Bounds that do not fit give some place: the op refuses them."""
    N = bounds.shape[0] - 1
    row = torch.arange(N, device=bounds.device)
    step = torch.arange(L, device=bounds.device)
    document = torch.bucketize(step, bounds[1:], right=True)  # N past the last bound
    if backward:
        at_start = step == bounds[(document + 1).clamp(max=N)] - 1
        beside, end = step + 1, bounds[:-1]
    else:
        at_start = step == bounds[document]
        beside, end = step - 1, bounds[1:] - 1
    place = torch.where(at_start, document, N + beside)
    last = torch.where(bounds.diff() > 0, N + end, row)
    most = max(N + L - 1, 0)
    return place.clamp(0, most), last.clamp(0, most)
