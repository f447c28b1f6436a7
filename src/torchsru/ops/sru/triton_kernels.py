"""SRU recurrence on the GPU, forward and backward, in Triton.

Computes   eqs. (1)-(4) of arXiv 1709.02755, every option of `sru_recurrence`; a program per state
           row, direction and block of channels, and in parallel per chunk of time; steps are a loop
           with c held in registers. `torchsru.ops.sru.parallel` says how the chunks' first states
           are found; its steps are the kernels numbered 1 to 5
Layout     u [L, B, k, D]; x, h, c [L, B, D]; v [2, D] or [L, B, 2, D]; b [2, D]; states [R, D];
           what is known of a chunk [C, R, D]; contiguous, D fastest
Precision  loads and stores the tensor's type; computes and carries c in float32, or in float64
Memory     keeps c of every step for the backward pass, computes the gates again
Order      no atomics: gradients of v and b are summed over time in registers, one row of sums a
           program, and over rows and chunks by one reduction; block sizes do not change the
           arithmetic, the length of a chunk does, and is a function of the shape alone
Limits     any L and B, and D below 2^29, zero included; int64 offsets, but within a step's row; the
           last block of channels is masked
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
    moved_by,
    place,
    row_of,
    rows_apart,
    times,
)
from torchsru.ops.sru.reference import CONTRACTIVE_BOUND

_BOUND = tl.constexpr(CONTRACTIVE_BOUND)
_EPS32, _EPS64 = tl.constexpr(2.0**-23), tl.constexpr(2.0**-52)


@triton.jit
def sigmoid(z):
    """1 / (1 + e^-z), for every z: -inf -> 0, +inf -> 1, NaN -> NaN."""
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def tanh(z):
    """Where 1 - 2 / (e^2z + 1) would cancel: an odd polynomial in float32, and in float64
    (w - 1) 2z / log w, w = e^2z, in the place of e^2z - 1."""
    size = tl.abs(z)
    w = tl.exp(2.0 * size)
    far = 1.0 - 2.0 / (w + 1.0)
    if z.dtype == tl.float64:
        less = tl.where(w == 1.0, 2.0 * size, (w - 1.0) * (2.0 * size / tl.log(w)))
        near = less / (less + 2.0)
    else:
        s = size * size
        q = s * -0.006111054215580225 + 0.021008627489209175
        q = q * s - 0.05385376885533333
        q = q * s + 0.1333279311656952
        q = q * s - 0.333333283662796
        near = size + size * s * q
    t = tl.where(size < 0.625, near, far)
    return tl.where(z < 0, -t, t)


@triton.jit
def load_forget(
    u, v, row, j, exists, D, v_f, b_f, S: tl.constexpr, K: tl.constexpr, VARIES: tl.constexpr
):
    """The candidate, the forget gate's pre-activation with its bias, and its state weight."""
    at = row * K * D + j
    z = tl.load(u + at, exists, 0).to(S)
    f_in = tl.load(u + at + D, exists, 0).to(S) + b_f
    if VARIES:
        v_f = tl.load(v + row * 2 * D + j, exists, 0)
    return z, f_in, v_f


@triton.jit
def load_reset(
    u, v, row, j, exists, D, v_r, b_r, S: tl.constexpr, K: tl.constexpr, VARIES: tl.constexpr
):
    """The reset gate's pre-activation with its bias, and its state weight."""
    r_in = tl.load(u + row * K * D + 2 * D + j, exists, 0).to(S) + b_r
    if VARIES:
        v_r = tl.load(v + row * 2 * D + D + j, exists, 0)
    return r_in, v_r


@triton.jit
def forget(c, z, f_in, v_f, CONTRACTIVE: tl.constexpr):
    """(1): f, what its argument takes from the state, and the weight of that."""
    s = c
    if CONTRACTIVE:
        clipped = tl.minimum(tl.maximum(v_f, -_BOUND), _BOUND)
        v_f = tl.where(v_f == v_f, clipped, v_f)  # NaN stays
        s = tanh(c - z)
    return sigmoid(f_in + v_f * s), s, v_f


@triton.jit
def slope(c, z, f, s, v_f, CONTRACTIVE: tl.constexpr):
    """dc_t / d(f's argument), and J = dc_t / dc_{t-1}."""
    df = (c - z) * f * (1.0 - f)
    if CONTRACTIVE:
        return df, f + df * v_f * (1.0 - s * s)
    return df, f + df * v_f


