"""How far an op is off, in roundings; and cases that cover every pair of options.

A case is a frozen value, so the nine float64 loops that measure its bar run once, not once a
backend. Letters as in `torchsru.ops`: L steps, B rows, N documents, R states, D channels.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from torchsru import ops
from torchsru.ops import backends
from torchsru.ops._triton import interpreted
from torchsru.ops.scan.reference import linear_reference
from torchsru.ops.sru.reference import sru_reference

#: How many roundings of the state's type an answer may be off. The half types compute in float32:
#: what they store in their own type may be off by one more rounding, of that type.
UNITS = 16
Tensors = dict[str, Tensor | None]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 1, 1), (7, 3, 5), (33, 2, 129), (256, 2, 64), (5, 35, 6)]
#: one step, odd, past a block of channels, long, more rows than a block of rows has

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skip(reason=why)) if (why := backends()[name]) else name
    for name in ("cpu", "torch", "torch_parallel")
]
if torch.cuda.is_available() or interpreted():  # CI runs the fewer cases of test_triton.py so
    BACKENDS += [
        pytest.param(name, marks=[pytest.mark.slow, *([pytest.mark.gpu] * (not interpreted()))])
        for name in ("triton", "triton_parallel")
    ]


def moved(op: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The op on tensors of the CPU; a backend of the GPU computes there, on copies of them."""

    def call(*arguments: Any, backend: str = "auto", **named: Any) -> tuple[Tensor, Tensor]:
        if not backend.startswith("triton") or not torch.cuda.is_available():
            return op(*arguments, backend=backend, **named)

        def there(a: Any) -> Any:
            return a.cuda() if isinstance(a, Tensor) else a

        named = {name: there(a) for name, a in named.items()}
        h, c = op(*map(there, arguments), backend=backend, **named)
        return h.cpu(), c.cpu()

    return call


sru_recurrence, linear_recurrence = moved(ops.sru_recurrence), moved(ops.linear_recurrence)


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def make_mask(L: int, B: int) -> Tensor:
    """[L, B] padding of any pattern; row 1 is all padding, if there is one."""
    mask = torch.rand(L, B, generator=torch.Generator().manual_seed(L * 1000 + B)) < 0.4
    if B > 1:
        mask[:, 1] = True
    return mask


def pad_rows(L: int, lengths: Sequence[int]) -> Tensor:
    """[L, B] padding after the first `lengths` steps of each row."""
    return torch.arange(L)[:, None] >= torch.tensor(lengths, dtype=torch.int64)


