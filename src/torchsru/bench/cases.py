"""What is measured, and the targets: data.

A case is a kind and a shape. The kind says which variants are put beside each other
(variants.py); each target names a variant, what it is divided by, and a bound.

Letters: L time steps, B batch rows, d hidden size per direction.
"""

from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase

# Names of variants, as cases, rows, tables and figures spell them.
SRU = "SRU"
GEMM_REUSED = "GEMM, output reused"
GEMM_FRESH = "GEMM, output fresh"
GEMMS = "three GEMMs"
LSTM = "nn.LSTM"
GRU = "nn.GRU"
CONV = "nn.Conv1d k=3"
ORIGINAL = "sru 2.6.0"
FORWARD_OP = "sru_forward"
RECURRENCE = "sru_recurrence"
LAYER = "SRU.forward"
COPY = "copy of u"
FORWARD = "forward"
FORWARD_TRAIN = "forward, keeping c"
BACKWARD = "backward"
IMPORT_TORCH = "import torch"
IMPORT_TORCHSRU = "import torchsru after torch"


class BenchError(Exception):
    """What the user asked for cannot be done; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a case. input_size None: as many features as the layer puts out."""

    L: int
    B: int
    d: int
    input_size: int | None = None
    layers: int = 1
    bidirectional: bool = False

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def features(self) -> int:
        """Features of the input x."""
        return self.input_size or self.d * self.directions

    def __str__(self) -> str:
        return f"L={self.L} B={self.B} d={self.d}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A bound on a variant's ratio over another, or on its own value where `over` is None."""

    variant: str
    over: str | None
    bound: str  # "at most" or "at least"
    value: float

    def met(self, measured: float) -> bool:
        return measured <= self.value if self.bound == "at most" else measured >= self.value


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison; `name` finds it on the command line and in rows.

    weight: share of the time budget, relative to other cases.
    """

    kind: str
    shape: Shape | None = None
    dtype: str = "float32"
    title: str = ""
    weight: float = 1.0
    targets: tuple[Target, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.title or self.kind}: {self.shape}" if self.shape else self.kind

    def with_dtype(self, dtype: str) -> "Case":
        """The case in another type. Its targets do not hold there."""
        if dtype == self.dtype or self.shape is None:
            return self
        title = f"{self.title or self.kind} in {dtype}"
        return replace(self, dtype=dtype, title=title, targets=())

    def without_targets(self) -> "Case":
        return replace(self, targets=())


def at_most(value: float, variant: str, over: str | None = None) -> Target:
    """Target from above; without `over`, on the variant's own value in seconds."""
    return Target(variant=variant, over=over, bound="at most", value=value)


def at_least(value: float, variant: str, over: str) -> Target:
    """Target from below."""
    return Target(variant=variant, over=over, bound="at least", value=value)


#: L, B, d: inference over its GEMM reused, fresh; training over its GEMMs; how many times slower
#: training is with nn.LSTM, nn.GRU and sru 2.6.0. Two AVX512 cores, float32.
TABLE = {
    (32, 32, 128): (1.5, 1.7, 1.5, 2.5, 4, 4.5),
    (128, 32, 256): (1.25, 1.35, 1.2, 2.4, 3.4, 4.5),
    (128, 32, 512): (1.15, 1.2, 1.15, 2.6, 3.2, 3.4),
    (512, 8, 512): (1.15, 1.2, 1.15, 3.6, 5, 6),
    (1024, 1, 512): (1.15, 1.2, 1.15, 9, 20, 15),
}


def _table() -> list[Case]:
    cases = []
    for (L, B, d), (reused, fresh, gemms, lstm, gru, original) in TABLE.items():
        shape = Shape(L=L, B=B, d=d)
        inference = (at_most(reused, SRU, GEMM_REUSED), at_most(fresh, SRU, GEMM_FRESH))
        training = (
            at_most(gemms, SRU, GEMMS),
            at_least(lstm, LSTM, SRU),
            at_least(gru, GRU, SRU),
            at_least(original, ORIGINAL, SRU),
        )
        cases.append(Case(kind="inference", shape=shape, targets=inference))
        cases.append(Case(kind="training", shape=shape, weight=3, targets=training))
    return cases


def _memory(L: int, B: int, d: int) -> Case:
    targets = (at_most(1, SRU, LSTM), at_most(1, SRU, GRU))
    return Case(kind="memory", shape=Shape(L=L, B=B, d=d), weight=1.5, targets=targets)


CASES: tuple[Case, ...] = (
    *_table(),
    Case(
        kind="inference",
        title="inference, stack of 4",
        shape=Shape(L=128, B=32, d=512, layers=4),
        weight=2,
        targets=(at_most(1.2, SRU, GEMM_REUSED),),
    ),
    Case(
        kind="training",
        title="training in bfloat16",
        shape=Shape(L=128, B=32, d=512),
        dtype="bfloat16",
        weight=3,
        targets=(at_least(4, LSTM, SRU),),
    ),
    Case(
        kind="networks",
        title="speech separation, training",
        shape=Shape(L=125, B=250, d=32, input_size=512, layers=4, bidirectional=True),
        weight=3,
    ),
    Case(
        kind="call",
        title="one call",
        shape=Shape(L=1, B=1, d=64),
        targets=(at_most(6e-6, FORWARD_OP), at_most(25e-6, LAYER)),
    ),
    *(Case(kind="kernel", shape=Shape(L=L, B=B, d=d), weight=0.5) for L, B, d in TABLE),
    Case(kind="kernel", shape=Shape(L=128, B=32, d=1024), weight=0.5),
    Case(kind="backends", shape=Shape(L=128, B=32, d=256), weight=1),
    _memory(128, 32, 256),
    _memory(128, 32, 512),
    _memory(1024, 1, 512),
    Case(kind="import", weight=1, targets=(at_most(0.3, IMPORT_TORCHSRU),)),
)


def find(pattern: str | None, cases: tuple[Case, ...] = CASES) -> list[Case]:
    """The cases whose name matches a shell pattern or contains it; None finds all.

    Raises: BenchError naming the pattern if there is none.
    """
    if pattern is None:
        return list(cases)
    found = [c for c in cases if fnmatchcase(c.name, pattern) or pattern in c.name]
    if not found:
        raise BenchError(
            f"--case must match the name of a case (see `torchsru bench list`), got {pattern!r}"
        )
    return found


def shape_to_json(shape: Shape | None) -> dict[str, int | bool]:
    """A shape as plain data; the input's features are always named."""
    return {} if shape is None else {**asdict(shape), "input_size": shape.features}
