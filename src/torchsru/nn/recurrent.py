"""The call that every recurrent module here shares: `out, state = rnn(x, state)`.

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
D output features.

Layouts   batch_first, unbatched and padded input becomes [L, B, input_size] at this door, packed
          rows become documents or padded rows, and the output is laid out as the input was; a
          module's own work is `_run`
Padding   what stands there, even NaN, becomes 0 at this door, so that it reaches no weight's
          gradient; layers behind it give 0 there to each other
State     a pytree whose tensors have the batch at dim 1; torchsru.nn.state serves them all
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_map_only

from torchsru.ops._checks import check_sequences


class Recurrent(nn.Module):
    """A recurrent module: swaps in for `nn.LSTM` and `nn.GRU`.

    Attributes:
        input_size: features of x.
        hidden_size: d, channels per direction.
        output_size: D, features of the output.
        num_layers: layers, each fed with the one below.
        num_directions: 1, or 2 if bidirectional.
        batch_first: x and out are [B, L, ...] and mask is [B, L]. States keep batch at dim 1.
    """

    input_size: int
    hidden_size: int
    output_size: int
    num_layers: int
    num_directions: int
    batch_first: bool

    def _set_sizes(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        batch_first: bool,
        bidirectional: bool,
    ) -> None:
        """Check the sizes, and keep them and what follows from them."""
        check_positive(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self.num_directions = 2 if bidirectional else 1
        self.output_size = hidden_size * self.num_directions

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: Any = None,
        *,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Any, Any]:
        """Run the module over a sequence.

        Args:
            x: [L, B, input_size]; [B, L, input_size] with batch_first; [L, input_size]
                unbatched; or a `PackedSequence` (eager mode).
            state: what an earlier call returned, or None for the start. For SRU, one tensor
                [num_layers * directions, R, d]; without R when x is unbatched.
            mask: bool, True at padding, shaped like x without its features: such a step leaves
                the state alone and gives 0.
            cu_seqlens: [N + 1] bounds of N documents laid end to end: x is [T, input_size], or
                has one batch row, and states have N rows.

        Returns: the output, shaped like x with D features, and the state after the last step,
            shaped like `state`: both carry gradients.

        Raises: ValueError or TypeError if shapes, types or devices do not fit.
        """
        if isinstance(x, PackedSequence):
            return self._forward_packed(x, state, mask, cu_seqlens)
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor or a PackedSequence, got {type(x).__name__}")
        shape = x.shape
        rank = len(shape)
        if rank not in (2, 3) or shape[-1] != self.input_size:
            raise ValueError(self._wrong_x(x))
        if mask is not None:
            self._check_mask(mask, x)
        rows: int | None = None  # of the states
        if cu_seqlens is not None:
            rows = count_documents(cu_seqlens)
        elif rank == 3:
            rows = shape[0 if self.batch_first else 1]
        if rank == 2:
            x = x.unsqueeze(1)
            mask = None if mask is None else mask.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
            mask = None if mask is None else mask.t()
        if mask is not None or cu_seqlens is not None:
            check_sequences(mask, cu_seqlens, x.shape[0], x.shape[1], "x", x.device)
        if mask is not None:
            x = x.masked_fill(mask[:, :, None], 0)
        if state is not None:
            self._check_state(state, rows)
            if rows is None:
                state = map_tensors(lambda leaf: leaf.unsqueeze(1), state)

        h, state = self._run(x, state, mask, cu_seqlens)

        if rank == 2:
            h = h.squeeze(1)
        elif self.batch_first:
            h = h.transpose(0, 1)
        if rows is None:
            state = map_tensors(lambda leaf: leaf.squeeze(1), state)
        return h, state

    def step(self, x_t: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Take one step on live input; equal to a step of the whole sequence, to rounding.

        Args:
            x_t: [B, input_size], or [input_size] unbatched.
            state: as in a call over a sequence.

        Returns: the output [B, D], without B when unbatched, and the next state.

        Raises: ValueError if bidirectional: the second direction starts at the end.
        """
        if self.num_directions == 2:
            raise ValueError("step needs bidirectional=False: the second half runs backward")
        if x_t.dim() not in (1, 2):
            raise ValueError(
                f"x_t must be [B, {self.input_size}] or [{self.input_size}], got {list(x_t.shape)}"
            )
        time = 1 if x_t.dim() == 2 and self.batch_first else 0
        h, state = self(x_t.unsqueeze(time), state)
        return h.squeeze(time), state

    def _run(
        self, x: Tensor, state: Any, mask: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Any]:
        """The work itself: x [L, B, input_size], 0 at padding, mask [L, B], a state with rows or
        None."""
        raise NotImplementedError

    def _check_state(self, state: Any, rows: int | None) -> None:
        """Raise if a state with so many rows (None: unbatched, without the dim) does not fit."""
        raise NotImplementedError

    def _forward_packed(self, packed, state, mask, cu_seqlens):
        """A PackedSequence; states have its rows in the caller's order, as in `nn.LSTM`."""
        self._check_packed(packed, mask, cu_seqlens)
        if packed.data.device.type == "cpu" and self._steps_apart():  # no GPU has timed it
            order, back, bounds = document_order(packed)
            if state is not None:
                self._check_state(state, len(bounds) - 1)
            x = permute(packed.data, order, back).unsqueeze(1)
            h, state = self._run(x, state, None, bounds)
            data = permute(h.squeeze(1), back, order)
            return PackedSequence(data, *packed[1:]), state
        x, mask, lengths = unpack(packed)
        if state is not None:
            self._check_state(state, x.shape[1])
        h, state = self._run(x, state, mask, None)
        return pack_like(packed, h, lengths), state

    def _steps_apart(self) -> bool:
        """Whether nothing but the recurrences joins steps, so that packed rows may run end to end
        as documents, no step of them padding."""
        return False

    def _check_packed(
        self, packed: PackedSequence, mask: Tensor | None, cu_seqlens: Tensor | None
    ) -> None:
        if mask is not None or cu_seqlens is not None:
            raise ValueError("mask and cu_seqlens must be None beside a PackedSequence")
        if packed.data.dim() != 2 or packed.data.shape[1] != self.input_size:
            raise ValueError(
                f"x must be a PackedSequence of [L, input_size] with input_size = "
                f"{self.input_size}, got data of shape {list(packed.data.shape)}"
            )

    def _wrong_x(self, x: Tensor) -> str:
        batched = "B, L, input_size" if self.batch_first else "L, B, input_size"
        return (
            f"x must be [{batched}] or [L, input_size] with input_size = {self.input_size}, "
            f"got {list(x.shape)}"
        )

    def _check_mask(self, mask: Tensor, x: Tensor) -> None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask must be a tensor, got {type(mask).__name__}")
        if mask.shape != x.shape[:-1]:
            letters = "L" if x.dim() == 2 else "B, L" if self.batch_first else "L, B"
            raise ValueError(
                f"mask must be [{letters}] = {list(x.shape[:-1])} to match x, "
                f"got {list(mask.shape)}"
            )


