"""What every test runs under: NaN in fresh memory, and a fair share of the cores."""

import os

import pytest
import torch

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, (os.cpu_count() or 1) // WORKERS))

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms ask for it
torch.use_deterministic_algorithms(True)  # torch.empty() is full of NaN, so reading it shows


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where there is no GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):  # not item.keywords: they hold folder names too
            item.add_marker(pytest.mark.skip(reason="needs a CUDA or ROCm GPU; torch finds none"))
