"""csrc/stable_abi.h declares by hand what PyTorch's stable C interface has: does PyTorch agree?"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.cpp_extension import include_paths

HEADER = Path(__file__).parents[2] / "csrc" / "stable_abi.h"
OLDEST = "0x020a000000000000"  # PyTorch 2.10: its headers hide what came later
COMPILER = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
THEIRS = """
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>
"""

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


def compile_errors(source: str, folder: Path) -> str:
    """Compile against the headers as of the oldest PyTorch; return what the compiler says."""
    (folder / "probe.cpp").write_text(source)
    includes = [f"-I{path}" for path in include_paths()]
    command = [
        COMPILER, "-std=c++17", "-fsyntax-only", "-w", f"-DTORCH_TARGET_VERSION={OLDEST}",
        *includes, str(folder / "probe.cpp"),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def with_ours(declarations: str) -> str:
    """Their headers, then our declarations: a difference is a conflict."""
    return f"{THEIRS}\n#define TORCHSRU_HAVE_TORCH_HEADERS\n{declarations}"


def functions() -> list[str]:
    names = re.findall(r"\b((?:aoti_)?torch_\w+)\(", HEADER.read_text(encoding="utf-8"))
    assert len(names) > 15
    return names


def test_declarations_agree_with_torch(tmp_path):
    assert compile_errors(with_ours(HEADER.read_text(encoding="utf-8")), tmp_path) == ""


def test_every_function_is_there_since_the_oldest_version(tmp_path):
    uses = "\n".join(f"auto* use_{name} = &{name};" for name in functions())
    assert compile_errors(THEIRS + uses, tmp_path) == ""


def test_the_type_names_mean_the_same(tmp_path):
    same = """
    static_assert(sizeof(AOTITorchError) == sizeof(int32_t) && AOTITorchError(-1) < 0);
    static_assert(sizeof(StableIValue) == sizeof(uint64_t) && StableIValue(-1) > 0);
    void (*parallel)(int64_t, int64_t, void*) = ParallelFunc{};
    """
    assert compile_errors(THEIRS + same, tmp_path) == ""


def test_a_wrong_declaration_is_found(tmp_path):
    text = HEADER.read_text(encoding="utf-8")
    wrong = text.replace("aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* ret)",
                         "aoti_torch_get_dim(AtenTensorHandle tensor, int32_t* ret)")  # fmt: skip
    assert wrong != text
    assert "aoti_torch_get_dim" in compile_errors(with_ours(wrong), tmp_path)
    assert "torch_no_such" in compile_errors(THEIRS + "auto* use = &torch_no_such;", tmp_path)


def test_the_installed_torch_defines_every_function():
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu{suffix}"))
    assert [name for name in functions() if not hasattr(library, name)] == []
