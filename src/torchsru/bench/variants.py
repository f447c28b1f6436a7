"""From a case to its variants: what is put beside each other, checked, ready to be timed.

Letters: L time steps, B batch rows, N = L B, d and D channels, E = k D, F features.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor, nn

import torchsru
from torchsru.bench.cases import (
    BACKWARD,
    CONTRACTIVE,
    COPY,
    FLOOR,
    FORWARD,
    FORWARD_OP,
    FORWARD_TRAIN,
    GEMM_FRESH,
    GEMM_REUSED,
    GEMMS,
    GRU,
    IMPORT_TORCH,
    IMPORT_TORCHSRU,
    LAYER,
    LSTM,
    ORIGINAL,
    PACKED_GRU,
    PACKED_LSTM,
    PACKED_SRU,
    PADDED_GRU,
    PADDED_LSTM,
    PADDED_SRU,
    RECURRENCE,
    SRU,
    BenchError,
    Case,
    Shape,
)
from torchsru.bench.check import CheckError, check_layer, check_op
from torchsru.bench.clock import Call, Clock, EventClock, GraphClock, HostClock, tf32, timed
from torchsru.bench.floor import (
    COPY_BANDWIDTH,
    COPY_ELEMENTS,
    PRODUCT_S,
    PRODUCT_SIDE,
    Work,
    gemms_work,
    layers_work,
    product_name,
    recurrence_backward_bytes,
    recurrence_bytes,
)
from torchsru.bench.measure import Variant
from torchsru.bench.networks import UNEQUAL, Network, Where, make, make_unequal, weights
from torchsru.bench.peers import PEERS, missing, recurrence
from torchsru.bench.process import KernelWorker, import_seconds, peak_bytes
from torchsru.bench.suites import sequential_over_parallel
from torchsru.ops import backends, cpu_info, sru_recurrence

ALPHA = 3**0.5  # the layer's at highway_bias 0
PARALLEL_CHECK = Shape(L=600, B=1, d=48)  # several chunks of time


@dataclass(frozen=True)
class Setting:
    """Where cases run.

    Attributes:
        ceilings: of the machine in bytes/s and operations/s, by the names of floor.py.
        absent: peers that cannot run, and why.
    """

    device: str
    threads: int
    ceilings: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def clock_for(case: Case, setting: Setting) -> Clock:
    """The clock that a case asks for."""
    if setting.device == "cpu":
        return HostClock()
    return GraphClock() if case.graph else EventClock()


class Contest:
    """The variants of a case in the making; `left_out` gives the reason for each that cannot run.

    It is entered: all is made, and later sampled, in the clock's scope and TF32 setting.
    """

    def __init__(self, case: Case, setting: Setting, clock: Clock):
        self.case = case
        self.setting = setting
        self.clock = clock
        self.where = Where(getattr(torch, case.dtype), setting.device)
        self.left_out: dict[str, str] = {}
        self.broken = False  # by one of them: a capture that failed may have left traces
        self._variants: list[Variant] = []

    @property
    def shape(self) -> Shape:
        assert self.case.shape is not None, f"{self.case.kind} needs a shape"
        return self.case.shape

    @property
    def variants(self) -> list[Variant]:
        """All of them; comparisons with what is not there are dropped."""
        there = {variant.name for variant in self._variants}
        return [
            replace(v, over=tuple(o for o in v.over if o in there or (o == FLOOR and v.floor_s)))
            for v in self._variants
        ]

    def add(
        self,
        name: str,
        make_call: Callable[[], Call],
        over: Iterable[str] = (),
        *,
        work: Work | None = None,
        needed: bool = True,
        wrap: Callable[[Callable[[], float]], Callable[[], float]] = lambda sample: sample,
    ) -> None:
        """Make a call and warm it up.

        Args:
            over: what it is divided by; its floor too, where a target says so.
            work: for its floor.
            needed: an error in making or calling it ends the case; else it is left out.
            wrap: what is put around its sampler.
        """
        try:
            sample = wrap(timed(make_call(), self.clock))
        except CheckError:
            raise
        except Exception as error:
            if needed:
                raise
            if self.setting.device == "cuda":
                torch.cuda.synchronize()  # raises where the GPU itself has failed
            words = (str(error).splitlines() or [""])[0]
            self.broken |= self.case.graph and not isinstance(error, BenchError)
            kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
            self.left_out[name] = kind + words
            return
        wanted = {t.over for t in self.case.targets if t.variant == name}
        over = (*over, FLOOR) if FLOOR in wanted else tuple(over)
        self._variants.append(Variant(name, sample, over, floor_s=self.floor_s(work)))

    def add_made(self, variant: Variant) -> None:
        """Add a variant that no clock of ours times."""
        self._variants.append(variant)

    def floor_s(self, work: Work | None) -> float | None:
        """The floor of this work on this machine, where it was measured."""
        product = product_name(self.case.dtype, self.case.tf32)
        return work.floor_s(self.setting.ceilings, product) if work else None

    def close(self) -> None:
        for variant in self._variants:
            variant.close()


def build(case: Case, setting: Setting, clock: Clock) -> Contest:
    """Check a case, then make its variants, warmed up. The caller closes what comes back.

    Raises: CheckError if one of ours computes something wrong.
    """
    contest = Contest(case, setting, clock)
    try:
        KINDS[case.kind](contest)
    except BaseException:
        contest.close()
        raise
    return contest


def _checked_sru(shape: Shape, where: Where) -> Network:
    network = make(SRU, shape, where)
    assert isinstance(network.module, torchsru.SRU)
    with tf32(False):
        check_layer(network.module, network.module, shape, where.dtype)
    return network


def _quiet(call: Call) -> Call:
    """The call under no_grad; entering it once a call is what a user pays too."""

    def run() -> object:
        with torch.no_grad():
            return call()

    return run


def _forward_call(network: Network) -> Call:
    network.module.eval()
    return _quiet(network.output)


# -- ceilings -------------------------------------------------------------------------------------


def _ceilings(contest: Contest) -> None:
    """Copy bandwidth, and the rate of a large square product by type."""
    device, clock = contest.setting.device, contest.clock
    source = torch.randn(COPY_ELEMENTS[device], device=device)
    target = torch.empty_like(source)
    moved_bytes = 2 * source.numel() * source.element_size()
    sample = timed(lambda: target.copy_(source), clock)
    contest.add_made(Variant(COPY_BANDWIDTH, lambda: moved_bytes / sample(), unit="bytes_per_s"))
    for dtype in ("float32", "bfloat16"):
        where = Where(getattr(torch, dtype), device)
        for allowed in (False, True) if (device, dtype) == ("cuda", "float32") else (False,):
            contest.add_made(_largest_product(where, product_name(dtype, allowed), allowed, clock))


def _largest_product(where: Where, name: str, allowed: bool, clock: Clock) -> Variant:
    """The rate of the largest square product that takes no longer than PRODUCT_S."""
    side = min(256, PRODUCT_SIDE[where.device])
    with tf32(allowed):
        sample = _product(where, side, clock)
        while 2 * side <= PRODUCT_SIDE[where.device] and 8 * sample() <= PRODUCT_S:
            side *= 2
            sample = _product(where, side, clock)

    def rate() -> float:
        with tf32(allowed):
            return 2 * side**3 / sample()

    return Variant(name, rate, unit="operations_per_s")


def _product(where: Where, side: int, clock: Clock) -> Callable[[], float]:
    """A sampler of a square product's time in seconds."""
    a, b = where.randn(2, side, side)
    out = torch.empty_like(a)
    return timed(lambda: torch.mm(a, b, out=out), clock)