def make_bounds(T: int) -> Tensor:
    """Bounds of five documents in T steps; the first, the third and the last have none."""
    return torch.tensor([0, 0, T // 3, T // 3, T, T])


def make_sequences(
    kind: str, L: int, B: int, lengths: Sequence[int], bounds: Sequence[int]
) -> tuple[Tensor | None, Tensor | None, int]:
    """Mask, cu_seqlens and the number of states; without lengths or bounds, patterns of ours."""
    if kind == "documents":
        cu_seqlens = torch.tensor(bounds) if bounds else make_bounds(L)
        return None, cu_seqlens, cu_seqlens.shape[0] - 1
    if kind == "mask":
        return pad_rows(L, lengths) if lengths else make_mask(L, B), None, B
    return None, None, B


def output_sizes(tensors: Tensors) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of the sequence and of the last state that come out."""
    main = next(iter(tensors.values()))
    L, B, D = main.shape[0], main.shape[1], main.shape[-1]
    R = B if tensors["cu_seqlens"] is None else tensors["cu_seqlens"].shape[0] - 1
    return (L, B, D), (R, D)


def expand(tensors: Tensors, names: Sequence[str]) -> Tensors:
    """The same with these tensors' first step, or row, seen over and over, with stride 0."""
    return tensors | {
        n: t[:1].expand_as(t) for n, t in tensors.items() if n in names and t is not None
    }


@dataclass(frozen=True)
class SruCase:
    """One call of `sru_recurrence`; `highway` is "x", "k=4" or "none".

    lengths, bounds: of the rows if sequences is "mask", of the documents if it is "documents".
    expanded: names of tensors whose first step, or row, is repeated with stride 0.
    """

    shape: tuple[int, int, int] = (7, 3, 5)
    dtype: torch.dtype = torch.float64
    highway: str = "x"
    v: str = "static"
    b: bool = True
    c0: bool = True
    sequences: str = "rows"
    out_mask: bool = False
    activation: str = "identity"
    contractive: bool = False
    num_directions: int = 1
    alpha: float = 1.25
    seed: int = 0
    lengths: tuple[int, ...] = ()
    bounds: tuple[int, ...] = ()
    expanded: tuple[str, ...] = ()

    op = staticmethod(sru_recurrence)
    reference = staticmethod(sru_reference)
    outputs = ("h", "c")
    output_sizes = staticmethod(output_sizes)

    @property
    def rounded_to(self) -> torch.dtype:
        """The type whose rounding is the unit of the error."""
        return state_dtype(self.dtype)

    def __str__(self) -> str:
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return " ".join(f"{name}={getattr(self, name)}" for name in changed) or "default"

    def tensors(self) -> Tensors:
        L, B, D = self.shape
        B = 1 if self.sequences == "documents" else B
        D += D % self.num_directions
        mask, cu_seqlens, R = make_sequences(self.sequences, L, B, self.lengths, self.bounds)
        S = state_dtype(self.dtype)
        rng = torch.Generator().manual_seed(self.seed)

        def draw(*sizes: int, dtype: torch.dtype = S) -> Tensor:
            return torch.randn(*sizes, generator=rng, dtype=torch.float64).to(dtype)

        k = 4 if self.highway == "k=4" else 3
        tensors = {
            "u": draw(L, B, k, D, dtype=self.dtype),
            "x": draw(L, B, D, dtype=self.dtype) if self.highway == "x" else None,
            "v": {
                "none": lambda: None,
                "static": lambda: draw(2, D),
                "varying": lambda: draw(L, B, 2, D),
                "wide": lambda: 4 * draw(2, D),  # past the contractive clip
            }[self.v](),
            "b": draw(2, D) if self.b else None,
            "c0": draw(R, D) if self.c0 else None,
            "out_mask": (draw(R, D) > 0).to(S) * 1.5 if self.out_mask else None,
            "mask": mask,
            "cu_seqlens": cu_seqlens,
        }
        return expand(tensors, self.expanded)

    def options(self) -> dict[str, Any]:
        names = ("num_directions", "activation", "contractive", "alpha")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class LinearCase:
    """One call of `linear_recurrence`."""

    shape: tuple[int, int, int] = (7, 3, 5)
    dtype: torch.dtype = torch.float64
    c0: bool = True
    sequences: str = "rows"
    num_directions: int = 1
    seed: int = 0
    lengths: tuple[int, ...] = ()
    bounds: tuple[int, ...] = ()
    expanded: tuple[str, ...] = ()

    op = staticmethod(linear_recurrence)
    reference = staticmethod(linear_reference)
    outputs = ("c", "c_last")
    output_sizes = staticmethod(output_sizes)
    rounded_to = SruCase.rounded_to
    __str__ = SruCase.__str__

    def tensors(self) -> Tensors:
        L, B, D = self.shape
        B = 1 if self.sequences == "documents" else B
        D += D % self.num_directions
        mask, cu_seqlens, R = make_sequences(self.sequences, L, B, self.lengths, self.bounds)
        rng = torch.Generator().manual_seed(self.seed)

        def draw(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=rng, dtype=torch.float64)

        tensors = {
            "a": torch.tanh(draw(L, B, D)).to(self.dtype),
            "b": draw(L, B, D).to(self.dtype),
            "c0": draw(R, D).to(state_dtype(self.dtype)) if self.c0 else None,
            "mask": mask,
            "cu_seqlens": cu_seqlens,
        }
        return expand(tensors, self.expanded)

    def options(self) -> dict[str, Any]:
        return {"num_directions": self.num_directions}


Case = SruCase | LinearCase


def all_pairs(factors: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A short list of settings in which every pair of values of two factors meets."""
    rng = random.Random(0)
    names = list(factors)
    wanted = {
        ((m, i), (n, j))
        for m, n in itertools.combinations(names, 2)
        for i in range(len(factors[m]))
        for j in range(len(factors[n]))
    }

    def pairs(row: dict[str, int]) -> set:
        return set(itertools.combinations(row.items(), 2))

    rows = []
    while wanted:
        first, second = min(wanted)  # at least this one is new
        tries = []
        for _ in range(64):
            row = {name: rng.randrange(len(factors[name])) for name in names}
            row.update([first, second])
            tries.append(row)
        best = max(tries, key=lambda row: len(pairs(row) & wanted))
        wanted -= pairs(best)
        rows.append({name: factors[name][i] for name, i in best.items()})
    return rows


def worst(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |b|."""
    assert a.shape == b.shape, f"shape {list(a.shape)} is not {list(b.shape)}"
    if b.numel() == 0:
        return 0.0
    difference = (a.double() - b.double()).abs().max().item()
    return difference / max(b.double().abs().max().item(), torch.finfo(torch.float64).tiny)


def seeds_for(case: Case, tensors: Tensors) -> list[Tensor]:
    """Upstream gradients of the sequence and of the last state."""
    rng = torch.Generator().manual_seed(case.seed + 1)
    types = (case.dtype, state_dtype(case.dtype))
    return [
        torch.randn(sizes, generator=rng, dtype=torch.float64).to(dtype)
        for sizes, dtype in zip(case.output_sizes(tensors), types, strict=True)
    ]


def run(
    fn: Callable[..., tuple[Tensor, Tensor]],
    tensors: Tensors,
    options: dict[str, Any],
    seeds: Sequence[Tensor | None],
    outputs: tuple[str, str],
) -> dict[str, Tensor]:
    """Outputs by name, and gradients by the name of their input with a d before it.

    Strides are kept. A seed None leaves the output out of the loss.
    """
    leaves = {
        name: t.detach().requires_grad_() if t is not None and t.is_floating_point() else t
        for name, t in tensors.items()
    }
    results = fn(**leaves, **options)
    wrt = {n: t for n, t in leaves.items() if t is not None and t.requires_grad}
    used = [
        (r, s.to(r.dtype))
        for r, s in zip(results, seeds, strict=True)
        if s is not None and r.requires_grad  # no steps and no c0: the state depends on nothing
    ]
    grads = torch.autograd.grad(
        [r for r, _ in used], list(wrt.values()), [s for _, s in used],
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    named = dict(zip(outputs, (r.detach() for r in results), strict=True))
    return named | {f"d{name}": g for name, g in zip(wrt, grads, strict=True)}


def to_double(tensors: Tensors, change: Callable[[Tensor], Tensor] = lambda t: t) -> Tensors:
    return {
        name: change(t.double()) if t is not None and t.is_floating_point() else t
        for name, t in tensors.items()
    }


@cache
def exact_and_unit(case: Case) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The float64 answer, and what one rounding is worth: how far that answer moves when every
    input moves by one."""
    tensors = case.tensors()
    eps = torch.finfo(case.rounded_to).eps
    seeds = [s.double() for s in seeds_for(case, tensors)]
    rng = torch.Generator().manual_seed(99)

    def reference(change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        inputs = to_double(tensors, change)
        return run(case.reference, inputs, case.options(), seeds, case.outputs)

    def one_rounding(t: Tensor) -> Tensor:
        signs = torch.randint(0, 2, t.shape, generator=rng).double() * 2 - 1
        return t * (1 + eps * signs)

    exact = reference(lambda t: t)
    moved = [reference(one_rounding) for _ in range(8)]
    return exact, {n: eps + max(worst(m[n], exact[n]) for m in moved) for n in exact}


def check(
    fn: Callable[..., tuple[Tensor, Tensor]],
    case: Case,
    layout: Callable[[Tensor], Tensor] = lambda t: t,
):
    """Compare outputs and gradients of fn with the float64 reference, in roundings.

    layout: lays inputs and upstream gradients out in memory; their values stay.
    """
    exact, unit = exact_and_unit(case)
    tensors = {n: None if t is None else layout(t) for n, t in case.tensors().items()}
    seeds = [layout(seed) for seed in seeds_for(case, tensors)]
    got = run(fn, tensors, case.options(), seeds, case.outputs)
    assert got.keys() == exact.keys()
    S = state_dtype(case.dtype)
    assert [got[name].dtype for name in case.outputs] == [case.dtype, S]
    off = {}
    for name in exact:
        stored = 0.0 if got[name].dtype == S else torch.finfo(got[name].dtype).eps
        off[name] = (worst(got[name], exact[name]) - stored) / unit[name]
    bad = [f"{name}: {n:.1f} roundings off" for name, n in off.items() if not n <= UNITS]
    assert not bad, f"{case}: {', '.join(bad)}; at most {UNITS} allowed"


def third_derivatives(op: Callable[[Tensors], Tensor], tensors: Tensors) -> Sequence[Tensor]:
    """Of a sum over an op's output and over its inputs: where these carry a graph, one that the op
    lacks would pass for zero."""
    inputs = [
        t.requires_grad_() for t in tensors.values() if t is not None and t.is_floating_point()
    ]
    y = op(tensors).pow(3).sum() + sum(t.pow(4).sum() for t in inputs)
    found: Sequence[Tensor] = ()
    for _ in range(3):
        found = torch.autograd.grad(y, inputs, create_graph=True)
        y = torch.stack([t.pow(2).sum() for t in found]).sum()
    return found


def bits(t: Tensor) -> Tensor:
    """The tensor's bits: NaN equals NaN, and -0 is not 0."""
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    return t.contiguous().view(integers[t.element_size()])


def assert_same_bits(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    differ = [name for name in got if not torch.equal(bits(got[name]), bits(expected[name]))]
    assert not differ, f"bits differ in {differ}"
