"""From the original's layers and checkpoints to `torchsru.SRU`, and those of SRU++ to
`torchsru.SRUpp`.

Letters: D channels, k matrices, P rows of the last weight, I input size.
"""

import copy
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import torchsru
from torchsru.compat import checkpoints, srupp
from torchsru.compat.sru import SRU, SRUCell

ARGUMENTS_FILE = "sru.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1
MODULES: dict[str, type[torchsru.SRU] | type[torchsru.SRUpp]] = {
    "SRU": torchsru.SRU,
    "SRUpp": torchsru.SRUpp,
}
TOLERANCE = 1e-5  # of each output's largest value, in `check_same`


@dataclass(frozen=True)
class Converted:
    """What makes a `torchsru.SRU` or, of SRU++, a `torchsru.SRUpp`.

    arguments: of its constructor, ready for JSON.
    state_dict: its parameters.
    layer_norm_eps: of its layer norms; not an argument of the constructor.
    module: "SRU" or "SRUpp".
    """

    arguments: dict[str, Any]
    state_dict: dict[str, Tensor]
    layer_norm_eps: float = 1e-5
    module: str = "SRU"

    def build(self) -> torchsru.SRU | torchsru.SRUpp:
        """Make the module, on the tensors' device and in their type."""
        like = next(t for name, t in self.state_dict.items() if ".transform." in name)
        rnn = MODULES[self.module](**self.arguments, device=like.device, dtype=like.dtype)
        rnn.load_state_dict(self.state_dict)
        _set_eps(rnn, self.layer_norm_eps)
        return rnn


def convert(
    state_dict: Mapping[str, Any], *, prefix: str = "", **arguments: Any
) -> torchsru.SRU | torchsru.SRUpp:
    """Make a `torchsru.SRU` from a state dict saved by `sru` 2.0 to 3.0-dev; from one of SRU++, a
    `torchsru.SRUpp`, whose `memory_length` may be set afterwards.

    Args:
        state_dict: as `sru.SRU`, `sru.SRUpp` or a model that holds one saved it.
        prefix: what stands before "rnn_lst." in its keys: "encoder.rnn.".
        arguments: those of the constructor that made it, in any version's names. Without
            `rescale`, whose default differs from version to version, the checkpoint's own scale
            counts.

    Raises: ValueError if the state dict does not fit the arguments, or names what is not here.
    """
    if srupp.is_srupp(state_dict, prefix):
        return _plan_srupp(state_dict, prefix, arguments).build()
    return from_state_dict(state_dict, prefix=prefix, **arguments).to_torchsru()


def convert_to_files(
    state_dict: Mapping[str, Any], prefix: str, arguments: dict[str, Any]
) -> tuple[dict[str, bytes], float]:
    """As `convert`, but return `to_bytes` of the result, and by how much what is read back from it
    differs from the original's layout: see `check_same`.

    Raises: ValueError as `convert`, and if it differs.
    """
    if srupp.is_srupp(state_dict, prefix):
        files = to_bytes(_plan_srupp(state_dict, prefix, arguments))
        ours = from_bytes(files)
        assert isinstance(ours, torchsru.SRUpp)
        return files, check_same_srupp(_tensors_at(state_dict, prefix), ours)
    original = from_state_dict(state_dict, prefix=prefix, **arguments)
    files = to_bytes(plan(original))
    mine = from_bytes(files)
    assert isinstance(mine, torchsru.SRU)
    return files, check_same(original, mine)


def _plan_srupp(
    state_dict: Mapping[str, Any], prefix: str, arguments: Mapping[str, Any]
) -> Converted:
    return Converted(*srupp.plan(_tensors_at(state_dict, prefix), arguments), module="SRUpp")


