"""Which types the recurrences take."""

import torch
from torch import Tensor

INPUT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def state_dtype(t: Tensor) -> torch.dtype:
    """Type of states, weights and biases beside an input: float64 for float64, else float32."""
    return torch.float64 if t.dtype == torch.float64 else torch.float32