# -- layers and networks --------------------------------------------------------------------------


def _inference(contest: Contest) -> None:
    """Layers beside their matrix products, into one buffer and into a fresh one each."""
    shape, where = contest.shape, contest.where
    network = _checked_sru(shape, where)
    matrices = weights(network.module)
    x_ND = network.x.flatten(0, 1)
    out_NE = x_ND @ matrices[0].T

    def reused() -> None:
        for w_ED in matrices:
            torch.mm(x_ND, w_ED.T, out=out_NE)

    def fresh() -> None:
        for w_ED in matrices:
            torch.mm(x_ND, w_ED.T)

    products = gemms_work(shape, where.dtype, training=False)
    work = layers_work(SRU, shape, where.dtype, training=False)
    contest.add(GEMM_REUSED, lambda: _quiet(reused), work=products)
    contest.add(GEMM_FRESH, lambda: _quiet(fresh), work=products)
    contest.add(SRU, lambda: _forward_call(network), (GEMM_REUSED, GEMM_FRESH), work=work)


def _layers(contest: Contest, products: str, *, training: bool) -> None:
    """A pass of SRU beside its matrix products and beside the same pass of other networks.

    Others stand over the products too: what a layer without any cost of its own would reach here.
    """
    case, shape, where = contest.case, contest.shape, contest.where
    network = _checked_sru(shape, where)

    def call(network: Network) -> Call:
        return network.training_step() if training else _forward_call(network)

    if products in case.beside:
        gemms = _gemms(network, where, training)
        least = gemms_work(shape, where.dtype, training=training)
        contest.add(products, lambda: _quiet(gemms), work=least)
    work = layers_work(SRU, shape, where.dtype, training=training)
    contest.add(SRU, lambda: call(network), (products,), work=work)
    for name in case.beside:
        if name == products:
            continue
        if why := _cannot_stand_beside(name, contest):
            contest.left_out[name] = why
            continue
        work = layers_work(name, shape, where.dtype, training=training)
        contest.add(
            name,
            lambda name=name: call(make(name, shape, where)),  # type: ignore[misc]
            (SRU, products),
            work=work,
            needed=False,
        )


