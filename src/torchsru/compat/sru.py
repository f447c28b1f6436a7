"""`SRU` and `SRUCell` as in the package `sru` 2.6.0, on torchsru's recurrence.

Letters: L time steps, B batch rows, d hidden size per direction, D = d times directions,
k matrices, P rows of the last weight (input size, or projection size).

Layout  parameters lie as in the original, so that state dicts go both ways: column (j k + m) of
        `weight` belongs to channel j of D and matrix m. The op wants matrix-major pre-activations;
        what is smaller, weight or product, is rearranged on the way
Random  parameters and dropout masks are drawn in the original's order: the same seed gives the
        same numbers on a CPU
Check   tests/compat/test_live_package.py, against the package itself
"""

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

import torchsru
from torchsru.compat import checkpoints
from torchsru.nn.recurrent import check_positive, check_probabilities, pack_like, unpack
from torchsru.ops import sru_recurrence


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` whose state dict names eps, unless it is the usual one.

    Checkpoints of sru <= 2.1.7 come with another eps, which must survive saving.
    """

    USUAL_EPS = 1e-5

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.eps != self.USUAL_EPS:
            destination[prefix + "eps"] = torch.tensor(self.eps, dtype=torch.float64)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        eps = state_dict.pop(prefix + "eps", self.USUAL_EPS)
        if prefix + "weight" in state_dict:
            self.eps = float(eps)
        super()._load_from_state_dict(state_dict, prefix, *args)


class SRUCell(nn.Module):
    """One layer, over a whole sequence; arguments as in `SRU`, but `rescale` is True by default.

    Args:
        n_proj: what `SRU` calls projection_size.
        custom_m: one module or None.

    Attributes:
        weight: [P, D k], column (j k + m) for channel j and matrix m: candidate, forget, reset and,
            with k = 4, highway. Absent beside custom_m.
        weight_proj: [input_size, P] or None. Absent beside custom_m.
        weight_c, bias: [2 D], forget gate first.
        scale_x: [1] buffer, scale of the highway input where k = 3.
        num_matrices: k, 4 if the highway needs a matrix of its own, else 3.
    """

    scale_x: Tensor
    custom_m: nn.Module | None
    layer_norm: LayerNorm | None
    weight_proj: nn.Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        dropout: float = 0.0,
        rnn_dropout: float = 0.0,
        bidirectional: bool = False,
        n_proj: int = 0,
        use_tanh: bool = False,
        highway_bias: float = 0.0,
        has_skip_term: bool = True,
        layer_norm: bool = False,
        rescale: bool = True,
        v1: bool = False,
        custom_m: nn.Module | None = None,
        amp_recurrence_fp16: bool = False,
        normalize_after: bool = False,
        weight_c_init: float | None = None,
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size, hidden_size=hidden_size)
        check_probabilities(dropout=dropout, rnn_dropout=rnn_dropout)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = D = hidden_size * 2 if bidirectional else hidden_size
        self.dropout = float(dropout)
        self.rnn_dropout = float(rnn_dropout)
        self.bidirectional = bidirectional
        self.has_skip_term = has_skip_term
        self.highway_bias = highway_bias
        self.v1 = v1
        self.rescale = rescale
        self.activation_type = 1 if use_tanh else 0
        self.activation = "tanh" if use_tanh else "none"
        self.custom_m = custom_m
        self.amp_recurrence_fp16 = amp_recurrence_fp16
        self.normalize_after = normalize_after
        self.weight_c_init = weight_c_init
        # the original's rule, silence included: a projection that would not shrink is left out
        self.projection_size = n_proj if 0 < n_proj < min(input_size, D) else 0
        self.num_matrices = k = 4 if has_skip_term and input_size != D else 3

        if custom_m is None:
            P = self.projection_size or input_size
            projection = nn.Parameter(torch.empty(input_size, P)) if self.projection_size else None
            self.register_parameter("weight_proj", projection)
            self.weight = nn.Parameter(torch.empty(P, D * k))
        self.weight_c = nn.Parameter(torch.empty(2 * D))
        self.bias = nn.Parameter(torch.empty(2 * D))
        self.register_buffer("scale_x", torch.empty(1))
        normalised = D if normalize_after else input_size
        self.layer_norm = LayerNorm(normalised) if layer_norm else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters from the original's distributions.

        A `custom_m` resets itself; a UserWarning says so if it has no reset_parameters().
        """
        D, k = self.output_size, self.num_matrices
        scale = math.sqrt(1 + 2 * math.exp(self.highway_bias))
        scale = scale if self.rescale and self.has_skip_term else 1.0
        with torch.no_grad():
            self.bias[:D] = 0
            self.bias[D:] = self.highway_bias
            self.scale_x.fill_(scale)
            if self.custom_m is None:
                for matrix in (self.weight, self.weight_proj):
                    if matrix is not None:
                        bound = math.sqrt(3 / matrix.shape[0])
                        matrix.uniform_(-bound, bound)
                w_PDk = self.weight.view(-1, D, k)
                w_PDk *= math.sqrt(1 - self.rnn_dropout) * (0.1 if self.layer_norm else 1)
                w_PDk[..., 0] *= math.sqrt(1 - self.dropout)
                if not self.v1:  # the gates share their variance with the state weights
                    w_PDk[..., 1:3] *= math.sqrt(0.5)
                if k == 4:
                    w_PDk[..., 3] *= scale
            elif callable(reset := getattr(self.custom_m, "reset_parameters", None)):
                reset()
            else:
                warnings.warn(
                    f"custom_m keeps its parameters: {type(self.custom_m).__name__} has no "
                    "reset_parameters()",
                    stacklevel=2,
                )
            if self.v1:
                self.weight_c.zero_()
            else:
                bound = math.sqrt(1.5) if self.weight_c_init is None else self.weight_c_init
                self.weight_c.uniform_(-bound, bound)
            self.weight_c.requires_grad_(not self.v1)
            if self.layer_norm is not None:
                self.layer_norm.reset_parameters()

    def forward(
        self, input: Tensor, c0: Tensor | None = None, mask_pad: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            input: [L, B, input_size], or one step [B, input_size].
            c0: [B, D] state before the first step. Default: zeros.
            mask_pad: [L, B] ([B] beside one step), not zero at padding.

        Returns: h, shaped like the input with D features, and the last state [B, D].
        Raises: ValueError if shapes don't fit.
        """
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size:
            raise ValueError(
                "input must be [L, B, input_size] or [B, input_size] with input_size = "
                f"{self.input_size}, got {list(input.shape)}"
            )
        L, B = input.shape[:2] if input.dim() == 3 else (1, input.shape[0])
        D, k = self.output_size, self.num_matrices
        if c0 is not None and c0.shape != (B, D):
            raise ValueError(f"c0 must be [B, D] = {[B, D]}, got {list(c0.shape)}")
        mask = None
        if mask_pad is not None:  # what stands at padding, NaN too, reaches no weight's gradient
            mask = _as_mask(mask_pad, L, B, input.dim() == 2)
            input = input.masked_fill(mask.view(*input.shape[:-1], 1), 0)

        inner, out_mask = input, None
        if self.layer_norm is not None and not self.normalize_after:
            inner = self.layer_norm(inner)
        if self.training and self.rnn_dropout > 0:
            drop = self.get_dropout_mask_((B, self.input_size), self.rnn_dropout)
            inner = inner * drop.to(inner.dtype)
        if self.training and self.dropout > 0:
            out_mask = self.get_dropout_mask_((B, D), self.dropout)

        u, v = self._transform(inner, L, B)
        highway = input.view(L, B, D) if self.has_skip_term and k == 3 else None
        if torch.is_autocast_enabled(u.device.type):
            if not (self.amp_recurrence_fp16 and u.dtype == torch.float16):
                u = u.to(torch.promote_types(u.dtype, torch.float32))
            highway = None if highway is None else highway.to(u.dtype)
        alpha = 1.0
        if self.rescale and highway is not None:
            if highway.is_cpu and not torch.compiler.is_compiling():
                alpha = self.scale_x.item()
            else:  # reading the number would wait for the device, or break the graph
                highway = highway * self.scale_x.to(highway.dtype)
        h, c = sru_recurrence(
            u,
            highway,
            v,
            self.bias.view(2, D),
            c0,
            num_directions=2 if self.bidirectional else 1,
            mask=mask,
            out_mask=out_mask,
            activation="tanh" if self.activation_type else "identity",
            alpha=alpha,
        )
        h = h if input.dim() == 3 else h.squeeze(0)
        if self.layer_norm is not None and self.normalize_after:
            h = self.layer_norm(h)
        return h, c

    def _transform(self, inner: Tensor, L: int, B: int) -> tuple[Tensor, Tensor]:
        """Pre-activations [L, B, k, D] and state weights [2, D] or [L, B, 2, D]."""
        D, k = self.output_size, self.num_matrices
        if self.custom_m is not None:
            made = self.custom_m(inner)
            u, v = made if isinstance(made, (tuple, list)) and len(made) == 2 else (made, None)
            u = _interleaved(u, "custom_m's U", L, B, D, k)
            if v is None:
                return u, self.weight_c.view(2, D)
            # the original adds weight_c as it lies to an interleaved V, so beside a V it is
            # interleaved itself
            v = _interleaved(v, "custom_m's V", L, B, D, 2)
            return u, v + self.weight_c.view(D, 2).t()
        if self.weight_proj is not None:
            inner = inner @ self.weight_proj
        if self.weight.shape[0] > L * B:
            return (inner @ self.weight).view(L, B, D, k).transpose(2, 3), self.weight_c.view(2, D)
        w_PkD = self.weight.view(-1, D, k).transpose(1, 2)
        return (inner @ w_PkD.flatten(1)).view(L, B, k, D), self.weight_c.view(2, D)

    def get_dropout_mask_(self, size: tuple[int, int], p: float) -> Tensor:
        """Draw a mask [B, features] for all time steps: 0 with probability p, else 1 / (1 - p)."""
        return F.dropout(self.bias.detach().new_ones(size), p)

    def to_torchsru(self) -> torchsru.SRUCell:
        """Make the layer of `torchsru` that computes the same; see `SRU.to_torchsru`."""
        from torchsru.compat.convert import to_cell

        return to_cell(self)

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ):
        checkpoints.upgrade_cell(self, state_dict, prefix, errors)
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )

    def extra_repr(self) -> str:
        """Sizes, and the options that differ from their defaults."""
        options = {
            "projection_size": (self.projection_size, 0),
            "dropout": (self.dropout, 0.0),
            "rnn_dropout": (self.rnn_dropout, 0.0),
            "bidirectional": (self.bidirectional, False),
            "highway_bias": (self.highway_bias, 0.0),
            "activation": (self.activation, "none"),
            "v1": (self.v1, False),
            "rescale": (self.rescale, True),
            "has_skip_term": (self.has_skip_term, True),
            "normalize_after": (self.normalize_after, False),
        }
        changed = [f"{name}={value}" for name, (value, usual) in options.items() if value != usual]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *changed])


class SRU(nn.Module):
    """A stack of layers, as `sru.SRU` of the package `sru` 2.6.0.

        h, c = rnn(input, c0, mask_pad)

    Args:
        input_size: features of the input.
        hidden_size: d, channels per direction.
        num_layers: layers.
        dropout: in each layer but the last, of the state's way to the output: h falls back to the
            highway. One mask for all time steps.
        rnn_dropout: of what the matrix product sees, in each layer. One mask for all time steps.
        bidirectional: each layer runs in both directions, D = 2 d.
        projection_size: factorise a layer's matrix through that many features, where that is less
            than the layer's input and output size; elsewhere it is left out.
        use_tanh: h takes tanh(c) in place of c.
        layer_norm: normalise what the matrix product sees.
        highway_bias: b, initial bias of the reset gate.
        has_skip_term: whether h has the highway term.
        rescale: scale the highway by sqrt(1 + 2 e^b).
        v1: state weights are zero and stay so.
        nn_rnn_compatible_return: states are [num_layers directions, B, d] as in `nn.GRU`.
        custom_m: a module in the place of each layer's matrix, copied per layer; or a list of one
            module per layer. It maps [L, B, features] to U [L, B, D k], or to the pair of U and
            state weights V [L, B, 2 D] of every step; column (j k + m) of U and (j 2 + m) of V
            belong to channel j.
        proj_input_to_hidden_first: map the input to D features first, if it has another number.
        amp_recurrence_fp16: under autocast to float16, h is float16; else it is float32.
        normalize_after: with layer_norm, normalise each layer's output instead.
        weight_c_init: bound of the uniform initial state weights. Default: sqrt(1.5).

    Raises: ValueError naming the argument if a size, a probability or custom_m makes no sense.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 2,
        dropout: float = 0.0,
        rnn_dropout: float = 0.0,
        bidirectional: bool = False,
        projection_size: int = 0,
        use_tanh: bool = False,
        layer_norm: bool = False,
        highway_bias: float = 0.0,
        has_skip_term: bool = True,
        rescale: bool = False,
        v1: bool = False,
        nn_rnn_compatible_return: bool = False,
        custom_m: nn.Module | list[nn.Module] | None = None,
        proj_input_to_hidden_first: bool = False,
        amp_recurrence_fp16: bool = False,
        normalize_after: bool = False,
        weight_c_init: float | None = None,
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = D = hidden_size * 2 if bidirectional else hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.rnn_dropout = rnn_dropout
        self.projection_size = projection_size
        self.bidirectional = bidirectional
        self.num_directions = 2 if bidirectional else 1
        self.use_layer_norm = layer_norm
        self.has_skip_term = has_skip_term
        self.nn_rnn_compatible_return = nn_rnn_compatible_return
        self.amp_recurrence_fp16 = amp_recurrence_fp16
        self.input_to_hidden: nn.Linear | None = None
        if proj_input_to_hidden_first and input_size != D:
            self.input_to_hidden = nn.Linear(input_size, D, bias=False)
        self.rnn_lst = nn.ModuleList(
            SRUCell(
                D if i or self.input_to_hidden is not None else input_size,
                hidden_size,
                dropout=dropout if i + 1 < num_layers else 0.0,
                rnn_dropout=rnn_dropout,
                bidirectional=bidirectional,
                n_proj=projection_size,
                use_tanh=use_tanh,
                highway_bias=highway_bias,
                has_skip_term=has_skip_term,
                layer_norm=layer_norm,
                rescale=rescale,
                v1=v1,
                custom_m=module,
                amp_recurrence_fp16=amp_recurrence_fp16,
                normalize_after=normalize_after,
                weight_c_init=weight_c_init,
            )
            for i, module in enumerate(_per_layer(custom_m, num_layers))
        )

    def layers(self) -> list[SRUCell]:
        """The layers of `rnn_lst`, as what they are."""
        return list(self.rnn_lst)  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        """Draw the parameters of every layer anew."""
        for layer in self.layers():
            layer.reset_parameters()
        if self.input_to_hidden is not None:
            self.input_to_hidden.reset_parameters()

    def forward(
        self,
        input: Tensor | PackedSequence,
        c0: Tensor | None = None,
        mask_pad: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """Run the stack.

        Args:
            input: [L, B, input_size], or a `PackedSequence`.
            c0: [num_layers, B, D], or what an earlier call returned. Default: zeros.
            mask_pad: [L, B], not zero at padding: such a step leaves the state alone and gives 0.

        Returns: h [L, B, D], packed like the input; and the last states [num_layers, B, D], or
            [num_layers directions, B, d] with nn_rnn_compatible_return.
        Raises: ValueError if shapes don't fit.
        """
        packed = None
        if isinstance(input, PackedSequence):
            if mask_pad is not None:
                raise ValueError("mask_pad must be None beside a PackedSequence")
            packed = input
            input, mask_pad, lengths = unpack(packed)
        if input.dim() != 3 or input.shape[2] != self.input_size:
            raise ValueError(
                f"input must be [L, B, input_size] with input_size = {self.input_size}, "
                f"got {list(input.shape)}"
            )
        B = input.shape[1]
        c0 = None if c0 is None else self._layer_states(c0, B)

        h = input
        if self.input_to_hidden is not None:
            if mask_pad is not None:
                mask = _as_mask(mask_pad, input.shape[0], B, False)
                h = h.masked_fill(mask.unsqueeze(2), 0)
            h = self.input_to_hidden(h)
        states = []
        for i, layer in enumerate(self.layers()):
            h, c = layer(h, None if c0 is None else c0[i], mask_pad)
            states.append(c)
        c = torch.stack(states)
        if self.nn_rnn_compatible_return:
            c = c.view(-1, B, self.num_directions, self.hidden_size).transpose(1, 2).flatten(0, 1)
        return h if packed is None else pack_like(packed, h, lengths), c

    def _layer_states(self, c0: Tensor, B: int) -> Tensor:
        """States [num_layers, B, D] from either layout."""
        n, d, D = self.num_directions, self.hidden_size, self.output_size
        if c0.shape == (self.num_layers, B, D):
            return c0
        other = (self.num_layers * n, B, d)
        if self.nn_rnn_compatible_return and c0.shape == other:
            return c0.view(-1, n, B, d).transpose(1, 2).flatten(2)
        also = f" or {list(other)}" if self.nn_rnn_compatible_return and n == 2 else ""
        raise ValueError(
            f"c0 must be [num_layers, B, D] = {[self.num_layers, B, D]}{also}, got {list(c0.shape)}"
        )

    def to_torchsru(self) -> torchsru.SRU:
        """Make the `torchsru.SRU` that computes the same.

        Its state is [num_layers directions, B, d], its parameters are copies. Factors that
        `torchsru.SRU` has no place for are multiplied: `input_to_hidden`, and a projection that
        some layers have and others have not.

        Raises: ValueError naming what `torchsru.SRU` can't do: custom_m; beside
            proj_input_to_hidden_first, a layer norm before the product or rnn_dropout.
        """
        from torchsru.compat.convert import to_stack

        return to_stack(self)

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ):
        checkpoints.upgrade_stack(self, state_dict, prefix, errors)
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )

    def extra_repr(self) -> str:
        """Sizes, and how states are returned."""
        also = ", nn_rnn_compatible_return=True" if self.nn_rnn_compatible_return else ""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}{also}"


def _per_layer(
    custom_m: nn.Module | Sequence[nn.Module] | None, num_layers: int
) -> Sequence[nn.Module | None]:
    """One module or None for each layer."""
    if custom_m is None:
        return [None] * num_layers
    if isinstance(custom_m, nn.Module) and not isinstance(custom_m, nn.ModuleList):
        return [copy.deepcopy(custom_m) for _ in range(num_layers)]
    if len(custom_m) != num_layers:
        raise ValueError(
            f"custom_m must have one module per layer, {num_layers}, got {len(custom_m)}"
        )
    return list(custom_m)


def _interleaved(t: Any, name: str, L: int, B: int, D: int, k: int) -> Tensor:
    """[..., D k] with the matrices of a channel side by side -> [L, B, k, D]."""
    if not isinstance(t, Tensor):
        what = f"{len(t)} of them" if isinstance(t, (tuple, list)) else type(t).__name__
        raise ValueError(f"custom_m must return a tensor U or a pair U, V, got {what}")
    if t.shape[-1] != D * k or t.numel() != L * B * D * k:
        raise ValueError(f"{name} must be [L, B, {k} D] = {[L, B, k * D]}, got {list(t.shape)}")
    return t.reshape(L, B, D, k).transpose(2, 3)


def _as_mask(mask_pad: Tensor, L: int, B: int, one_step: bool) -> Tensor:
    """A bool mask [L, B], True at padding."""
    if mask_pad.shape != (L, B) and not (one_step and mask_pad.shape == (B,)):
        raise ValueError(f"mask_pad must be [L, B] = {[L, B]}, got {list(mask_pad.shape)}")
    return (mask_pad != 0).view(L, B)
