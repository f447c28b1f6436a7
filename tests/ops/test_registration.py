"""The ops as PyTorch sees them: opcheck, compile, export; processes without kernels or Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.ops.helpers import BACKENDS, LinearCase, SruCase, seeds_for
from torch._dynamo.testing import CompileCounter
from torch.library import opcheck

from torchsru import SRU
from torchsru.ops import backends, linear_recurrence, scan, sru, sru_recurrence

ROOT = Path(__file__).parents[2]
SCHEMAS = {**sru.SCHEMAS, **scan.SCHEMAS}
OVERLOADS = ["default", "torch", "torch_parallel"]
SRU_CASES = [
    SruCase(),
    SruCase(v="varying", sequences="mask", num_directions=2, out_mask=True, dtype=torch.float32),
    SruCase(highway="k=4", sequences="documents", activation="tanh", dtype=torch.bfloat16),
    SruCase(highway="none", v="none", b=False, c0=False, contractive=True),
]
LINEAR_CASES = [
    LinearCase(),
    LinearCase(sequences="mask", num_directions=2, dtype=torch.float32),
    LinearCase(sequences="documents", c0=False, dtype=torch.bfloat16),
]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# ---- the ops -------------------------------------------------------------------------------------


def arguments_of(name, case):
    """An op's arguments in order; those that can be differentiated ask for it."""
    t = case.tensors()
    if isinstance(case, SruCase):
        order = ("u", "x", "v", "b", "c0", "mask", "cu_seqlens", "out_mask")
        options = [case.num_directions, case.activation == "tanh", case.contractive, case.alpha]
    else:
        order, options = ("a", "b", "c0", "mask", "cu_seqlens"), [case.num_directions]
    arguments = [t[n] for n in order]
    if name.endswith("_backward"):
        forward = getattr(torch.ops.torchsru, name.replace("backward", "forward_train"))
        outputs = forward.torch(*arguments, *options)
        c = outputs[2] if isinstance(case, SruCase) else outputs[0]
        return [*seeds_for(case, t), *arguments, c, *options]
    for a in arguments:
        if name.endswith("_train") and a is not None and a.is_floating_point():
            a.requires_grad_()
    return [*arguments, *options]


@pytest.mark.parametrize("overload", OVERLOADS)
@pytest.mark.parametrize("case", [*SRU_CASES, *LINEAR_CASES], ids=str)
def test_eager_calls_are_the_registered_op(case, overload):
    """Outputs and gradients bit for bit: tracing sees the op, eager calls go around autograd's."""
    package, name = (sru, "sru") if isinstance(case, SruCase) else (scan, "linear")
    registered = getattr(getattr(torch.ops.torchsru, f"{name}_forward_train"), overload)
    found = []
    for call in (registered, package.overload(overload).train):
        arguments = arguments_of(f"{name}_forward_train", case)
        wanted = [t for t in arguments if isinstance(t, torch.Tensor) and t.requires_grad]
        outputs = call(*arguments)[:2]
        seeds = [torch.ones_like(output) for output in outputs]
        found.append([*outputs, *torch.autograd.grad(outputs, wanted, seeds)])
    assert len(found[0]) > 2
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("overload", OVERLOADS)
@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        for name in SCHEMAS
        for case in (SRU_CASES if name.startswith("sru") else LINEAR_CASES)
    ],
    ids=str,
)
def test_opcheck(name, case, overload):
    opcheck(getattr(getattr(torch.ops.torchsru, name), overload), arguments_of(name, case))


