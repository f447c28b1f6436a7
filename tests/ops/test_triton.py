"""The Triton kernels against the definition: on a GPU, or in Triton's interpreter.

`make test` runs this file once more with TRITON_INTERPRET=1, on the CPU; `make gpu` on a GPU. The
last part compiles every kernel for GPUs that need not be there.
"""

import os
import re
import subprocess
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.ops.helpers import (
    DTYPES,
    LinearCase,
    SruCase,
    all_pairs,
    check,
    linear_recurrence,
    run,
    seeds_for,
    sru_recurrence,
)
from torch._functorch.aot_autograd import aot_export_module
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.utils._python_dispatch import TorchDispatchMode

from torchsru import ops
from torchsru.nn import SRU as Layer
from torchsru.ops import _triton
from torchsru.ops.scan import overload as linear_overload
from torchsru.ops.sru import overload as sru_overload

if os.environ.get("CI") == "true":
    import triton
else:
    triton = pytest.importorskip("triton")

DEVICE = "cpu" if _triton.interpreted() else "cuda"
WHY_NOT = _triton.why_not(torch.cuda.is_available())
if _triton.interpreted() and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
    WHY_NOT = f"the interpreter of Triton {triton.__version__} fails with today's NumPy"
runs = pytest.mark.skipif(WHY_NOT is not None, reason=f"{WHY_NOT}; or set TRITON_INTERPRET=1")

# the interpreter takes a millisecond an operation: small, but past a block of channels
SHAPES = [(1, 1, 1), (7, 3, 5), (5, 2, 33), (3, 1, 130), (17, 2, 6)]
SRU_PAIRS = [
    SruCase(**row)
    for row in all_pairs(
        {
            "shape": SHAPES,
            "dtype": DTYPES,
            "highway": ["x", "k=4", "none"],
            "v": ["none", "static", "varying", "wide"],
            "b": [True, False],
            "c0": [True, False],
            "sequences": ["rows", "mask", "documents"],
            "out_mask": [False, True],
            "activation": ["identity", "tanh"],
            "contractive": [False, True],
            "num_directions": [1, 2],
        }
    )
]
LINEAR_PAIRS = [
    LinearCase(**row)
    for row in all_pairs(
        {
            "shape": SHAPES,
            # the interpreter cuts to bfloat16 where a GPU rounds, and the gradient reads the output
            "dtype": [d for d in DTYPES if d != torch.bfloat16 or not _triton.interpreted()],
            "c0": [True, False],
            "sequences": ["rows", "mask", "documents"],
            "num_directions": [1, 2],
        }
    )
]


WAYS = ["triton", "triton_parallel"]
SRU = {way: partial(sru_recurrence, backend=way) for way in WAYS}
LINEAR = {way: partial(linear_recurrence, backend=way) for way in WAYS}
sru = SRU["triton"]


# ---- against the definition ----------------------------------------------------------------------


@runs
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", SRU_PAIRS, ids=str)
def test_sru_matches_reference(case, way):
    check(SRU[way], case)


@runs
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", LINEAR_PAIRS, ids=str)
def test_linear_recurrence_matches_reference(case, way):
    check(LINEAR[way], case)


@runs
def test_the_check_can_fail():
    def wrong(**arguments):
        return sru(**arguments | {"alpha": 1.001 * arguments["alpha"]})

    with pytest.raises(AssertionError, match="roundings off"):
        check(wrong, SruCase())


@runs
def test_a_long_sequence_of_narrow_channels():
    """Sums over 256 steps; tanh near zero, where its two formulas meet."""
    check(sru, SruCase(shape=(256, 1, 3), activation="tanh", contractive=True, dtype=torch.float32))


@runs
@pytest.mark.parametrize("contractive", [False, True])
def test_newton_alone_solves_every_chunk(contractive, monkeypatch):
    """It solves a chunk more each time at least: so many iterations leave nothing to finish."""
    from torchsru.ops.sru import triton as launchers

    def without_finish(kernel, *rest):
        if kernel is launchers.triton_kernels.sru_finish:
            return lambda *arguments, **options: None
        return wrap(kernel, *rest)

    wrap = launchers.wrap
    monkeypatch.setattr(launchers, "wrap", without_finish)
    case = SruCase(shape=(17, 2, 5), v="static", c0=True, contractive=contractive)
    check(SRU["triton_parallel"], case)


