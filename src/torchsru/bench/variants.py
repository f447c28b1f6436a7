"""From a case to its variants: what is put beside each other, checked, ready to be timed.

Letters: L time steps, B batch rows, N = L B, d and D channels, E = 3 D, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import torchsru
from torchsru.bench.cases import (
    BACKWARD,
    CONV,
    COPY,
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
    RECURRENCE,
    SRU,
    Case,
    Shape,
)
from torchsru.bench.check import check_layer, check_op
from torchsru.bench.measure import Variant, timed
from torchsru.bench.networks import Network, Where, make, original_missing, weights
from torchsru.bench.process import KernelWorker, import_seconds, peak_bytes
from torchsru.ops import cpu_info, sru_recurrence

ALPHA = 3**0.5  # the layer's at highway_bias 0

Calls = dict[str, Callable[[], object]]  # by the variant's name


@dataclass(frozen=True)
class Setting:
    """Where a case runs."""

    device: str
    threads: int


def build(case: Case, setting: Setting) -> list[Variant]:
    """Check a case, then return its variants, warmed up.

    Raises: CheckError if one of ours computes something wrong.
    """
    return KINDS[case.kind](case, setting)


def _where(case: Case, setting: Setting) -> Where:
    return Where(getattr(torch, case.dtype), setting.device)


def _shape(case: Case) -> Shape:
    assert case.shape is not None, f"{case.kind} needs a shape"
    return case.shape


def _checked_sru(shape: Shape, where: Where) -> Network:
    network = make(SRU, shape, where)
    assert isinstance(network.module, torchsru.SRU)
    check_layer(network.module, network.module, shape, where.dtype)
    return network


def _quiet(call: Callable[[], object]) -> Callable[[], object]:
    """The call under no_grad; entering it once a call is what a user pays too."""

    def run() -> object:
        with torch.no_grad():
            return call()

    return run


def _inference(case: Case, setting: Setting) -> list[Variant]:
    """Layers beside their matrix products, into one buffer and into a fresh one each."""
    shape, where = _shape(case), _where(case, setting)
    network = _checked_sru(shape, where)
    network.module.eval()
    matrices = weights(network.module)
    x_ND = network.x.flatten(0, 1)
    out_NE = x_ND @ matrices[0].T

    def reused() -> None:
        for w_ED in matrices:
            torch.mm(x_ND, w_ED.T, out=out_NE)

    def fresh() -> None:
        for w_ED in matrices:
            torch.mm(x_ND, w_ED.T)

    calls: Calls = {GEMM_REUSED: reused, GEMM_FRESH: fresh, SRU: network.output}
    return _timed_without_grad(calls, setting, {SRU: (GEMM_REUSED, GEMM_FRESH)})


def _timed_without_grad(
    calls: Calls, setting: Setting, over: dict[str, tuple[str, ...]]
) -> list[Variant]:
    return [
        Variant(name, timed(_quiet(call), setting.device), over.get(name, ()))
        for name, call in calls.items()
    ]


def _training(case: Case, setting: Setting) -> list[Variant]:
    """A training step beside its three matrix products and beside other layers'."""
    shape, where = _shape(case), _where(case, setting)
    network = _checked_sru(shape, where)
    gemms = _three_gemms(network, where)
    return [
        Variant(GEMMS, timed(gemms, setting.device)),
        Variant(SRU, timed(network.training_step(), setting.device), (GEMMS,)),
        # over the products too: what a layer without any cost of its own would reach here
        *_others(shape, where, setting, (SRU, GEMMS), with_convolution=True),
    ]


def _three_gemms(network: Network, where: Where) -> Callable[[], object]:
    """u = x W^T, dx = gu W, dW = gu^T x, outputs fresh."""
    (w_ED,) = weights(network.module)
    x_ND = network.x.detach().flatten(0, 1)
    gu_NE = where.randn(x_ND.shape[0], w_ED.shape[0])
    return lambda: (torch.mm(x_ND, w_ED.T), torch.mm(gu_NE, w_ED), torch.mm(gu_NE.T, x_ND))


def _networks(case: Case, setting: Setting) -> list[Variant]:
    """A training step of a whole network beside the same of LSTM, GRU and the original."""
    shape, where = _shape(case), _where(case, setting)
    network = _checked_sru(shape, where)
    return [
        Variant(SRU, timed(network.training_step(), setting.device)),
        *_others(shape, where, setting, (SRU,), with_convolution=False),
    ]


def _others(
    shape: Shape,
    where: Where,
    setting: Setting,
    over: tuple[str, ...],
    *,
    with_convolution: bool,
) -> list[Variant]:
    names = [LSTM, GRU]
    if where.dtype == torch.float32 and original_missing() is None:
        names.append(ORIGINAL)
    if with_convolution:
        names.append(CONV)
    return [
        Variant(name, timed(make(name, shape, where).training_step(), setting.device), over)
        for name in names
    ]


