"""The package `sru` 2.6.0 as an oracle: it compiles C++ on its first import, in about 30 s."""

import os
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from tests.oracles import require

CACHE = Path(__file__).parents[2] / "build" / "torch_extensions"  # of what it compiles


@pytest.fixture(scope="session")
def sru():
    """The live package. Skips where it is not installed; in CI (CI=true) that is a failure."""
    require("sru", "sru 2.6.0")
    if "TORCH_EXTENSIONS_DIR" not in os.environ:
        CACHE.mkdir(parents=True, exist_ok=True)
        os.environ["TORCH_EXTENSIONS_DIR"] = str(CACHE)
        for lock in CACHE.rglob("lock"):  # left by a killed process, it would be waited for forever
            if time.time() - lock.stat().st_mtime > 600:
                lock.unlink()
    ninja = str(Path(sys.executable).parent)  # the package runs it by name
    os.environ["PATH"] = ninja + os.pathsep + os.environ["PATH"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no CUDA compiler; torch.jit is deprecated
        import sru

        # its every forward pass with gradients warns that this is a CPU
        warnings.filterwarnings("ignore", "Running SRU on CPU")
    assert sru.__version__ == "2.6.0"
    return sru


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    """Tiny layers: a second thread would only wait for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
