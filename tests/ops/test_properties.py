"""Random shapes, options, types, lengths and memory layouts against the definition.

The examples are the same in every run. To try N others: TORCHSRU_EXAMPLES=N pytest FILE.
Letters as in `torchsru.ops`: L steps, B rows, R states, D channels; F features of a layer's input.
"""

import os
from dataclasses import dataclass
from functools import cache, partial
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.ops.helpers import (
    BACKENDS,
    DTYPES,
    LinearCase,
    SruCase,
    check,
    linear_recurrence,
    make_sequences,
    sru_recurrence,
    state_dtype,
)
from torch.nn import functional as F

from torchsru import SRU
from torchsru.nn import SRUCell
from torchsru.ops.sru.fused import can_fuse
from torchsru.ops.sru.reference import sru_reference

OTHERS = int(os.environ.get("TORCHSRU_EXAMPLES", "0"))


def examples(number):
    return settings(
        max_examples=OTHERS or number,
        derandomize=not OTHERS,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def options(**choices):
    return {name: st.sampled_from(values) for name, values in choices.items()}


BOOLS = [False, True]


@st.composite
def sequences(draw, max_L=16, max_B=5):
    """L, B and what `make_sequences` takes: rows, padding of any pattern or length, documents."""
    L = draw(st.integers(0, max_L))
    kind = draw(st.sampled_from(["rows", "mask", "lengths", "documents"]))
    B = 1 if kind == "documents" else draw(st.integers(1, max_B))
    found = {"sequences": "mask" if kind == "lengths" else kind}
    if kind == "lengths":
        found["lengths"] = tuple(draw(st.lists(st.integers(0, L), min_size=B, max_size=B)))
    if kind == "documents":
        cuts = draw(st.lists(st.integers(0, L), max_size=4))
        found["bounds"] = (0, *sorted(cuts), L)
    return L, B, found


@st.composite
def sru_cases(draw, **fixed):
    L, B, found = draw(sequences())
    choices = options(
        dtype=DTYPES,
        highway=["x", "k=4", "none"],
        v=["none", "static", "varying", "wide"],
        b=BOOLS,
        c0=BOOLS,
        out_mask=BOOLS,
        activation=["identity", "tanh"],
        contractive=BOOLS,
        num_directions=[1, 2],
        alpha=[1.0, 1.25, -0.5, 0.0],
    )
    found |= {name: draw(choice) for name, choice in choices.items() if name not in fixed}
    names = ("u", "x", "v", "b", "c0", "out_mask")
    found["expanded"] = tuple(sorted(draw(st.sets(st.sampled_from(names), max_size=2))))
    shape = (L, B, draw(st.integers(1, 70)))
    return SruCase(shape=shape, seed=draw(st.integers(0, 2**16)), **found, **fixed)


@st.composite
def linear_cases(draw):
    L, B, found = draw(sequences())
    choices = options(dtype=DTYPES, c0=BOOLS, num_directions=[1, 2])
    found |= {name: draw(choice) for name, choice in choices.items()}
    names = ("a", "b", "c0")
    found["expanded"] = tuple(sorted(draw(st.sets(st.sampled_from(names), max_size=2))))
    shape = (L, B, draw(st.integers(1, 70)))
    return LinearCase(shape=shape, seed=draw(st.integers(0, 2**16)), **found)


def transposed(t):
    """The first dim is the fastest in memory."""
    backwards = tuple(reversed(range(t.dim())))
    return t.permute(backwards).contiguous().permute(backwards)


def sliced(t):
    """Every other element in every dim; between them stands what must not be read."""
    poison = float("nan") if t.is_floating_point() else 1
    view = t.new_full([2 * n + 1 for n in t.shape], poison)[
        tuple(slice(1, None, 2) for _ in t.shape)
    ]
    return view.copy_(t)


def offset(t):
    """Contiguous, one element into its memory: aligned to nothing."""
    return t.new_empty(t.numel() + 1)[1:].view(t.shape).copy_(t)


LAYOUTS = [lambda t: t, transposed, sliced, offset]


# ---- values and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@examples(40)
@given(case=sru_cases(), layout=st.sampled_from(LAYOUTS))
def test_sru_recurrence_matches_the_definition(backend, case, layout):
    check(partial(sru_recurrence, backend=backend), case, layout)


@pytest.mark.parametrize("backend", BACKENDS)
@examples(40)
@given(case=linear_cases(), layout=st.sampled_from(LAYOUTS))
def test_linear_recurrence_matches_the_definition(backend, case, layout):
    check(partial(linear_recurrence, backend=backend), case, layout)


def sru_swapped(u, x, v, b, c0, *, mask, cu_seqlens, out_mask, **options):
    """The gates' biases change places."""
    b = None if b is None else b.flip(0)
    return sru_recurrence(
        u, x, v, b, c0, mask=mask, cu_seqlens=cu_seqlens, out_mask=out_mask, **options
    )


def test_the_check_can_fail():
    @examples(50)
    @given(case=sru_cases())
    def search(case):
        check(sru_swapped, case)

    with pytest.raises(AssertionError, match="roundings off"):
        search()


# ---- layers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerCase:
    """A call of `SRU`, or of `SRUCell`; `settings` are its options."""

    shape: tuple[int, int, int] = (7, 3, 5)
    hidden_size: int = 5
    num_layers: int | None = 2  # None: a cell
    settings: tuple[tuple[str, object], ...] = ()
    dtype: torch.dtype = torch.float64
    state: bool = True
    sequences: str = "rows"
    seed: int = 0
    lengths: tuple[int, ...] = ()
    bounds: tuple[int, ...] = ()

    outputs = ("h", "c")

    @property
    def rounded_to(self):
        return self.dtype  # the matrix product rounds u to it

    @cache  # noqa: B019
    def model(self):
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            sizes = (self.shape[2], self.hidden_size)
            sizes += () if self.num_layers is None else (self.num_layers,)
            model = (SRUCell if self.num_layers is None else SRU)(*sizes, **dict(self.settings))
            for p in model.parameters():
                torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5)
            return model.to(self.dtype)

    def tensors(self):
        L, B, F = self.shape
        B = 1 if self.sequences == "documents" else B
        mask, cu_seqlens, R = make_sequences(self.sequences, L, B, self.lengths, self.bounds)
        model = self.model()
        rng = torch.Generator().manual_seed(self.seed)
        states = (self.num_layers or 1) * (2 if dict(self.settings)["bidirectional"] else 1)
        x = torch.randn(L, B, F, generator=rng, dtype=torch.float64).to(self.dtype)
        state = torch.randn(states, R, self.hidden_size, generator=rng, dtype=torch.float64)
        if dict(self.settings).get("batch_first"):
            x, mask = x.transpose(0, 1), None if mask is None else mask.t()
        return {
            "x": x,
            "state": state.to(state_dtype(self.dtype)) if self.state else None,
            "mask": mask,
            "cu_seqlens": cu_seqlens,
            **{name: p.detach() for name, p in model.named_parameters()},
        }

    def options(self):
        return {}

    def output_sizes(self, tensors):
        L, B, _ = self.shape
        B = 1 if self.sequences == "documents" else B
        d, n = self.hidden_size, 2 if dict(self.settings)["bidirectional"] else 1
        R = B if tensors["cu_seqlens"] is None else tensors["cu_seqlens"].shape[0] - 1
        steps = (B, L) if dict(self.settings).get("batch_first") else (L, B)
        return (*steps, n * d), ((self.num_layers or 1) * n, R, d)

    def layer(self, x, state, mask, cu_seqlens, *, backend, **parameters):
        """The module itself, with these parameters."""
        forced = partial(sru_recurrence, backend=backend)
        fused = can_fuse if backend == "cpu" else lambda *_: False  # in one call: "auto" alone
        with (
            patch("torchsru.nn.sru.sru_recurrence", forced),
            patch("torchsru.nn.sru.can_fuse", fused),
        ):
            return torch.func.functional_call(
                self.model(), parameters, (x, state), {"mask": mask, "cu_seqlens": cu_seqlens}
            )

    def reference(self, x, state, mask, cu_seqlens, **p):
        """The layers by their equations."""
        model, options = self.model(), dict(self.settings)
        n = 2 if options["bidirectional"] else 1
        if options.get("batch_first"):
            x, mask = x.transpose(0, 1), None if mask is None else mask.t()
        cells = {"": model} if self.num_layers is None else {
            f"layers.{i}.": layer for i, layer in enumerate(model.layers)
        }  # fmt: skip
        norm, states = options["layer_norm"], []
        for i, (name, cell) in enumerate(cells.items()):

            def normalised(t, name=name):
                return F.layer_norm(t, t.shape[-1:], p[name + "norm.weight"], p[name + "norm.bias"])

            inner = normalised(x) if norm == "pre" else x
            matrices = [p[w] for w in p if w.startswith(name + "transform")]
            for w in matrices:
                inner = inner @ w.T
            c0 = None if state is None else torch.cat([*state[i * n : (i + 1) * n]], dim=-1)
            k = cell.num_matrices
            h, c = sru_reference(
                inner.unflatten(-1, (k, -1)),
                x if k == 3 and options["highway"] else None,
                p.get(name + "weight_c"),
                p[name + "bias"],
                c0,
                num_directions=n,
                mask=mask,
                cu_seqlens=cu_seqlens,
                activation=options["activation"],
                contractive=options["contractive"],
                alpha=cell.alpha,
            )
            x = normalised(h) if norm == "post" else h
            if mask is not None:
                x = x.masked_fill(mask[:, :, None], 0)
            states += c.chunk(n, dim=-1)
        return (x.transpose(0, 1) if options.get("batch_first") else x), torch.stack(states)


