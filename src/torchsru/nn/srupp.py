"""SRU++: layers whose matrix W x is attention in a small projection (Lei, 2021, arXiv 2102.12459).

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without, M slots of
memory, S steps of context, P projected features, d hidden size per direction, D = d times
directions, k matrices, A layers with attention.

State   {"c": [layers * directions, R, d]}, and where there is a memory
        "length": [1, R] int64, how many of its slots are filled,
        "inputs": A tensors [M, R, features], a layer's inputs, detached (training), or
        "keys_values": A tensors [M, R, 2 P] made of them (evaluation: nothing is projected twice);
        and where a context was given (`attend_to`)
        "context_mask": [S, R] bool, True at padding,
        "context": [S, R, context_size], or in evaluation, after the first call,
        "context_keys_values": A tensors [S, R, 2 P].
        A missing entry is a fresh one, and zeros are fresh, so that torchsru.nn.state serves it
Check   tests/nn/test_srupp.py; tests/compat/test_live_srupp.py, against the original
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchsru.nn.attention import Attention, Projection, Sight, look
from torchsru.nn.recurrent import (
    Recurrent,
    check_positive,
    check_probabilities,
    check_state_tensor,
    describe,
    to_channels,
)
from torchsru.nn.sru import SRUCell

State = dict[str, Any]
NAMES = (
    *("c", "length", "inputs", "keys_values"),
    *("context", "context_mask", "context_keys_values"),
)
PER_LAYER = ("inputs", "keys_values", "context_keys_values")  # of layers with attention


class Attentive(Recurrent):
    """What `SRUpp` and `SRUppCell` share: options of attention, and a state that is a dict."""

    projection_size: int
    num_heads: int
    same_length: bool | None
    causal: bool
    context_size: int

    def _set_attention(
        self,
        projection_size: int,
        num_heads: int,
        memory_length: int,
        same_length: bool | None,
        causal: bool | None,
        context_size: int,
        bidirectional: bool,
    ) -> None:
        """Check the options, and keep them."""
        check_positive(projection_size=projection_size, num_heads=num_heads)
        check_size("context_size", context_size)
        causal = not bidirectional if causal is None else causal
        if causal and bidirectional:
            raise ValueError("causal must be False if bidirectional: one half reads the future")
        self.projection_size = projection_size
        self.num_heads = num_heads
        self.same_length = same_length
        self.causal = causal
        self.memory_length = memory_length
        self.context_size = context_size

    @property
    def memory_length(self) -> int:
        """M. A new one holds for calls without a memory from before."""
        return self._memory_length

    @memory_length.setter
    def memory_length(self, length: int) -> None:
        check_size("memory_length", length)
        if length and not self.causal:
            raise ValueError(f"memory_length must be 0 without causal attention, got {length}")
        self._memory_length = length
        for layer in getattr(self, "layers", ()):
            layer.memory_length = length

    def attend_to(
        self, context: Tensor, mask: Tensor | None = None, state: State | None = None
    ) -> State:
        """Put a context, an encoder's output, into a state: calls with that state attend to it,
        and return it in theirs.

            h, state = decoder(x, decoder.attend_to(encoded, mask))

        Args:
            context: [S, R, context_size]; [R, S, context_size] with batch_first;
                [S, context_size] beside an unbatched x.
            mask: bool, True at padding, shaped like the context without its features. A row of
                padding alone has no context.
            state: to put it into. Default: the start.

        Raises: ValueError if there is no context_size, or shapes do not fit.
        """
        if not self.context_size:
            raise ValueError("attend_to needs context_size, the features of the context")
        rank = context.dim()
        time = 1 if rank == 3 and self.batch_first else 0
        if rank not in (2, 3) or context.shape[-1] != self.context_size or context.shape[time] == 0:
            letters = "R, S" if self.batch_first else "S, R"
            raise ValueError(
                f"context must be [{letters}, context_size] or [S, context_size] with S > 0 and "
                f"context_size = {self.context_size}, got {list(context.shape)}"
            )
        if mask is None:
            mask = context.new_zeros(context.shape[:-1], dtype=torch.bool)
        elif mask.shape != context.shape[:-1] or mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be bool {list(context.shape[:-1])} to match context, "
                f"got {mask.dtype} {list(mask.shape)}"
            )
        if rank == 3 and self.batch_first:
            context, mask = context.transpose(0, 1), mask.t()
        kept = {} if state is None else dict(state)
        kept.pop("context_keys_values", None)
        return kept | {"context": context, "context_mask": mask}

    def step(self, x_t: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Take one step on live input, as `Recurrent.step`; equal to a step of the whole sequence
        in evaluation, where each step sees the M before it.

        Raises: ValueError if bidirectional or not causal, or without memory_length.
        """
        if self.num_directions == 1 and not self.causal:
            raise ValueError("step needs causal=True: steps see later ones")
        if self.causal and not self.memory_length and self._attentive():
            raise ValueError("step needs memory_length > 0: nothing of the past is kept")
        return super().step(x_t, state)

    def _attentive(self) -> "list[SRUppCell]":
        """The layers with attention."""
        raise NotImplementedError

    def _look(
        self, x: Tensor, state: State, mask: Tensor | None, cu_seqlens: Tensor | None
    ) -> Sight | None:
        """Who sees what in a call; None if nobody asks."""
        if not self._attentive():
            return None
        return look(
            x, self.memory_length, state.get("length"), mask, cu_seqlens,
            state.get("context_mask"), causal=self.causal,
            band=not self.training if self.same_length is None else self.same_length,
        )  # fmt: skip

    def _check_state(self, state, rows):
        if not isinstance(state, Mapping):
            raise TypeError(
                f"state must be a dict, what a call returned, got {describe_type(state)}"
            )
        if unknown := sorted(set(state) - set(NAMES)):
            raise TypeError(f"state must be a dict of {', '.join(NAMES)}, got {unknown[0]!r} too")
        layers = self._attentive()
        like = self._like()
        if "c" in state:
            sizes = (self.num_layers * self.num_directions, self.hidden_size)
            letters = "layers * directions, hidden_size"
            check_leaf("c", state["c"], sizes, letters, rows, like)
        memory = "inputs" in state or "keys_values" in state
        if memory != ("length" in state):
            raise ValueError("state must have length beside inputs or keys_values, got one alone")
        M = self.memory_length
        if memory:
            if not M or not layers:
                raise ValueError("state must be without memory: there is none here")
            if self.training and "inputs" not in state:
                raise ValueError(
                    "state must hold inputs in training, got keys_values: it is from evaluation"
                )
            check_leaf("length", state["length"], (1,), "1", rows, like.to(torch.int64))
        context = "context" in state or "context_keys_values" in state
        if context != ("context_mask" in state):
            raise ValueError("state must have a context and context_mask, got one alone")
        S = 0
        if context:
            if not self.context_size:
                raise ValueError("state must be without a context: context_size is 0")
            if self.training and "context" not in state:
                raise ValueError(
                    "state must hold context in training, got context_keys_values: it is from "
                    "evaluation"
                )
            S = state["context_mask"].shape[0]
            check_leaf("context_mask", state["context_mask"], (S,), "S", rows, like.bool())
        if "context" in state:
            sizes = (S, self.context_size)
            check_leaf("context", state["context"], sizes, "S, context_size", rows, like)
        for name in PER_LAYER:
            if name not in state:
                continue
            leaves = state[name]
            if not isinstance(leaves, (tuple, list)) or len(leaves) != len(layers):
                raise ValueError(
                    f"state[{name!r}] must be {len(layers)} tensors, one per layer with attention, "
                    f"got {describe_type(leaves)}"
                )
            for i, (layer, leaf) in enumerate(zip(layers, leaves, strict=True)):
                size = layer.input_size if name == "inputs" else 2 * self.projection_size
                letters = "input_size" if name == "inputs" else "2 projection_size"
                letters = ("S, " if name == "context_keys_values" else "memory_length, ") + letters
                sizes = (S if name == "context_keys_values" else M, size)
                check_leaf(f"{name}'][{i}", leaf, sizes, letters, rows, like)

    def _like(self) -> Tensor:
        """An empty tensor of the states' type and device."""
        raise NotImplementedError

    def _attention_options(self) -> dict[str, tuple[Any, Any]]:
        """For `extra_repr`."""
        return {
            "num_heads": (self.num_heads, 1),
            "memory_length": (self.memory_length, 0),
            "same_length": (self.same_length, None),
            "causal": (self.causal, self.num_directions == 1),
            "context_size": (self.context_size, 0),
        }