def _cannot_stand_beside(name: str, contest: Contest) -> str | None:
    """Why a peer cannot run this case, or None."""
    if name not in PEERS:
        return None
    if name == ORIGINAL and contest.case.graph:
        return "its kernels run on the default stream, which no graph captures"
    if name == ORIGINAL and contest.case.dtype != "float32":
        return "it computes in float32"
    return contest.setting.absent.get(name) or missing(name)


def _forward(contest: Contest) -> None:
    _layers(contest, GEMM_FRESH, training=False)


def _training(contest: Contest) -> None:
    _layers(contest, GEMMS, training=True)


def _unequal(contest: Contest) -> None:
    """A training step over rows of unequal lengths, packed, and padded with a mask."""
    shape, where = contest.shape, contest.where
    pairs = {PADDED_SRU: PACKED_SRU, PADDED_LSTM: PACKED_LSTM, PADDED_GRU: PACKED_GRU}
    networks = {name: make_unequal(name, shape, where) for name in UNEQUAL}
    for padded, packed in pairs.items():
        _check_alike(networks[padded], networks[packed], f"{packed} and {padded}")
    for name, network in networks.items():
        over = [PACKED_SRU] if name != PACKED_SRU else []
        over += [padded for padded, packed in pairs.items() if packed == name != PACKED_SRU]
        contest.add(name, network.training_step, over)


def _check_alike(one: Network, other: Network, names: str) -> None:
    """Give both the same weights and input; raise CheckError unless they give the same output."""
    other.module.load_state_dict(one.module.state_dict())
    other.x.copy_(one.x)
    tolerance = 1e-3 if one.x.element_size() >= 4 else 5e-2
    with torch.no_grad():
        if not torch.allclose(one.output(), other.output(), rtol=tolerance, atol=tolerance):
            raise CheckError(f"{names} differ by more than {tolerance:g}")


def _gemms(network: Network, where: Where, training: bool) -> Call:
    """Of each layer u = x W^T, and if training dx = gu W, dW = gu^T x; outputs fresh."""
    N = network.x.shape[0] * network.x.shape[1]
    layers = [
        (w_EF, where.randn(N, w_EF.shape[1]), where.randn(N, w_EF.shape[0]))
        for w_EF in weights(network.module)
    ]

    def run() -> None:
        for w_EF, x_NF, gu_NE in layers:
            torch.mm(x_NF, w_EF.T)
            if training:
                torch.mm(gu_NE, w_EF)
                torch.mm(gu_NE.T, x_NF)

    return run


# -- the recurrence alone -------------------------------------------------------------------------


