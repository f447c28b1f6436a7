"""The compiled library: every instruction set, and the error of its functions in units in the last
place. The kernels themselves are tested without PyTorch in csrc/tests/kernel_tests.cpp."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.ops.helpers import LinearCase, SruCase, check

from torchsru.ops import cpu_info, linear_recurrence, sru_recurrence

INFO = cpu_info()
pytestmark = pytest.mark.skipif(INFO["error"] is not None, reason=f"no library: {INFO['error']}")
ROOT = Path(__file__).parents[2]

#: Types, tails of vectors, directions and sequences that every instruction set must get right.
CASES = [
    replace(case, dtype=dtype)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    for case in (
        SruCase(shape=(33, 2, 129)),
        SruCase(shape=(9, 5, 38), sequences="mask", num_directions=2, v="varying", out_mask=True),
        SruCase(shape=(9, 1, 20), sequences="documents", activation="tanh", highway="k=4"),
        SruCase(shape=(9, 3, 20), contractive=True, v="wide", activation="tanh"),
        LinearCase(shape=(9, 5, 38), sequences="mask", num_directions=2),
    )
]


def check_all() -> None:
    for case in CASES:
        op = sru_recurrence if isinstance(case, SruCase) else linear_recurrence
        check(partial(op, backend="cpu"), case)
    check_ulps("sigmoid")
    check_ulps("tanh")


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("isa", INFO["isa_available"])
def test_every_instruction_set(isa):
    if isa == os.environ.get("TORCHSRU_ISA", INFO["isa_available"][0]):
        assert INFO["isa_used"] == isa
        return check_all()
    code = """
import torch, json
torch.use_deterministic_algorithms(True)
from tests.ops.test_kernels import INFO, check_all
check_all()
print(json.dumps(INFO))
"""
    result = python(code, TORCHSRU_ISA=isa)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["isa_used"] == isa


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF with nm")
def test_library_exports_what_the_package_calls_and_no_more():
    command = ["nm", "--dynamic", "--defined-only", "--format=just-symbols", INFO["library"]]
    nm = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = [symbol for symbol in nm.stdout.split() if "torchsru" in symbol]
    assert ours == ["torchsru_isa_available", "torchsru_isa_used", "torchsru_load_error"]


def test_baseline_is_always_there():
    assert INFO["isa_available"][-1] == "baseline"
    assert Path(INFO["library"]).exists()


def test_unknown_instruction_set_is_named():
    code = """
import torch
import os
from torchsru.cli.doctor import report
from torchsru.ops import backends, cpu_info, sru_recurrence
print(cpu_info()["error"])
print(backends()["cpu"])
print(dict(report())["  used"])
print(dict(report())["backend cpu"])
for backend in ("auto", "cpu"):
    try:
        sru_recurrence(torch.zeros(2, 2, 3, 4), backend=backend)
    except RuntimeError as error:
        print(error)
assert cpu_info()["isa_used"] is None and cpu_info()["library"]
os.environ["TORCHSRU_ISA"] = "baseline"  # what was refused is not chosen for good
sru_recurrence(torch.zeros(2, 2, 3, 4))
assert cpu_info()["isa_used"] == "baseline" and backends()["cpu"] is None
"""
    result = python(code, TORCHSRU_ISA="avx1024")
    assert result.returncode == 0, result.stderr
    message = 'TORCHSRU_ISA must be one of "{}" on this CPU, got "avx1024"'
    lines = result.stdout.splitlines()
    assert len(lines) == 6
    assert all(message.format(" ".join(INFO["isa_available"])) in line for line in lines)


# ---- functions -----------------------------------------------------------------------------------


def max_ulp(name: str) -> float:
    """The bound that the kernels claim."""
    header = (ROOT / "csrc" / "kernels.h").read_text(encoding="utf-8")
    (bound,) = re.findall(rf"constexpr double k{name.title()}MaxUlp = ([\d.]+);", header)
    return float(bound)


def apply(name: str, x: torch.Tensor) -> torch.Tensor:
    """sigmoid(x) or tanh(x) as the kernels compute it, by one step with f = 0: h = r g(u_c)."""
    shut, one = torch.full_like(x, -200.0), torch.ones_like(x)
    r_in, candidate = (x, one) if name == "sigmoid" else (one * 200, x)
    u = torch.stack([candidate, shut, r_in])[None, None]
    activation = "identity" if name == "sigmoid" else "tanh"
    return sru_recurrence(u, activation=activation, backend="cpu")[0].flatten()


def every_exponent() -> torch.Tensor:
    """Floats of every exponent and sign, 2048 of each: ends, and points all over."""
    exponents = torch.arange(255, dtype=torch.int32) << 23
    mantissas = torch.arange(0, 1 << 23, 1 << 12, dtype=torch.int32)
    mantissas[1::2] |= (torch.arange(1024, dtype=torch.int32) * 2654435761 & 0xFFF).int()
    positive = (exponents[:, None] | mantissas).view(torch.float32).flatten()
    usual = torch.linspace(-120, 120, 2_000_001)
    return torch.cat([positive, -positive, usual])


def check_ulps(name: str) -> None:
    x = every_exponent()
    got, exact = apply(name, x), getattr(torch, name)(x.double())
    tiny = torch.finfo(torch.float32).tiny
    ulp = 2.0 ** (torch.frexp(exact.abs().clamp(min=tiny)).exponent.double() - 24)
    # the exact sigmoid of less than -87.3 is not a normal number: a unit there is the last normal's
    error = ((got.double() - exact).abs() / ulp).nan_to_num(nan=float("inf"))
    bound = max_ulp(name)
    usual = exact.abs() >= tiny
    worst = error[usual].argmax()
    assert error[usual].max() <= bound, f"{error[usual].max():.2f} ulp at {x[usual][worst]}"
    assert (got[~usual].double() - exact[~usual]).abs().max() <= tiny
    assert got.abs().max() <= 1


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_error_is_within_the_bound(name):
    check_ulps(name)


def test_special_values():
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([inf, -inf, nan, -nan, 0.0, -0.0, 3e38, -3e38, 1e-45, -1e-45])
    same = partial(torch.testing.assert_close, rtol=0, atol=0, equal_nan=True)
    same(apply("sigmoid", x), torch.tensor([1, 0, nan, nan, 0.5, 0.5, 1, 0, 0.5, 0.5]))
    same(apply("tanh", x), torch.tensor([1, -1, nan, nan, 0, 0, 1, -1, 1e-45, -1e-45]))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_functions_do_not_fall(name):
    """Up to their error: two neighbours may swap by a unit or two, not more."""
    x = torch.linspace(-20, 20, 1_000_001)
    y = apply(name, x).double()
    bound = 2 * max_ulp(name) * torch.finfo(torch.float32).eps
    assert (y.diff() >= -bound * y[1:].abs()).all()