@runs
@pytest.mark.parametrize("iterations", [1, 3])
def test_what_newton_leaves_is_computed_in_turn(iterations, monkeypatch):
    """Chunks of 8 steps, most of which so few iterations do not solve."""
    from torchsru.ops.sru import triton as launchers

    monkeypatch.setattr(launchers, "ITERATIONS", iterations)
    check(SRU["triton_parallel"], SruCase(shape=(60, 1, 5), v="wide", sequences="mask"))
    bounds = (0, 5, 5, 45, 60)
    case = SruCase(shape=(60, 1, 5), v="wide", sequences="documents", bounds=bounds)
    check(SRU["triton_parallel"], replace(case, num_directions=2))


@runs
def test_a_wrong_first_state_is_not_taken_for_solved(monkeypatch):
    """The tolerance of the kernel that tests them: with a large one the answer is wrong."""
    from torchsru.ops.sru import triton as launchers

    case = SruCase(shape=(30, 1, 3), v="wide")
    check(SRU["triton_parallel"], case)
    monkeypatch.setattr(launchers, "TOLERANCE", 1e15)
    with pytest.raises(AssertionError, match="roundings off"):
        check(SRU["triton_parallel"], case)


@runs
@pytest.mark.parametrize("way", WAYS)
def test_a_state_of_zero_is_not_lost_to_an_overflow(way):
    a, b = torch.full((60, 1, 1), 1e6), torch.zeros(60, 1, 1)
    b[-1] = 1
    c, last = LINEAR[way](a=a, b=b)
    assert not c[:-1].any() and last.item() == 1
    a[7::8] = 0
    c, last = LINEAR[way](a=a, b=b, c0=torch.full((1, 1), 1e-30))
    assert c.isfinite().all() and last.item() == 1


@runs
@pytest.mark.parametrize("way", WAYS)
def test_a_weight_that_is_nan_is_not_clipped_away(way):
    case = SruCase(shape=(5, 1, 3), contractive=True, dtype=torch.float32)
    t = case.tensors()
    t["v"][0, 1] = float("nan")
    h, _ = SRU[way](**t, **case.options())
    assert h[..., 1].isnan().all() and h[..., [0, 2]].isfinite().all()


@runs
def test_eager_calls_start_the_kernels_themselves(monkeypatch):
    """PyTorch's wrapper would cost more than the kernels, and keep an entry a call."""
    from torchsru.ops import _triton_chunks

    def refuse(kernel):
        raise AssertionError("wrapped")

    monkeypatch.setattr(_triton_chunks, "wrap_triton", refuse)
    case = SruCase(shape=(3, 1, 2))
    t = case.tensors()
    run(sru, t, case.options(), seeds_for(case, t), case.outputs)
    with pytest.raises(AssertionError, match="wrapped"):  # the registered op does wrap them
        torch.ops.torchsru.sru_forward_triton(t["u"], *[None] * 7, 1, False, False, 1.0)


@runs
@pytest.mark.parametrize("grad", [False, True])
def test_a_dispatch_mode_sees_the_ops(grad):
    """What it does not see it can neither count nor put into a graph."""

    class Seen(TorchDispatchMode):
        names = ()

        def __torch_dispatch__(self, fn, types, args=(), kwargs=None):
            self.names += (fn.name(),)
            return fn(*args, **kwargs or {})

    u = torch.randn(3, 1, 3, 2, requires_grad=grad)
    expected = sru(u=u)
    with Seen() as seen:
        got = sru(u=u)
        if grad:
            got[0].sum().backward()
    ops = {name for name in seen.names if name.startswith("torchsru::")}
    forward = {"torchsru::sru_forward_train_triton", "torchsru::sru_backward_triton"}
    assert ops == (forward if grad else {"torchsru::sru_forward_triton"})
    assert all(map(torch.equal, got, expected))