@st.composite
def layer_cases(draw):
    L, B, found = draw(sequences(max_L=12, max_B=4))
    num_layers = draw(st.sampled_from([None, 1, 2, 3]))
    choices = options(
        bidirectional=BOOLS,
        activation=["identity", "tanh"],
        state_weights=[True, False],
        highway=[True, False],
        highway_bias=[0.0, -2.0],
        rescale=[True, False],
        layer_norm=[None, "pre", "post"],
        contractive=BOOLS,
        projection_size=[0, 3],
    )
    chosen = {name: draw(choice) for name, choice in choices.items()}
    chosen["contractive"] &= chosen["state_weights"]
    if num_layers is not None and found["sequences"] != "documents":
        chosen["batch_first"] = draw(st.booleans())
    hidden_size = draw(st.integers(4, 20))
    # equal to the output's size as often as not: then there is no fourth matrix
    features = draw(st.sampled_from([6, hidden_size * (1 + chosen["bidirectional"])]))
    return LayerCase(
        shape=(L, B, features),
        hidden_size=hidden_size,
        num_layers=num_layers,
        settings=tuple(chosen.items()),
        dtype=draw(st.sampled_from(DTYPES)),
        state=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
        **found,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@examples(20)
@given(case=layer_cases(), layout=st.sampled_from(LAYOUTS))
def test_layers_match_the_definition(backend, case, layout):
    check(partial(case.layer, backend=backend), case, layout)


# ---- what the equations imply --------------------------------------------------------------------


def each_run(case, tensors, h):
    """Start [d], candidates [T, d] and h [T, d] of each direction and row or document, in order."""
    d = h.shape[-1] // case.num_directions
    for q in range(case.num_directions):
        z, h_q = (t[..., q * d : (q + 1) * d] for t in (tensors["u"][:, :, 0], h))
        zeros = z.new_zeros(case.output_sizes(tensors)[1][0], d, dtype=state_dtype(case.dtype))
        c0 = zeros if tensors["c0"] is None else tensors["c0"][:, q * d : (q + 1) * d]
        for row in range(c0.shape[0]):
            if tensors["cu_seqlens"] is not None:
                start, end = tensors["cu_seqlens"][row : row + 2].tolist()
                own = (z[start:end, 0], h_q[start:end, 0])
            elif tensors["mask"] is not None:
                keep = ~tensors["mask"][:, row]
                own = (z[keep, row], h_q[keep, row])
            else:
                own = (z[:, row], h_q[:, row])
            yield c0[row], *(t.flip(0) if q else t for t in own)


@pytest.mark.parametrize("backend", BACKENDS)
@examples(40)
@given(case=sru_cases(highway="none", activation="identity", out_mask=False))
def test_states_stay_in_the_hull_of_the_start_and_the_candidates(backend, case):
    """With r = 1, h is the state."""
    t = case.tensors()
    t["u"] = 3 * t["u"].clone()
    t["u"][:, :, 2] = 3e4
    h, _ = sru_recurrence(**t, **case.options(), backend=backend)
    for start, candidates, states in each_run(case, t, h.double()):
        points = torch.cat([start[None], candidates]).double()
        slack = 4 * torch.finfo(case.dtype).eps * points.abs().amax(0)
        highest, lowest = points.cummax(0).values[1:], points.cummin(0).values[1:]
        assert (states <= highest + slack).all() and (states >= lowest - slack).all()


@pytest.mark.parametrize("backend", BACKENDS)
@examples(40)
@given(case=sru_cases(contractive=True, c0=True))
def test_contractive_jacobian_of_any_number_of_steps_lies_in_zero_to_one(backend, case):
    t = case.tensors()
    t["c0"] = (3 * t["c0"]).requires_grad_()
    _, c = sru_recurrence(**t, **case.options(), backend=backend)
    (J,) = torch.autograd.grad(c.sum(), t["c0"])  # a channel's state reaches no other
    slack = (1 + t["u"].shape[0]) * torch.finfo(c.dtype).eps
    assert J.min() >= -slack and J.max() <= 1 + slack


@pytest.mark.parametrize(
    "test",
    [
        test_states_stay_in_the_hull_of_the_start_and_the_candidates,
        test_contractive_jacobian_of_any_number_of_steps_lies_in_zero_to_one,
    ],
)
def test_the_invariants_can_fail(test):
    """A state that overshoots by a hundredth breaks both."""

    def overshooting(*args, original=sru_recurrence, **options):
        h, c = original(*args, **options)
        return 1.01 * h, 1.01 * c

    with patch(f"{__name__}.sru_recurrence", overshooting), pytest.raises(AssertionError):
        test(backend="torch")
