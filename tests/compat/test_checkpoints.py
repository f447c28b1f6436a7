"""State dicts of every version: files that the versions wrote (make_checkpoints.py), and refusals.

Letters: L time steps, B batch rows, d hidden size, n directions.
"""

import copy
from pathlib import Path

import pytest
import torch
from tests.ops.helpers import worst
from torch import nn

from torchsru.compat import SRU, SRUCell
from torchsru.compat.checkpoints import as_2_6

SAVED = torch.load(Path(__file__).with_name("checkpoints.pt"), weights_only=True)
CASES = [
    pytest.param(version, case, id=f"{version} {case['arguments']}")
    for version, cases in SAVED.items()
    for case in cases
]
BAR = 1e-5


def constructor_arguments(version, case):
    """The arguments as a user gives them to 2.6.0."""
    arguments = as_2_6(case["arguments"])
    if version == "2.0.0":
        arguments["rescale"] = True  # the default of then
    if version == "2.1.7":
        arguments |= {"normalize_after": True} if "layer_norm" in arguments else {}
        arguments |= {"projection_size": 0} if "projection_size" in arguments else {}
    if isinstance(arguments.get("projection_size"), list):
        arguments["projection_size"] = 0  # of different sizes per layer: multiplied
    return arguments


def expected_state(version, case):
    """c [layers, B, D]. Up to 2.1.7, the CPU's loop gave [n, B, d] viewed as [B, n d]."""
    c = case["c"]
    if version in ("2.0.0", "2.1.7") and case["arguments"].get("bidirectional"):
        layers, B, D = c.shape
        c = c.view(layers, 2, B, D // 2).transpose(1, 2).reshape(layers, B, D)
    return c


def test_the_file_has_every_layout():
    keys = {v: {n for case in cases for n in case["state_dict"]} for v, cases in SAVED.items()}
    assert "rnn_lst.1.weight_proj" in keys["2.0.0"]
    assert {"ln_lst.0.a", "rnn_lst.0.gain"} <= keys["2.1.7"]
    assert {"rnn_lst.0.layer_norm.weight", "rnn_lst.0.weight_proj"} <= keys["2.1.9"]
    assert "input_to_hidden.weight" in keys["2.5.1"]
    assert {
        "rnn_lst.0.transform_module.weight",
        "rnn_lst.0.transform_module.1.weight",
    } <= keys["3.0.0.dev6"]


@pytest.mark.parametrize(("version", "case"), CASES)
def test_computes_what_its_version_did(version, case):
    rnn = SRU(**constructor_arguments(version, case)).eval()
    assert rnn.load_state_dict(case["state_dict"], strict=True)
    h, c = rnn(case["x"], case["c0"])
    assert worst(h, case["h"]) <= BAR and worst(c, expected_state(version, case)) <= BAR


@pytest.mark.parametrize(("version", "case"), CASES)
def test_saves_what_it_read(version, case):
    """Into a fresh module: nothing of an old layout is lost, such as a layer norm's eps."""
    first, second = (SRU(**constructor_arguments(version, case)).eval() for _ in range(2))
    first.load_state_dict(case["state_dict"])
    second.load_state_dict(first.state_dict(), strict=True)
    x = 1e-3 * case["x"]  # where eps counts
    torch.testing.assert_close(second(x), first(x), rtol=0, atol=0)


@pytest.mark.parametrize(("version", "case"), CASES)
def test_loads_as_part_of_a_model_and_leaves_the_state_dict_alone(version, case):
    model = nn.ModuleDict({"encoder": SRU(**constructor_arguments(version, case))}).eval()
    state = {f"encoder.{name}": t for name, t in case["state_dict"].items()}
    before = copy.deepcopy(state)
    model.load_state_dict(state)
    assert worst(model["encoder"](case["x"], case["c0"])[0], case["h"]) <= BAR
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)


def saved(version, **options):
    """The first case of the version that has these options; a copy."""
    for case in SAVED[version]:
        if options.items() <= case["arguments"].items():
            return copy.deepcopy(case)
    raise LookupError(options)