def test_no_lane_is_idle_and_no_multiprocessor(monkeypatch):
    """But where there are fewer channels than a warp of threads loads in four bytes each."""
    monkeypatch.setattr(_triton, "LANES", 32)

    def tiles(rows, d, dtype):
        return _triton.Launch(rows, d, 1, 64, dtype, None, False).tiles()[:2]

    assert tiles(4096, 32, torch.float32) == (32, 1)
    assert tiles(4096, 32, torch.bfloat16) == (64, 1)
    assert tiles(32, 512, torch.float32) == (32, 1)  # 512 programs
    assert tiles(32, 2048, torch.float32) == (128, 4)  # as many
    assert tiles(4096, 512, torch.float64) == (128, 4)


@runs
def test_tiles_that_do_not_fit_are_passed_over(monkeypatch):
    from triton.runtime.errors import OutOfResources

    def start(tiles):
        if tiles.block > 64:
            raise OutOfResources(tiles.block, 64, "shared memory")

    assert _triton._seconds(start, _triton.Tiles(128, 1, 1, 1)) == float("inf")
    assert _triton._seconds(start, _triton.Tiles(64, 1, 1, 1)) < float("inf")


def test_tuning_tries_the_usual_tiles_too(monkeypatch):
    """So that it never makes a call slower."""
    launch = _triton.Launch(4, 32, 1, 8, torch.float64, None, False)
    monkeypatch.setattr(_triton, "_tuning", True)
    monkeypatch.setattr(_triton, "_tuned", {})
    fastest = launch.tiles()
    assert fastest not in _triton.CANDIDATES
    monkeypatch.setattr(_triton, "_seconds", lambda start, tiles: 1 if tiles == fastest else 2)
    started = []
    _triton.run("kernel", {}, launch, started.append)
    assert started == [fastest]


@runs
def test_tuning_moves_no_bit(monkeypatch):
    case = SruCase(shape=(5, 2, 40), dtype=torch.float32)
    t, seeds = case.tensors(), seeds_for(case, case.tensors())
    plain = run(sru, t, case.options(), seeds, case.outputs)
    monkeypatch.setattr(_triton, "_tuning", True)
    monkeypatch.setattr(_triton, "_tuned", {})
    monkeypatch.setattr(
        _triton, "CANDIDATES", (_triton.Tiles(32, 1, 1, 1), _triton.Tiles(64, 2, 3, 4))
    )
    tuned = run(sru, t, case.options(), seeds, case.outputs)
    assert len(_triton._tuned) == 2  # forward and backward
    assert all(torch.equal(plain[name], tuned[name]) for name in plain)