@triton.jit
def load_highway(u, x, row, j, exists, D, S: tl.constexpr, K: tl.constexpr, HAS_X: tl.constexpr):
    """The highway input of one step, before scaling; zero if there is none."""
    if K == 4:
        return tl.load(u + row * 4 * D + 3 * D + j, exists, 0).to(S)
    if HAS_X:
        return tl.load(x + row * D + j, exists, 0).to(S)
    return tl.zeros(j.shape, S)


@triton.jit
def load_weights(w, j, exists, D, S: tl.constexpr, PRESENT: tl.constexpr):
    """Both rows of v or b [2, D]; zero if absent."""
    if PRESENT:
        return tl.load(w + j, exists, 0), tl.load(w + D + j, exists, 0)
    return tl.zeros(j.shape, S), tl.zeros(j.shape, S)


@triton.jit
def sru_forward(
    u, x, v, b, c0, mask, bounds, out_mask, starts,
    h, c_last, c_steps,
    L, B, R, D, d, length,
    DOUBLE: tl.constexpr, K: tl.constexpr, HAS_X: tl.constexpr, V: tl.constexpr,
    HAS_B: tl.constexpr, HAS_C0: tl.constexpr, MASK: tl.constexpr, DOCUMENTS: tl.constexpr,
    OUT_MASK: tl.constexpr, DIRECTIONS: tl.constexpr, TANH: tl.constexpr,
    CONTRACTIVE: tl.constexpr, ALPHA: tl.constexpr,
    PASS: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """Write h [L, B, D], c_last [R, D] and, if KEEP, c of every step. PASS: WHOLE or STEPS.

    V: 0 no state weights, 1 [2, D], 2 varying in time."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    r, batch, first, steps, backward, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    begin, end, n, at_chunk, chunks = chunk(r, steps, R, D, length, PASS)
    exists = lane < d
    c = load_row(c0, r, j, exists, D, S, HAS_C0, 0.0)
    if PASS == STEPS:
        c = tl.load(starts + at_chunk + j, lane < tl.where(n < chunks, d, 0), 0)
    m = load_row(out_mask, r, j, exists, D, S, OUT_MASK, 1.0)
    v_f, v_r = load_weights(v, j, exists, D, S, V == 1)
    b_f, b_r = load_weights(b, j, exists, D, S, HAS_B)
    apart = rows_apart(backward == 0, B)
    here = row_of(begin, steps - 1 - begin, first, backward, batch, B)
    for i in tl.range(begin, end, num_stages=STAGES, loop_unroll_factor=UNROLL):
        row = row_of(i, steps - 1 - i, first, backward, batch, B)
        padding = load_padding(mask, row, lane) if MASK else False
        z, f_in, vf = load_forget(u, v, row, j, exists, D, v_f, b_f, S, K, V == 2)
        r_in, vr = load_reset(u, v, row, j, exists, D, v_r, b_r, S, K, V == 2)
        f, _, _ = forget(c, z, f_in, vf, CONTRACTIVE)
        gate = m * sigmoid(r_in + vr * c)  # (3) reads c_{t-1}
        c_new = f * c + (1.0 - f) * z  # (2)
        c = tl.where(padding, c, c_new) if MASK else c_new
        g = c_new
        if TANH:
            g = tanh(c_new)
        out = gate * g  # (4)
        if HAS_X or K == 4:
            out += (1.0 - gate) * (ALPHA * load_highway(u, x, row, j, exists, D, S, K, HAS_X))
        if MASK:
            out = tl.where(padding, 0.0, out)
        tl.store(h + here * D + j, out.to(h.dtype.element_ty), exists)
        if KEEP:
            tl.store(c_steps + here * D + j, c, exists)
        here += apart
    tl.store(c_last + r * D + j, c, lane < tl.where(n == chunks - 1, d, 0))


# -- the chunks' first states, see `torchsru.ops.sru.parallel` ------------------------------------


@triton.jit
def sru_guess(
    u, b, mask, bounds,
    ends, decays, low, high,
    L, B, R, D, d, length,
    DOUBLE: tl.constexpr, K: tl.constexpr, HAS_B: tl.constexpr, MASK: tl.constexpr,
    DOCUMENTS: tl.constexpr, DIRECTIONS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """1. Write the affine map of every chunk with v = 0, and the hull of its candidates."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    r, batch, first, steps, backward, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    begin, end, _, at_chunk, _ = chunk(r, steps, R, D, length, MAPS)
    exists = lane < d
    b_f, _ = load_weights(b, j, exists, D, S, HAS_B)
    c, decay = tl.zeros(j.shape, S), tl.full(j.shape, 1.0, S)
    least, most = tl.full(j.shape, float("inf"), S), tl.full(j.shape, float("-inf"), S)
    for i in tl.range(begin, end, num_stages=STAGES, loop_unroll_factor=UNROLL):
        row = row_of(i, steps - 1 - i, first, backward, batch, B)
        padding = load_padding(mask, row, lane) if MASK else False
        z, f_in, _ = load_forget(u, u, row, j, exists, D, b_f, b_f, S, K, False)
        f = sigmoid(f_in)
        if MASK:  # what leaves all three as they are
            f, z = tl.where(padding, 1.0, f), tl.where(padding, c, z)
            least = tl.where(padding, least, tl.minimum(least, z))
            most = tl.where(padding, most, tl.maximum(most, z))
        else:
            least, most = tl.minimum(least, z), tl.maximum(most, z)
        c = f * c + (1.0 - f) * z
        decay *= f
    at = at_chunk + j
    tl.store(ends + at, c, exists)
    tl.store(decays + at, decay, exists)
    tl.store(low + at, least, exists)
    tl.store(high + at, most, exists)


@triton.jit
def sru_run(
    u, v, b, mask, bounds, starts, solved,
    ends, slopes, scales,
    L, B, R, D, d, length,
    DOUBLE: tl.constexpr, K: tl.constexpr, V: tl.constexpr, HAS_B: tl.constexpr,
    MASK: tl.constexpr, DOCUMENTS: tl.constexpr, DIRECTIONS: tl.constexpr,
    CONTRACTIVE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """2. Run every chunk that is not solved in all of a block's channels."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    r, batch, first, steps, backward, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    begin, end, n, at_chunk, chunks = chunk(r, steps, R, D, length, MAPS)
    exists = lane < d
    count = tl.load(solved + r * D + j, exists, 2147483647)
    wanted = (tl.min(count, 0) - 1 <= n) & (n < chunks - 1)  # nobody asks how the last one ends
    run = lane < tl.where(wanted, d, 0)
    end = tl.where(wanted, end, begin)
    v_f, _ = load_weights(v, j, exists, D, S, V == 1)
    b_f, _ = load_weights(b, j, exists, D, S, HAS_B)
    c, product = tl.load(starts + at_chunk + j, run, 0), tl.full(j.shape, 1.0, S)
    scale = tl.abs(c)
    for i in tl.range(begin, end, num_stages=STAGES, loop_unroll_factor=UNROLL):
        row = row_of(i, steps - 1 - i, first, backward, batch, B)
        padding = load_padding(mask, row, lane) if MASK else False
        z, f_in, vf = load_forget(u, v, row, j, exists, D, v_f, b_f, S, K, V == 2)
        f, s, vf = forget(c, z, f_in, vf, CONTRACTIVE)
        _, J = slope(c, z, f, s, vf, CONTRACTIVE)
        c_new = f * c + (1.0 - f) * z
        scale = tl.maximum(tl.abs(c), tl.abs(z))
        if MASK:
            scale = tl.where(padding, tl.abs(c), scale)
            J = tl.where(padding, 1.0, J)
            c_new = tl.where(padding, c, c_new)
        c = c_new
        product = times(product, J)
    at = at_chunk + j
    tl.store(ends + at, c, run)
    tl.store(slopes + at, product, run)
    tl.store(scales + at, scale, run)


@triton.jit
def sru_newton(
    c0, bounds, ends, slopes, scales, low, high, starts, solved,
    L, R, D, d, length,
    DOUBLE: tl.constexpr, HAS_C0: tl.constexpr, DOCUMENTS: tl.constexpr, DIRECTIONS: tl.constexpr,
    TOLERANCE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """3. and 4. Count the solved chunks of every channel, and move the first states of the rest.
    Nothing is left to do where all chunks of a block's channels were solved before."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    EPS: tl.constexpr = _EPS64 if DOUBLE else _EPS32
    r, _, _, steps, _, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    exists = lane < d
    least = load_row(c0, r, j, exists, D, S, HAS_C0, 0.0)
    most = least
    before = least  # the chunk's first state, before and after it moves
    after = least
    count = tl.full(j.shape, 1, tl.int32)
    chunks = tl.cdiv(steps, length)
    left = tl.min(tl.load(solved + r * D + j, exists, 2147483647), 0) < chunks
    for n in tl.range(1, tl.where(left, chunks, 1), num_stages=STAGES, loop_unroll_factor=UNROLL):
        at = ((n - 1) * R + r) * D + j
        at_n = (n * R + r) * D + j  # R D alone would be of 32 bits
        least = tl.minimum(least, tl.load(low + at, exists, 0))
        most = tl.maximum(most, tl.load(high + at, exists, 0))
        end = tl.load(ends + at, exists, 0)
        start = tl.load(starts + at_n, exists, 0)
        near = tl.abs(start - end) <= TOLERANCE * EPS * tl.load(scales + at, exists, 0)
        count += tl.where(near & (count == n), 1, 0)
        moved = moved_by(end, tl.load(slopes + at, exists, 0), after - before)
        moved = tl.minimum(tl.maximum(moved, least), most)
        before = start
        after = tl.where(count > n, start, moved)
        tl.store(starts + at_n, after, exists)
    tl.store(solved + r * D + j, count, lane < tl.where(left, d, 0))


@triton.jit
def sru_finish(
    u, v, b, mask, bounds, solved, starts,
    L, B, R, D, d, length,
    DOUBLE: tl.constexpr, K: tl.constexpr, V: tl.constexpr, HAS_B: tl.constexpr,
    MASK: tl.constexpr, DOCUMENTS: tl.constexpr, DIRECTIONS: tl.constexpr,
    CONTRACTIVE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """5. Write the first states that are not solved, going through the steps in turn."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    r, batch, first, steps, backward, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    exists = lane < d
    count = tl.load(solved + r * D + j, exists, 2147483647)
    v_f, _ = load_weights(v, j, exists, D, S, V == 1)
    b_f, _ = load_weights(b, j, exists, D, S, HAS_B)
    c = tl.zeros(j.shape, S)
    chunks = tl.cdiv(steps, length)
    AHEAD: tl.constexpr = 4 if STAGES > 4 else 1  # others, in float64, make ptxas spill
    for n in range(tl.min(count, 0).to(tl.int64) - 1, chunks - 1):
        at = (n * R + r) * D + j
        c = tl.where(n < count, tl.load(starts + at, exists, 0), c)
        tl.store(starts + at, c, exists)
        for i in tl.range(n * length, (n + 1) * length, num_stages=AHEAD):
            row = row_of(i, steps - 1 - i, first, backward, batch, B)
            padding = load_padding(mask, row, lane) if MASK else False
            z, f_in, vf = load_forget(u, v, row, j, exists, D, v_f, b_f, S, K, V == 2)
            f, _, _ = forget(c, z, f_in, vf, CONTRACTIVE)
            c_new = f * c + (1.0 - f) * z
            c = tl.where(padding, c, c_new) if MASK else c_new
    left = lane < tl.where(chunks > 0, d, 0)
    tl.store(starts + ((chunks - 1) * R + r) * D + j, c, left & (count < chunks))


@triton.jit
def sru_backward(
    gh, gc_last, u, x, v, b, c0, mask, bounds, out_mask, c_steps, starts,
    gu, gx, gv, gc0, gm, sums, ends, decays,
    L, B, R, D, d, length,
    DOUBLE: tl.constexpr, K: tl.constexpr, HAS_X: tl.constexpr, V: tl.constexpr,
    HAS_B: tl.constexpr, HAS_C0: tl.constexpr, MASK: tl.constexpr, DOCUMENTS: tl.constexpr,
    OUT_MASK: tl.constexpr, DIRECTIONS: tl.constexpr, TANH: tl.constexpr,
    CONTRACTIVE: tl.constexpr, ALPHA: tl.constexpr,
    HAS_GC: tl.constexpr, PASS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """Write the gradients; of v [2, D] and b the part of each chunk and row, sums [C, R, 4, D], and
    of out_mask that of each chunk, gm [C, R, D]. The state's gradient is a linear recurrence."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    r, batch, first, steps, backward, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    begin, end, n, at_chunk, chunks = chunk(r, steps, R, D, length, PASS)
    exists = lane < d
    start = load_row(c0, r, j, exists, D, S, HAS_C0, 0.0)
    m = load_row(out_mask, r, j, exists, D, S, OUT_MASK, 1.0)
    carried = load_row(gc_last, r, j, exists, D, S, HAS_GC and PASS != MAPS, 0.0)
    if PASS == STEPS:
        carried = tl.load(starts + at_chunk + j, lane < tl.where(n < chunks, d, 0), 0)
    v_f, v_r = load_weights(v, j, exists, D, S, V == 1)
    b_f, b_r = load_weights(b, j, exists, D, S, HAS_B)
    zero = tl.zeros(j.shape, S)
    decay = zero + 1.0
    sum_vf, sum_vr, sum_bf, sum_br, sum_m = zero, zero, zero, zero, zero
    apart = rows_apart(backward, B)  # from a step to the one before it
    here = row_of(steps - 1 - begin, begin, first, backward, batch, B)
    c = tl.load(c_steps + here * D + j, lane < tl.where(begin < end, d, 0), 0)
    oldest = row_of(0, steps - 1, first, backward, batch, B)
    for i in tl.range(begin, end, num_stages=STAGES, loop_unroll_factor=UNROLL):
        row = row_of(steps - 1 - i, i, first, backward, batch, B)
        padding = load_padding(mask, row, lane) if MASK else False
        c_prev = tl.load(c_steps + (row + apart) * D + j, lane < tl.where(i < steps - 1, d, 0), 0)
        c_prev = tl.where(here == oldest, start, c_prev)
        z, f_in, vf = load_forget(u, v, row, j, exists, D, v_f, b_f, S, K, V == 2)
        r_in, vr = load_reset(u, v, row, j, exists, D, v_r, b_r, S, K, V == 2)
        inside = tl.abs(vf) <= _BOUND if CONTRACTIVE else exists
        f, s, vf = forget(c_prev, z, f_in, vf, CONTRACTIVE)
        gate = sigmoid(r_in + vr * c_prev)
        g = c
        dg = zero + 1.0
        if TANH:
            g = tanh(c)
            dg = 1.0 - g * g
        gh_t = tl.load(gh + row * D + j, exists, 0).to(S)
        way = g
        if HAS_X or K == 4:
            way = g - ALPHA * load_highway(u, x, row, j, exists, D, S, K, HAS_X)
        gm_t = gh_t * way * gate
        gr = gm_t * m * (1.0 - gate)
        gc = gh_t * m * gate * dg + carried
        df, J = slope(c_prev, z, f, s, vf, CONTRACTIVE)
        gz = gc * (1.0 - J) if CONTRACTIVE else gc * (1.0 - f)
        gf = gc * df
        g_x = ALPHA * gh_t * (1.0 - m * gate)
        before_it = gc * J + gr * vr
        gv_f = tl.where(inside, gf * s, 0.0)
        gv_r = gr * c_prev
        if MASK:
            before_it = tl.where(padding, carried, before_it)
            J = tl.where(padding, 1.0, J)
            gz, gf, gr = (
                tl.where(padding, 0.0, gz),
                tl.where(padding, 0.0, gf),
                tl.where(padding, 0.0, gr),
            )
            gv_f, gv_r = tl.where(padding, 0.0, gv_f), tl.where(padding, 0.0, gv_r)
            g_x, gm_t = tl.where(padding, 0.0, g_x), tl.where(padding, 0.0, gm_t)
        carried = before_it
        decay = times(decay, J)
        c = c_prev

        if PASS != MAPS:
            at = gu + here * K * D + j
            IO = gu.dtype.element_ty
            tl.store(at, gz.to(IO), exists)
            tl.store(at + D, gf.to(IO), exists)
            tl.store(at + 2 * D, gr.to(IO), exists)
            if K == 4:
                tl.store(at + 3 * D, g_x.to(IO), exists)
            if HAS_X:
                tl.store(gx + here * D + j, g_x.to(IO), exists)
            if V == 2:
                tl.store(gv + here * 2 * D + j, gv_f, exists)
                tl.store(gv + here * 2 * D + D + j, gv_r, exists)
        if V == 1:
            sum_vf += gv_f
            sum_vr += gv_r
        if HAS_B:
            sum_bf += gf
            sum_br += gr
        if OUT_MASK:
            sum_m += gm_t
        here += apart
    if PASS == MAPS:
        tl.store(ends + at_chunk + j, carried, exists)
        tl.store(decays + at_chunk + j, decay, exists)
    else:
        if HAS_C0:
            tl.store(gc0 + r * D + j, carried, lane < tl.where(n == chunks - 1, d, 0))
        if OUT_MASK:
            tl.store(gm + (n * R + r) * D + j, sum_m, exists)
        at = sums + (n * R + r) * 4 * D + j
        if V == 1:
            tl.store(at, sum_vf, exists)
            tl.store(at + D, sum_vr, exists)
        if HAS_B:
            tl.store(at + 2 * D, sum_bf, exists)
            tl.store(at + 3 * D, sum_br, exists)
