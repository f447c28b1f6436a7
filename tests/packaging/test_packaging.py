"""What `pip install .` gives: fast, without torch in the build, and with or without a compiler."""

import email
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from email.message import Message
from pathlib import Path

import pytest
import torch

import torchsru

ROOT = Path(__file__).parents[2]
LIBRARY = "torchsru/lib/libtorchsru" + (".dylib" if sys.platform == "darwin" else ".so")

# Trains one step on the fresh install and compares with the definition.
SMOKE = """
import sys, torch, torchsru
from torchsru.ops import backends, sru_recurrence
assert torchsru.__file__.startswith(sys.prefix), torchsru.__file__
rnn = torchsru.SRU(5, 7, num_layers=2)
out, state = rnn(torch.randn(3, 2, 5))
(out.sum() + state.sum()).backward()
assert all(p.grad is not None and p.grad.isfinite().all() for p in rnn.parameters())
u, x, v, b = (torch.randn(s) for s in ((4, 2, 3, 9), (4, 2, 9), (2, 9), (2, 9)))
exact = sru_recurrence(u, x, v, b, backend="reference")
torch.testing.assert_close(sru_recurrence(u, x, v, b), exact)
print("version:", torchsru.__version__)
print("cpu:", backends()["cpu"])
"""


def pip(*args, **environment):
    """Run pip as a user would, outside CI unless told; a variable set to None is removed."""
    env = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "CI": None, **environment}
    env = {name: value for name, value in env.items() if value is not None}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def build_wheel(folder, **environment):
    """Build the wheel in an isolated environment, the first half of `pip install .`."""
    done = pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(folder):
    """Make a fresh virtual environment that sees this one's torch, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True)
    (Path(found.stdout.strip()) / "torch.pth").write_text(str(Path(torch.__file__).parents[1]))
    return python


def use(python, tmp_path, code=SMOKE):
    """Run code in that environment, outside the checkout."""
    done = subprocess.run(
        [python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


class Stopwatch:
    """Seconds since the start: of the clock, or of this process's children if that is less.

    The processor's time is what an idle machine needs at most, whatever else runs meanwhile.
    """

    def __init__(self):
        self.clock, self.children = time.monotonic(), self.children_s()

    @staticmethod
    def children_s():
        used = os.times()
        return used.children_user + used.children_system

    def seconds(self):
        return min(time.monotonic() - self.clock, self.children_s() - self.children)


@pytest.fixture(scope="module")
def timed_wheel(tmp_path_factory):
    watch = Stopwatch()
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"), CI="true")
    return wheel, watch.seconds()


@pytest.fixture(scope="module")
def wheel(timed_wheel):
    return timed_wheel[0]


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("pure"), CXX=shutil.which("false"))


def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def metadata(wheel) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_isolated_install_works(timed_wheel, tmp_path):
    wheel, build_s = timed_wheel
    python = make_environment(tmp_path / "venv")
    watch = Stopwatch()
    done = pip("--python", python, "install", "--no-deps", wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"built in {build_s:.1f} s, installed in {watch.seconds():.1f} s")
    output = use(python, tmp_path).stdout
    assert f"version: {torchsru.__version__}\n" in output
    assert "cpu: None\n" in output  # nothing stops the compiled backend

    command = python.with_name("torchsru")
    doctor = subprocess.run([command, "doctor"], cwd=tmp_path, capture_output=True, text=True)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert torchsru.__version__ in doctor.stdout


def test_wheel_serves_every_python_and_holds_one_library(wheel):
    assert re.fullmatch(r"torchsru-[\d.]+-py3-none-(?!any).+\.whl", wheel.name)
    names = files(wheel)
    assert [n for n in names if n.endswith((".so", ".dylib", ".dll", ".a"))] == [LIBRARY]
    ours = re.compile(r"torchsru/.*\.py|torchsru/py\.typed|torchsru-[\d.]+\.dist-info/.*")
    # so neither headers of PyTorch nor sources, tests or caches
    assert [n for n in names if not ours.fullmatch(n) and n != LIBRARY] == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF with nm")
def test_library_uses_only_the_stable_interface(wheel, tmp_path):
    zipfile.ZipFile(wheel).extract(LIBRARY, tmp_path)
    nm = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", "--format=just-symbols", tmp_path / LIBRARY],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    symbols = nm.stdout.split()
    assert [s for s in symbols if s.startswith(("aoti_torch_", "torch_"))]
    of_torch = re.compile(r"_ZNK?(2at|3c10|5torch)|^Py|^_Py")  # C++ symbols of torch, Python's
    assert [s for s in symbols if of_torch.search(s)] == []


def test_metadata(wheel, pure_wheel):
    for each in (wheel, pure_wheel):
        fields = metadata(each)
        assert fields["Name"] == "torchsru"
        assert fields["Version"] == torchsru.__version__
        assert fields["Requires-Python"] == ">=3.10"
        assert fields["License-Expression"] == "Apache-2.0"
        required = fields.get_all("Requires-Dist")
        assert [r for r in required if "extra ==" not in r] == ["torch>=2.10"]
        assert {"bench", "dev", "train"} <= set(fields.get_all("Provides-Extra"))


def test_failed_compilation_leaves_a_working_install(pure_wheel, tmp_path):
    assert pure_wheel.name.endswith("-py3-none-any.whl")
    assert [n for n in files(pure_wheel) if n.endswith((".so", ".dylib"))] == []
    assert "torchsru/lib/not_built.txt" in files(pure_wheel)

    python = make_environment(tmp_path / "venv")
    done = pip("--python", python, "install", "--no-deps", pure_wheel)
    assert done.returncode == 0, done.stderr
    done = use(python, tmp_path)
    assert "the C++ compiler or CMake failed" in done.stdout  # why the backend can't run
    assert done.stderr.count("pure-PyTorch") == 1  # one warning says so


def test_failed_compilation_is_an_error_in_ci(tmp_path):
    done = pip(
        "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT, CI="true", CXX=shutil.which("false")
    )
    assert done.returncode != 0
    assert list(tmp_path.glob("*.whl")) == []


def test_pure_install_on_request(tmp_path):
    names = files(build_wheel(tmp_path, TORCHSRU_PURE="1"))
    assert LIBRARY not in names
    assert "torchsru/lib/not_built.txt" in names