@runs
@pytest.mark.parametrize("way", WAYS)
def test_the_same_bits_twice(way):
    case = SruCase(shape=(9, 4, 40), dtype=torch.float32, sequences="mask", num_directions=2)
    t = case.tensors()
    first, second = (
        run(SRU[way], t, case.options(), seeds_for(case, t), case.outputs) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@runs
@pytest.mark.parametrize("shape", [(0, 2, 5), (3, 0, 5), (0, 0, 4)])
@pytest.mark.parametrize("num_directions", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_empty(shape, num_directions, way):
    L, B, D = shape
    D += D % num_directions
    u = torch.randn(L, B, 3, D, requires_grad=True)
    c0 = torch.randn(B, D, requires_grad=True)
    v = torch.randn(2, D, requires_grad=True)
    h, c = SRU[way](u=u, x=torch.randn(L, B, D), v=v, c0=c0, num_directions=num_directions)
    assert torch.equal(c, c0) and h.shape == (L, B, D)
    gu, gc0, gv = torch.autograd.grad(h.sum() + c.sum(), [u, c0, v])
    assert gu.shape == u.shape and torch.equal(gc0, torch.ones_like(c0)) and not gv.any()


@runs
@pytest.mark.parametrize("way", WAYS)
def test_what_stands_at_padding_reaches_nothing(way):
    case = SruCase(sequences="mask", v="varying", dtype=torch.float32)
    t = case.tensors()
    poisoned = dict(t)
    for name in ("u", "x", "v"):
        padding = t["mask"].view(*t["mask"].shape, *[1] * (t[name].dim() - 2))
        poisoned[name] = t[name].masked_fill(padding, float("nan"))
    seeds = seeds_for(case, t)
    got, expected = (run(SRU[way], t, case.options(), seeds, case.outputs) for t in (poisoned, t))
    for name in expected:
        assert torch.equal(got[name], expected[name]), name


@runs
def test_strides():
    case = SruCase(shape=(5, 3, 8), dtype=torch.float32)
    t = case.tensors()
    plain = sru(**t, **case.options())
    turned = {"u": t["u"].transpose(0, 3).contiguous().transpose(0, 3), "x": t["x"].flip(0).flip(0)}
    wide = torch.stack([t["x"], t["x"]], dim=-1)[..., 0]
    assert not turned["u"].is_contiguous() and not wide.is_contiguous()
    torch.testing.assert_close(sru(**t | {**turned, "x": wide}, **case.options()), plain)


@runs
@pytest.mark.parametrize("bounds", [[1, 7], [0, 5], [0, 5, 3, 7]])
def test_bounds_that_do_not_fit(bounds):
    if DEVICE == "cuda":
        pytest.skip("a device assertion ends the process's use of the GPU")
    u = torch.randn(7, 1, 3, 4)
    with pytest.raises(RuntimeError, match="cu_seqlens must rise from 0 to the number of steps, 7"):
        sru(u=u, cu_seqlens=torch.tensor(bounds))


@runs
def test_second_derivatives_come_from_the_reference():
    case = SruCase(shape=(3, 2, 2))
    t = {name: a for name, a in case.tensors().items() if a is not None}
    names = list(t)

    def outputs(*tensors):
        return sru(**dict(zip(names, tensors, strict=True)), **case.options())

    assert torch.autograd.gradgradcheck(outputs, [a.requires_grad_() for a in t.values()])


# ---- as PyTorch sees it --------------------------------------------------------------------------


class Driver:
    """Of a GPU that is not there: PyTorch asks what to compile for, to see what kernels write."""

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)


@pytest.mark.parametrize("way", [*WAYS, "triton_auto"])
@pytest.mark.parametrize("op", ["sru_forward", "sru_backward", "linear_forward"])
def test_caches_of_compiled_graphs_see_the_kernels(op, way):
    for overload in (sru_overload, linear_overload):
        overload("triton")  # makes the ops
    kernels = torch._library.triton.get_triton_kernels_for_op(f"torchsru::{op}_{way}")
    assert {"chain", op} <= {kernel.fn.__name__ for kernel in kernels}


@pytest.mark.skipif(_triton.interpreted(), reason="the interpreter's kernels can't be traced")
def test_a_batch_of_any_size_is_one_graph():
    """Tiles follow the shape, but no guard may bind a dynamic one."""
    sru_overload("triton")
    shapes = ShapeEnv()
    with FakeTensorMode(shape_env=shapes) as mode:
        real = torch.empty(7, 9, 3, 512)
        context = StatelessSymbolicContext(
            [DimDynamic.STATIC, DimDynamic.DYNAMIC] + [DimDynamic.STATIC] * 2
        )
        u = mode.from_tensor(real, symbolic_context=context)
        u = torch.empty(u.shape, device="cuda")
        torch.ops.torchsru.sru_forward_triton_auto(u, *[None] * 7, 1, False, False, 1.0)
    assert not shapes.guards, shapes.guards


@pytest.mark.skipif(_triton.interpreted(), reason="the interpreter's kernels can't be traced")
@pytest.mark.skipif(_triton.why_not(True) is not None, reason="no Triton here")
def test_fake_tensors_start_no_kernel():
    """Of a GPU that is not there, in eager mode."""
    ops_of = sru_overload("triton_auto")
    with FakeTensorMode(), torch.no_grad():
        u = torch.empty(7, 3, 3, 8, device="cuda")
        h, last = ops.sru_recurrence(u)
        assert (h.shape, last.shape) == ((7, 3, 8), (3, 8))
        h, last, c = ops_of.forward_train(u, *[None] * 7, 1, False, False, 1.0)
        gu, *_ = ops_of.backward(h, last, u, *[None] * 7, c, 1, False, False, 1.0)
        assert (c.shape, gu.shape) == (h.shape, u.shape)


@pytest.mark.parametrize("traced", [False, True])
def test_kernels_start_on_the_gpu_of_the_tensors(traced, monkeypatch):
    """And a registered op's, called with tensors that are there; of GPUs that are not."""
    at = ["cuda:0"]

    class Device:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            at.append(str(self.device))

        def __exit__(self, *_):
            at.pop()

    monkeypatch.setattr(torch.cuda, "device", Device)
    started = []
    for gpu in (torch.device("cuda:1"), None):
        launch = _triton.Launch(1, 64, 1, 8, torch.float32, gpu, traced)
        _triton.run("kernel", {}, launch, lambda tiles: started.append(at[-1]))
    assert started == ["cuda:1", "cuda:0"]


@pytest.mark.skipif(_triton.interpreted(), reason="the interpreter's kernels can't be traced")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("way", [*WAYS, "triton_auto"])
def test_tracing_finds_the_kernel(grad, way, monkeypatch):
    """With tensors of a GPU that is not there: what torch.compile and AOTInductor build from."""
    sru_overload("triton")
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    forward = f"sru_forward{'_train' if grad else ''}_{way}"

    class Module(torch.nn.Module):
        def forward(self, u, x):
            op = getattr(torch.ops.torchsru, forward)
            return op(u, x, *[None] * 6, 1, False, False, 1.0)

    with FakeTensorMode():
        u = torch.empty(7, 3, 3, 8, device="cuda")
        x = torch.empty(7, 3, 8, device="cuda")
        graph, signature = aot_export_module(Module(), (u, x), trace_joint=False)
    assert not signature.user_inputs_to_mutate
    *_, end = graph.graph.nodes
    outputs = end.args[0][-3 if grad else -2 :]
    assert [n.args[1] for n in outputs] == ["h", "c_last", "c_steps"][: len(outputs)]
    assert all("triton_kernel_wrapper" in str(n.args[0].target) for n in outputs)


@pytest.mark.gpu
@pytest.mark.parametrize("grad", [False, True])
def test_traced_calls_are_the_eager_ones(grad):
    case = SruCase(dtype=torch.float32)
    t = {name: a for name, a in case.tensors().items() if a is not None}
    u = t["u"].requires_grad_(grad)
    compiled = torch.compile(sru, backend="eager", fullgraph=True)
    got, expected = compiled(**t, **case.options()), sru(**t, **case.options())
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    if grad:
        (gu,), (expected_gu,) = (torch.autograd.grad(h.sum(), [u]) for h, _ in (got, expected))
        torch.testing.assert_close(gu, expected_gu, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_a_cuda_graph_replays_the_call(way):
    """Forward and backward, with other values than those of the capture."""
    case = SruCase(shape=(300, 2, 40), dtype=torch.float32)
    names, seeds = ("u", "x", "v", "b", "c0"), [s.cuda() for s in seeds_for(case, case.tensors())]
    first, second = (
        {name: replace(case, seed=seed).tensors()[name].cuda() for name in names} for seed in (0, 1)
    )
    held = {name: t.clone().requires_grad_() for name, t in first.items()}

    def step():
        outputs = ops.sru_recurrence(**held, **case.options(), backend=way)
        return *outputs, *torch.autograd.grad(outputs, list(held.values()), seeds)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles the kernels: not while capturing
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for name, t in held.items():
            t.copy_(second[name])
    graph.replay()
    replayed = [t.clone() for t in captured]
    assert all(map(torch.equal, replayed, step()))


@pytest.mark.gpu
def test_a_layer_exported_for_the_gpu_runs_as_a_package(tmp_path):
    """AOTInductor compiles the kernels into it. Its run without Python: test_registration.py."""
    layer, x = Layer(32, 32, 2).cuda().eval(), torch.randn(20, 3, 32, device="cuda")
    with torch.no_grad():
        program = torch.export.export(layer, (x,))
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "layer.pt2")
        )
        got = torch._inductor.aoti_load_package(package)(x)
        torch.testing.assert_close(got, layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_a_layer_on_the_gpu_takes_triton():
    layer, x = Layer(64, 64, 2), torch.randn(20, 3, 64)
    expected, _ = layer(x)
    got, _ = layer.cuda()(x.cuda())
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-3, atol=1e-3)


