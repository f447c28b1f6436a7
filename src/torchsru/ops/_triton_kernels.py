"""What the recurrences' Triton kernels share: where a program stands, and rows of states."""

import triton
import triton.language as tl


@triton.jit
def place(bounds, L, d, DIRECTIONS: tl.constexpr, DOCUMENTS: tl.constexpr, BLOCK: tl.constexpr):
    """What a program works on: its state row r, batch row b, first step and number of steps,
    whether it runs backward in time, its channels j and their places among the d of a direction.

    Bounds that do not fit raise elsewhere; here they are kept inside memory."""
    blocks = tl.cdiv(d, BLOCK)
    program = tl.program_id(0)
    q = (program // blocks) % DIRECTIONS
    r = (program // (blocks * DIRECTIONS)).to(tl.int64)
    lane = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    if DOCUMENTS:
        first = tl.minimum(tl.maximum(tl.load(bounds + r).to(tl.int64), 0), L)
        end = tl.minimum(tl.load(bounds + r + 1).to(tl.int64), L)
        steps = tl.maximum(end - first, 0)
        b = r * 0
    else:
        first = r * 0
        steps = r * 0 + L
        b = r
    return r, b, first, steps, q == 1, q * d + lane, lane


@triton.jit
def load_row(t, r, j, on, D, S: tl.constexpr, PRESENT: tl.constexpr, DEFAULT: tl.constexpr):
    """Row r of a tensor [R, D], or a constant if absent."""
    if PRESENT:
        return tl.load(t + r * D + j, on, 0)
    return tl.full(j.shape, DEFAULT, S)
