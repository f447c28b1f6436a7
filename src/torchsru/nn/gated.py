"""`nn.LSTM` and `nn.GRU` behind the door that every recurrent module here shares.

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
d hidden size per direction.

What it adds  mask and cu_seqlens, step, states in float32 at least, errors that name the argument
What stays    the work is PyTorch's, called directly; parameters and their names, so that weights
              move both ways; `dropout` draws a new mask each step
Limits        mask, cu_seqlens and PackedSequence in eager mode only: PyTorch wants the lengths on
              the CPU
Check         tests/nn/test_gated.py
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_map

from torchsru.nn.recurrent import (
    Recurrent,
    check_positive,
    check_probabilities,
    check_state_tensor,
    map_tensors,
    wrong_type,
)
from torchsru.nn.stack import state_type
from torchsru.ops._sequences import Documents


class _Gated(Recurrent):
    """What LSTM and GRU share; `_worker` is the PyTorch class, the other base of both."""

    _worker: Any
    weight_ih_l0: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_positive(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        check_probabilities(dropout=dropout)
        self._worker.__init__(
            self, input_size, hidden_size, num_layers,
            bias=bias, batch_first=batch_first, bidirectional=bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.dropout = dropout  # PyTorch would warn of it in a single layer, where it does nothing
        self.num_directions = 2 if bidirectional else 1
        self.output_size = hidden_size * self.num_directions

    def _run(self, x, state, mask, cu_seqlens):
        if cu_seqlens is not None:
            documents = Documents.from_bounds(cu_seqlens, x.shape[0])
            h, state = self._run_masked(documents.pad(x), state, documents.mask)
            return documents.unpad(h), state
        if mask is not None or x.shape[0] == 0:
            return self._run_masked(x, state, mask)
        return self._work(x, state)

    def _run_masked(self, x, state, mask):
        """Each row without its padding: rows are packed, steps keep their order.

        Args:
            x: [M, R, input_size].
            state: of R rows, or None.
            mask: [M, R] bool, True at padding, which may stand anywhere.
        """
        M, R, _ = x.shape
        if state is None:
            state = self._start(R, x)
        lengths = torch.zeros(R) if M == 0 else (~mask).sum(0).cpu()
        rows = lengths.nonzero()[:, 0].to(x.device)  # the other rows keep their state
        if len(rows) == 0:
            return x.new_zeros(M, R, self.output_size), state

        order = mask.index_select(1, rows).sort(dim=0, stable=True).indices  # padding last
        x = x.index_select(1, rows).gather(0, order[:, :, None].expand(-1, -1, x.shape[2]))
        packed = pack_padded_sequence(x, lengths[lengths > 0], enforce_sorted=False)
        out, end = self._work(packed, map_tensors(lambda leaf: leaf.index_select(1, rows), state))
        out, _ = pad_packed_sequence(out, total_length=M)
        out = out.gather(0, order.argsort(0)[:, :, None].expand_as(out))
        if len(rows) == R:
            return out, end
        h = out.new_zeros(M, R, self.output_size).index_copy(1, rows, out)
        return h, tree_map(lambda old, new: old.to(new.dtype).index_copy(1, rows, new), state, end)

    def _forward_packed(self, packed, state, mask, cu_seqlens):
        self._check_packed(packed, mask, cu_seqlens)
        if state is not None:
            self._check_state(state, int(packed.batch_sizes[0]))
        return self._work(packed, state)

    def _work(self, x: Tensor | PackedSequence, state: Any) -> tuple[Any, Any]:
        """PyTorch's module, on x [L, B, input_size] or packed; its state in float32 at least."""
        flip = self.batch_first and isinstance(x, Tensor)  # for PyTorch's own batch_first
        if state is not None:
            dtype = self.weight_ih_l0.dtype
            state = map_tensors(lambda leaf: leaf.to(dtype), state)
        try:
            out, state = self._worker.forward(self, x.transpose(0, 1) if flip else x, state)  # type: ignore[union-attr]
        except (RuntimeError, ValueError) as error:
            if reason := wrong_type(x if isinstance(x, Tensor) else x.data, self):
                raise ValueError(reason) from error
            raise
        state = map_tensors(lambda leaf: leaf.to(state_type(leaf)), state)
        return out.transpose(0, 1) if flip else out, state

    def _start(self, rows: int, x: Tensor) -> Any:
        """The state before the first step, zeros."""
        raise NotImplementedError

    def _zeros(self, rows: int, x: Tensor) -> Tensor:
        sizes = (self.num_layers * self.num_directions, rows, self.hidden_size)
        return x.new_zeros(sizes, dtype=state_type(self.weight_ih_l0))

    def _check_tensor(self, name: str, t: Any, rows: int | None) -> None:
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(t).__name__}")
        weight = self.weight_ih_l0
        check_state_tensor(
            name, t, (self.num_layers * self.num_directions, self.hidden_size),
            "layers * directions, hidden_size", rows,
            weight.new_empty(0, dtype=state_type(weight)),
        )  # fmt: skip


class LSTM(_Gated, nn.LSTM):
    """`nn.LSTM`, with the calls of every recurrent module here: mask, cu_seqlens, step.

    Its parameters, their names and its numbers are those of `nn.LSTM`. The state is the pair
    (h, c), each [num_layers * directions, R, d], float32 at least. `mask`, `cu_seqlens` and
    `PackedSequence` work in eager mode.

    Args:
        input_size: features of x.
        hidden_size: d, channels per direction.
        num_layers: layers, each fed with the one below.
        bias: add biases in the gates.
        batch_first: x and out are [B, L, ...] and mask is [B, L]. States keep batch at dim 1.
        bidirectional: each layer runs in both directions; out has 2 d features.
        dropout: of each layer's output but the last one's, drawn anew at each step.
        device: where the parameters are made.
        dtype: type of the parameters.

    Raises:
        ValueError: naming the argument, if a size is not positive or dropout not in [0, 1).
    """

    _worker = nn.LSTM

    def _start(self, rows, x):
        zeros = self._zeros(rows, x)
        return zeros, zeros

    def _check_state(self, state, rows):
        if not isinstance(state, tuple) or len(state) != 2:
            got = f"{len(state)} of them" if isinstance(state, tuple) else type(state).__name__
            raise TypeError(f"state must be a pair of tensors (h, c), got {got}")
        for i, leaf in enumerate(state):
            self._check_tensor(f"state[{i}]", leaf, rows)


class GRU(_Gated, nn.GRU):
    """`nn.GRU`, with the calls of every recurrent module here: mask, cu_seqlens, step.

    Its parameters, their names and its numbers are those of `nn.GRU`. The state is h,
    [num_layers * directions, R, d], float32 at least. `mask`, `cu_seqlens` and `PackedSequence`
    work in eager mode. Arguments and errors as in `LSTM`.
    """

    _worker = nn.GRU

    def _start(self, rows, x):
        return self._zeros(rows, x)

    def _check_state(self, state, rows):
        self._check_tensor("state", state, rows)
