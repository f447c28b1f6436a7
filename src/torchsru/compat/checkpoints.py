"""State dicts of every version of `sru` from 2.0 to 3.0-dev, as the modules here name them.

2.0-2.7   rnn_lst.{i}.weight [P, D k], .weight_proj, .weight_c, .bias, .scale_x, .layer_norm.*;
          input_to_hidden.weight
<= 2.1.7  besides: rnn_lst.{i}.gain [D k], weight normalisation; ln_lst.{i}.a, .b [D], a layer norm
          of the output
3.0-dev   rnn_lst.{i}.transform_module.weight [D k, input], or .0.weight [P, input] and
          .1.weight [D k, P], in the place of weight and weight_proj

The layout shows in the keys, so nothing has to be said when loading.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from torchsru.compat.sru import SRU, SRUCell

#: Arguments of other versions' constructors, by their name in 2.6.0.
RENAMED = {"n_in": "input_size", "n_out": "hidden_size", "n_proj": "projection_size"}
#: Those that concern initial values or show in the keys, and so may be dropped.
DROPPED = ("weight_norm", "is_input_normalized")
#: Those that name what is not carried over, refused unless false.
REFUSED = {
    "use_relu": "ReLU was removed in sru 2.1.9 and torchsru does not have it",
    "use_selu": "SeLU was removed in sru 2.1.9 and torchsru does not have it",
    "custom_u": "wrap custom_u and custom_v in one custom_m and load into torchsru.compat.SRU",
    "custom_v": "wrap custom_u and custom_v in one custom_m and load into torchsru.compat.SRU",
    "transform_module": "load into torchsru.compat.SRU(custom_m=...)",
}
OLD_EPS = 1e-6  # of the layer norm of sru <= 2.1.7


def as_2_6(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of any version of `sru.SRU`, as 2.6.0 has them.

    Raises: ValueError naming what is not carried over.
    """
    found = {}
    for name, value in arguments.items():
        if name in REFUSED and value not in (None, False, 0):
            raise ValueError(f"{name} must be off, got {value!r}: {REFUSED[name]}")
        if name not in REFUSED and name not in DROPPED:
            found[RENAMED.get(name, name)] = value
    return found


def find_prefixes(state_dict: Mapping[str, Any]) -> list[str]:
    """What stands before "rnn_lst.0." in the keys, once each: where there is an `SRU`."""
    parts = (name.partition("rnn_lst.0.") for name in state_dict)
    return sorted({before for before, found, _ in parts if found})


def count_layers(state_dict: Mapping[str, Any], prefix: str = "") -> int:
    """The number of layers of the `SRU` at this prefix."""
    start = prefix + "rnn_lst."
    return len({n[len(start) :].split(".")[0] for n in state_dict if n.startswith(start)})


def upgrade_stack(
    stack: SRU, state_dict: MutableMapping[str, Any], prefix: str, errors: list[str]
) -> None:
    """Rename what belongs to an `SRU`, in place; say in `errors` what does not fit it."""
    layers = count_layers(state_dict, prefix)
    if layers not in (0, stack.num_layers):
        errors.append(f"num_layers must be {layers} as in the checkpoint, got {stack.num_layers}")
    for i, layer in enumerate(stack.layers()):
        try:
            upgrade_norm(layer, state_dict, prefix, i)
        except ValueError as error:
            errors.append(str(error))


def upgrade_norm(layer: SRUCell, state_dict: MutableMapping[str, Any], prefix: str, i: int) -> None:
    """Turn the old layer norm of layer i, if there is one, into ours; ValueError if it can't be."""
    a, b = f"{prefix}ln_lst.{i}.a", f"{prefix}ln_lst.{i}.b"
    if a not in state_dict and b not in state_dict:
        return
    D = layer.output_size
    if D == 1 or layer.layer_norm is None or not layer.normalize_after:
        if D > 1 or layer.layer_norm is not None:
            wanted = "layer_norm=False (one channel)" if D == 1 else "layer_norm, normalize_after"
            raise ValueError(f"{wanted} must be given: {a} is a layer norm of sru <= 2.1.7")
        take(state_dict, {a: "D", b: "D"}, D=D)  # it left a single channel as it was
        return
    # a (x - mean) / sqrt(n / (n - 1) var + eps) + b, divided through by sqrt(n / (n - 1))
    weight, bias = take(state_dict, {a: "D", b: "D"}, D=D)
    ours = f"{prefix}rnn_lst.{i}.layer_norm."
    state_dict[ours + "weight"] = weight * ((D - 1) / D) ** 0.5
    state_dict[ours + "bias"] = bias
    state_dict[ours + "eps"] = OLD_EPS * (D - 1) / D