def document_order(packed: PackedSequence) -> tuple[Tensor, Tensor, Tensor]:
    """A packed batch of T steps, on a CPU, as documents end to end, rows in the caller's order.

    Returns: the place among the packed steps of each document's step [T], the inverse [T], and the
        documents' bounds [B + 1].
    """
    sizes_L = packed.batch_sizes  # how many rows, longest first, have a step t
    row = torch.arange(int(sizes_L[0]))
    place_BL = row[:, None] + (sizes_L.cumsum(0) - sizes_L)
    there_BL = row[:, None] < sizes_L
    if packed.unsorted_indices is not None:
        rows = packed.unsorted_indices
        place_BL, there_BL = place_BL[rows], there_BL[rows]
    order = place_BL[there_BL]
    bounds = F.pad(there_BL.sum(1).cumsum(0), (1, 0))
    return order, order.argsort(), bounds


class _Permute(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, order, inverse):
        return x.index_select(0, order)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, gradient):
        order, inverse = ctx.saved_tensors
        return permute(gradient, inverse, order), None, None


def permute(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """x[order]; its gradient is gathered too, where that of `index_select` would be added up."""
    return _Permute.apply(x, order, inverse)


def unpack(packed: PackedSequence) -> tuple[Tensor, Tensor, Tensor]:
    """x [L, B, F] with rows in the caller's order, its mask [L, B], and lengths [B] on the CPU."""
    x, lengths = pad_packed_sequence(packed)
    padding = torch.arange(x.shape[0])[:, None] >= lengths
    return x, padding.to(x.device), lengths


def pack_like(packed: PackedSequence, h: Tensor, lengths: Tensor) -> PackedSequence:
    """h [L, B, D] in the packed input's own order: rows of equal length must not change places."""
    order = packed.sorted_indices
    if order is not None:
        h, lengths = h.index_select(1, order), lengths[order.cpu()]
    data = pack_padded_sequence(h, lengths).data
    return PackedSequence(data, packed.batch_sizes, order, packed.unsorted_indices)


def map_tensors(fn: Callable[[Tensor], Tensor], state: Any) -> Any:
    """fn of each tensor of a state."""
    return fn(state) if isinstance(state, Tensor) else tree_map_only(Tensor, fn, state)


def count_documents(cu_seqlens: Tensor) -> int:
    """N, of bounds [N + 1]; their values are read inside the ops."""
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(f"cu_seqlens must be a tensor [N + 1], got {type(cu_seqlens).__name__}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(f"cu_seqlens must be [N + 1], got shape {list(cu_seqlens.shape)}")
    return cu_seqlens.shape[0] - 1


def drop_over_time(x: Tensor, p: float, cu_seqlens: Tensor | None) -> Tensor:
    """Dropout of x [L, B, F] with one mask per sequence, shared over time."""
    rows = count_rows(x, cu_seqlens)
    if cu_seqlens is None:
        return x * F.dropout(x.new_ones(rows, x.shape[2]), p)
    # one more row for steps past the last bound, which the op refuses
    mask_RF = F.dropout(x.new_ones(rows + 1, x.shape[2]), p)
    step = torch.arange(x.shape[0], device=x.device)
    document = torch.bucketize(step, cu_seqlens[1:], right=True)
    return x * mask_RF[document][:, None]


def count_rows(x: Tensor, cu_seqlens: Tensor | None) -> int:
    """R, the number of states: batch rows or documents."""
    return x.shape[1] if cu_seqlens is None else count_documents(cu_seqlens)


def to_channels(state: Tensor | None) -> Tensor | None:
    """[n, R, d] -> [R, D]."""
    if state is None:
        return None
    return state[0] if state.shape[0] == 1 else state.transpose(0, 1).flatten(1)


def to_directions(c: Tensor, n: int) -> Tensor:
    """[R, D] -> [n, R, d]."""
    return c.unsqueeze(0) if n == 1 else c.unflatten(1, (n, -1)).transpose(0, 1)


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether calling the module is F.linear and nothing else, so that the call can be saved."""
    return (
        not torch.compiler.is_compiling()
        and type(module) is nn.Linear
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
        and "forward" not in module.__dict__
        and not torch.nn.modules.module._has_any_global_hook()
    )


def acts_by_step(transform: nn.Module) -> bool:
    """Whether a module is known to make each step of its output from that step alone."""
    parts = transform if type(transform) is nn.Sequential else [transform]
    return all(type(part) is nn.Linear for part in parts)


def wrong_type(x: Tensor, worker: nn.Module) -> str | None:
    """What is wrong with x's type or device, if that is why the worker refused it."""
    p = next(worker.parameters(), x)
    if x.dtype != p.dtype and not torch.is_autocast_enabled(x.device.type):
        return f"x must be {p.dtype} like the parameters, got {x.dtype}"
    if x.device != p.device:
        return f"x must be on {p.device} like the parameters, got {x.device}"
    return None


def check_state_tensor(
    name: str, t: Tensor, sizes: tuple[int, ...], letters: str, rows: int | None, like: Tensor
) -> None:
    """Check one tensor of a state.

    Args:
        name: of the argument, for the error.
        sizes, letters: its dims but the batch: (2, 6) and "layers, hidden_size".
        rows: batch rows or documents, at dim 1; None: no such dim.
        like: tensor of the module's that has the type and device of its states.
    """
    shape = sizes if rows is None else (sizes[0], rows, *sizes[1:])
    if t.shape != shape:
        if rows is not None:
            first, *rest = letters.split(", ", 1)
            letters = ", ".join([first, "batch", *rest])
        raise ValueError(f"{name} must be [{letters}] = {list(shape)}, got {list(t.shape)}")
    if t.dtype != like.dtype and torch.promote_types(t.dtype, like.dtype) != like.dtype:
        raise ValueError(f"{name} must be {like.dtype}, or narrower, got {t.dtype}")
    if t.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like the parameters, got {t.device}")


def check_positive(**sizes: int) -> None:
    """Raise ValueError unless each is a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a positive integer, got {size!r}")


def check_probabilities(**probabilities: float) -> None:
    """Raise ValueError unless each lies in [0, 1)."""
    for name, p in probabilities.items():
        if not isinstance(p, (int, float)) or not 0 <= p < 1:
            raise ValueError(f"{name} must be in [0, 1), got {p!r}")


def describe(sizes: tuple[int, ...], options: dict[str, tuple[Any, Any]]) -> str:
    """For `extra_repr`: the sizes, and the options {name: (value, default)} that differ."""
    changed = [f"{name}={value}" for name, (value, usual) in options.items() if value != usual]
    return ", ".join([*map(str, sizes), *changed])