# ---- at the size of a model, on a GPU ------------------------------------------------------------


def at_size(shape, dtype, backend, device):
    """Outputs and gradients of a run, the same inputs wherever it runs."""
    L, B, d = shape
    drawn = torch.Generator().manual_seed(0)

    def random(*size, scale=1.0):
        return torch.randn(size, generator=drawn).mul(scale).to(device, dtype)

    u, x, c0 = random(L, B, 3, d), random(L, B, d), random(B, d)
    v, b = random(2, d, scale=0.3), random(2, d)
    leaves = [t.requires_grad_() for t in (u, x, v, b, c0)]
    h, c = ops.sru_recurrence(u, x, v, b, c0, backend=backend)
    weight = torch.linspace(-1, 1, d, device=device, dtype=dtype)
    grads = torch.autograd.grad((h * weight).sum() + (c * weight).sum(), leaves)
    return [h.detach(), c.detach(), *grads]


def assert_alike(found, expected, dtype):
    """Relative to the largest: to rounding what is stored, and, for what adds up over the steps, to
    a random walk of as many errors."""
    walk = 64 + 4 * found[0].shape[0] ** 0.5
    few = 2 * torch.finfo(dtype).eps + walk * torch.finfo(torch.float32).eps
    for got, wanted in zip(found, expected, strict=True):
        assert got.isfinite().all()
        off = (got.double() - wanted.double()).abs().max() / wanted.double().abs().max()
        assert off <= few, f"{off:.1e} of the largest, more than {few:.1e}"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("way", "shape"), [("triton", (1024, 32, 1024)), (WAYS[1], (65536, 1, 512))]
)
def test_at_the_size_of_a_model(way, shape, dtype):
    """Many programs at once: the same as the pure-PyTorch path or the other kernels, and the same
    bits twice."""
    found = at_size(shape, dtype, way, "cuda")
    other = "torch" if way == "triton" else "triton"
    assert_alike(found, at_size(shape, dtype, other, "cuda"), dtype)
    again = at_size(shape, dtype, way, "cuda")
    assert all(torch.equal(*pair) for pair in zip(found, again, strict=True))


