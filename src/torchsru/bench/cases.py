"""What a case is: a kind, a shape, the variants beside each other, and targets. Data, no clock.

The kind says what is run (variants.py); each target names a variant, what it is divided by, and a
bound. The cases themselves are in suites.py.

Letters: L time steps, B batch rows, d hidden size per direction.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

# Names of variants, as cases, rows, tables and figures spell them.
SRU = "SRU"
GEMM_REUSED = "GEMM, output reused"
GEMM_FRESH = "GEMM, output fresh"
GEMMS = "three GEMMs"
LSTM = "nn.LSTM"
GRU = "nn.GRU"
CONV2 = "nn.Conv1d k=2"
CONV = "nn.Conv1d k=3"
QRNN = "QRNN"
ORIGINAL = "sru 2.6.0"
HGRN = "HGRN (fla)"
MAMBA = "Mamba scan (mamba_ssm)"
FORWARD_OP = "sru_forward"
RECURRENCE = "sru_recurrence"
LAYER = "SRU.forward"
COPY = "copy of u"
FORWARD = "forward"
FORWARD_TRAIN = "forward, keeping c"
BACKWARD = "backward"
CONTRACTIVE = "contractive forward"
PADDED_SRU = "SRU, padded"
PACKED_SRU = "SRU, packed"
PADDED_LSTM = "torchsru's LSTM, padded"
PACKED_LSTM = "nn.LSTM, packed"
PADDED_GRU = "torchsru's GRU, padded"
PACKED_GRU = "nn.GRU, packed"
IMPORT_TORCH = "import torch"
IMPORT_TORCHSRU = "import torchsru after torch"

#: Not a variant: the time in which the bytes could have moved and the products been computed
#: (floor.py). A target may divide by it.
FLOOR = "floor"


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

    Attributes:
        weight: share of the time budget, relative to other cases.
        beside: names of what SRU is put beside, or of more variants of the recurrence.
        backends: of the recurrence, by name; those that are not there are left out.
        graph: the calls are captured in a CUDA graph and replayed.
        tf32: float32 products, cuDNN's included, may round their factors to TF32.
        limit_s: the case is stopped after so many seconds, checks included.
    """

    kind: str
    shape: Shape | None = None
    dtype: str = "float32"
    title: str = ""
    weight: float = 1.0
    targets: tuple[Target, ...] = ()
    beside: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    graph: bool = False
    tf32: bool = False
    limit_s: float = 120.0

    @property
    def name(self) -> str:
        return f"{self.title or self.kind}: {self.shape}" if self.shape else self.kind

    @property
    def mode(self) -> str:
        """How its calls are made, as rows spell it."""
        return "graph" if self.graph else "eager"

    def with_dtype(self, dtype: str) -> "Case":
        """The case in another type. Its targets do not hold there."""
        if dtype == self.dtype or self.shape is None:
            return self
        title = f"{self.title or self.kind} in {dtype}"
        return replace(self, dtype=dtype, title=title, targets=())

    def to_json(self) -> dict[str, Any]:
        """The case as plain data, for another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Case":
        """The inverse of `to_json`."""
        return cls(
            **{
                **found,
                "shape": found["shape"] and Shape(**found["shape"]),
                "targets": tuple(Target(**target) for target in found["targets"]),
                "beside": tuple(found["beside"]),
                "backends": tuple(found["backends"]),
            }
        )


def at_most(value: float, variant: str, over: str | None = None) -> Target:
    """Target from above; without `over`, on the variant's own value in seconds."""
    return Target(variant=variant, over=over, bound="at most", value=value)


def at_least(value: float, variant: str, over: str) -> Target:
    """Target from below."""
    return Target(variant=variant, over=over, bound="at least", value=value)


def find(pattern: str | None, cases: Iterable[Case]) -> list[Case]:
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