class SRUppCell(Attentive, SRUCell):
    """One layer of SRU++; what `SRUpp` stacks.

    Takes the options of `SRUpp` that concern one layer; it is called and stepped in the same way,
    with a state of one layer. `dropout` is that inside the transform, `state_dropout` the cell's.

    Args:
        attention: False leaves the projection alone as the transform, without attention.

    Attributes:
        transform: a `torchsru.nn.attention.Attention`, or without attention a `Projection`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        projection_size: int,
        *,
        attention: bool = True,
        num_heads: int = 1,
        memory_length: int = 0,
        same_length: bool | None = None,
        causal: bool | None = None,
        context_size: int = 0,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        state_dropout: float = 0.0,
        layer_norm: str | None = None,
        attention_layer_norm: str | None = "post",
        highway_bias: float = -2.0,
        rescale: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_probabilities(dropout=dropout, attention_dropout=attention_dropout)

        def make(in_features: int, out_features: int) -> nn.Module:
            options: dict[str, Any] = {
                "dropout": dropout, "layer_norm": attention_layer_norm,
                "device": device, "dtype": dtype,
            }  # fmt: skip
            if attention:
                options |= {
                    "num_heads": num_heads, "attention_dropout": attention_dropout,
                    "context_size": context_size,
                }  # fmt: skip
            kind = Attention if attention else Projection
            return kind(in_features, out_features, projection_size, **options)

        super().__init__(
            input_size, hidden_size, transform=make,
            batch_first=batch_first, bidirectional=bidirectional, state_dropout=state_dropout,
            layer_norm=layer_norm, highway_bias=highway_bias, rescale=rescale,
            device=device, dtype=dtype,
        )  # fmt: skip
        self._set_attention(
            projection_size, num_heads, memory_length, same_length, causal, context_size,
            bidirectional,
        )  # fmt: skip
        self.attention = attention
        self.dropout = dropout
        self.attention_dropout = attention_dropout

    def reset_parameters(self) -> None:
        """Draw the parameters as the original code of SRU++ does: Glorot's uniform distribution for
        matrices, [-1, 1] for state weights."""
        super().reset_parameters()
        assert isinstance(self.transform, Projection) and self.weight_c is not None
        self.transform.reset_parameters()
        nn.init.uniform_(self.weight_c, -1, 1)

    def forward(self, x, state=None, *, mask=None, cu_seqlens=None, inside=False, sight=None):
        """Run the layer, as `SRUCell.forward` says. From `SRUpp` with `sight`, if the layer has
        attention: who sees what is the same in all its layers."""
        if sight is not None:
            return self._attend(x, state, mask, cu_seqlens, sight)
        return super().forward(x, state, mask=mask, cu_seqlens=cu_seqlens, inside=inside)

    def _run(self, x, state, mask, cu_seqlens):
        state = {} if state is None else state
        if self.attention:
            sight = self._look(x, state, mask, cu_seqlens)
            return self._attend(x, state, mask, cu_seqlens, sight)
        h, c = super()._run(x, state.get("c"), mask, cu_seqlens)
        return h, {"c": c}

    def _attend(self, x, state, mask, cu_seqlens, sight):
        """The layer with attention: `SRUCell._run` around a transform that has a state."""
        options = self._recurrence_options(x, mask, cu_seqlens)
        seen, keys_values = x, state.get("keys_values")
        if keys_values is None:
            seen = sight.join(state["inputs"][0] if "inputs" in state else None, x)
        else:
            keys_values = keys_values[0]
        contexts = state.get("context_keys_values")
        context = contexts[0] if contexts is not None else None
        if "context" in state:
            assert isinstance(self.transform, Attention)
            context = self.transform.project_context(state["context"], state["context_mask"])
        inner = self.norm(seen) if self.layer_norm == "pre" else seen
        u, joined = self._call_transform(x, inner, sight, keys_values, context)
        h, c = self._recur(u, x, to_channels(state.get("c")), options)

        end = {"c": c}
        if sight.slots:
            end["length"] = sight.length
            if self.training:
                end["inputs"] = (sight.keep(seen.detach()),)
            else:
                end["keys_values"] = (sight.keep(joined),)
        if context is not None:
            end["context_mask"] = state["context_mask"]
            if self.training:
                end["context"] = state["context"]
            else:
                end["context_keys_values"] = (context,)
        return h, end

    def _attentive(self):
        return [self] if self.attention else []

    def _like(self):
        return self.bias.new_empty(0)

    def extra_repr(self) -> str:
        """Sizes, and the options that differ from their defaults."""
        return describe(
            (self.input_size, self.hidden_size, self.projection_size),
            {
                "attention": (self.attention, True),
                **self._attention_options(),
                "batch_first": (self.batch_first, False),
                "bidirectional": (self.bidirectional, False),
                "dropout": (self.dropout, 0.0),
                "attention_dropout": (self.attention_dropout, 0.0),
                "state_dropout": (self.state_dropout, 0.0),
                "layer_norm": (self.layer_norm, None),
                "highway_bias": (self.highway_bias, -2.0),
                "rescale": (self.rescale, False),
            },
        )


class SRUpp(Attentive):
    """A stack of SRU++ layers (Lei, 2021, arXiv 2102.12459), called like `SRU`.

        out, state = rnn(x, state)

    Every layer's pre-activations come from attention over the segment and a memory of past ones,
    inside a projection of a few features; the recurrence is that of SRU. The state is a dict:
    c of every layer, float32 at least, and the memory; its tensors have the batch at dim 1.

    In training, the memory is the layers' past inputs, without their gradients, and each step sees
    all of it beside the segment up to itself. In evaluation the keys and values are kept, and each
    step sees itself and the `memory_length` real steps before it, so that a sequence may be cut
    anywhere. A state from training goes into evaluation, not the other way.

    Args:
        input_size: features of x.
        hidden_size: d, channels per direction.
        projection_size: P, features that attention works in; in the paper's models d / 4 or d / 8.
        num_layers: layers, each fed with the one below.
        num_heads: attention heads, which P must divide into. The paper's models have one.
        memory_length: M, past steps that are remembered. It may be changed later, for calls
            without a state. 0: none: a call's attention sees its own steps alone.
        same_length: whether each step sees M before it and no more: None: in evaluation, where all
            then see the same length; True: in training too; False: never.
        causal: steps see no later ones. None: unless bidirectional.
        context_size: features of a context that the layers attend to as well; see `attend_to`.
        batch_first: x and out are [B, L, ...] and mask is [B, L]. States keep batch at dim 1.
        bidirectional: each layer runs in both directions; out has 2 d features. Needs
            memory_length=0.
        dropout: of what each last matrix sees; and of the state's way to the output in each layer
            but the last, with one mask for all time steps, as `state_dropout` of `SRU`.
        attention_dropout: of the attention's weights.
        layer_norm: of the layer: "pre" normalises what the transform sees, "post" the output.
        attention_layer_norm: inside the transform: "post" normalises the sum of projection and
            attention, as in the paper, "pre" what attention sees; None: neither.
        highway_bias: b, initial bias of the reset gate.
        rescale: scale the highway by alpha = sqrt(1 + 2 e^b) where input and output sizes agree.
        attention_every_n_layers: n: layers n, 2 n, ... have attention; the others the projection
            and its norm alone.
        attention_last_n_layers: in its place: the last so many layers have attention.
        device: where the parameters are made.
        dtype: type of the parameters; state weights and biases are float32 at least.

    Raises:
        ValueError: naming the argument, if a size is not positive, a probability not in [0, 1),
            a name unknown, or two arguments exclude each other.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        projection_size: int,
        num_layers: int = 2,
        *,
        num_heads: int = 1,
        memory_length: int = 0,
        same_length: bool | None = None,
        causal: bool | None = None,
        context_size: int = 0,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm: str | None = None,
        attention_layer_norm: str | None = "post",
        highway_bias: float = -2.0,
        rescale: bool = False,
        attention_every_n_layers: int = 1,
        attention_last_n_layers: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._set_sizes(input_size, hidden_size, num_layers, batch_first, bidirectional)
        check_positive(attention_every_n_layers=attention_every_n_layers)
        if attention_last_n_layers is not None:
            if attention_every_n_layers != 1:
                raise ValueError(
                    "attention_every_n_layers must be 1 beside attention_last_n_layers, "
                    f"got {attention_every_n_layers}"
                )
            if not 0 <= attention_last_n_layers <= num_layers:
                raise ValueError(
                    f"attention_last_n_layers must be in [0, {num_layers}], "
                    f"got {attention_last_n_layers}"
                )
        self._set_attention(
            projection_size, num_heads, memory_length, same_length, causal, context_size,
            bidirectional,
        )  # fmt: skip
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.attention_every_n_layers = attention_every_n_layers
        self.attention_last_n_layers = attention_last_n_layers

        def attends(i: int) -> bool:
            if attention_last_n_layers is not None:
                return num_layers - i <= attention_last_n_layers
            return (i + 1) % attention_every_n_layers == 0

        self.layers = nn.ModuleList(
            SRUppCell(
                self.output_size if i else input_size,
                hidden_size,
                projection_size,
                attention=attends(i),
                num_heads=num_heads,
                memory_length=memory_length,
                same_length=same_length,
                causal=causal,
                context_size=context_size,
                bidirectional=bidirectional,
                dropout=dropout,
                attention_dropout=attention_dropout,
                state_dropout=dropout if i + 1 < num_layers else 0.0,
                layer_norm=layer_norm,
                attention_layer_norm=attention_layer_norm,
                highway_bias=highway_bias,
                rescale=rescale,
                device=device,
                dtype=dtype,
            )
            for i in range(num_layers)
        )

    def reset_parameters(self) -> None:
        """Draw every layer's parameters anew; see `SRUppCell.reset_parameters`."""
        for layer in self._cells():
            layer.reset_parameters()

    def _run(self, x, state, mask, cu_seqlens):
        n = self.num_directions
        state = {} if state is None else state
        sight = self._look(x, state, mask, cu_seqlens)
        common = {name: t for name, t in state.items() if name not in ("c", *PER_LAYER)}
        ends: list[State] = []
        attended = 0
        for i, layer in enumerate(self.layers):
            part = {"c": state["c"][i * n : (i + 1) * n]} if "c" in state else {}
            if layer.attention:
                part |= common | {t: state[t][attended:][:1] for t in PER_LAYER if t in state}
                attended += 1
                x, end = layer(x, part, mask=mask, cu_seqlens=cu_seqlens, sight=sight)
            else:
                x, end = layer(x, part, mask=mask, cu_seqlens=cu_seqlens, inside=True)
            ends.append(end)
        whole: State = {"c": torch.cat([end["c"] for end in ends])}
        for name in NAMES[1:]:
            leaves = [end[name] for end in ends if name in end]
            if leaves:
                whole[name] = sum(leaves, ()) if name in PER_LAYER else leaves[0]
        return x, whole

    def _cells(self) -> list[SRUppCell]:
        return list(self.layers)  # type: ignore[arg-type]

    def _attentive(self):
        return [layer for layer in self._cells() if layer.attention]

    def _like(self):
        return self._cells()[0].bias.new_empty(0)

    def extra_repr(self) -> str:
        """Sizes, and the options that differ from their defaults."""
        return describe(
            (self.input_size, self.hidden_size, self.projection_size),
            {
                "num_layers": (self.num_layers, 2),
                **self._attention_options(),
                "batch_first": (self.batch_first, False),
                "bidirectional": (self.bidirectional, False),
                "dropout": (self.dropout, 0.0),
                "attention_dropout": (self.attention_dropout, 0.0),
                "attention_every_n_layers": (self.attention_every_n_layers, 1),
                "attention_last_n_layers": (self.attention_last_n_layers, None),
            },
        )


def check_leaf(
    name: str, t: Any, sizes: tuple[int, ...], letters: str, rows: int | None, like: Tensor
) -> None:
    """Check one tensor of a state, which the error calls state['name']."""
    label = f"state['{name}']"
    if not isinstance(t, Tensor):
        raise TypeError(f"{label} must be a tensor, got {describe_type(t)}")
    check_state_tensor(label, t, sizes, letters, rows, like)


def check_size(name: str, size: Any) -> None:
    """Raise ValueError unless it is a whole number, 0 or more."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"{name} must be 0 (none) or a positive integer, got {size!r}")


def describe_type(value: Any) -> str:
    """For an error: what was given in the place of something else."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