def test_the_check_at_size_can_fail():
    found = at_size((6, 2, 5), torch.float32, "torch", "cpu")
    assert_alike(found, at_size((6, 2, 5), torch.float64, "reference", "cpu"), torch.float32)
    found[2] = found[2] * (1 + 1e-4)
    with pytest.raises(AssertionError, match="more than"):
        assert_alike(found, at_size((6, 2, 5), torch.float32, "torch", "cpu"), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_more_than_2_to_the_31_elements(way):
    """Offsets are of 64 bits; channels don't see each other, so that a few tell of all."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of a GPU's free memory")
    L, B, d = 1500, 512, 1024
    u = torch.randn(L, B, 3, d, device="cuda", dtype=torch.bfloat16)
    assert u.numel() > 2**31
    h, c = ops.sru_recurrence(u, backend=way)
    rows, few = [0, B - 1], [0, 1, d // 2, d - 2, d - 1]
    part = u[:, rows][..., few].float()
    h_few, c_few = ops.sru_recurrence(part, backend="torch")
    for got, wanted in ((h, h_few), (c[None], c_few[None])):
        torch.testing.assert_close(got[:, rows][..., few].float(), wanted, rtol=2**-7, atol=2**-8)


# ---- compiled for GPUs that are not there --------------------------------------------------------


BASE = {
    "DOUBLE": False, "K": 3, "HAS_X": True, "V": 1, "HAS_B": True, "HAS_C0": True, "MASK": False,
    "DOCUMENTS": False, "OUT_MASK": False, "DIRECTIONS": 1, "TANH": False, "CONTRACTIVE": False,
    "ALPHA": 1.7, "TOLERANCE": 4,
}  # fmt: skip
FULL = BASE | {
    "K": 4, "HAS_X": False, "V": 2, "MASK": True, "OUT_MASK": True, "DIRECTIONS": 2, "TANH": True,
    "CONTRACTIVE": True,
}  # fmt: skip
ABSENT = {  # argument: the option that says whether it is there
    "x": "HAS_X", "b": "HAS_B", "c0": "HAS_C0", "mask": "MASK", "bounds": "DOCUMENTS",
    "out_mask": "OUT_MASK", "s0": "HAS_S0",
}  # fmt: skip
POINTERS = {"mask": "*i32", "bounds": "*i64", "solved": "*i32"}  # of one type always
IN_INPUT_TYPE = {"u", "x", "h", "gh", "gu", "gx", "a", "gc", "ga", "gb"}
TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}


def compile_kernel(kernel, dtype, target, options):
    """The compiled kernel for a target, without the GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    state = "fp64" if dtype == "fp64" else "fp32"
    constants = {n: v for n, v in options.items() if n in kernel.arg_names}
    stored = {"fp64": torch.float64, "fp32": torch.float32}.get(dtype, torch.bfloat16)
    tiles = _triton.Launch(2048, 512, 1, 64, stored, torch.device("cuda"), False).tiles()
    constants |= {"BLOCK": tiles.block, "STAGES": tiles.stages, "UNROLL": tiles.unroll}
    constants["DOUBLE"] = state == "fp64"
    linear = kernel.__name__.startswith("linear")
    signature = {}
    for name in kernel.arg_names:
        if not constants.get(ABSENT.get(name, ""), True) and not (linear and name == "b"):
            constants[name] = None
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("L", "B", "R", "D", "d", "length"):
            signature[name] = "i32"
        elif name in POINTERS:
            signature[name] = POINTERS[name]
        else:
            in_input_type = name in IN_INPUT_TYPE or (linear and name in ("b", "c_steps"))
            signature[name] = "*" + (dtype if in_input_type else state)
    names = list(signature)
    aligned = [n for n, kind in signature.items() if kind.startswith("*") or n in ("D", "d")]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": tiles.warps, "enable_fp_fusion": _triton.FP_FUSION}
    return triton.compile(source, target=GPUTarget(*target), options=options)


def spills(compiled, target) -> int:
    """Bytes of local memory, or registers, that the kernel spills."""
    if target[0] == "hip":
        (found,) = re.findall(r"\.vgpr_spill_count: *(\d+)", compiled.asm["amdgcn"])
        return int(found)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True)
    stack, local = (int(re.search(rf"{word}:(\d+)", said.stdout)[1]) for word in ("STACK", "LOCAL"))
    return stack + local


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="compiles, not interprets")
@pytest.mark.parametrize("options", [BASE, FULL], ids=["base", "full"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "fp64"])
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_compile_and_keep_their_registers(target, dtype, options):
    from torchsru.ops import _triton_kernels as common
    from torchsru.ops.scan import triton_kernels as scan
    from torchsru.ops.sru import triton_kernels as sru

    options = options | {"KEEP": True, "HAS_GC": True, "HAS_GC_LAST": True, "HAS_S0": True}
    kernels = [
        *(sru.sru_forward, sru.sru_guess, sru.sru_run, sru.sru_newton, sru.sru_finish),
        *(sru.sru_backward, scan.linear_forward, scan.linear_backward, common.chain),
    ]
    for kernel in kernels:
        every_pass = "PASS" in kernel.arg_names and dtype in ("fp32", "bf16")
        passes = range(3) if every_pass else [common.WHOLE.value]
        for PASS in passes:
            if kernel is not sru.sru_forward or common.MAPS.value != PASS:
                compiled = compile_kernel(kernel, dtype, TARGETS[target], options | {"PASS": PASS})
                assert spills(compiled, TARGETS[target]) == 0, (kernel.__name__, PASS)
                # R D states may be more than 2^31
                assert "muli %R, %D" not in compiled.asm["ttir"], (kernel.__name__, PASS)
                # AMD's compiler decides later how far ahead to load
                ahead = kernel is not sru.sru_finish or dtype != "fp64"
                if target != "gfx942" and ahead:
                    assert "cp.async" in compiled.asm["ptx"], (kernel.__name__, PASS)
                    # and no step waits for a load of its own, not even of its mask
                    loop = compiled.asm["ttgir"].split("scf.for")[-1]
                    assert "tt.load" not in loop, (kernel.__name__, PASS)
