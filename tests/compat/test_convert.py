"""From the original's layers to `torchsru.SRU`: numbers, options, and what is refused."""

import copy
import itertools
import json
from pathlib import Path

import pytest
import torch
from tests.docs.test_code_blocks import python_blocks
from tests.ops.helpers import worst
from torch import nn

import torchsru
from torchsru.compat import SRU, SRUCell, convert, from_state_dict, load
from torchsru.compat.convert import check_same, from_bytes, plan, to_bytes
from torchsru.train.checkpoint import write_folder

L, B, d = 5, 2, 4
SAVED = torch.load(Path(__file__).with_name("checkpoints.pt"), weights_only=True)
CASES = [
    pytest.param(case, id=f"{version} {case['arguments']}")
    for version, cases in SAVED.items()
    for case in cases
]
NORMS = [{}, {"layer_norm": True}, {"layer_norm": True, "normalize_after": True}]


def scattered(cls=SRU, **arguments):
    """A float64 layer with parameters off their starting points."""
    rnn = cls(**{"input_size": d + 1, "hidden_size": d} | arguments).double()
    for p in rnn.parameters():
        if p.requires_grad:
            nn.init.uniform_(p, -0.8, 0.8)
    return rnn


def as_ours(c, n):
    """[layers, B, n d] -> [layers n, B, d]."""
    layers, B, D = c.shape
    return c.view(layers, B, n, D // n).transpose(1, 2).flatten(0, 1)


def assert_same(theirs, mine, seed=None):
    """Outputs, states and the input's gradient; with a seed, the same dropout masks too."""
    n = theirs.num_directions
    x = torch.randn(L, B, theirs.input_size, dtype=torch.float64, requires_grad=True)
    c0 = torch.randn(theirs.num_layers, B, theirs.output_size, dtype=torch.float64)
    outputs = []
    for rnn, state in ((theirs, c0), (mine, as_ours(c0, n))):
        if seed is not None:
            torch.manual_seed(seed)
        h, c = rnn(x, state)
        outputs.append((h, c, torch.autograd.grad(h.sin().sum() + c.sin().sum(), x)[0]))
    (h, c, gx), (h_ours, c_ours, gx_ours) = outputs
    for got, expected in ((h_ours, h), (c_ours, as_ours(c, n)), (gx_ours, gx)):
        assert worst(got, expected) < 1e-6  # scale_x is rounded to float32


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_to_torchsru_over_the_options(bidirectional, norm):
    D, names = d * (2 if bidirectional else 1), ("rescale", "has_skip_term", "v1", "use_tanh")
    for flags in itertools.product([False, True], repeat=len(names)):
        for num_layers, size, projection in itertools.product((1, 3), (D, D + 1), (0, 2)):
            theirs = scattered(
                input_size=size, num_layers=num_layers, projection_size=projection,
                bidirectional=bidirectional, highway_bias=-1.0,
                **dict(zip(names, flags, strict=True)), **norm,
            )  # fmt: skip
            mine = theirs.to_torchsru()
            assert_same(theirs, mine)
            assert (mine.layers[0].weight_c is None) == theirs.rnn_lst[0].v1
            assert mine.layers[-1].projection_size == projection


def test_the_migration_guides_programs_agree():
    """docs/compat.md: the original's arguments, converted, are those that the guide shows."""
    page = (Path(__file__).parents[2] / "docs" / "compat.md").read_text(encoding="utf-8")
    theirs, mine = [b for b in python_blocks(page) if "dropout=0.2,\n" in b.code]
    assert theirs.skip and not mine.skip
    names = {}
    exec(theirs.code.replace("from sru import", "from torchsru.compat import"), names)
    converted = names["rnn"].to_torchsru()
    outputs = names["h"].shape, names["c"].shape
    exec(mine.code, names)
    assert repr(converted) == repr(names["rnn"])
    assert outputs == (names["h"].shape, names["c"].shape)
    names["rnn"].load_state_dict(converted.state_dict())


def test_dropout_is_in_the_same_places():
    theirs = scattered(input_size=d, num_layers=3, dropout=0.4, rnn_dropout=0.3)
    mine = theirs.to_torchsru()
    assert mine.training
    x = torch.randn(L, B, d, dtype=torch.float64)
    torch.manual_seed(1)
    h, _ = theirs(x)
    torch.manual_seed(1)
    assert worst(mine(x)[0], h) < 1e-12  # masks are drawn in the same order on a CPU
    assert worst(theirs.eval()(x)[0], h) > 0.01
    assert not theirs.to_torchsru().training


@pytest.mark.parametrize("has_skip_term", [False, True])
@pytest.mark.parametrize("norm", [{}, {"layer_norm": True, "normalize_after": True}], ids=str)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("projection", [0, 2])
def test_the_first_projection_is_folded(projection, num_layers, norm, has_skip_term):
    theirs = scattered(
        bidirectional=True, proj_input_to_hidden_first=True, num_layers=num_layers, rescale=True,
        highway_bias=-2.0, has_skip_term=has_skip_term, projection_size=projection, **norm,
    )  # fmt: skip
    mine = theirs.to_torchsru()
    assert mine.layers[0].projection_size == 0
    assert_same(theirs, mine)


def test_a_projection_of_some_layers_is_multiplied():
    theirs = scattered(input_size=3, num_layers=2, projection_size=3, bidirectional=True)
    assert [layer.projection_size for layer in theirs.rnn_lst] == [0, 3]
    assert_same(theirs, theirs.to_torchsru())


def test_scales_and_state_weights_are_what_they_are():
    theirs = scattered(input_size=d, rescale=True, highway_bias=-1.0)
    assert theirs.to_torchsru().layers[0].highway_bias == -1.0
    for scale in (1.0, 1.5):
        for layer in theirs.rnn_lst:
            layer.scale_x.fill_(scale)
        assert_same(theirs, theirs.to_torchsru())
    frozen = scattered(input_size=d, v1=True)
    nn.init.normal_(frozen.rnn_lst[1].weight_c)  # as a checkpoint may bring them
    assert_same(frozen, frozen.to_torchsru())


@pytest.mark.parametrize("options", [{}, {"projection_size": 2}, {"layer_norm": True}], ids=str)
def test_a_cell_alone(options):
    options = {"n_proj" if n == "projection_size" else n: v for n, v in options.items()}
    cell = scattered(SRUCell, input_size=d, use_tanh=1, dropout=0.2, highway_bias=-1, **options)
    mine = cell.eval().to_torchsru()
    assert isinstance(mine, torchsru.SRUCell) and mine.state_dropout == 0.2 and not mine.training
    x, c0 = torch.randn(L, B, d, dtype=torch.float64), torch.randn(B, d, dtype=torch.float64)
    (h, c), (h_ours, c_ours) = cell(x, c0), mine(x, c0[None])
    assert worst(h_ours, h) < 1e-6 and worst(c_ours[0], c) < 1e-6


def test_what_torchsru_cannot_do_is_refused():
    with pytest.raises(ValueError, match="custom_m must be None"):
        SRU(d, d, custom_m=nn.Linear(d, 3 * d)).to_torchsru()
    first = {"proj_input_to_hidden_first": True}
    with pytest.raises(ValueError, match="layer_norm before the product can't follow proj_input"):
        SRU(d + 1, d, layer_norm=True, **first).to_torchsru()
    with pytest.raises(ValueError, match=r"rnn_dropout must be 0 beside proj_input.* got 0.5"):
        SRU(d + 1, d, rnn_dropout=0.5, **first).to_torchsru()
    rnn = SRU(d, d, 2, rescale=True)
    rnn.rnn_lst[0].scale_x.fill_(2)
    with pytest.raises(ValueError, match=r"scale_x must be the same in all layers, got \[1.7"):
        rnn.to_torchsru()
    rnn.rnn_lst[1].scale_x.fill_(0.5)
    rnn.rnn_lst[0].scale_x.fill_(0.5)
    with pytest.raises(ValueError, match=r"scale_x must be 1 or more, got 0.5"):
        rnn.to_torchsru()


# ---- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_convert_takes_any_versions_arguments(case):
    """As they were given then; the file's outputs are the version's own."""
    rnn = convert(case["state_dict"], **case["arguments"]).eval()
    h, _ = rnn(case["x"], as_ours(case["c0"], rnn.num_directions))
    assert worst(h, case["h"]) <= 1e-5


@pytest.mark.parametrize("case", CASES)
def test_written_and_read_back(case, tmp_path):
    original = from_state_dict(case["state_dict"], **case["arguments"])
    write_folder(tmp_path / "out", to_bytes(plan(original)))
    rnn = load(tmp_path / "out")
    for name, t in convert(case["state_dict"], **case["arguments"]).state_dict().items():
        assert torch.equal(rnn.state_dict()[name], t), name
    assert check_same(original, rnn) < 1e-6
    x = 1e-3 * case["x"]  # where a layer norm's eps counts
    assert worst(rnn(x)[0], original(x)[0]) <= 1e-5


def test_the_check_can_fail():
    original = scattered(bidirectional=True)
    ours = original.to_torchsru()
    with torch.no_grad():
        ours.layers[1].bias[0, 0] += 1e-3
    with pytest.raises(ValueError, match=r"the converted layer is off by .* more than 1e-05"):
        check_same(original, ours)


def test_damaged_files_are_refused(tmp_path):
    files = to_bytes(plan(SRU(d, d)))
    about = json.loads(files["sru.json"])
    with pytest.raises(ValueError, match="format must be 1, got 2"):
        from_bytes(files | {"sru.json": json.dumps(about | {"format": 2}).encode()})
    for damaged in (
        {"model.safetensors": files["model.safetensors"][:50]},
        {"sru.json": json.dumps(about | {"arguments": {"input_size": d}}).encode()},
        {"sru.json": b"[]"},
    ):
        with pytest.raises(ValueError, match="not what torchsru convert writes"):
            from_bytes(files | damaged)
    with pytest.raises(ValueError, match=r"nowhere.*sru.json can't be read"):
        load(tmp_path / "nowhere")


STATE = SRU(d + 1, d).state_dict()
SIZES = {"input_size": d + 1, "hidden_size": d}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (SIZES | {"use_relu": True}, "use_relu must be off, got True: ReLU was removed"),
        (SIZES | {"use_selu": 1}, "use_selu must be off, got 1: SeLU was removed"),
        (SIZES | {"custom_u": nn.Linear(1, 1)}, "custom_u must be off"),
        (SIZES | {"hiden_size": 3}, "hiden_size must be an argument of sru.SRU: input_size, hid"),
        ({"input_size": d + 1}, "hidden_size must be given"),
        (SIZES | {"num_layers": 3}, "num_layers must be 2 as in the checkpoint, got 3"),
        (SIZES | {"bidirectional": "no"}, "bidirectional must be true or false, got 'no'"),
        (SIZES | {"highway_bias": "x"}, "highway_bias must be a number, got 'x'"),
        (SIZES | {"projection_size": "2"}, "projection_size must be 0 or more, .* got '2'"),
        (SIZES | {"projection_size": 2}, None),  # not in the checkpoint: left out
        (SIZES | {"use_relu": False, "weight_norm": True, "n_proj": 0}, None),
        (SIZES | {"hidden_size": d + 1}, "the state dict does not fit the arguments: .*weight"),
        (SIZES | {"layer_norm": True}, "does not fit the arguments: .*layer_norm.weight"),
        (SIZES | {"prefix": "rnn."}, r"prefix must be one of \[''\], got 'rnn.'"),
    ],
)
def test_convert_names_what_is_wrong(arguments, named):
    if named is None:
        assert convert(STATE, **arguments).input_size == d + 1
    else:
        with pytest.raises(ValueError, match=f"(?s){named}"):
            convert(STATE, **arguments)