def refusal(rnn, state):
    with pytest.raises(RuntimeError) as error:
        rnn.load_state_dict(state)
    return str(error.value)


def test_the_old_layer_norm_is_not_the_new_one():
    """The fixture would catch a wrong eps or variance: they make a difference there."""
    case = saved("2.1.7", layer_norm=True)
    rnn = SRU(4, 3, rescale=True, layer_norm=True, normalize_after=True).eval()
    rnn.load_state_dict(case["state_dict"])
    assert rnn.rnn_lst[0].layer_norm.eps == pytest.approx(1e-6 * 2 / 3)
    with torch.no_grad():
        rnn.rnn_lst[1].layer_norm.weight *= (3 / 2) ** 0.5
    assert worst(rnn(case["x"], case["c0"])[0], case["h"]) > 0.1


def test_a_usual_layer_norm_gets_its_usual_eps_back():
    rnn = SRU(4, 3, rescale=True, layer_norm=True, normalize_after=True)
    fresh = rnn.state_dict()
    rnn.load_state_dict(saved("2.1.7", layer_norm=True)["state_dict"])
    assert any(name.endswith("layer_norm.eps") for name in rnn.state_dict())
    rnn.load_state_dict(fresh)
    assert rnn.state_dict().keys() == fresh.keys()


def test_an_old_layer_norm_of_one_channel_did_nothing():
    state = SRU(2, 1, 1).state_dict() | {"ln_lst.0.a": torch.ones(1), "ln_lst.0.b": torch.ones(1)}
    SRU(2, 1, 1).load_state_dict(state)
    rnn = SRU(2, 1, 1, layer_norm=True, normalize_after=True)
    assert "layer_norm=False (one channel) must be given: ln_lst.0.a" in refusal(rnn, state)


@pytest.mark.parametrize("norm", [{}, {"layer_norm": True}])
def test_an_old_layer_norm_needs_its_arguments(norm):
    message = refusal(
        SRU(4, 3, rescale=True, **norm), saved("2.1.7", layer_norm=True)["state_dict"]
    )
    assert "layer_norm, normalize_after must be given: ln_lst.0.a is a layer norm" in message


def test_a_scale_is_not_dropped():
    message = refusal(SRU(4, 3), saved("2.0.0")["state_dict"])
    assert "rescale must be True: the checkpoint's rnn_lst.1.scale_x is 1.73205" in message
    assert "rnn_lst.0.scale_x" not in message  # a fourth matrix: its scale is in the weights
    state = SRUCell(4, 4).state_dict()
    assert "scale_x is 1.73205" in refusal(SRUCell(4, 4, rescale=False), state)


def test_the_number_of_layers_is_named():
    message = refusal(SRU(4, 3, 3), SRU(4, 3, 2).state_dict())
    assert "num_layers must be 2 as in the checkpoint, got 3" in message
    assert "num_layers must be 2 as in the checkpoint, got 1" in refusal(
        SRU(4, 3, 1), SRU(4, 3, 2).state_dict()
    )


def test_srupp_is_refused_by_name():
    state = SRU(4, 3).state_dict()
    state["rnn_lst.0.transform_module.linear1.weight"] = torch.ones(2, 4)
    assert "rnn_lst.0.transform_module.linear1.weight belongs to SRU++" in refusal(SRU(4, 3), state)


def test_weight_norm_of_a_cell_alone():
    cell = SRUCell(4, 4)
    state = cell.state_dict()
    gain = torch.rand(12) + 0.5
    state["gain"] = gain
    cell.load_state_dict(state)
    torch.testing.assert_close(cell.weight.norm(dim=0), gain)
    torch.testing.assert_close(
        cell.weight[0] / gain, state["weight"][0] / state["weight"].norm(dim=0)
    )


def test_a_module_of_3_0_becomes_custom_m():
    """`transform_module.*` of the user's own module, under its new name."""
    rnn = SRU(3, 3, custom_m=nn.Linear(3, 9))
    state = {
        name.replace("custom_m", "transform_module"): torch.full_like(t, i)
        for i, (name, t) in enumerate(rnn.state_dict().items())
        if "scale_x" not in name
    } | {f"rnn_lst.{i}.scale_x": torch.ones(1) for i in range(2)}
    rnn.load_state_dict(state)
    assert torch.equal(
        rnn.rnn_lst[1].custom_m.bias.detach(), state["rnn_lst.1.transform_module.bias"]
    )