def upgrade_cell(
    cell: SRUCell, state_dict: MutableMapping[str, Any], prefix: str, errors: list[str]
) -> None:
    """Rename and rearrange one layer's tensors, in place; say in `errors` what does not fit it."""
    transform = prefix + "transform_module."
    theirs = [name for name in state_dict if name.startswith(transform)]
    if cell.custom_m is not None:
        for name in theirs:
            state_dict[prefix + "custom_m." + name[len(transform) :]] = state_dict.pop(name)
    elif transform + "linear1.weight" in state_dict:
        errors.append(
            f"{transform}linear1.weight belongs to SRU++: torchsru.compat.convert makes a "
            "torchsru.SRUpp of it"
        )
        for name in theirs:
            del state_dict[name]
    else:
        try:
            upgrade_matrix(cell, state_dict, prefix)
        except ValueError as error:
            errors.append(str(error))
    scale = state_dict.get(prefix + "scale_x")
    used = cell.has_skip_term and cell.num_matrices == 3 and not cell.rescale
    if not used or scale is None or scale.is_meta or scale.numel() != 1:  # strict loading names it
        return
    if scale.item() != 1:
        errors.append(
            f"rescale must be True: the checkpoint's {prefix}scale_x is {scale.item():.6g}"
        )


def upgrade_matrix(cell: SRUCell, state_dict: MutableMapping[str, Any], prefix: str) -> None:
    """Turn a layer's matrix into `weight` and, if it has one, `weight_proj`; ValueError if it can't
    be. Letters: I input size, P rows of the last weight, E = D k.
    """
    weight, factor, gain = prefix + "weight", prefix + "weight_proj", prefix + "gain"
    whole, first, second = (f"{prefix}transform_module.{n}weight" for n in ("", "0.", "1."))
    if first in state_dict or second in state_dict:
        w_PI, w_EP = take(state_dict, {first: "PI", second: "EP"})
        state_dict[factor], state_dict[weight] = w_PI.t(), w_EP.t()
    elif whole in state_dict:
        [w_EI] = take(state_dict, {whole: "EI"})
        state_dict[weight] = w_EI.t()
    if gain in state_dict:
        state_dict[weight] = fold_gain(*take(state_dict, {weight: "PE", gain: "E"}))
    if cell.weight_proj is None and factor in state_dict:  # 3.0 projects where 2.6 does not
        state_dict[weight] = multiply(*take(state_dict, {factor: "IP", weight: "PE"}))


def take(
    state_dict: MutableMapping[str, Any], shapes: Mapping[str, str], **sizes: int
) -> list[Tensor]:
    """Pop tensors whose shapes must agree, and return them.

    Args:
        shapes: a tensor's name to a letter for each of its dims; a letter is one size throughout.
        sizes: those known beforehand.

    Raises: ValueError naming the first tensor that is missing or does not fit; nothing is popped.
    """
    for name, letters in shapes.items():
        found = list(state_dict[name].shape) if name in state_dict else None
        wanted = [sizes.get(letter, letter) for letter in letters]
        if (
            found is None
            or len(found) != len(letters)
            or any(sizes.setdefault(x, n) != n for x, n in zip(letters, found, strict=True))
        ):
            beside = "".join(f" beside {other}" for other in shapes if other != name)
            shown = ", ".join(map(str, wanted))
            got = "nothing" if found is None else found
            raise ValueError(f"{name} must be [{shown}]{beside}, got {got}")
    return [state_dict.pop(name) for name in shapes]


def fold_gain(weight: Tensor, gain: Tensor) -> Tensor:
    """The weight that weight normalisation stands for: each column with `gain` as its length."""
    w = weight.double()
    return (w * (gain.double() / w.norm(dim=0))).to(weight.dtype)


def multiply(first: Tensor, second: Tensor) -> Tensor:
    """The matrix product in float64, rounded once."""
    return (first.double() @ second.double()).to(second.dtype)
