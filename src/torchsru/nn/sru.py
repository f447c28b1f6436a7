"""The Simple Recurrent Unit as layers: they own the parameters and call `sru_recurrence`.

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without,
d hidden size per direction, D = d times directions, k matrices.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsru.nn.recurrent import (
    Recurrent,
    acts_by_step,
    check_probabilities,
    check_state_tensor,
    count_rows,
    describe,
    drop_over_time,
    is_plain_linear,
    to_channels,
    to_directions,
    wrong_type,
)
from torchsru.ops import sru_recurrence
from torchsru.ops.sru import ACTIVATIONS
from torchsru.ops.sru.fused import can_fuse, fused_layer

LAYER_NORMS = (None, "pre", "post")

#: From (in_features, out_features) to a module that maps [L, B, in_features] to the
#: pre-activations [L, B, out_features], rows gate-major (k, D); or to a pair of them and of state
#: weights [L, B, 2, D], which are added to `weight_c`.
Transform = Callable[[int, int], nn.Module]


class SRUCell(Recurrent):
    """One SRU layer over a whole sequence; what `SRU` stacks.

    Takes the options of `SRU` that concern one layer; it is called and stepped in the same way,
    with a state [directions, R, d].

    Attributes:
        transform: produces the pre-activations, [L, B, input_size] -> [L, B, k D].
        weight_c: [2, D] state weights v of the forget and reset gates, or None. Float32 at least.
        bias: [2, D] biases of the gates. Float32 at least.
        num_matrices: k: 3, or 4 where input and output sizes differ and the highway needs its own.
        alpha: what the highway input is multiplied by in the recurrence.
    """

    weight_c: nn.Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        batch_first: bool = False,
        bidirectional: bool = False,
        state_dropout: float = 0.0,
        input_dropout: float = 0.0,
        projection_size: int = 0,
        transform: Transform | None = None,
        activation: str = "identity",
        state_weights: bool = True,
        highway: bool = True,
        highway_bias: float = 0.0,
        rescale: bool = True,
        layer_norm: str | None = None,
        contractive: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._set_sizes(input_size, hidden_size, 1, batch_first, bidirectional)
        check_probabilities(state_dropout=state_dropout, input_dropout=input_dropout)
        if projection_size < 0:
            raise ValueError(f"projection_size must be 0 (none) or more, got {projection_size}")
        if projection_size and transform is not None:
            raise ValueError(f"projection_size must be 0 beside transform, got {projection_size}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {ACTIVATIONS}, got {activation!r}")
        if layer_norm not in LAYER_NORMS:
            raise ValueError(f"layer_norm must be one of {LAYER_NORMS}, got {layer_norm!r}")
        if contractive and not state_weights:
            raise ValueError("contractive must be False without state_weights: it bounds them")
        self.state_dropout = state_dropout
        self.input_dropout = input_dropout
        self.projection_size = projection_size
        self.activation = activation
        self.highway = highway
        self.highway_bias = highway_bias
        self.rescale = rescale
        self.contractive = contractive

        D = self.output_size
        self.num_matrices = k = 4 if highway and input_size != D else 3
        scale = math.sqrt(1 + 2 * math.exp(highway_bias)) if highway and rescale else 1.0
        # with a fourth matrix the scale is part of its initial weights, as in the original
        self.alpha = scale if k == 3 else 1.0
        self._fourth_scale = scale

        self._own_transform = transform is None
        if transform is not None:
            self.transform = transform(input_size, k * D)
        elif projection_size:
            self.transform = nn.Sequential(
                nn.Linear(input_size, projection_size, bias=False, device=device, dtype=dtype),
                nn.Linear(projection_size, k * D, bias=False, device=device, dtype=dtype),
            )
        else:
            self.transform = nn.Linear(input_size, k * D, bias=False, device=device, dtype=dtype)
        S = torch.promote_types(dtype or torch.get_default_dtype(), torch.float32)
        self.bias = nn.Parameter(torch.empty(2, D, device=device, dtype=S))
        weight_c = nn.Parameter(torch.empty_like(self.bias)) if state_weights else None
        self.register_parameter("weight_c", weight_c)
        self.layer_norm = layer_norm
        if layer_norm is not None:
            normalised = input_size if layer_norm == "pre" else D
            self.norm = nn.LayerNorm(normalised, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters as in section 3.2 of the paper and the original code.

        Every matrix has entries of variance 1 / fan-in; the gates share theirs equally between
        input and state weights; the fourth matrix carries the highway's scale; what dropout takes
        from the variance is given back. A `transform` of the user's own resets itself.
        """
        linears = []
        if self._own_transform:
            linears = [m for m in self.transform.modules() if isinstance(m, nn.Linear)]
        with torch.no_grad():
            for linear in linears:
                bound = math.sqrt(3 / linear.in_features)
                linear.weight.uniform_(-bound, bound)
            if linears:
                D = self.output_size
                w_kDP = linears[-1].weight.view(self.num_matrices, D, -1)
                w_kDP *= math.sqrt(1 - self.input_dropout)
                w_kDP[0] *= math.sqrt(1 - self.state_dropout)
                if self.weight_c is not None:
                    w_kDP[1:3] *= math.sqrt(0.5)
                if self.num_matrices == 4:
                    w_kDP[3] *= self._fourth_scale
            if self.weight_c is not None:
                bound = math.sqrt(3 * 0.5)
                self.weight_c.uniform_(-bound, bound)
            self.bias[0] = 0
            self.bias[1] = self.highway_bias
            if self.layer_norm is not None:
                self.norm.reset_parameters()

    def forward(self, x, state=None, *, mask=None, cu_seqlens=None, inside=False):
        """Run the layer, as `Recurrent.forward` says. `inside`: from a stack, which has checked
        everything and gives x [L, B, input_size], 0 at padding."""
        if inside:
            return self._run(x, state, mask, cu_seqlens)
        return super().forward(x, state, mask=mask, cu_seqlens=cu_seqlens)

    def _run(self, x, state, mask, cu_seqlens):
        c0 = to_channels(state)
        inner = x
        if self.layer_norm == "pre":
            inner = self.norm(inner)
        if self.training and self.input_dropout:
            inner = drop_over_time(inner, self.input_dropout, cu_seqlens)
        options = self._recurrence_options(x, mask, cu_seqlens)
        transform = self.transform
        if inner is x and is_plain_linear(transform) and transform._parameters["bias"] is None:
            weight, v, b = transform.weight, self.weight_c, self.bias
            if can_fuse(x, weight, v, b, c0, self.num_matrices):
                highway = self.highway and self.num_matrices == 3
                h, c = fused_layer(x, weight, v, b, c0, highway, **options)
                return self._shape(h, c, mask)
        return self._recur(self._call_transform(x, inner), x, c0, options)

    def _recurrence_options(self, x, mask, cu_seqlens):
        """What `sru_recurrence` takes beside tensors of this call; draws the state's dropout."""
        out_mask = None
        if self.training and self.state_dropout:
            ones = self.bias.new_ones(count_rows(x, cu_seqlens), self.output_size)
            out_mask = F.dropout(ones, self.state_dropout)
        return {
            "num_directions": self.num_directions,
            "mask": mask,
            "cu_seqlens": cu_seqlens,
            "out_mask": out_mask,
            "activation": self.activation,
            "contractive": self.contractive,
            "alpha": self.alpha,
        }

    def _call_transform(self, x, *arguments):
        """What the transform returns; ValueError if x's type or device is why it can't."""
        try:
            return self.transform(*arguments)
        except RuntimeError as error:
            if reason := wrong_type(x, self.transform):
                raise ValueError(reason) from error
            raise

    def _recur(self, u, x, c0, options):
        """From what the transform made of x, and the state [R, D], to output and state."""
        v = self.weight_c
        if isinstance(u, tuple):
            u, v_LB2D = u
            v_LB2D = v_LB2D.unflatten(-1, (2, -1)) if v_LB2D.dim() == 3 else v_LB2D
            v = v_LB2D if v is None else v_LB2D + v
        highway = x if self.highway and self.num_matrices == 3 else None
        h, c = sru_recurrence(self._split_matrices(u), highway, v, self.bias, c0, **options)
        return self._shape(h, c, options["mask"])

    def _shape(self, h, c, mask):
        """The output, normalised if it is to be, 0 at padding; the state [directions, R, d]."""
        if self.layer_norm == "post":
            h = self.norm(h)
            h = h if mask is None else h.masked_fill(mask[:, :, None], 0)
        return h, to_directions(c, self.num_directions)

    def _steps_apart(self):
        return acts_by_step(self.transform)

    def _check_state(self, state, rows):
        _check_state(self, state, rows, self.bias)

    def _split_matrices(self, u):
        """[L, B, k D] -> [L, B, k, D]."""
        if u.dim() == 4:
            return u
        k, D = self.num_matrices, self.output_size
        L, B, kD = u.shape
        if kD != k * D:
            raise ValueError(
                f"transform must map [L, B, {self.input_size}] to [L, B, {k * D}] "
                f"(k D = {k} x {D}), got {list(u.shape)}"
            )
        return u.view(L, B, k, D)

    def _apply(self, fn, recurse=True):
        """Move or cast the module; state weights and biases stay float32 at least."""
        keep = [p for p in (self.weight_c, self.bias) if p is not None]

        def apply(t):
            out = fn(t)
            narrow = out.is_floating_point() and out.element_size() < 4
            if narrow and any(t is p or t is p.grad for p in keep):
                return t.to(out.device, torch.float32)
            return out

        return super()._apply(apply, recurse)

    def extra_repr(self) -> str:
        """Sizes, and the options that differ from their defaults."""
        return describe(
            (self.input_size, self.hidden_size),
            {
                "batch_first": (self.batch_first, False),
                "bidirectional": (self.bidirectional, False),
                "state_dropout": (self.state_dropout, 0.0),
                "input_dropout": (self.input_dropout, 0.0),
                "projection_size": (self.projection_size, 0),
                "activation": (self.activation, "identity"),
                "state_weights": (self.weight_c is not None, True),
                "highway": (self.highway, True),
                "highway_bias": (self.highway_bias, 0.0),
                "rescale": (self.rescale, True),
                "layer_norm": (self.layer_norm, None),
                "contractive": (self.contractive, False),
            },
        )