@pytest.mark.parametrize("overload", OVERLOADS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_outputs_are_contiguous_however_inputs_lie(name, overload):
    """As the fakes promise, which compiled code relies on."""
    case = SruCase() if name.startswith("sru") else LinearCase()
    arguments = [
        a.transpose(0, 1).contiguous().transpose(0, 1)
        if isinstance(a, torch.Tensor) and a.dim() > 1
        else a
        for a in arguments_of(name, case)
    ]
    outputs = getattr(getattr(torch.ops.torchsru, name), overload)(*arguments)
    assert all(output.is_contiguous() for output in outputs)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_the_same_in_python_and_in_the_library(name):
    op = getattr(torch.ops.torchsru, name)
    assert sorted(op.overloads()) == OVERLOADS
    for overload in OVERLOADS:
        dotted = name if overload == "default" else f"{name}.{overload}"
        text = SCHEMAS[name].replace(name, f"torchsru::{dotted}", 1)
        assert str(getattr(op, overload)._schema) == str(torch._C.parse_schema(text))


def test_every_op_is_here():
    ops = {n.split("::")[1].split(".")[0] for n in torch._C._dispatch_get_all_op_names()
           if n.startswith("torchsru::")}  # fmt: skip
    assert {op for op in ops if "_triton" not in op} == set(SCHEMAS)
    triton = {
        f"{op}_{way}" for op in SCHEMAS for way in ("triton", "triton_parallel", "triton_auto")
    }
    assert ops <= triton | set(SCHEMAS)  # loaded at the first call that needs them


# ---- torch.compile -------------------------------------------------------------------------------


def gradients(fn, *tensors):
    leaves = [t.detach().requires_grad_() for t in tensors]
    outputs = fn(*leaves)
    loss = sum((o.float() ** 2).sum() for o in outputs)
    return [o.detach() for o in outputs], list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SRU_CASES, ids=str)
def test_compiled_function_equals_eager(case, backend):
    t = case.tensors()
    names = [n for n, x in t.items() if x is not None and x.is_floating_point()]

    def fn(*values):
        changed = t | dict(zip(names, values, strict=True))
        return sru_recurrence(**changed, **case.options(), backend=backend)

    values = [t[n] for n in names]
    compiled = torch.compile(fn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, *values), gradients(fn, *values))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_linear_recurrence_equals_eager(backend):
    t = LinearCase().tensors()

    def fn(a, b, c0):
        return linear_recurrence(a, b, c0, backend=backend)

    compiled = torch.compile(fn, fullgraph=True, backend="aot_eager")
    values = [t["a"], t["b"], t["c0"]]
    torch.testing.assert_close(gradients(compiled, *values), gradients(fn, *values))


LAYERS = {
    "plain": {},
    "all": {"bidirectional": True, "layer_norm": "pre", "projection_size": 3, "batch_first": True},
    "other": {"contractive": True, "layer_norm": "post", "activation": "tanh"},
}


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_compiled_layer_equals_eager(options):
    model, x = SRU(5, 6, 2, **options), torch.randn(7, 3, 5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, x), gradients(model, x))
    state = model(x)[1]
    torch.testing.assert_close(gradients(compiled, x, state), gradients(model, x, state))