def _tensors_at(state_dict: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The part of a state dict at a prefix, without it; ValueError if none or no tensors."""
    prefixes = checkpoints.find_prefixes(state_dict)
    if prefix not in prefixes:
        known = f"one of {prefixes}" if prefixes else "where an SRU is, but there is none"
        raise ValueError(f"prefix must be {known}, got {prefix!r}")
    state = {n[len(prefix) :]: t for n, t in state_dict.items() if n.startswith(prefix)}
    for name, t in state.items():
        if not isinstance(t, Tensor):
            raise ValueError(f"{prefix}{name} must be a tensor, got {type(t).__name__}")
    return state


def from_state_dict(state_dict: Mapping[str, Any], *, prefix: str = "", **arguments: Any) -> SRU:
    """As `convert`, but make the `torchsru.compat.SRU`, on the CPU. Not of SRU++."""
    state = _tensors_at(state_dict, prefix)
    arguments = checkpoints.as_2_6(arguments)
    scales = [t for n, t in state.items() if n.endswith(".scale_x")]
    arguments.setdefault("rescale", any(bool(scale.ne(1).any()) for scale in scales))
    if any(name.startswith("ln_lst.") for name in state):
        arguments.setdefault("normalize_after", True)
    arguments["projection_size"] = _projection(arguments.get("projection_size", 0), state)
    _check_arguments(arguments)
    layers, given = checkpoints.count_layers(state), arguments.get("num_layers", 2)
    if given != layers:
        raise ValueError(f"num_layers must be {layers} as in the checkpoint, got {given}")
    dtypes = {t.dtype: None for t in state.values()}  # in order, once each
    floating = [dtype for dtype in dtypes if dtype.is_floating_point]
    if not floating:
        raise ValueError(
            f"the state dict must hold floating-point tensors, got {', '.join(map(str, dtypes))}"
        )
    rnn = SRU(**arguments).to(floating[0])
    try:
        rnn.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the state dict does not fit the arguments: {error}") from error
    return rnn


def load(folder: str | Path) -> torchsru.SRU | torchsru.SRUpp:
    """Read what `torchsru convert` wrote.

    Raises: ValueError naming the file that is missing or not of this format.
    """
    folder = Path(folder)
    try:
        return from_bytes({n: (folder / n).read_bytes() for n in (ARGUMENTS_FILE, WEIGHTS_FILE)})
    except OSError as error:
        raise ValueError(f"{error.filename} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def to_bytes(converted: Converted) -> dict[str, bytes]:
    """The files of a converted checkpoint, by name."""
    from safetensors.torch import save

    about = {
        "format": FORMAT,
        "module": converted.module,
        "arguments": converted.arguments,
        "layer_norm_eps": converted.layer_norm_eps,
    }
    return {
        ARGUMENTS_FILE: (json.dumps(about, indent=1) + "\n").encode(),
        WEIGHTS_FILE: save(converted.state_dict),
    }


def from_bytes(files: Mapping[str, bytes]) -> torchsru.SRU | torchsru.SRUpp:
    """The inverse of `to_bytes`, and `Converted.build`. Raises ValueError if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors

    try:
        about = json.loads(files[ARGUMENTS_FILE])
        if about["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {about['format']!r}")
        tensors = load_tensors(files[WEIGHTS_FILE])
        module = about.get("module", "SRU")  # not named by the first files
        return Converted(about["arguments"], tensors, about["layer_norm_eps"], module).build()
    except (KeyError, TypeError, StopIteration, RuntimeError, SafetensorError) as error:
        raise ValueError(f"not what torchsru convert writes: {error}") from error


def check_same(original: SRU, ours: torchsru.SRU) -> float:
    """Run both on random input in float64; return the largest difference, relative to the largest
    value of its output.

    Raises: ValueError if it is more than TOLERANCE.
    """
    original = copy.deepcopy(original).cpu().double().eval()
    ours = copy.deepcopy(ours).cpu().double().eval()
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(16, 2, original.input_size, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        (h, c), (h_ours, c_ours) = original(x), ours(x)
    n, d = original.num_directions, original.hidden_size
    if not original.nn_rnn_compatible_return:
        c = c.view(-1, 2, n, d).transpose(1, 2).flatten(0, 1)
    return _difference((h_ours, h), (c_ours, c))


def check_same_srupp(state: Mapping[str, Tensor], ours: torchsru.SRUpp) -> float:
    """As `check_same`, for the state dict of an `sru.SRUpp` without prefix."""
    ours = copy.deepcopy(ours).cpu().double().eval()
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(16, 2, ours.input_size, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        (h, c), (h_ours, end) = srupp.run(state, ours, x), ours(x)
    return _difference((h_ours, h), (end["c"], c))


def _difference(*pairs: tuple[Tensor, Tensor]) -> float:
    off = max(((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item() for a, b in pairs)
    if not off <= TOLERANCE:
        raise ValueError(f"the converted layer is off by {off:.1e}, more than {TOLERANCE:.0e}")
    return off


def plan(stack: SRU) -> Converted:
    """What `SRU.to_torchsru` builds; raises as it does."""
    layers, fold = stack.layers(), stack.input_to_hidden
    first = layers[0]
    if fold is not None:
        if first.layer_norm is not None and not first.normalize_after:
            raise ValueError(
                "layer_norm before the product can't follow proj_input_to_hidden_first in a "
                "torchsru.SRU: it would normalise the input itself"
            )
        if stack.rnn_dropout:
            raise ValueError(
                "rnn_dropout must be 0 beside proj_input_to_hidden_first in a torchsru.SRU, got "
                f"{stack.rnn_dropout}"
            )
    sizes = {layer.projection_size for layer in layers}
    P = sizes.pop() if len(sizes) == 1 and fold is None else 0
    arguments = {
        **_options(layers[1:] if fold is not None else layers, first, P),
        "input_size": stack.input_size,
        "num_layers": stack.num_layers,
        "state_dropout": float(stack.dropout),
    }
    state = {
        f"layers.{i}.{name}": t
        for i, layer in enumerate(layers)
        for name, t in _state(
            layer, P, arguments["state_weights"], fold if i == 0 else None
        ).items()
    }
    epsilons = {layer.layer_norm.eps for layer in layers if layer.layer_norm is not None}
    if len(epsilons) > 1:
        raise ValueError(f"layer norms must have one eps in all layers, got {sorted(epsilons)}")
    return Converted(arguments, state, epsilons.pop() if epsilons else 1e-5)


def to_stack(stack: SRU) -> torchsru.SRU:
    """See `SRU.to_torchsru`."""
    rnn = plan(stack).build()
    assert isinstance(rnn, torchsru.SRU)
    return rnn.train(stack.training)


def to_cell(layer: SRUCell) -> torchsru.SRUCell:
    """See `SRUCell.to_torchsru`."""
    arguments = _options([layer], layer, layer.projection_size)
    like = layer.weight
    cell = torchsru.SRUCell(
        **arguments,
        input_size=layer.input_size,
        state_dropout=layer.dropout,
        device=like.device,
        dtype=like.dtype,
    )
    cell.load_state_dict(_state(layer, layer.projection_size, arguments["state_weights"]))
    if layer.layer_norm is not None:
        _set_eps(cell, layer.layer_norm.eps)
    return cell.train(layer.training)


def _options(layers: Sequence[SRUCell], like: SRUCell, P: int) -> dict[str, Any]:
    """Arguments that concern every layer; `layers` are those with a highway of their own."""
    if like.custom_m is not None:
        raise ValueError(
            "custom_m must be None: torchsru.SRU takes transform, whose output is matrix-major"
        )
    where = ("post" if like.normalize_after else "pre") if like.layer_norm is not None else None
    return {
        "hidden_size": like.hidden_size,
        "bidirectional": bool(like.bidirectional),
        "input_dropout": like.rnn_dropout,
        "projection_size": P,
        "activation": "tanh" if like.activation_type else "identity",
        "state_weights": not like.v1 or any(layer.weight_c.any() for layer in [like, *layers]),
        "highway": bool(like.has_skip_term),
        "layer_norm": where,
        **_highway(layers, like),
    }


def _highway(layers: Sequence[SRUCell], like: SRUCell) -> dict[str, Any]:
    """`rescale` and the highway_bias that give the scale which the layers have."""
    bias = like.highway_bias
    used = [c for c in layers if c.rescale and c.has_skip_term and c.num_matrices == 3]
    scales = {c.scale_x.item() for c in used}
    if len(scales) > 1:
        raise ValueError(f"scale_x must be the same in all layers, got {sorted(scales)}")
    scale = scales.pop() if scales else 1.0
    if scale == 1 or math.isclose(scale, math.sqrt(1 + 2 * math.exp(bias)), rel_tol=1e-6):
        return {"rescale": scale != 1, "highway_bias": bias}
    if scale < 1:
        raise ValueError(f"scale_x must be 1 or more, got {scale}")
    return {"rescale": True, "highway_bias": math.log((scale * scale - 1) / 2)}


def _state(
    layer: SRUCell, P: int, state_weights: bool, fold: nn.Linear | None = None
) -> dict[str, Tensor]:
    """A layer's parameters as `torchsru.SRUCell` names them.

    Args:
        P: projection size to keep, or 0: multiply the factors.
        fold: a matrix that the layer's input comes through, to multiply with the layer's own.
    """
    D, k = layer.output_size, layer.num_matrices
    w = layer.weight.detach()
    dtype, w = w.dtype, w.double()
    if layer.weight_proj is not None and not P:
        w = layer.weight_proj.detach().double() @ w
    w_kDP = w.view(-1, D, k).permute(2, 1, 0)
    if fold is not None:
        A_DI = fold.weight.detach().double()
        w_kDP = w_kDP @ A_DI
        if layer.has_skip_term:  # the highway saw A x; with a fourth matrix it still does
            scale = layer.scale_x.double() if layer.rescale else 1.0
            w_kDP = torch.cat([w_kDP, (A_DI * scale)[None]])
    last = w_kDP.flatten(0, 1).to(dtype).contiguous()
    if P:
        assert layer.weight_proj is not None
        first = layer.weight_proj.detach().t().clone(memory_format=torch.contiguous_format)
        state = {"transform.0.weight": first, "transform.1.weight": last}
    else:
        state = {"transform.weight": last}
    state["bias"] = layer.bias.detach().view(2, D).clone()
    if state_weights:
        state["weight_c"] = layer.weight_c.detach().view(2, D).clone()
    if layer.layer_norm is not None:
        state["norm.weight"] = layer.layer_norm.weight.detach().clone()
        state["norm.bias"] = layer.layer_norm.bias.detach().clone()
    return state


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check names and types; what comes from JSON or a command line may have any."""
    parameters = inspect.signature(SRU).parameters
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ValueError(f"{name} must be given, as to the SRU that was saved")
    for name, value in arguments.items():
        if name not in parameters:
            raise ValueError(f"{name} must be an argument of sru.SRU: {', '.join(parameters)}")
        default = parameters[name].default
        flag = isinstance(default, bool)
        if flag and value not in (False, True):
            raise ValueError(f"{name} must be true or false, got {value!r}")
        if isinstance(default, float) and not isinstance(value, (int, float)):
            raise ValueError(f"{name} must be a number, got {value!r}")


def _projection(size: Any, state: Mapping[str, Tensor]) -> int:
    """The projection_size with which 2.6.0's rule gives each layer what the checkpoint has; else 0,
    and factors are multiplied on loading."""
    sizes = size if isinstance(size, (list, tuple)) else [size]
    if not all(isinstance(P, int) and P >= 0 for P in sizes):
        raise ValueError(f"projection_size must be 0 or more, or a list of such, got {size!r}")
    P = sizes[0] if len(set(sizes)) == 1 else 0
    for i in range(checkpoints.count_layers(state)):
        layer = f"rnn_lst.{i}."
        new, old = layer + "transform_module.0.weight", layer + "weight_proj"
        factor, bias = state.get(new, state.get(old)), state.get(layer + "bias")
        if factor is None or factor.dim() != 2 or bias is None:
            return 0
        if factor.shape[1 if new in state else 0] <= P or bias.numel() // 2 <= P:
            return 0
    return P


def _set_eps(module: nn.Module, eps: float) -> None:
    """Set eps of the layer norms that a module holds."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = eps
