"""`nn.LSTM` and `nn.GRU` behind the door that every recurrent module here shares.

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
d hidden size per direction.

What it adds  mask and cu_seqlens, step, states in float32 at least, errors that name the argument
What stays    the work is PyTorch's, called directly; parameters and their names, so that weights
              move both ways; `dropout` draws a new mask each step
Padding       each row's real steps come first, in both directions, so that padding changes none.
              A GPU runs packed rows. A CPU runs them slower than padded ones: there rows stay
              padded, and LSTM's gates hold the cell that padding would change.
Memory        of a CPU: PyTorch's LSTM keeps what oneDNN made for each shape, 1,024 of them at most;
              where lengths vary, ONEDNN_PRIMITIVE_CACHE_CAPACITY=32 in the environment bounds it
Limits        PackedSequence, cu_seqlens, and on a GPU mask in eager mode only: PyTorch wants the
              lengths on the CPU. LSTM does not run under bfloat16's autocast on a CPU whose
              oneDNN lacks that type
Check         tests/nn/test_gated.py
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves, tree_map

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

OPEN = 1e4  # what makes a gate 1, in float16 too; its negative makes it 0


class _Gated(Recurrent):
    """What LSTM and GRU share; `_worker` is the PyTorch class, the other base of both."""

    _worker: Any
    weight_ih_l0: Tensor
    all_weights: list[list[nn.Parameter]]

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
            padded = documents.pad(x).masked_fill(documents.mask[:, :, None], 0)
            h, state = self._run_masked(padded, state, documents.mask)
            return documents.unpad(h), state
        if mask is not None or x.shape[0] == 0:
            return self._run_masked(x, state, mask)
        return self._work(x, state)

    def _run_masked(self, x, state, mask):
        """Each row without its padding.

        Args:
            x: [M, R, input_size], 0 at padding.
            state: of R rows, or None.
            mask: [M, R] bool, True at padding, which may stand anywhere.
        """
        M, R, _ = x.shape
        if reason := wrong_type(x, self):
            raise ValueError(reason)
        if state is None:
            state = self._start(R, x)
        if M == 0:  # of no elements, but in the graph
            out = F.linear(x, self.weight_ih_l0)[:, :, :1].expand(M, R, self.output_size)
            return out, state
        order = mask.sort(dim=0, stable=True).indices  # real steps first, as they were
        lengths = (~mask).sum(0)
        run = self._run_padded if x.device.type == "cpu" else self._run_packed
        out, state = run(_take(x, order), state, lengths)
        return _take(out, order.argsort(0)), state

    def _run_padded(self, x, state, lengths):
        """Layer by layer and direction by direction.

        Args:
            x: [M, R, input_size], real steps first.
            state: of R rows.
            lengths: [R] real steps.

        Returns: [M, R, output_size], 0 at padding, and the state after each row's last real step.
        """
        at = torch.arange(len(x), device=x.device)[:, None]
        padding = at >= lengths
        turned = torch.where(padding, at, lengths - 1 - at)  # last real step first
        some, last = lengths[:, None] > 0, (lengths - 1).clamp(min=0)[None]
        starts = [leaf.to(self.weight_ih_l0.dtype) for leaf in tree_leaves(state)]
        ends = []
        for layer in range(self.num_layers):
            outs = []
            for direction in range(self.num_directions):
                i = layer * self.num_directions + direction
                start = [leaf[i : i + 1] for leaf in starts]
                given = _take(x, turned) if direction else x
                out, *cell = self._run_layer(given, start, self.all_weights[i], padding)
                h = torch.where(some, _take(out, last)[0], start[0][0])
                ends.append((h, *(leaf[0] for leaf in cell)))
                outs.append(_take(out, turned) if direction else out)
            x = torch.cat(outs, -1).masked_fill(padding[:, :, None], 0)
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        end = tuple(
            torch.stack(leaves).to(state_type(leaves[0])) for leaves in zip(*ends, strict=True)
        )
        return x, end if isinstance(state, tuple) else end[0]

    def _run_packed(self, x, state, lengths):
        """The same, of packed rows."""
        M, R, _ = x.shape
        lengths = lengths.cpu()
        rows = lengths.nonzero()[:, 0].to(x.device)  # the other rows keep their state
        if len(rows) == 0:
            return x.new_zeros(M, R, self.output_size), state
        packed = pack_padded_sequence(
            x.index_select(1, rows), lengths[lengths > 0], enforce_sorted=False
        )
        out, end = self._work(packed, map_tensors(lambda leaf: leaf.index_select(1, rows), state))
        out, _ = pad_packed_sequence(out, total_length=M)
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

    def _run_layer(
        self, x: Tensor, start: list[Tensor], weights: list[nn.Parameter], padding: Tensor
    ):
        """One direction of a layer: h [M, R, d], whatever it be at padding, and the end [1, R, d]
        of each other part of the state."""
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


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x[index[t, r], r] for x [M, R, F] and index [K, R] -> [K, R, F]."""
    return x.gather(0, index[:, :, None].expand(-1, -1, x.shape[2]))


class LSTM(_Gated, nn.LSTM):
    """`nn.LSTM`, with the calls of every recurrent module here: mask, cu_seqlens, step.

    Its parameters, their names and its numbers are those of `nn.LSTM`. The state is the pair
    (h, c), each [num_layers * directions, R, d], float32 at least. `PackedSequence` and
    `cu_seqlens` work in eager mode, on a GPU `mask` too.

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

    def _run_layer(self, x, start, weights, padding):
        w_in, *others = weights  # of the gates i, f, g, o: c_t = f c_{t-1} + i g
        hold = w_in.new_tensor([-OPEN, OPEN, 0, 0]).repeat_interleave(self.hidden_size)
        weights = [torch.cat([w_in, hold[:, None]], 1), *others]
        x = torch.cat([x, padding[:, :, None].to(x.dtype)], -1)
        h, _, c = torch.lstm(x, start, weights, self.bias, 1, 0.0, self.training, False, False)
        return h, c

    def _check_state(self, state, rows):
        if not isinstance(state, tuple) or len(state) != 2:
            got = f"{len(state)} of them" if isinstance(state, tuple) else type(state).__name__
            raise TypeError(f"state must be a pair of tensors (h, c), got {got}")
        for i, leaf in enumerate(state):
            self._check_tensor(f"state[{i}]", leaf, rows)


class GRU(_Gated, nn.GRU):
    """`nn.GRU`, with the calls of every recurrent module here: mask, cu_seqlens, step.

    Its parameters, their names and its numbers are those of `nn.GRU`. The state is h,
    [num_layers * directions, R, d], float32 at least. `PackedSequence` and `cu_seqlens` work in
    eager mode, on a GPU `mask` too. Arguments and errors as in `LSTM`.
    """

    _worker = nn.GRU

    def _start(self, rows, x):
        return self._zeros(rows, x)

    def _run_layer(self, x, start, weights, padding):
        h, _ = torch.gru(x, start[0], weights, self.bias, 1, 0.0, self.training, False, False)
        return (h,)

    def _check_state(self, state, rows):
        self._check_tensor("state", state, rows)
