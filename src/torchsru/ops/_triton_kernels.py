"""What the recurrences' Triton kernels share: where a program stands, and how chunks are chained.

A kernel over time has a PASS:

WHOLE  one program goes through all steps of its channels
MAPS   parallel in time, first pass: a program finds what its chunk makes of a state 0, and by how
       much it scales any other: `ends` and `decays` [C, R, D]
STEPS  second pass: the steps of WHOLE, each chunk from its own first state in `starts` [C, R, D]

The addresses of all steps are known before, their arithmetic is not: `tl.range` has the loads of
the next STAGES - 1 groups of UNROLL steps under way while a group is computed. At padding
everything is computed and nothing of it kept: what stands there, even NaN, reaches nothing.
"""

import triton
import triton.language as tl

WHOLE, MAPS, STEPS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


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
def chunk(r, steps, R, D, length, PASS: tl.constexpr):
    """The steps of a program's chunk, from begin to end; where its row of `starts` stands; and how
    many chunks its sequence has, its last being the one that holds the last state."""
    if PASS == WHOLE:
        return steps * 0, steps, steps * 0, steps * 0, steps * 0 + 1
    n = tl.program_id(1).to(tl.int64)
    begin = tl.minimum(n * length, steps)
    end = tl.minimum(begin + length, steps)
    return begin, end, n, (n * R + r) * D, tl.maximum(tl.cdiv(steps, length), 1)


@triton.jit
def row_of(i, mirrored, first, backward, batch, B):
    """A step's row t B + b.

    i, mirrored: the step's distance from the first, for a program that runs forward in time, and
    for one that runs backward."""
    return (first + tl.where(backward, mirrored, i)) * B + batch


@triton.jit
def rows_apart(forward, B):
    """From the row of a step to that of the next, for a program that runs forward in time or not.

    Rows to store at are counted on by it: those to load from are known so many steps before that
    keeping them would cost a register a step."""
    return tl.where(forward, 1, -1).to(tl.int64) * B


@triton.jit
def load_padding(mask, row, lane):
    """Whether a step is padding, at every channel: four bytes a channel, a load like the others, so
    that it is under way as early as they are, and none of them waits for it."""
    return tl.load(mask + row + lane * 0) != 0


@triton.jit
def load_row(t, r, j, on, D, S: tl.constexpr, PRESENT: tl.constexpr, DEFAULT: tl.constexpr):
    """Row r of a tensor [R, D], or a constant if absent."""
    if PRESENT:
        return tl.load(t + r * D + j, on, 0)
    return tl.full(j.shape, DEFAULT, S)


@triton.jit
def times(product, factor):
    """product * factor, and 0 for a factor 0 even where the product has overflowed: what a chunk
    makes of a state is lost then, not infinite."""
    return tl.where(factor == 0.0, factor, product * factor)


@triton.jit
def moved_by(end, slope, by):
    """end + slope * by, and end for by 0 even where the slope has overflowed."""
    return tl.where(by == 0.0, end, end + slope * by)


@triton.jit
def chain(
    decays, ends, s0, starts, bounds, L, R, D, d, length,
    DOUBLE: tl.constexpr, HAS_S0: tl.constexpr, DOCUMENTS: tl.constexpr, DIRECTIONS: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Write the first state of every chunk: the one before it through the chunk's affine map."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    r, _, _, steps, _, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    exists = lane < d
    s = load_row(s0, r, j, exists, D, S, HAS_S0, 0.0)
    tl.store(starts + r * D + j, s, exists)
    for n in tl.range(1, tl.cdiv(steps, length), num_stages=STAGES, loop_unroll_factor=UNROLL):
        at = ((n - 1) * R + r) * D + j
        s = moved_by(tl.load(ends + at, exists, 0), tl.load(decays + at, exists, 0), s)
        tl.store(starts + (n * R + r) * D + j, s, exists)