DAMAGE = {
    "missing": None,
    "a number": lambda t: torch.ones((), dtype=t.dtype),
    "empty": lambda t: t.new_zeros(0),
    "flat": lambda t: t.flatten(),
    "a row more": lambda t: torch.cat([t, t[:1]]),
    "one dim more": lambda t: t[..., None],
    "whole numbers": lambda t: t.to(torch.int64),
}


@pytest.mark.parametrize("case", CASES)
def test_damage_is_refused_and_nothing_else_happens(case):
    """Any one tensor missing or misshapen: a ValueError, or a layer that can be made without it."""
    refused = 0
    for name, t in case["state_dict"].items():
        for damage in DAMAGE.values():
            state = {n: v for n, v in case["state_dict"].items() if n != name}
            state |= {} if damage is None else {name: damage(t)}
            try:
                convert(state, **case["arguments"])
            except ValueError:
                refused += 1
    assert refused >= 4 * len(case["state_dict"])


def test_a_state_dict_without_floating_point_is_refused():
    state = {name: t.to(torch.int64) for name, t in STATE.items()}
    with pytest.raises(ValueError, match=r"must hold floating-point tensors, got torch.int64$"):
        convert(state, **SIZES)


def test_convert_finds_the_layer_in_a_model():
    model = {f"a.b.{name}": t for name, t in STATE.items()} | {"a.head.weight": torch.ones(1)}
    before = copy.deepcopy(model)
    assert convert(model, prefix="a.b.", **SIZES).hidden_size == d
    assert model.keys() == before.keys()
    with pytest.raises(ValueError, match=r"prefix must be one of \['a.b.'\], got ''"):
        convert(model, **SIZES)
    with pytest.raises(ValueError, match="prefix must be where an SRU is, but there is none"):
        convert({"weight": torch.ones(1)}, **SIZES)
    with pytest.raises(ValueError, match=r"a.b.rnn_lst.0.note must be a tensor, got str"):
        convert(model | {"a.b.rnn_lst.0.note": "x"}, prefix="a.b.", **SIZES)
