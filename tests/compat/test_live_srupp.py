"""Against SRU++ of the package sru 3.0.0.dev6 itself: outputs, states, what is remembered and
gradients, in float32 and float64; and its checkpoints."""

import inspect
import json
import math

import pytest
import torch
from tests.compat import srupp_oracle
from tests.ops.helpers import worst
from torch import nn

import torchsru.compat
from torchsru import SRUpp
from torchsru.cli import main
from torchsru.compat import convert
from torchsru.compat.srupp import ARGUMENTS, plan
from torchsru.nn.state import detach

L, B, I, d, P, M = 5, 2, 7, 6, 4, 3  # noqa: E741
SIZES = {"input_size": I, "hidden_size": d, "proj_size": P}
#: Of a tensor's largest value: outputs, gradients, and the gradient of alpha, one number, which is
#: a sum of everything and cancels. In float64 too scales are float32.
BARS = {torch.float32: (1e-5, 1e-4, 1e-3), torch.float64: (1e-6, 1e-6, 1e-6)}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Running SRU on CPU"),
    pytest.mark.filterwarnings("ignore:Just-in-time loading"),
]


@pytest.fixture(scope="session")
def sru():
    return srupp_oracle.load()


@pytest.fixture(params=list(BARS), ids=str)
def both_types(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(before)


def assert_close(named, gradients=False):
    """Of {name: (ours, theirs)}, name what is off."""
    bars = BARS[torch.get_default_dtype()]
    off = {name: worst(got, want) for name, (got, want) in named.items()}
    bar = {name: bars[gradients + (gradients and name.endswith("alpha"))] for name in off}
    assert {name: f"{value:.1e}" for name, value in off.items() if not value <= bar[name]} == {}


def original(sru, **options):
    """The original off its starting point, where attention is switched off."""
    theirs = sru.SRUpp(**SIZES | options)
    for name, p in theirs.named_parameters():
        nn.init.uniform_(p, *((0.5, 1.5) if "norm.weight" in name else (-0.8, 0.8)))
    return theirs


def pair(sru, **options):
    theirs = original(sru, **options)
    return theirs, convert(theirs.state_dict(), **SIZES | options)


def additive(steps, keys, band=None):
    """The original's attn_mask: causal from the lower right corner, no more than `band` back."""
    back = torch.arange(keys - steps, keys)[:, None] - torch.arange(keys)
    hidden = (back < 0) | (back > (keys if band is None else band))
    return torch.zeros(steps, keys).masked_fill(hidden, -math.inf)


def stacked(c, n):
    """[layers, B, n d] -> [layers n, B, d]."""
    return c.unflatten(2, (n, -1)).transpose(1, 2).flatten(0, 1)


def in_ours(theirs, gradients):
    """Gradients by our parameters' names: they are laid out as the parameters."""
    names = [name for name, _ in theirs.named_parameters()]
    scales = {n: t for n, t in theirs.state_dict().items() if n.endswith("scale_x")}
    return dict(zip(names, gradients, strict=True)) | scales


def compare(theirs, mine, options, outputs, x):
    """Outputs by name, (ours, theirs); and gradients of x and of every parameter."""
    assert_close(outputs)
    grads = []
    for side, rnn in ((0, mine), (1, theirs)):
        tensors = [outputs[name][side] for name in ("h", "c")]
        rng = torch.Generator().manual_seed(5)
        seeds = [torch.randn(t.shape, generator=rng) for t in tensors]
        wrt = [x, *(p for p in rnn.parameters())]
        grads.append(torch.autograd.grad(tensors, wrt, seeds))
    (gx, *got), (gx_theirs, *want) = grads
    _, converted = plan(in_ours(theirs, want), SIZES | options)
    names = [name for name, _ in mine.named_parameters()]
    assert set(names) == set(converted)
    pairs = {name: (g, converted[name]) for name, g in zip(names, got, strict=True)}
    assert_close(pairs | {"x": (gx, gx_theirs)}, gradients=True)


OPTIONS = [
    {},
    {"num_heads": 2, "num_layers": 3},
    {"num_heads": 4, "attn_layer_norm": False},
    {"attention_every_n_layers": 2, "num_layers": 4},
    {"attention_last_n_layers": 1, "num_layers": 3},
    {"layer_norm": True, "normalize_after": True, "num_layers": 1},
    {"layer_norm": True},
    {"rescale": True, "highway_bias": -1.0, "num_layers": 3},
    {"input_size": d},
]
each = pytest.mark.parametrize("options", OPTIONS, ids=str)


@each
def test_a_segment(sru, both_types, options):
    theirs, mine = pair(sru, **options)
    layers = theirs.num_layers
    x = torch.randn(L, B, theirs.input_size, requires_grad=True)
    c0 = torch.randn(layers, B, d)
    h, c, bank = theirs(x, c0, attn_mask=additive(L, L))
    mine.memory_length = L
    h_ours, state = mine(x, {"c": c0})
    outputs = {"h": (h_ours, h), "c": (state["c"], c)}
    attending = [i for i, layer in enumerate(mine.layers) if layer.attention]
    for i, inputs in zip(attending, state["inputs"], strict=True):
        outputs[f"inputs {i}"] = inputs, bank["saved_inputs"][i]
    compare(theirs, mine, options, outputs, x)


@each
@pytest.mark.parametrize("mode", ["causal", "band", "evaluation"])
def test_segments_with_memory(sru, both_types, options, mode):
    """Plain causal masks, as the original's scripts train with, and bands, as they evaluate. In
    evaluation ours remembers keys and values, theirs inputs: gradients go other ways."""
    theirs, mine = pair(sru, **options)
    mine.train(mode != "evaluation").memory_length = M
    mine.same_length = None if mode == "evaluation" else mode == "band"
    c, state, memory = None, None, None
    for steps in (1, L, 2, L):
        x = torch.randn(steps, B, theirs.input_size, requires_grad=True)
        keys = steps + (0 if memory is None else len(memory[0]))
        mask = additive(steps, keys, None if mode == "causal" else M)
        c = None if c is None else c.detach()
        given = memory
        if options.get("layer_norm") and not options.get("normalize_after") and memory:
            # the original normalises a layer's input, but not what it remembers of it
            given = [norm.layer_norm(m) for norm, m in zip(theirs.rnn_lst, memory, strict=True)]
        h, c, bank = theirs(x, c, attn_mask=mask, memory=given)
        saved = [t.detach() for t in bank["saved_inputs"]]
        memory = saved if memory is None else [
            torch.cat(pair) for pair in zip(memory, saved, strict=True)
        ]  # fmt: skip
        memory = [m[-M:] for m in memory]
        h_ours, state = mine(x, detach(state))
        outputs = {"h": (h_ours, h), "c": (state["c"], c)}
        if mode == "evaluation":
            assert_close(outputs)
        else:
            compare(theirs, mine, options, outputs, x)


@each
def test_padding_and_both_directions(sru, both_types, options):
    """Without a mask of its own, the original's attention sees the whole segment but padding."""
    options = options | {"bidirectional": True}
    if "input_size" in options:
        options["input_size"] = 2 * d
    theirs, mine = pair(sru, **options)
    assert not mine.causal
    x = torch.randn(L, B, theirs.input_size, requires_grad=True)
    mask = torch.arange(L)[:, None] >= torch.tensor([L, 3])
    h, c, _ = theirs(x, mask_pad=mask)
    h_ours, state = mine(x, mask=mask)
    kept = ~mask[:, :, None]  # a layer norm of the output gives its bias at their padding
    outputs = {"h": (h_ours * kept, h * kept), "c": (state["c"], stacked(c, 2))}
    compare(theirs, mine, options, outputs, x)


def test_dropout_is_in_the_same_places(sru, both_types):
    """The same seed draws the same masks on a CPU."""
    options = {"dropout": 0.4, "attn_dropout": 0.3, "num_layers": 3, "attention_every_n_layers": 2}
    theirs, mine = pair(sru, **options)
    assert mine.train().attention_dropout == 0.3
    x = torch.randn(L, B, I, requires_grad=True)
    torch.manual_seed(1)
    h, c, _ = theirs(x, attn_mask=additive(L, L))
    torch.manual_seed(1)
    h_ours, state = mine(x)
    compare(theirs, mine, options, {"h": (h_ours, h), "c": (state["c"], c)}, x)
    assert worst(mine.eval()(x)[0], h) > 0.1


def test_parameters_start_from_the_same_distributions(sru):
    """Bounds and standard deviations, of a dropped last matrix too."""
    sizes = {"input_size": 200, "hidden_size": 300, "proj_size": 100, "dropout": 0.3}
    theirs = sru.SRUpp(**sizes)
    _, want = plan(theirs.state_dict(), sizes)
    mine = SRUpp(200, 300, 100, dropout=0.3)
    got = mine.state_dict()
    assert got.keys() == want.keys()
    for name, t in want.items():
        torch.testing.assert_close(got[name].double().abs().max(), t.double().abs().max(),
                                   rtol=0.02, atol=0)  # fmt: skip
        if t.numel() > 1000:
            torch.testing.assert_close(got[name].std(), t.std(), rtol=0.03, atol=0)


def test_a_wrong_conversion_shows(sru):
    theirs = original(sru)
    state = theirs.state_dict()
    name = "rnn_lst.0.transform_module.linear3.weight"
    mine = convert({**state, name: state[name].roll(1, 0)}, **SIZES)
    x = torch.randn(L, B, I, requires_grad=True)
    h, c, _ = theirs(x, attn_mask=additive(L, L))
    h_ours, end = mine(x)
    with pytest.raises(AssertionError):
        compare(theirs, mine, {}, {"h": (h_ours, h), "c": (end["c"], c)}, x)


# ---- checkpoints ---------------------------------------------------------------------------------


def test_the_arguments_are_the_originals(sru):
    found = inspect.signature(sru.SRUpp).parameters.values()
    assert {p.name: None if p.default is p.empty else p.default for p in found} == ARGUMENTS


@each
def test_the_command_converts_and_compares(sru, options, tmp_path, capsys):
    theirs = original(sru, **options)
    inside = {f"rnn.{name}": t for name, t in theirs.state_dict().items()}
    torch.save({"model": inside}, tmp_path / "old.pt")
    argv = ["convert", str(tmp_path / "old.pt"), "--prefix", "model.rnn."]
    argv += ["--kwargs", json.dumps(SIZES | options), "--out", str(tmp_path / "new")]
    assert main(argv) == 0
    assert "torchsru.compat.load" in capsys.readouterr().out
    mine = torchsru.compat.load(tmp_path / "new")
    assert isinstance(mine, SRUpp)
    x = torch.randn(L, B, theirs.input_size)
    h, _, _ = theirs(x, attn_mask=additive(L, L))
    assert_close({"h": (mine(x)[0], h)})


def test_rezero_switched_off_and_a_scale_of_its_own(sru):
    """What has no alpha adds attention as it is; the scale is the checkpoint's."""
    state = original(sru, rescale=True, highway_bias=-1.0).state_dict()
    for i in range(2):
        state[f"rnn_lst.{i}.transform_module.alpha"].fill_(1)
        state[f"rnn_lst.{i}.scale_x"].fill_(1.25)
    mine = convert(state, **SIZES)
    assert mine.layers[1].alpha == pytest.approx(1.25)
    less = {name: t for name, t in state.items() if not name.endswith("alpha")}
    x = torch.randn(L, B, I)
    torch.testing.assert_close(convert(less, **SIZES)(x), mine(x), rtol=0, atol=0)


INSIDE = "rnn_lst.0.transform_module."


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"proj_size": None}, "proj_size must be given, as to the SRUpp that was saved"),
        ({}, {"projection_size": 4}, "projection_size must be an argument of sru.SRUpp: input_"),
        ({}, {"num_layers": 3}, "num_layers must be 2 as in the checkpoint, got 3"),
        ({}, {"proj_size": 5}, rf"{INSIDE}linear1.weight must be \[5, 7\], got \[4, 7\]"),
        ({}, {"attn_layer_norm": 2}, "attn_layer_norm must be true or false, got 2"),
        ({}, {"highway_bias": "-2"}, "highway_bias must be a number, got '-2'"),
        ({}, {"num_heads": 1.5}, "num_heads must be an integer, got 1.5"),
        ({}, {"num_heads": 3}, "projection_size must divide into num_heads, got 4 and 3"),
        ({}, {"attn_layer_norm": False}, f"{INSIDE}layer_norm.bias does not fit the arguments"),
        ({}, {"layer_norm": True}, r"rnn_lst.0.layer_norm.weight must be \[7\], got nothing"),
        ({}, {"rescale": True}, "rescale must be False: the checkpoint's scale_x is 1"),
        (
            {}, {"attention_every_n_layers": 2},
            "must give layer 0 attention as in the checkpoint",
        ),
        ({"rnn_lst.1.bias": None}, {}, r"rnn_lst.1.bias must be \[12\], got nothing"),
        ({"rnn_lst.1.bias": "x"}, {}, "rnn_lst.1.bias must be a tensor, got str"),
        ({"rnn_lst.1.extra": torch.ones(1)}, {}, "rnn_lst.1.extra does not fit the arguments"),
        (
            {"rnn_lst.0.scale_x": torch.tensor([1.5])}, {},
            r"scale_x must be the same in all layers, 1 or more, got \[1.0, 1.5\]",
        ),
        (
            {"input_to_hidden.weight": torch.ones(d, I)}, {},
            r"input_to_hidden.weight has no place .* torch.nn.Linear before the stack",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_refused(sru, change, arguments, message):
    state = {n: t for n, t in (original(sru).state_dict() | change).items() if t is not None}
    with pytest.raises(ValueError, match=message):
        convert(state, **SIZES | arguments)


def test_compat_sru_names_the_way(sru):
    with pytest.raises(RuntimeError, match=r"belongs to SRU\+\+: torchsru.compat.convert makes"):
        torchsru.compat.SRU(I, d).load_state_dict(original(sru).state_dict())


def test_the_comparison_before_writing_can_fail(sru, tmp_path, capsys, monkeypatch):
    torch.save(original(sru).state_dict(), tmp_path / "old.pt")
    monkeypatch.setattr("torchsru.compat.srupp._by_matrix", lambda weight, k: weight)
    argv = ["convert", str(tmp_path / "old.pt"), "--kwargs", json.dumps(SIZES)]
    assert main([*argv, "--out", str(tmp_path / "new")]) == 2
    assert "the converted layer is off by" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
