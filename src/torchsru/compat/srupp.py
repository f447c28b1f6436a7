"""From checkpoints of `sru.SRUpp`, SRU++ of the original's branch 3.0-dev, to `torchsru.SRUpp`.

    rnn_lst.{i}.transform_module.linear1.weight [P, F], .layer_norm.*
        with attention .linear2.weight [2 P, P], keys first; .linear3.weight [D k, P]; .alpha [1]
        without .linear2.weight [D k, P]
    rnn_lst.{i}.weight_c, .bias [2 D], .scale_x [1], .layer_norm.*

Letters: L time steps, B batch rows, F features of a layer's input, P projected features,
D channels, k matrices. Row (j k + m) of [D k, P] belongs to channel j and matrix m.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import torchsru
from torchsru.compat.checkpoints import count_layers
from torchsru.ops import sru_recurrence

#: Arguments of the original's constructor and their defaults; the first three have none.
ARGUMENTS: dict[str, Any] = {
    "input_size": None,
    "hidden_size": None,
    "proj_size": None,
    "num_layers": 2,
    "dropout": 0.0,
    "attn_dropout": 0.0,
    "num_heads": 1,
    "bidirectional": False,
    "layer_norm": False,
    "normalize_after": False,
    "attn_layer_norm": True,
    "highway_bias": -2.0,
    "attention_every_n_layers": 1,
    "attention_last_n_layers": -1,
    "rescale": False,
    "nn_rnn_compatible_return": False,
    "proj_input_to_hidden_first": False,
    "weight_c_init": 1.0,
}
INSIDE = "transform_module."


def is_srupp(state: Mapping[str, Any], prefix: str = "") -> bool:
    """Whether the state dict holds an `sru.SRUpp` at this prefix."""
    return f"{prefix}rnn_lst.0.{INSIDE}linear1.weight" in state


def plan(
    state: Mapping[str, Tensor], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of the `torchsru.SRUpp` that computes the same, and its state dict.

    Args:
        state: state dict of an `sru.SRUpp`, without prefix.
        given: arguments of its constructor. Without `rescale`, the checkpoint's own scale counts.

    Raises: ValueError naming the argument or tensor that does not fit.
    """
    for name in given:
        if name not in ARGUMENTS:
            raise ValueError(f"{name} must be an argument of sru.SRUpp: {', '.join(ARGUMENTS)}")
    a = ARGUMENTS | dict(given)
    for name, default in ARGUMENTS.items():
        if a[name] is None:
            raise ValueError(f"{name} must be given, as to the SRUpp that was saved")
        if isinstance(default, bool):
            if a[name] not in (False, True):
                raise ValueError(f"{name} must be true or false, got {a[name]!r}")
        elif isinstance(default, float):
            if not isinstance(a[name], (int, float)):
                raise ValueError(f"{name} must be a number, got {a[name]!r}")
        elif not isinstance(a[name], int) or isinstance(a[name], bool):
            raise ValueError(f"{name} must be an integer, got {a[name]!r}")
    if "input_to_hidden.weight" in state:
        raise ValueError(
            "input_to_hidden.weight has no place in a torchsru.SRUpp, whose highway starts at its "
            "input: load it into a torch.nn.Linear before the stack, take it out of the state dict "
            "and give input_size as the size of its output"
        )
    layers = count_layers(state)
    if a["num_layers"] != layers:
        raise ValueError(f"num_layers must be {layers} as in the checkpoint, got {a['num_layers']}")
    last = a["attention_last_n_layers"]
    arguments = {
        "input_size": a["input_size"],
        "hidden_size": a["hidden_size"],
        "projection_size": a["proj_size"],
        "num_layers": layers,
        "num_heads": a["num_heads"],
        "bidirectional": bool(a["bidirectional"]),
        "dropout": float(a["dropout"]),
        "attention_dropout": float(a["attn_dropout"]),
        "layer_norm": ("post" if a["normalize_after"] else "pre") if a["layer_norm"] else None,
        "attention_layer_norm": "post" if a["attn_layer_norm"] else None,
        "attention_every_n_layers": a["attention_every_n_layers"],
        "attention_last_n_layers": None if last == -1 else min(last, layers),
        **_highway(state, a["highway_bias"], given.get("rescale")),
    }
    rnn = torchsru.SRUpp(**arguments, device="meta")  # knows the sizes
    converted: dict[str, Tensor] = {}
    rest = dict(state)
    for i, cell in enumerate(rnn._cells()):
        here = f"rnn_lst.{i}."
        D, k, P = cell.output_size, cell.num_matrices, cell.projection_size
        attends = f"{here}{INSIDE}linear3.weight" in rest
        if attends != cell.attention:
            raise ValueError(
                f"attention_every_n_layers or attention_last_n_layers must give layer {i} "
                f"{'attention' if attends else 'none'} as in the checkpoint"
            )

        def take(name: str, *shape: int, here: str = here) -> Tensor:
            t = rest.pop(here + name, None)
            if t is None or t.shape != shape:
                got = "nothing" if t is None else list(t.shape)
                raise ValueError(f"{here}{name} must be {list(shape)}, got {got}")
            return t

        last_matrix = "linear3.weight" if attends else "linear2.weight"
        ours = {
            "transform.project.weight": take(INSIDE + "linear1.weight", P, cell.input_size),
            "transform.expand.weight": _by_matrix(take(INSIDE + last_matrix, D * k, P), k),
            "weight_c": take("weight_c", 2 * D).view(2, D),
            "bias": take("bias", 2 * D).view(2, D),
        }
        if attends:
            ours["transform.key_value.weight"] = take(INSIDE + "linear2.weight", 2 * P, P)
            alpha = here + INSIDE + "alpha"  # absent where it was switched off, and so 1
            like = ours["transform.project.weight"]
            ours["transform.alpha"] = (
                take(INSIDE + "alpha", 1) if alpha in rest else like.new_ones(1)
            )
        outer = cell.input_size if cell.layer_norm == "pre" else D
        norms = (
            (cell.layer_norm, "", "norm.", outer),
            (arguments["attention_layer_norm"], INSIDE, "transform.norm.", P),
        )
        for used, theirs, mine, size in norms:
            for part in ("weight", "bias") if used else ():
                ours[mine + part] = take(f"{theirs}layer_norm.{part}", size)
        rest.pop(here + "scale_x", None)
        converted |= {f"layers.{i}.{name}": t.clone() for name, t in ours.items()}
    if rest:
        raise ValueError(f"{sorted(rest)[0]} does not fit the arguments: it has no place")
    return arguments, converted


