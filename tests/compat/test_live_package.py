"""Against the package sru 2.6.0 itself, in float32: outputs, states and gradients within 1e-5 of
each tensor's largest value. With gradients it runs a loop in Python on a CPU: the oracle."""

import copy
import inspect
import itertools
import warnings

import pytest
import torch
from tests.ops.helpers import worst
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import torchsru.compat as ours

L, B, d = 4, 2, 6
BAR = 1e-5

pytestmark = [
    pytest.mark.filterwarnings("ignore:Running SRU on CPU"),
    pytest.mark.filterwarnings("ignore:rnn_dropout"),
    pytest.mark.filterwarnings("ignore:use_tanh"),
]


class Linear(nn.Module):
    """A custom_m that gives U, and with out_v also state weights V of every step."""

    def __init__(self, inputs, out_u, out_v=0):
        super().__init__()
        self.u = nn.Linear(inputs, out_u)
        self.v = nn.Linear(inputs, out_v) if out_v else None

    def reset_parameters(self):
        self.u.reset_parameters()

    def forward(self, x):
        return self.u(x) if self.v is None else (self.u(x), self.v(x))


def custom(kind, input_size, num_layers, D, skip):
    """One custom module per layer, or None."""
    if kind not in ("U", "UV"):
        return None
    sizes = [input_size] + [D] * (num_layers - 1)
    return [
        Linear(s, D * (4 if skip and s != D else 3), 2 * D if kind == "UV" else 0) for s in sizes
    ]


def pair(sru, cls="SRU", **arguments):
    """The original with parameters off their starting points, and ours with its state dict."""
    theirs = getattr(sru, cls)(**arguments)
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            nn.init.uniform_(p, -0.8, 0.8)
            if "layer_norm.weight" in name:
                nn.init.uniform_(p, 0.5, 1.5)
    mine = getattr(ours, cls)(**arguments)
    mine.load_state_dict(theirs.state_dict())
    return theirs, mine


def results(rnn, x, c0, mask, seeds):
    """Outputs, and gradients of the input, the state and every parameter, by name."""
    x = x.clone().requires_grad_()
    c0 = None if c0 is None else c0.clone().requires_grad_()
    with torch.random.fork_rng(devices=[], enabled=rnn.training):
        if rnn.training:  # the same seed draws the same masks, on a CPU
            torch.manual_seed(3)
        h, c = rnn(x, c0, mask)
    wrt = {"x": x, "c0": c0, **dict(rnn.named_parameters())}
    wrt = {name: t for name, t in wrt.items() if t is not None and t.requires_grad}
    grads = torch.autograd.grad((h, c), list(wrt.values()), seeds)
    return {"h": h.detach(), "c": c.detach()} | {
        f"d{name}": g for name, g in zip(wrt, grads, strict=True)
    }


def differences(theirs, mine, x, c0, mask, seeds):
    """What is off by more than the bar, by name.

    The original's own rounding alone can come to the bar (a layer norm of few channels): the
    original in float64 then decides whose fault it is.
    """
    expected, got = results(theirs, x, c0, mask, seeds), results(mine, x, c0, mask, seeds)
    assert expected.keys() == got.keys()
    off = {name: worst(got[name], expected[name]) for name in expected}
    if max(off.values()) <= BAR:
        return {}
    exact = results(
        copy.deepcopy(theirs).double(), x.double(), None if c0 is None else c0.double(), mask,
        [seed.double() for seed in seeds],
    )  # fmt: skip
    off = {name: min(value, worst(got[name], exact[name])) for name, value in off.items()}
    return {name: f"{value:.1e}" for name, value in off.items() if not value <= BAR}


NORMS = {
    None: {},
    "pre": {"layer_norm": True},
    "post": {"layer_norm": True, "normalize_after": True},
}
FLAGS = ("rescale", "has_skip_term", "v1", "use_tanh")
DROPS = {"dropout": 0.4, "rnn_dropout": 0.3}
SIZES = ("D", "D + 1", "D + 1, to D first")  # input_size; proj_input_to_hidden_first