def _recurrence(contest: Contest) -> None:
    """The recurrence by backend, as the layer has it at initialisation, beside others'."""
    case, shape, where = contest.case, contest.shape, contest.where
    available = backends()
    u, x, v, b = initial_inputs(shape, where)
    if COPY in case.beside:
        copy = torch.empty_like(u)
        bytes_moved = 2 * u.numel() * u.element_size()
        contest.add(
            COPY, lambda: lambda: copy.copy_(u), work=Work((), bytes_moved, u.element_size())
        )
    there = [name for name in case.backends if available.get(name, "") is None]
    for name in case.backends:
        if name not in there:
            contest.left_out[name] = available.get(name) or "there is no backend of this name"
    if not there:
        raise BenchError("; ".join(f"{n}: {why}" for n, why in contest.left_out.items()))
    pairs = sequential_over_parallel(case.backends)
    over: dict[str, tuple[str, ...]] = {one: (other,) for one, other in pairs.items()}
    for name in there:
        contractive = (False, True) if CONTRACTIVE in case.beside else (False,)
        for bounded in contractive:
            _check_backend(name, where.dtype, where.device, shape.d, bounded)

        def run(u, x, v, b, name=name, contractive=False):
            options = {"backend": name, "contractive": contractive}
            return sru_recurrence(u, x, v, b, alpha=ALPHA, **options)[0]

        _add_passes(contest, name, run, (u, x, v, b), over, ours=True)
        if CONTRACTIVE in case.beside:
            contest.add(
                f"{name}, {CONTRACTIVE}",
                lambda run=run: _quiet(lambda: run(u, x, v, b, contractive=True)),  # type: ignore[misc]
                over.get(f"{name}, {CONTRACTIVE}", ()),
                work=Work((), recurrence_bytes(shape, where.dtype, keep=False), 0),
            )
    for name in case.beside:
        if name not in PEERS:
            continue
        if why := _cannot_stand_beside(name, contest):
            contest.left_out[name] = why
            continue
        function, tensors = recurrence(name, shape, where.dtype, where.device)
        first: dict[str, tuple[str, ...]] = {
            f"{name}, {one}": (f"{there[0]}, {one}",) for one in (FORWARD, FORWARD_TRAIN, BACKWARD)
        }
        _add_passes(contest, name, function, tensors, first, ours=False)


def _add_passes(
    contest: Contest,
    name: str,
    function: Callable[..., Tensor],
    tensors: tuple[Tensor, ...],
    over: dict[str, tuple[str, ...]],
    *,
    ours: bool,
) -> None:
    """Forward without gradients, forward for training, backward. Floors are of SRU alone."""
    shape, dtype = contest.shape, contest.where.dtype
    leaves = [t.detach().clone().requires_grad_() for t in tensors]

    def backward() -> Call:
        h = function(*leaves)
        gh = torch.randn_like(h)
        return lambda: torch.autograd.grad(h, leaves, gh, retain_graph=True)

    calls: dict[str, tuple[Callable[[], Call], int]] = {
        FORWARD: (
            lambda: _quiet(lambda: function(*tensors)),
            recurrence_bytes(shape, dtype, keep=False),
        ),
        FORWARD_TRAIN: (
            lambda: lambda: function(*leaves),
            recurrence_bytes(shape, dtype, keep=True),
        ),
        BACKWARD: (backward, recurrence_backward_bytes(shape, dtype)),
    }
    for one, (make_call, moved_bytes) in calls.items():
        variant = f"{name}, {one}"
        work = Work((), moved_bytes, 0) if ours else None
        contest.add(variant, make_call, over.get(variant, ()), work=work, needed=ours)


def initial_inputs(shape: Shape, where: Where) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u [L, B, 3, D], x [L, B, D], v and b [2, D], distributed as in a layer just made."""
    u, x, v, b = op_inputs(shape, where)
    u[:, :, 1:] *= math.sqrt(0.5)
    v.uniform_(-math.sqrt(1.5), math.sqrt(1.5))
    return u, x, v, b.zero_()


@cache
def _check_backend(name: str, dtype: torch.dtype, device: str, d: int, contractive: bool) -> None:
    with tf32(False):
        check_op(name, Shape(L=16, B=4, d=d), dtype, device, contractive=contractive)
        if name.endswith("_parallel"):
            small = replace(PARALLEL_CHECK, d=min(d, PARALLEL_CHECK.d))
            check_op(name, small, dtype, device, contractive=contractive, steps=small.L)


def _kernel(contest: Contest) -> None:
    """The CPU's elementwise kernels alone, outputs fresh, beside a copy of u into a buffer."""
    shape, where = contest.shape, contest.where
    check_op("auto", shape, where.dtype, where.device)
    u, x, v, b = op_inputs(shape, where)
    arguments = (u, x, v, b, None, None, None, None)
    options = (1, False, False, ALPHA)
    ops = torch.ops.torchsru
    _, _, c = ops.sru_forward_train.default(*arguments, *options)
    gh, copy = torch.randn_like(x), torch.empty_like(u)
    size = u.element_size()
    calls: dict[str, tuple[Call, int]] = {
        COPY: (lambda: copy.copy_(u), 2 * u.numel() * size),
        FORWARD: (
            kernel_call("auto", shape, where),
            recurrence_bytes(shape, where.dtype, keep=False),
        ),
        FORWARD_TRAIN: (
            lambda: ops.sru_forward_train.default(*arguments, *options),
            recurrence_bytes(shape, where.dtype, keep=True),
        ),
        BACKWARD: (
            lambda: ops.sru_backward.default(gh, None, *arguments, c, *options),
            recurrence_backward_bytes(shape, where.dtype),
        ),
    }
    for name, (call, moved_bytes) in calls.items():
        over = () if name == COPY else (COPY,)
        work = Work((), moved_bytes, size)
        contest.add(name, lambda call=call: _quiet(call), over, work=work)  # type: ignore[misc]


