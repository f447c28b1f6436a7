"""What PyTorch's own recurrent modules can do on this machine."""

import pytest
import torch
from torch import nn


def skip_unless_it_runs(kind: type[nn.LSTM] | type[nn.GRU], dtype: torch.dtype) -> None:
    """Skip the test where the module does not run under autocast: some CPUs lack types."""
    try:
        with torch.autocast("cpu", dtype):
            kind(3, 4)(torch.randn(5, 2, 3))
    except RuntimeError as error:
        pytest.skip(f"nn.{kind.__name__} does not run under {dtype} on this CPU: {error}")
