"""Linear recurrence on the GPU, forward and backward, in Triton.

Computes   c_t = a_t c_{t-1} + b_t; a program per state row, direction and block of channels, and in
           parallel per chunk of time; steps are a loop with c held in registers
Layout     a, b, c [L, B, D]; states [R, D]; ends, decays, starts [C, R, D]; contiguous, D fastest
Precision  loads and stores the tensor's type; computes and carries c in float32, or in float64
Memory     the backward pass reads the output c
Limits     any L, B and D, zero included; int64 offsets; the last block of channels is masked
Check      tests/ops/test_triton.py, in Triton's interpreter and on a GPU
"""

import triton
import triton.language as tl

from torchsru.ops._triton_kernels import (
    MAPS,
    STEPS,
    chunk,
    load_padding,
    load_row,
    place,
    row_of,
    rows_apart,
    times,
)


@triton.jit
def linear_forward(
    a, b, c0, mask, bounds, starts, c_steps, c_last, ends, decays, L, B, R, D, d, length,
    DOUBLE: tl.constexpr, HAS_C0: tl.constexpr, MASK: tl.constexpr, DOCUMENTS: tl.constexpr,
    DIRECTIONS: tl.constexpr, PASS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """Write c [L, B, D] and c_last [R, D], or in the pass MAPS ends and decays [C, R, D]."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    r, batch, first, steps, backward, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    begin, end, n, at_chunk, chunks = chunk(r, steps, R, D, length, PASS)
    exists = lane < d
    c = load_row(c0, r, j, exists, D, S, HAS_C0 and PASS != MAPS, 0.0)
    if PASS == STEPS:
        c = tl.load(starts + at_chunk + j, lane < tl.where(n < chunks, d, 0), 0)
    decay = tl.full(j.shape, 1.0, S)
    apart = rows_apart(backward == 0, B)
    here = row_of(begin, steps - 1 - begin, first, backward, batch, B)
    for i in tl.range(begin, end, num_stages=STAGES, loop_unroll_factor=UNROLL):
        row = row_of(i, steps - 1 - i, first, backward, batch, B)
        at = row * D + j
        a_t, b_t = tl.load(a + at, exists, 1).to(S), tl.load(b + at, exists, 0).to(S)
        if MASK:
            padding = load_padding(mask, row, lane)
            a_t, b_t = tl.where(padding, 1.0, a_t), tl.where(padding, 0.0, b_t)
        c = a_t * c + b_t
        decay = times(decay, a_t)
        if PASS != MAPS:
            tl.store(c_steps + here * D + j, c.to(c_steps.dtype.element_ty), exists)
        here += apart
    if PASS == MAPS:
        tl.store(ends + at_chunk + j, c, exists)
        tl.store(decays + at_chunk + j, decay, exists)
    else:
        tl.store(c_last + r * D + j, c, lane < tl.where(n == chunks - 1, d, 0))


@triton.jit
def linear_backward(
    gc, gc_last, a, c0, mask, bounds, c_steps, starts, ga, gb, gc0, ends, decays,
    L, B, R, D, d, length,
    DOUBLE: tl.constexpr, HAS_C0: tl.constexpr, MASK: tl.constexpr, DOCUMENTS: tl.constexpr,
    DIRECTIONS: tl.constexpr, HAS_GC_LAST: tl.constexpr, PASS: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a, b [L, B, D] and, if HAS_C0, of c0 [R, D]; or ends and decays."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    r, batch, first, steps, backward, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    begin, end, n, at_chunk, chunks = chunk(r, steps, R, D, length, PASS)
    exists = lane < d
    start = load_row(c0, r, j, exists, D, S, HAS_C0, 0.0)
    carried = load_row(gc_last, r, j, exists, D, S, HAS_GC_LAST and PASS != MAPS, 0.0)
    if PASS == STEPS:
        carried = tl.load(starts + at_chunk + j, lane < tl.where(n < chunks, d, 0), 0)
    decay = tl.full(j.shape, 1.0, S)
    apart = rows_apart(backward, B)  # from a step to the one before it
    here = row_of(steps - 1 - begin, begin, first, backward, batch, B)
    oldest = row_of(0, steps - 1, first, backward, batch, B)
    for i in tl.range(begin, end, num_stages=STAGES, loop_unroll_factor=UNROLL):
        row = row_of(steps - 1 - i, i, first, backward, batch, B)
        g = carried + tl.load(gc + row * D + j, exists, 0).to(S)
        a_t = tl.load(a + row * D + j, exists, 1).to(S)
        if MASK:
            padding = load_padding(mask, row, lane)
            a_t = tl.where(padding, 1.0, a_t)
        carried = g * a_t
        decay = times(decay, a_t)
        if PASS != MAPS:
            at = (row + apart) * D + j
            c_prev = tl.load(c_steps + at, lane < tl.where(i < steps - 1, d, 0), 0).to(S)
            c_prev = tl.where(here == oldest, start, c_prev)
            a_in, b_in = g * c_prev, g
            if MASK:
                a_in, b_in = tl.where(padding, 0.0, a_in), tl.where(padding, 0.0, b_in)
            tl.store(ga + here * D + j, a_in.to(ga.dtype.element_ty), exists)
            tl.store(gb + here * D + j, b_in.to(gb.dtype.element_ty), exists)
        here += apart
    if PASS == MAPS:
        tl.store(ends + at_chunk + j, carried, exists)
        tl.store(decays + at_chunk + j, decay, exists)
    elif HAS_C0:
        tl.store(gc0 + r * D + j, carried, lane < tl.where(n == chunks - 1, d, 0))