def _call(case: Case, setting: Setting) -> list[Variant]:
    """What one call costs when there is next to nothing to compute."""
    shape, where = _shape(case), _where(case, setting)
    check_op("auto", shape, where.dtype, where.device)
    layer = _checked_sru(shape, where)
    u, x, v, b = _op_inputs(shape, where)
    op = torch.ops.torchsru.sru_forward.default
    # grad mode is switched off outside the clock: the cost of one call, not of the switch
    calls: Calls = {
        FORWARD_OP: lambda: op(u, x, v, b, None, None, None, None, 1, False, False, ALPHA),
        RECURRENCE: lambda: sru_recurrence(u, x, v, b, alpha=ALPHA),
        LAYER: layer.output,
        LSTM: make(LSTM, shape, where).output,
        GRU: make(GRU, shape, where).output,
        "nn.Linear(d, 3 d)": _linear(shape, where),
    }
    layer.module.eval()
    return [
        Variant(name, _without_grad(lambda call=call: timed(call, setting.device)))  # type: ignore[misc]
        for name, call in calls.items()
    ]


def _without_grad(make_sample: Callable[[], Callable[[], float]]) -> Callable[[], float]:
    with torch.no_grad():
        sample = make_sample()
    return torch.no_grad()(sample)


def _linear(shape: Shape, where: Where) -> Callable[[], object]:
    linear = nn.Linear(shape.d, 3 * shape.d, bias=False).to(where.device, where.dtype)
    x = where.randn(shape.L, shape.B, shape.d)
    return lambda: linear(x)


def _kernel(case: Case, setting: Setting) -> list[Variant]:
    """The elementwise kernels alone, outputs fresh, beside a copy of u into a reused buffer."""
    shape, where = _shape(case), _where(case, setting)
    check_op("auto", shape, where.dtype, where.device)
    u, x, v, b = _op_inputs(shape, where)
    arguments = (u, x, v, b, None, None, None, None)
    options = (1, False, False, ALPHA)
    ops = torch.ops.torchsru
    _, _, c = ops.sru_forward_train.default(*arguments, *options)
    gh, copy = torch.randn_like(x), torch.empty_like(u)
    calls: Calls = {
        COPY: lambda: copy.copy_(u),
        FORWARD: kernel_call("auto", shape, where),
        FORWARD_TRAIN: lambda: ops.sru_forward_train.default(*arguments, *options),
        BACKWARD: lambda: ops.sru_backward.default(gh, None, *arguments, c, *options),
    }
    over: dict[str, tuple[str, ...]] = {
        name: (COPY,) for name in (FORWARD, FORWARD_TRAIN, BACKWARD)
    }
    return _timed_without_grad(calls, setting, over)


def kernel_call(backend: str, shape: Shape, where: Where) -> Callable[[], object]:
    """The recurrence's forward pass without gradients."""
    u, x, v, b = _op_inputs(shape, where)
    return lambda: sru_recurrence(u, x, v, b, alpha=ALPHA, backend=backend)


def _op_inputs(shape: Shape, where: Where) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u [L, B, 3, D], x [L, B, D], v and b [2, D]."""
    L, B, D = shape.L, shape.B, shape.d
    state = Where(torch.promote_types(where.dtype, torch.float32), where.device)
    return where.randn(L, B, 3, D), where.randn(L, B, D), state.randn(2, D), state.randn(2, D)


def _backends(case: Case, setting: Setting) -> list[Variant]:
    """The forward kernel by backend, and per instruction set; a process each, taking turns."""
    shape, where = _shape(case), _where(case, setting)
    isas = cpu_info()["isa_available"] if setting.device == "cpu" else []
    workers = {f"cpu, {isa}": ("cpu", isa) for isa in isas} | {"torch": ("torch", None)}
    variants: list[Variant] = []
    try:
        for name, (backend, isa) in workers.items():
            worker = KernelWorker(backend, isa, shape, where, setting.threads)
            over = (next(iter(workers)),) if variants else ()
            variants.append(Variant(name, worker.sample, over, worker.close))
    except BaseException:
        for variant in variants:
            variant.close()
        raise
    return variants


def _memory(case: Case, setting: Setting) -> list[Variant]:
    """Peak memory of a training step, a fresh process each time."""
    shape, where = _shape(case), _where(case, setting)
    _checked_sru(shape, where)

    def variant(name: str, over: tuple[str, ...] = ()) -> Variant:
        return Variant(name, lambda: peak_bytes(name, shape, where, setting.threads), over)

    return [variant(LSTM), variant(GRU), variant(SRU, (LSTM, GRU))]


def _import(case: Case, setting: Setting) -> list[Variant]:
    """Import time, a fresh interpreter each time."""
    return [
        Variant(IMPORT_TORCH, lambda: import_seconds(True)),
        Variant(IMPORT_TORCHSRU, lambda: import_seconds(False)),
    ]


KINDS: dict[str, Callable[[Case, Setting], list[Variant]]] = {
    "inference": _inference,
    "training": _training,
    "networks": _networks,
    "call": _call,
    "kernel": _kernel,
    "backends": _backends,
    "memory": _memory,
    "import": _import,
}