RUNS = [  # training, with_mask, with_c0, nn_layout
    *itertools.product([False], *[[False, True]] * 3),
    (True, True, True, False),
]


@pytest.mark.parametrize("matrix", ["whole", "projected", "U", "UV"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_cross_product(sru, bidirectional, num_layers, norm, matrix):
    """Every combination of options, each in evaluation with and without padding, an initial state
    and, where it matters, the other layout of returned states; and in training, with dropout."""
    D, failed, count = d * (2 if bidirectional else 1), [], 0
    for values in itertools.product(SIZES, *[[False, True]] * len(FLAGS)):
        size, flags = values[0], dict(zip(FLAGS, values[1:], strict=True))
        input_size = D if size == "D" else D + 1
        first = size.endswith("first")
        arguments = {
            "input_size": input_size, "hidden_size": d, "num_layers": num_layers,
            "bidirectional": bidirectional, "highway_bias": -1.0,
            "projection_size": 2 if matrix == "projected" else 0,
            "proj_input_to_hidden_first": first, **DROPS, **NORMS[norm], **flags,
        }  # fmt: skip
        inner = D if first else input_size
        arguments["custom_m"] = custom(matrix, inner, num_layers, D, flags["has_skip_term"])
        theirs, mine = pair(sru, **arguments)
        x, c0 = torch.randn(L, B, input_size), torch.randn(num_layers, B, D)
        mask = (torch.arange(L)[:, None] == torch.tensor([L - 1, 1])).byte()
        seeds = [torch.randn(L, B, D), torch.randn(num_layers, B, D)]
        for training, with_mask, with_c0, nn_layout in RUNS:
            if nn_layout and not bidirectional:  # the two layouts are one
                continue
            theirs.train(training)
            mine.train(training)
            theirs.nn_rnn_compatible_return = mine.nn_rnn_compatible_return = nn_layout
            of_state = seeds[1].view(-1, B, d) if nn_layout else seeds[1]
            off = differences(
                theirs, mine, x, c0 if with_c0 else None, mask if with_mask else None,
                [seeds[0], of_state],
            )  # fmt: skip
            count += 1
            if off:
                failed.append((size, flags, training, with_mask, with_c0, nn_layout, off))
    assert count == len(SIZES) * 2 ** len(FLAGS) * (9 if bidirectional else 5)
    assert not failed, f"{len(failed)} of {count}, such as {failed[:3]}"


@pytest.mark.parametrize("matrix", ["whole", "projected", "U", "UV"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_cross_product_of_the_cell(sru, bidirectional, matrix):
    """`SRUCell` alone: bare, with padding and an initial state, and so in training."""
    D, failed, count = d * (2 if bidirectional else 1), [], 0
    for values in itertools.product(NORMS, (D, D + 1), *[[False, True]] * len(FLAGS)):
        norm, input_size = values[:2]
        flags = dict(zip(FLAGS, values[2:], strict=True))
        [module] = custom(matrix, input_size, 1, D, flags["has_skip_term"]) or [None]
        theirs, mine = pair(
            sru, "SRUCell", input_size=input_size, hidden_size=d, bidirectional=bidirectional,
            highway_bias=-1.0, n_proj=2 if matrix == "projected" else 0, custom_m=module,
            **DROPS, **NORMS[norm], **flags,
        )  # fmt: skip
        x, c0 = torch.randn(L, B, input_size), torch.randn(B, D)
        mask = (torch.arange(L)[:, None] == torch.tensor([L - 1, 1])).byte()
        seeds = [torch.randn(L, B, D), torch.randn(B, D)]
        for training, rest in ((False, (None, None)), (False, (c0, mask)), (True, (c0, mask))):
            theirs.train(training)
            mine.train(training)
            off = differences(theirs, mine, x, *rest, seeds)
            count += 1
            if off:
                failed.append((norm, input_size, flags, training, rest[0] is None, off))
    assert count == 3 * len(NORMS) * 2 * 2 ** len(FLAGS)
    assert not failed, f"{len(failed)} of {count}, such as {failed[:3]}"


def test_the_check_can_fail(sru):
    theirs, mine = pair(sru, input_size=d, hidden_size=d)
    arguments = torch.randn(L, B, d), None, None, [torch.randn(L, B, d), torch.randn(2, B, d)]
    assert differences(theirs, mine, *arguments) == {}
    with torch.no_grad():
        mine.rnn_lst[0].weight_c[0] += 1e-3
    assert {"h", "c", "dx", "drnn_lst.0.weight"} <= differences(theirs, mine, *arguments).keys()


@pytest.mark.parametrize("name", DROPS)
def test_the_check_of_dropout_can_fail(sru, name):
    """In each of the two places, a mask that one of both does not draw."""
    theirs, mine = pair(sru, input_size=d, hidden_size=d, **DROPS)
    arguments = torch.randn(L, B, d), None, None, [torch.randn(L, B, d), torch.randn(2, B, d)]
    assert differences(theirs, mine, *arguments) == {}
    setattr(mine.rnn_lst[0], name, 0.0)
    assert {"h", "c", "dx", "drnn_lst.0.weight"} <= differences(theirs, mine, *arguments).keys()
    assert differences(theirs.eval(), mine.eval(), *arguments) == {}


# ---- names, signatures, attributes ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["__init__", "forward", "reset_parameters"])
@pytest.mark.parametrize("cls", ["SRU", "SRUCell"])
def test_signatures(sru, cls, method):
    """Names, order, defaults and kinds: positional calls mean the same."""
    theirs, mine = (
        list(inspect.signature(getattr(getattr(package, cls), method)).parameters.values())
        for package in (sru, ours)
    )
    assert [(p.name, p.default, p.kind) for p in mine] == [
        (p.name, p.default, p.kind) for p in theirs
    ]


OPTIONS = [
    {},
    {"bidirectional": True, "use_tanh": 1},
    {"dropout": 0.3, "rnn_dropout": 0.2},
    {"projection_size": 2, "rescale": True, "highway_bias": -2.0},
    {"layer_norm": True, "v1": True},
    {"layer_norm": True, "normalize_after": True, "weight_c_init": 0.3},
    {"proj_input_to_hidden_first": True, "has_skip_term": False, "nn_rnn_compatible_return": True},
    {"amp_recurrence_fp16": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_attributes_and_initial_values(sru, options):
    """The same seed draws the same parameters; attributes that users touch have the same values."""
    made = []
    for package in (sru, ours):
        torch.manual_seed(5)
        made.append(package.SRU(d + 1, d, 2, **options))
    for theirs, mine in (made, [m.rnn_lst[1] for m in made]):
        for name, value in vars(theirs).items():
            if not name.startswith("_"):
                assert getattr(mine, name) == value, name
        names, mine_names = ({n for n, _ in m.named_modules()} for m in (theirs, mine))
        assert names == mine_names
    theirs, mine = (m.state_dict() for m in made)
    assert list(theirs) == list(mine)
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name])
    for (name, p), (_, q) in zip(*[m.named_parameters() for m in made], strict=True):
        assert p.requires_grad == q.requires_grad, name
    for m in made:
        torch.manual_seed(7)
        m.reset_parameters()
    torch.testing.assert_close(made[1].state_dict(), made[0].state_dict())


@pytest.mark.parametrize("matrix", ["whole", "projected", "U", "UV"])
@pytest.mark.parametrize("cls", ["SRU", "SRUCell"])
def test_initial_values_of_the_cross_product(sru, cls, matrix):
    """The same seed draws the same parameters, with dropout and weight_c_init too."""
    stack, names = cls == "SRU", ("bidirectional", "rescale", "has_skip_term", "v1")
    product = itertools.product(
        SIZES[: 3 if stack else 2], ({}, DROPS), (None, 0.3), NORMS, *[[False, True]] * len(names)
    )
    for size, drops, bound, norm, *values in product:
        flags = dict(zip(names, values, strict=True))
        D, first = d * (2 if flags["bidirectional"] else 1), size.endswith("first")
        input_size = D if size == "D" else D + 1
        modules = custom(matrix, D if first else input_size, 2, D, flags["has_skip_term"])
        arguments = {
            "input_size": input_size, "hidden_size": d, "highway_bias": -1.0,
            "projection_size" if stack else "n_proj": 2 if matrix == "projected" else 0,
            "custom_m": modules if stack or modules is None else modules[0],
            "weight_c_init": bound, **drops, **NORMS[norm], **flags,
        }  # fmt: skip
        if stack:
            arguments["proj_input_to_hidden_first"] = first
        states = []
        for package in (sru, ours):
            torch.manual_seed(5)
            state = getattr(package, cls)(**arguments).state_dict()
            states.append({name: t.clone() for name, t in state.items()})
        assert list(states[0]) == list(states[1])
        torch.testing.assert_close(states[1], states[0])
        for c in (t for name, t in states[1].items() if name.endswith("weight_c")):
            assert c.abs().max() <= (bound or 1.5**0.5) and c.any() != flags["v1"]


@pytest.mark.parametrize("options", [*OPTIONS, {"custom_m": True}], ids=str)
def test_state_dicts_go_both_ways(sru, options):
    if "custom_m" in options:
        options = {"custom_m": custom("UV", d + 1, 2, d, True)}
    theirs, mine = sru.SRU(d + 1, d, 2, **options), ours.SRU(d + 1, d, 2, **options)
    assert theirs.load_state_dict(mine.state_dict(), strict=True)
    x = torch.randn(L, B, d + 1)
    for a, b in zip(mine.eval()(x), theirs.eval()(x), strict=True):
        assert worst(a.detach(), b.detach()) <= BAR


# ---- what the cross product leaves out -----------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("drops", [(0.5, 0.0), (0.0, 0.5), (0.4, 0.3)])
def test_dropout_in_training(sru, drops, bidirectional, norm):
    """Each of the two alone, and both; three layers, so that one in the middle has both."""
    arguments = {"dropout": drops[0], "rnn_dropout": drops[1], "bidirectional": bidirectional}
    theirs, mine = pair(
        sru, input_size=d + 1, hidden_size=d, num_layers=3, **arguments, **NORMS[norm]
    )
    D = mine.output_size
    x, seeds = torch.randn(L, B, d + 1), [torch.randn(L, B, D), torch.randn(3, B, D)]
    assert differences(theirs, mine, x, None, None, seeds) == {}
    h = results(mine, x, None, None, seeds)["h"]
    assert worst(h, mine.eval()(x)[0].detach()) > 0.05  # something was dropped


@pytest.mark.parametrize("nn_layout", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences(sru, enforce_sorted, nn_layout):
    theirs, mine = pair(
        sru, input_size=d + 1, hidden_size=d, bidirectional=True, nn_rnn_compatible_return=nn_layout
    )
    lengths = [4, 3, 3, 1] if enforce_sorted else [3, 1, 4, 3]
    steps = [torch.randn(n, d + 1) for n in lengths]
    c0 = torch.randn(2, 4, 2 * d)
    packed = pack_sequence(steps, enforce_sorted)
    (h, c), (h_ours, c_ours) = theirs(packed, c0), mine(packed, c0)
    (expected, _), (got, got_lengths) = pad_packed_sequence(h), pad_packed_sequence(h_ours)
    assert got_lengths.tolist() == lengths
    assert worst(got, expected) <= BAR and worst(c_ours, c) <= BAR
    # the data in the input's order, so that it lines up with packed targets
    torch.testing.assert_close(h_ours.batch_sizes, packed.batch_sizes)
    torch.testing.assert_close(h_ours.unsorted_indices, packed.unsorted_indices)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_one_custom_module_is_copied_per_layer(sru, bidirectional):
    D = 2 * d if bidirectional else d
    module = Linear(D, 3 * D, 2 * D)
    theirs, mine = pair(
        sru, input_size=D, hidden_size=d, bidirectional=bidirectional, custom_m=module
    )
    assert mine.rnn_lst[0].custom_m is not mine.rnn_lst[1].custom_m
    x, seeds = torch.randn(L, B, D), [torch.randn(L, B, D), torch.randn(2, B, D)]
    assert differences(theirs, mine, x, None, None, seeds) == {}


def test_the_cell_alone_as_drqa_builds_it(sru):
    """Its own defaults (rescale=True), and a wider batch than the matrix is deep."""
    theirs, mine = pair(
        sru, "SRUCell", input_size=2 * d, hidden_size=d, dropout=0.3, rnn_dropout=0.2, use_tanh=1,
        bidirectional=True,
    )  # fmt: skip
    assert mine.scale_x.item() == pytest.approx(3**0.5)
    for rnn in (theirs, mine):
        rnn.eval()
    x, c0 = torch.randn(9, 5, 2 * d), torch.randn(5, 2 * d)
    seeds = [torch.randn(9, 5, 2 * d), torch.randn(5, 2 * d)]
    assert differences(theirs, mine, x, c0, None, seeds) == {}


def test_a_step_at_a_time(sru):
    """From [B, input_size] the original returns [1, B, D] on a CPU, [B, D] on a GPU."""
    theirs, mine = pair(sru, "SRUCell", input_size=d + 1, hidden_size=d)
    c = c_ours = None
    for x_t in torch.randn(3, B, d + 1):
        (h, c), (h_ours, c_ours) = theirs(x_t, c), mine(x_t, c_ours, torch.zeros(B))
        assert (h.shape, h_ours.shape) == ((1, B, d), (B, d))
        assert worst(h_ours, h[0]) <= BAR and worst(c_ours, c) <= BAR


@pytest.mark.parametrize(
    "options",
    [{}, {"rescale": True, "layer_norm": True}, {"amp_recurrence_fp16": True}],
    ids=str,
)
def test_under_autocast_the_recurrence_is_in_float32(sru, options):
    theirs, mine = pair(sru, input_size=d, hidden_size=d, **options)
    x = torch.randn(L, B, d)
    with torch.autocast("cpu", torch.bfloat16):
        (h, c), (h_ours, c_ours) = theirs(x), mine(x)
    assert h.dtype == h_ours.dtype == c.dtype == c_ours.dtype == torch.float32
    assert worst(h_ours, h) <= 2e-2 and worst(c_ours, c) <= 2e-2  # bfloat16 products


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_size": 16, "hidden_size": 4, "num_layers": 4, "bidirectional": True},
        {"input_size": 5, "hidden_size": 8, "num_layers": 6, "projection_size": 2,
         "highway_bias": -3, "layer_norm": True, "rescale": True, "dropout": 0.2},
    ],
    ids=["TDFNet", "language model"],
)  # fmt: skip
def test_downstream_shapes_without_gradients(sru, arguments):
    """In inference the original runs its C++ kernel: right but for the bugs below."""
    theirs, mine = pair(sru, **arguments)
    x = torch.randn(12, 3, arguments["input_size"])
    with torch.no_grad():
        for a, b in zip(mine.eval()(x), theirs.eval()(x), strict=True):
            assert worst(a, b) <= BAR


# ---- where the original is wrong -----------------------------------------------------------------


def test_bug_v_of_the_second_direction_runs_forward_in_inference(sru):
    """Without gradients, on a CPU, the backward direction reads V of step t, not of L - 1 - t."""
    theirs, mine = pair(
        sru, input_size=2 * d, hidden_size=d, num_layers=1, bidirectional=True,
        custom_m=custom("UV", 2 * d, 1, 2 * d, True),
    )  # fmt: skip
    x = torch.randn(L, B, 2 * d)
    right = [t.detach() for t in theirs(x)]
    with torch.no_grad():
        wrong, got = theirs(x), mine(x)
    assert worst(wrong[0][..., :d], right[0][..., :d]) <= BAR  # the forward direction is right
    assert worst(wrong[0][..., d:], right[0][..., d:]) > 1e-2
    assert worst(got[0], right[0]) <= BAR and worst(got[1], right[1]) <= BAR


def test_bug_no_training_mode_without_gradients(sru):
    theirs, mine = pair(sru, input_size=d, hidden_size=d, dropout=0.5)
    with torch.no_grad():
        with pytest.raises(Exception, match="Dropout mask cannot be set"):
            theirs(torch.randn(L, B, d))
        assert mine(torch.randn(L, B, d))[0].isfinite().all()


def test_bug_returned_states_do_not_fit_back(sru):
    """In nn.GRU's layout a returned state of two directions goes back in scrambled."""
    arguments = {"input_size": d, "hidden_size": d, "bidirectional": True}
    theirs, mine = pair(sru, nn_rnn_compatible_return=True, **arguments)
    x, c0 = torch.randn(L, B, d), torch.randn(2, B, 2 * d)
    same_c0 = c0.view(2, B, 2, d).transpose(1, 2).reshape(4, B, d)
    right, _ = theirs(x, c0)
    assert worst(theirs(x, same_c0)[0], right) > 1e-2
    assert worst(mine(x, same_c0)[0], right) <= BAR
    assert worst(mine(x, c0)[0], right) <= BAR


def test_bug_masks_that_are_not_0_or_1(sru):
    """Its documentation says that any value but zero is padding; its CPU loop multiplies."""
    theirs, mine = pair(sru, input_size=d, hidden_size=d)
    x, mask = torch.randn(L, B, d), (torch.arange(L)[:, None] >= torch.tensor([3, 2])).float()
    right, _ = theirs(x, mask_pad=mask)
    assert worst(theirs(x, mask_pad=2 * mask)[0], right) > 1e-2
    for same in (2 * mask, mask.bool(), mask.byte() * 255, -mask):
        assert worst(mine(x, mask_pad=same)[0], right) <= BAR


def test_bug_a_transposed_mask_is_taken(sru):
    theirs, mine = pair(sru, input_size=d, hidden_size=d)
    mask = torch.zeros(B, L)
    theirs(torch.randn(L, B, d), mask_pad=mask)
    with pytest.raises(ValueError, match=r"mask_pad must be \[L, B\] = \[4, 2\], got \[2, 4\]"):
        mine(torch.randn(L, B, d), mask_pad=mask)


def test_bug_what_stands_at_padding_spreads(sru):
    theirs, mine = pair(sru, input_size=d, hidden_size=d)
    mask = torch.arange(L)[:, None] >= torch.tensor([3, 2])
    x = torch.randn(L, B, d).masked_fill(mask[:, :, None], float("nan"))
    assert theirs(x, mask_pad=mask)[0].isnan().any()
    assert mine(x, mask_pad=mask)[0].isfinite().all()


def test_bug_a_module_list_of_custom_modules(sru):
    """The original copies the whole list for each layer, and then calls it."""
    modules = nn.ModuleList(custom("U", d, 2, d, True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sru.SRU(d, d, custom_m=modules)
    with pytest.raises((NotImplementedError, TypeError)):
        theirs(torch.randn(L, B, d))
    assert ours.SRU(d, d, custom_m=modules)(torch.randn(L, B, d))[0].shape == (L, B, d)


def test_bug_reset_parameters_forgets_layer_norms(sru):
    for package, right in ((sru, False), (ours, True)):
        rnn = package.SRU(d, d, layer_norm=True)
        nn.init.zeros_(rnn.rnn_lst[0].layer_norm.weight)
        rnn.reset_parameters()
        assert rnn.rnn_lst[0].layer_norm.weight.eq(1).all() == right


def test_bug_a_scale_is_dropped_in_silence(sru):
    scaled = sru.SRU(d, d, rescale=True)
    plain = sru.SRU(d, d)
    plain.load_state_dict(scaled.state_dict())
    x = torch.randn(L, B, d)
    assert worst(plain(x)[0], scaled(x)[0]) > 1e-2
    with pytest.raises(RuntimeError, match="rescale must be True"):
        ours.SRU(d, d).load_state_dict(scaled.state_dict())