def _by_matrix(weight: Tensor, k: int) -> Tensor:
    """[D k, P], the matrices of a channel side by side, to [k D, P]."""
    return weight.unflatten(0, (-1, k)).transpose(0, 1).flatten(0, 1)


def _highway(state: Mapping[str, Tensor], bias: float, rescale: bool | None) -> dict[str, Any]:
    """`rescale` and the highway_bias that give the scale which the checkpoint has."""
    scales = {t.item() for name, t in state.items() if name.endswith("scale_x") and t.numel() == 1}
    if len(scales) > 1 or min(scales, default=1.0) < 1:
        raise ValueError(f"scale_x must be the same in all layers, 1 or more, got {sorted(scales)}")
    scale = scales.pop() if scales else 1.0
    if rescale is not None and bool(rescale) != (scale != 1):
        raise ValueError(f"rescale must be {scale != 1}: the checkpoint's scale_x is {scale:.6g}")
    if scale == 1 or math.isclose(scale, math.sqrt(1 + 2 * math.exp(bias)), rel_tol=1e-6):
        return {"rescale": scale != 1, "highway_bias": float(bias)}
    return {"rescale": True, "highway_bias": math.log((scale * scale - 1) / 2)}


def run(state: Mapping[str, Tensor], rnn: torchsru.SRUpp, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the original makes of x [L, B, input_size] in evaluation, with its causal mask if `rnn`
    has one: written out, from the state dict as it lies.

    Returns: h [L, B, D] and c as `torchsru.SRUpp` returns them.
    """
    L = x.shape[0]
    mask = x.new_full((L, L), -math.inf).triu(1) if rnn.causal else x.new_zeros(L, L)
    states = []
    for i, cell in enumerate(rnn._cells()):
        w = {n[len(f"rnn_lst.{i}.") :]: t.to(x) for n, t in state.items()
             if n.startswith(f"rnn_lst.{i}.")}  # fmt: skip
        D, k, n = cell.output_size, cell.num_matrices, cell.num_directions

        def norm(t: Tensor, name: str, w: Mapping[str, Tensor] = w) -> Tensor:
            return F.layer_norm(t, t.shape[-1:], w[name + "weight"], w[name + "bias"])

        z = norm(x, "layer_norm.") if cell.layer_norm == "pre" else x
        z = z @ w[INSIDE + "linear1.weight"].t()
        if cell.attention:
            q, kv = z, z @ w[INSIDE + "linear2.weight"].t()
            q, keys, values = (
                t.unflatten(-1, (cell.num_heads, -1)).permute(1, 2, 0, 3)
                for t in (q, *kv.chunk(2, -1))
            )
            scores = q @ keys.mT / math.sqrt(q.shape[-1]) + mask
            o = (scores.softmax(-1) @ values).permute(2, 0, 1, 3).flatten(2)
            z = z + w.get(INSIDE + "alpha", 1.0) * o
        if INSIDE + "layer_norm.weight" in w:
            z = norm(z, INSIDE + "layer_norm.")
        last = w[INSIDE + ("linear3.weight" if cell.attention else "linear2.weight")]
        u = (z @ last.t()).unflatten(-1, (D, k)).transpose(2, 3)
        scale = w["scale_x"].item() if k == 3 and "scale_x" in w else 1.0
        h, c = sru_recurrence(
            u, x if k == 3 else None, w["weight_c"].view(2, D), w["bias"].view(2, D),
            num_directions=n, alpha=scale,
        )  # fmt: skip
        x = norm(h, "layer_norm.") if cell.layer_norm == "post" else h
        states.append(c.unflatten(1, (n, -1)).transpose(0, 1))
    return x, torch.cat(states)
