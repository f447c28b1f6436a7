"""The original with SRU++, sru 3.0.0.dev6, as an oracle.

Its name is that of 2.6.0, so `make build` puts it into a folder of its own beside the virtual
environment's packages. Only its Python is used: kernels, which it compiles at import, stand aside,
and with gradients its every forward pass runs a loop in Python on a CPU.
"""

import importlib
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.utils.cpp_extension

VERSION = "3.0.0.dev6"
FOLDER = Path(sys.prefix) / f"sru-{VERSION}"


def load() -> ModuleType:
    """The module. Skips where it is not there; in CI (CI=true) that is a failure."""
    if not (FOLDER / "sru").is_dir():
        why = f"the package sru {VERSION} is not in {FOLDER}: make build"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    with nothing_compiled(), in_the_place_of_2_6():
        sru = importlib.import_module("sru")
    assert sru.__version__ == VERSION
    return sru


@contextmanager
def nothing_compiled():
    """No C++ extension is built and nothing is scripted in torch.jit's own language."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.cpp_extension, "load", lambda *args, **options: None)
        patch.setattr(torch.jit, "script", lambda function: function)
        yield


@contextmanager
def in_the_place_of_2_6():
    """Imports of `sru` find this version, and the other one is found again afterwards."""

    def named():
        return {n: m for n, m in sys.modules.items() if n == "sru" or n.startswith("sru.")}

    others = named()
    for name in others:
        del sys.modules[name]
    sys.path.insert(0, str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        for name in named():
            del sys.modules[name]
        sys.modules.update(others)