def test_a_module_of_3_0_may_have_any_names():
    """`linear1` too, which SRU++ has."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear1, self.linear2 = nn.Linear(3, 2), nn.Linear(2, 9)

        def reset_parameters(self):
            self.linear1.reset_parameters()

        def forward(self, x):
            return self.linear2(self.linear1(x))

    saved, rnn = SRU(3, 3, custom_m=Deep()), SRU(3, 3, custom_m=Deep())
    x, state = torch.randn(4, 2, 3), saved.state_dict()
    rnn.load_state_dict({n.replace("custom_m", "transform_module"): t for n, t in state.items()})
    torch.testing.assert_close(rnn(x), saved(x), rtol=0, atol=0)


def test_a_scale_is_not_dropped_beside_a_custom_module():
    module = nn.Linear(3, 9)
    state = SRU(3, 3, custom_m=module, rescale=True).state_dict()
    message = refusal(SRU(3, 3, custom_m=module), state)
    assert "rescale must be True: the checkpoint's rnn_lst.0.scale_x is 1.73205" in message


@pytest.mark.parametrize(
    ("cell", "change", "named"),
    [
        ({}, {"transform_module.1.weight": (9, 2)},
         "transform_module.0.weight must be [P, I] beside transform_module.1.weight, got nothing"),
        ({}, {"transform_module.0.weight": (2, 3)},
         "transform_module.1.weight must be [E, 2] beside transform_module.0.weight, got nothing"),
        ({}, {"transform_module.0.weight": (2, 3), "transform_module.1.weight": (9, 4)},
         "transform_module.1.weight must be [E, 2] beside transform_module.0.weight, got [9, 4]"),
        ({}, {"transform_module.weight": (9,)},
         "transform_module.weight must be [E, I], got [9]"),
        ({}, {"gain": (9,), "weight": None}, "weight must be [P, E] beside gain, got nothing"),
        ({}, {"gain": (1,)}, "gain must be [9] beside weight, got [1]"),
        ({}, {"gain": ()}, "gain must be [9] beside weight, got []"),
        ({}, {"weight_proj": (3, 2), "weight": None},
         "weight must be [2, E] beside weight_proj, got nothing"),
        ({}, {"weight_proj": (3, 2)}, "weight must be [2, E] beside weight_proj, got [3, 9]"),
        ({"n_proj": 2}, {"weight": None}, 'Missing key(s) in state_dict: "weight"'),
        ({}, {"scale_x": (2,)}, "size mismatch for scale_x"),
        ({"rescale": False}, {"scale_x": (2,)}, "size mismatch for scale_x"),
    ],
)  # fmt: skip
def test_a_damaged_layer_is_refused_by_name(cell, change, named):
    state = SRUCell(3, 3, **cell).state_dict()
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.ones(shape)
    assert named in refusal(SRUCell(3, 3, **cell), state)


def test_a_damaged_layer_norm_is_refused_by_name():
    state = saved("2.1.7", layer_norm=True)["state_dict"]
    rnn = SRU(4, 3, rescale=True, layer_norm=True, normalize_after=True)
    message = refusal(rnn, state | {"ln_lst.1.a": torch.ones(0)})
    assert "ln_lst.1.a must be [3] beside ln_lst.1.b, got [0]" in message
    del state["ln_lst.0.b"]
    assert "ln_lst.0.b must be [3] beside ln_lst.0.a, got nothing" in refusal(rnn, state)


def test_strict_loading_still_refuses_strangers():
    state = saved("3.0.0.dev6", bidirectional=True)["state_dict"]
    state["rnn_lst.0.weight_q"] = torch.ones(1)
    del state["rnn_lst.1.bias"]
    message = refusal(SRU(4, 3, bidirectional=True), state)
    assert "rnn_lst.0.weight_q" in message and "rnn_lst.1.bias" in message