def kernel_call(backend: str, shape: Shape, where: Where) -> Call:
    """The recurrence's forward pass without gradients."""
    u, x, v, b = op_inputs(shape, where)
    return lambda: sru_recurrence(u, x, v, b, alpha=ALPHA, backend=backend)


def op_inputs(shape: Shape, where: Where) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u [L, B, 3, D], x [L, B, D], v and b [2, D]."""
    L, B, D = shape.L, shape.B, shape.d
    state = Where(torch.promote_types(where.dtype, torch.float32), where.device)
    return where.randn(L, B, 3, D), where.randn(L, B, D), state.randn(2, D), state.randn(2, D)


def _backends(contest: Contest) -> None:
    """The forward kernel by backend, and per instruction set; a process each, taking turns."""
    setting = contest.setting
    isas = cpu_info()["isa_available"] if setting.device == "cpu" else []
    workers = {f"cpu, {isa}": ("cpu", isa) for isa in isas} | {"torch": ("torch", None)}
    first = next(iter(workers))
    for name, (backend, isa) in workers.items():
        worker = KernelWorker(backend, isa, contest.shape, contest.where, setting.threads)
        over = () if name == first else (first,)
        contest.add_made(Variant(name, worker.sample, over, worker.close))


# -- calls, memory, imports -----------------------------------------------------------------------


def _call(contest: Contest) -> None:
    """What one call costs when there is next to nothing to compute."""
    shape, where = contest.shape, contest.where
    check_op("auto", shape, where.dtype, where.device)
    layer = _checked_sru(shape, where)
    layer.module.eval()
    u, x, v, b = op_inputs(shape, where)
    op = torch.ops.torchsru.sru_forward.default
    # grad mode is switched off outside the clock: the cost of one call, not of the switch
    calls: dict[str, Call] = {
        FORWARD_OP: lambda: op(u, x, v, b, None, None, None, None, 1, False, False, ALPHA),
        RECURRENCE: lambda: sru_recurrence(u, x, v, b, alpha=ALPHA),
        LAYER: layer.output,
        LSTM: make(LSTM, shape, where).output,
        GRU: make(GRU, shape, where).output,
        "nn.Linear(d, 3 d)": _linear(shape, where),
    }
    if contest.setting.device != "cpu":
        del calls[FORWARD_OP]  # the compiled op's; on a GPU it is pure PyTorch
    with torch.no_grad():
        for name, call in calls.items():
            contest.add(name, lambda call=call: call, wrap=torch.no_grad())  # type: ignore[misc]


def _linear(shape: Shape, where: Where) -> Call:
    linear = nn.Linear(shape.d, 3 * shape.d, bias=False).to(where.device, where.dtype)
    x = where.randn(shape.L, shape.B, shape.d)
    return lambda: linear(x)


def _memory(contest: Contest) -> None:
    """Peak memory of a training step."""
    shape, where, threads = contest.shape, contest.where, contest.setting.threads
    _checked_sru(shape, where)
    for name, over in {LSTM: (), GRU: (), SRU: (LSTM, GRU)}.items():
        contest.add_made(
            Variant(
                name,
                lambda name=name: peak_bytes(name, shape, where, threads),  # type: ignore[misc]
                over,
                unit="bytes",
            )
        )


def _import(contest: Contest) -> None:
    """Import time, a fresh interpreter each time."""
    contest.add_made(Variant(IMPORT_TORCH, lambda: import_seconds(True)))
    contest.add_made(Variant(IMPORT_TORCHSRU, lambda: import_seconds(False)))


KINDS: dict[str, Callable[[Contest], None]] = {
    "ceilings": _ceilings,
    "inference": _inference,
    "forward": _forward,
    "training": _training,
    "unequal": _unequal,
    "recurrence": _recurrence,
    "call": _call,
    "kernel": _kernel,
    "backends": _backends,
    "memory": _memory,
    "import": _import,
}