class SRU(Recurrent):
    """A stack of SRU layers that swaps in for `nn.LSTM` or `nn.GRU` (arXiv 1709.02755).

        out, state = rnn(x, state)

    What differs from `nn.LSTM`: the state is c alone, one float32 tensor [num_layers *
    directions, batch, hidden_size]; layers are cheap, so stack more of them; dropout masks are
    shared over time.

    Args:
        input_size: features of x.
        hidden_size: d, channels per direction.
        num_layers: layers, each fed with the one below.
        batch_first: x and out are [B, L, ...] and mask is [B, L]. States keep batch at dim 1.
        bidirectional: each layer runs in both directions; out has 2 d features.
        dropout: of each layer's output but the last one's, as in `nn.LSTM`, with one mask for all
            time steps.
        state_dropout: of the state's way to the output, in each layer but the last: drops r_t, so
            h_t falls back to the highway (the paper's variational dropout).
        input_dropout: of what the matrix product sees, in each layer; not of the highway, unless
            a fourth matrix produces it, where input and output sizes differ.
        projection_size: factorise each layer's matrix through this many features; 0: do not. Or a
            sequence of one for each layer.
        transform: builds a module of your own per layer in the place of `nn.Linear`, called with
            (in_features, out_features); see `torchsru.nn.sru.Transform`.
        activation: g in h_t = r_t g(c_t) + ...: "identity", or "tanh" as in the paper's first
            version.
        state_weights: False removes v c_{t-1} from the gates, as in the paper's first version.
        highway: False removes (1 - r_t) alpha x_t.
        highway_bias: b, initial bias of the reset gate; negative values favour the highway in
            deep stacks (-3 in the paper's language models).
        rescale: scale the highway by alpha = sqrt(1 + 2 e^b), which keeps the variance of h that
            of x at initialisation (section 3.2).
        layer_norm: "pre" normalises what the matrix product sees, "post" the layer's output.
        contractive: bound dc_t/dc_{t-1} to [0, 1]; see `torchsru.ops.sru_recurrence`.
        device: where the parameters are made.
        dtype: type of the parameters; state weights, biases and states are float32 at least.

    Raises:
        ValueError: naming the argument, if a size is not positive, a probability not in [0, 1),
            or a name unknown.
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
        state_dropout: float = 0.0,
        input_dropout: float = 0.0,
        projection_size: int | Sequence[int] = 0,
        transform: Transform | None = None,
        activation: str = "identity",
        state_weights: bool = True,
        highway: bool = True,
        highway_bias: float = 0.0,
        rescale: bool = True,
        layer_norm: str | None = None,
        contractive: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._set_sizes(input_size, hidden_size, num_layers, batch_first, bidirectional)
        check_probabilities(dropout=dropout, state_dropout=state_dropout)
        if isinstance(projection_size, int):
            projection_size = [projection_size] * num_layers
        if len(projection_size) != num_layers:
            raise ValueError(
                f"projection_size must be one number or num_layers = {num_layers} of them, "
                f"got {list(projection_size)}"
            )
        self.dropout = dropout
        self.layers = nn.ModuleList(
            SRUCell(
                self.output_size if i else input_size,
                hidden_size,
                bidirectional=bidirectional,
                state_dropout=state_dropout if i + 1 < num_layers else 0.0,
                input_dropout=input_dropout,
                projection_size=projection_size[i],
                transform=transform,
                activation=activation,
                state_weights=state_weights,
                highway=highway,
                highway_bias=highway_bias,
                rescale=rescale,
                layer_norm=layer_norm,
                contractive=contractive,
                device=device,
                dtype=dtype,
            )
            for i in range(num_layers)
        )

    def reset_parameters(self) -> None:
        """Draw every layer's parameters anew; see `SRUCell.reset_parameters`."""
        for layer in self.layers:
            assert isinstance(layer, SRUCell)
            layer.reset_parameters()

    def _run(self, x, state, mask, cu_seqlens):
        n = self.num_directions
        states = []
        for i, layer in enumerate(self.layers):
            if i and self.training and self.dropout:
                x = drop_over_time(x, self.dropout, cu_seqlens)
            state_i = None if state is None else state[i * n : (i + 1) * n]
            x, state_i = layer(x, state_i, mask=mask, cu_seqlens=cu_seqlens, inside=True)
            states.append(state_i)
        return x, states[0] if len(states) == 1 else torch.cat(states)

    def _steps_apart(self):
        return all(isinstance(layer, SRUCell) and layer._steps_apart() for layer in self.layers)

    def _check_state(self, state, rows):
        bottom = self.layers[0]
        assert isinstance(bottom, SRUCell)
        _check_state(self, state, rows, bottom.bias)

    def extra_repr(self) -> str:
        """Sizes, and the options that differ from their defaults."""
        return describe(
            (self.input_size, self.hidden_size),
            {
                "num_layers": (self.num_layers, 1),
                "batch_first": (self.batch_first, False),
                "bidirectional": (self.bidirectional, False),
                "dropout": (self.dropout, 0.0),
            },
        )


def _check_state(rnn: Recurrent, state: Tensor, rows: int | None, like: Tensor) -> None:
    if not isinstance(state, Tensor):
        raise TypeError(
            f"state must be one tensor, the state c (nn.LSTM has two), got {type(state).__name__}"
        )
    sizes = (rnn.num_layers * rnn.num_directions, rnn.hidden_size)
    check_state_tensor("state", state, sizes, "layers * directions, hidden_size", rows, like)
