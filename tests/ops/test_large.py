"""More than 2^31 elements for real: offsets are 64 bits wide. Forward only, for want of memory."""

import pytest
import torch
from tests.ops.helpers import BACKENDS

from torchsru.ops import linear_recurrence, sru_recurrence
from torchsru.ops.scan.reference import linear_reference
from torchsru.ops.sru.reference import sru_reference

pytestmark = pytest.mark.slow
CPU = BACKENDS[:1]
D = 2_000_000
#: Channels at both ends and at the directions' border; channels don't see each other.
FEW = [0, 1, 2, D // 2 - 2, D // 2 - 1, D // 2, D // 2 + 1, D - 3, D - 2, D - 1]
GIB = 2**30


def memory_available() -> int:
    try:
        with open("/proc/meminfo") as lines:
            fields = dict(line.split(":") for line in lines)
    except OSError:
        return 0
    return int(fields["MemAvailable"].split()[0]) * 1024


def filled(L, *sizes, scale=1.0):
    """bfloat16 [L, *sizes] of more than 2^31 elements, each step a shift of the one before."""
    free = memory_available()
    if free < 10 * GIB:
        pytest.skip(f"needs 10 GiB of free memory, has {free / GIB:.1f}")
    out = torch.empty(L, *sizes, dtype=torch.bfloat16)
    assert out.numel() > 2**31
    pattern = torch.randn(sizes, generator=torch.Generator().manual_seed(0)).mul(scale).bfloat16()
    for t in range(L):
        out[t] = pattern.roll(17 * t, -1)
    return out


def assert_close(got, expected):
    torch.testing.assert_close(got.float(), expected, rtol=2**-7, atol=1e-4)


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("num_directions", [1, 2])
def test_sru_recurrence(num_directions, backend):
    u = filled(359, 1, 3, D)
    h, c = sru_recurrence(u, num_directions=num_directions, backend=backend)
    h_few, c_few = sru_reference(u[..., FEW].float(), num_directions=num_directions)
    assert_close(h[..., FEW], h_few)
    assert_close(c[..., FEW], c_few)
    assert h_few[-1].abs().min() > 0.001  # what lies past 2^31 is no accident


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("num_directions", [1, 2])
def test_linear_recurrence(num_directions, backend):
    """One tensor is both a and b: three would not fit."""
    a = filled(1080, 1, D, scale=0.3)
    c, last = linear_recurrence(a, a, num_directions=num_directions, backend=backend)
    few = a[..., FEW].float()
    c_few, last_few = linear_reference(few, few, num_directions=num_directions)
    assert_close(c[..., FEW], c_few)
    assert_close(last[..., FEW], last_few)
    assert c_few[-1].abs().min() > 0.001