def test_compiled_layer_takes_documents_and_masks():
    model = SRU(5, 6, 2, dropout=0.1, input_dropout=0.1, state_dropout=0.1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(torch.randn(9, 1, 5), cu_seqlens=torch.tensor([0, 4, 9]))
    model.eval()
    x, bounds = torch.randn(9, 1, 5), torch.tensor([0, 4, 4, 9])
    torch.testing.assert_close(compiled(x, cu_seqlens=bounds), model(x, cu_seqlens=bounds))
    x, mask = torch.randn(9, 2, 5), torch.rand(9, 2) < 0.3
    torch.testing.assert_close(compiled(x, mask=mask), model(x, mask=mask))


def test_compiled_step_equals_eager():
    model, x = SRU(5, 6, 2), torch.randn(3, 5)
    step = torch.compile(model.step, fullgraph=True, backend="aot_eager")
    h, state = step(x)
    torch.testing.assert_close((h, state), model.step(x))
    torch.testing.assert_close(step(x, state), model.step(x, state))


@pytest.mark.parametrize("grad", [False, True])
def test_one_recompile_for_other_lengths_and_one_for_a_single_step(grad):
    model, counter = SRU(5, 6, 2), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.set_grad_enabled(grad):
        counts = []
        for length in (8, 9, 17, 100, 1, 1, 33):
            compiled(torch.randn(length, 3, 5))
            counts.append(counter.frame_count)
    assert counts[0] == 1 and counts[1] <= 2
    assert counts[3] == counts[1], "a third length compiled again"
    assert counts[-1] <= counts[3] + 1, "more than one graph for L = 1"


@pytest.mark.slow
def test_inductor_equals_eager():
    model, x = SRU(5, 6, 2), torch.randn(7, 3, 5)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(gradients(compiled, x), gradients(model, x))


# ---- torch.export and a process without Python ---------------------------------------------------


def exported(model, strict=False):
    L = torch.export.Dim("L", min=2, max=4096)
    return torch.export.export(
        model, (torch.randn(8, 3, 5),), dynamic_shapes=({0: L},), strict=strict
    )


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_export_runs_for_another_length(options, grad, strict):
    """One op a layer; exported with gradients on, it is the one that keeps every state."""
    model = SRU(5, 6, 2, **{**options, "batch_first": False}).eval()
    with torch.set_grad_enabled(grad):
        program = exported(model, strict)
    calls = [str(n.target) for n in program.graph.nodes if "torchsru" in str(n.target)]
    assert calls == 2 * [f"torchsru.sru_forward{'_train' * grad}.default"]
    for length in (8, 21):
        x = torch.randn(length, 3, 5)
        torch.testing.assert_close(program.module()(x), model(x))


MAIN = """
#include <torch/torch.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <dlfcn.h>
#include <fstream>
#include <iostream>

torch::Tensor load(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return torch::pickle_load(bytes).toTensor();
}

int main(int, char** argv) { // library, package, then pairs: input, where its output goes
  if (!dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL)) return std::cerr << dlerror() << "\\n", 1;
  torch::inductor::AOTIModelPackageLoader loader(argv[2]);
  for (char** pair = argv + 3; *pair; pair += 2) {
    std::vector<torch::Tensor> outputs = loader.run({load(pair[0])});
    const auto both = torch::cat({outputs[0].flatten(), outputs[1].flatten()});
    const std::vector<char> bytes = torch::pickle_save(both);
    std::ofstream(pair[1], std::ios::binary).write(bytes.data(), bytes.size());
  }
}
"""


@pytest.mark.slow
@pytest.mark.skipif(backends()["cpu"] is not None, reason=f"no library: {backends()['cpu']}")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_aotinductor_package_runs_without_python(tmp_path):
    """The op is registered from C++: a process with libtorch and libtorchsru alone finds it."""
    from torchsru.ops import cpu_info

    model = SRU(5, 6, 2, bidirectional=True).eval()
    with torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(
            exported(model), package_path=str(tmp_path / "sru.pt2")
        )
    source, program = tmp_path / "main.cpp", tmp_path / "main"
    source.write_text(MAIN)
    torch_home = Path(torch.__file__).parent
    subprocess.run(
        [
            "g++", "-std=c++20", "-O0", str(source), "-o", str(program),
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            f"-I{torch_home}/include", f"-I{torch_home}/include/torch/csrc/api/include",
            f"-L{torch_home}/lib", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl",
            f"-Wl,-rpath,{torch_home}/lib",
        ],
        check=True,
    )  # fmt: skip
    lengths, pairs = (8, 21), []
    for length in lengths:
        x = torch.randn(length, 3, 5)
        torch.save(x, tmp_path / f"in{length}")
        pairs += [str(tmp_path / f"in{length}"), str(tmp_path / f"out{length}")]
    command = [str(program), cpu_info()["library"], package, *pairs]
    subprocess.run(command, check=True, env={"PATH": os.environ["PATH"]})
    for length in lengths:
        with torch.no_grad():
            h, c = model(torch.load(tmp_path / f"in{length}"))
        got = torch.load(tmp_path / f"out{length}")
        torch.testing.assert_close(got, torch.cat([h.flatten(), c.flatten()]))


# ---- other processes -----------------------------------------------------------------------------


def python(code, **environment):
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result


def test_without_the_library_pure_pytorch_serves_under_the_same_ops():
    code = """
import torch, warnings
from torchsru import SRU
from torchsru.ops import backends, cpu_info, linear_recurrence, sru_recurrence

reason = "TORCHSRU_DISABLE_COMPILED=1 is set"
found = {name: why for name, why in backends().items() if "triton" not in name}
assert found == {"cpu": reason, "torch": None, "torch_parallel": None, "reference": None}
assert cpu_info()["error"] == reason and cpu_info()["isa_used"] is None
torch.manual_seed(0)
u, x, a = torch.randn(9, 2, 3, 4), torch.randn(9, 2, 4), torch.rand(9, 2, 4)
v, b = torch.randn(2, 4), torch.randn(2, 4)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(2):
        out = SRU(4, 4)(x)
        h = sru_recurrence(u, x, v, b)
        c = linear_recurrence(a, x)
assert [str(w.message) for w in seen if "torchsru" in str(w.message)] == [
    f"torchsru runs on the slow pure-PyTorch path on this CPU: {reason}. "
    "`torchsru doctor` says more."], [str(w.message) for w in seen]
torch.testing.assert_close(h, sru_recurrence(u, x, v, b, backend="reference"))
torch.testing.assert_close(c, linear_recurrence(a, x, backend="reference"))
for op, arguments in ((sru_recurrence, [u]), (linear_recurrence, [a, a])):
    try:
        op(*arguments, backend="cpu")
    except RuntimeError as error:
        assert "backend 'cpu' cannot run this call: " + reason in str(error), error
        assert "'auto' would use 'torch'" in str(error), error
    else:
        raise AssertionError("backend='cpu' ran")
model = SRU(4, 4, 2)
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
for length in (9, 5):
    torch.testing.assert_close(compiled(x[:length]), model(x[:length]))
compiled(x)[0].sum().backward()
u.requires_grad_()
torch.library.opcheck(torch.ops.torchsru.sru_forward_train.default,
                      (u, x, v, b, None, None, None, None, 1, False, False, 1.0))
print("done")
"""
    assert "done" in python(code, TORCHSRU_DISABLE_COMPILED="1").stdout


@pytest.mark.skipif(backends()["cpu"] is not None, reason=f"no library: {backends()['cpu']}")
@pytest.mark.parametrize(
    ("kind", "schema", "refused"),
    [
        ("DEF", None, "the namespace torchsru, perhaps because another copy"),
        ("FRAGMENT", "linear_forward(Tensor a) -> Tensor", "linear_forward"),
        ("FRAGMENT", "sru_backward(Tensor u) -> Tensor", "sru_backward"),  # with some registered
    ],
)
def test_a_library_that_cannot_register_leaves_the_process_and_pure_pytorch(kind, schema, refused):
    code = f"""
import torch, warnings
theirs = torch.library.Library("torchsru", {kind!r})
schema = {schema!r}
if schema:
    name = schema.split("(")[0]
    theirs.define(schema)
    theirs.impl(name, lambda t: t + 1, "CPU")
from torchsru import SRU
from torchsru.ops import backends, cpu_info, linear_recurrence, sru_recurrence

refused = "registers no op: torchsru: PyTorch refused " + {refused!r}
assert refused in backends()["cpu"] and cpu_info()["error"] == backends()["cpu"], backends()
u, x = torch.randn(9, 2, 3, 4, requires_grad=True), torch.randn(9, 2, 4)
for backend in ("auto", "torch"):
    h, c = sru_recurrence(u, x, backend=backend)
    torch.testing.assert_close(h, sru_recurrence(u, x, backend="reference")[0])
    (grad,) = torch.autograd.grad(h.sum(), u)
    assert grad.any()
    c, _ = linear_recurrence(x, x, backend=backend)
    torch.testing.assert_close(c, linear_recurrence(x, x, backend="reference")[0])
model = SRU(4, 4)
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
compiled(x)[0].sum().backward()
if schema:
    assert torch.equal(getattr(torch.ops.torchsru, name)(x), x + 1)  # theirs is left alone
print("done")
"""
    assert "done" in python(code).stdout


def test_import_is_light():
    code = """
import sys
import torch
before = set(sys.modules)
import torchsru
brought = {name.split(".")[0] for name in set(sys.modules) - before}
foreign = brought - set(sys.stdlib_module_names) - {"torch", "torchsru"}
assert not foreign, foreign
assert not torch.cuda.is_initialized()
assert not any(name.startswith("torchsru." + part) for name in sys.modules
               for part in ("train", "recipes", "data", "models", "cli", "bench"))
"""
    python(code)
