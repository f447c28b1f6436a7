"""SRU recurrence on the GPU, forward and backward, in Triton.

Computes   eqs. (1)-(4) of arXiv 1709.02755, every option of `sru_recurrence`; a program per state
           row, direction and block of channels, time is a loop with c held in registers
Layout     u [L, B, k, D]; x, h, c [L, B, D]; v [2, D] or [L, B, 2, D]; b [2, D]; states [R, D];
           contiguous, D fastest
Precision  loads and stores the tensor's type; computes and carries c in float32, or in float64
Memory     keeps c of every step for the backward pass, computes the gates again
Order      no atomics: gradients of v and b are summed over time in registers, one row of sums a
           program, and over rows by one reduction; block sizes do not change the arithmetic
Limits     any L, B and D, zero included; int64 offsets; the last block of channels is masked
Check      tests/ops/test_triton.py, in Triton's interpreter and on a GPU
"""

import triton
import triton.language as tl

from torchsru.ops._triton_kernels import load_row, place
from torchsru.ops.sru.reference import CONTRACTIVE_BOUND

_BOUND = tl.constexpr(CONTRACTIVE_BOUND)


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
def load_gates(
    u, v, row, j, on, D, v_f, v_r, b_f, b_r, S: tl.constexpr, K: tl.constexpr, VARIES: tl.constexpr
):
    """The pre-activations with their biases, and the state weights, of one step."""
    at = row * K * D + j
    z = tl.load(u + at, on, 0).to(S)
    f_in = tl.load(u + at + D, on, 0).to(S) + b_f
    r_in = tl.load(u + at + 2 * D, on, 0).to(S) + b_r
    if VARIES:
        v_f = tl.load(v + row * 2 * D + j, on, 0)
        v_r = tl.load(v + row * 2 * D + D + j, on, 0)
    return z, f_in, r_in, v_f, v_r


@triton.jit
def load_highway(u, x, row, j, on, D, S: tl.constexpr, K: tl.constexpr, HAS_X: tl.constexpr):
    """The highway input of one step, before scaling; zero if there is none."""
    if K == 4:
        return tl.load(u + row * 4 * D + 3 * D + j, on, 0).to(S)
    if HAS_X:
        return tl.load(x + row * D + j, on, 0).to(S)
    return tl.zeros(j.shape, S)


@triton.jit
def load_weights(w, j, on, D, S: tl.constexpr, PRESENT: tl.constexpr):
    """Both rows of v or b [2, D]; zero if absent."""
    if PRESENT:
        return tl.load(w + j, on, 0), tl.load(w + D + j, on, 0)
    return tl.zeros(j.shape, S), tl.zeros(j.shape, S)


@triton.jit
def sru_forward(
    u, x, v, b, c0, mask, bounds, out_mask,
    h, c_last, c_steps,
    L, B, D, d,
    DOUBLE: tl.constexpr, K: tl.constexpr, HAS_X: tl.constexpr, V: tl.constexpr,
    HAS_B: tl.constexpr, HAS_C0: tl.constexpr, MASK: tl.constexpr, DOCUMENTS: tl.constexpr,
    OUT_MASK: tl.constexpr, DIRECTIONS: tl.constexpr, TANH: tl.constexpr,
    CONTRACTIVE: tl.constexpr, ALPHA: tl.constexpr,
    KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write h [L, B, D], c_last [R, D] and, if KEEP, c of every step.

    V: 0 no state weights, 1 [2, D], 2 varying in time."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    r, batch, first, steps, backward, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    exists = lane < d
    c = load_row(c0, r, j, exists, D, S, HAS_C0, 0.0)
    m = load_row(out_mask, r, j, exists, D, S, OUT_MASK, 1.0)
    v_f, v_r = load_weights(v, j, exists, D, S, V == 1)
    b_f, b_r = load_weights(b, j, exists, D, S, HAS_B)
    for i in range(0, steps):
        t = first + tl.where(backward, steps - 1 - i, i)
        row = t * B + batch
        on = exists
        if MASK:
            padding = tl.load(mask + row) != 0
            on = lane < tl.where(
                padding, 0, d
            )  # what stands at a padding step, even NaN, reaches nothing
        z, f_in, r_in, vf, vr = load_gates(u, v, row, j, on, D, v_f, v_r, b_f, b_r, S, K, V == 2)
        if CONTRACTIVE:
            vf = tl.minimum(tl.maximum(vf, -_BOUND), _BOUND)
            f = sigmoid(f_in + vf * tanh(c - z))
        else:
            f = sigmoid(f_in + vf * c)  # (1)
        gate = m * sigmoid(r_in + vr * c)  # (3) reads c_{t-1}
        c_new = f * c + (1.0 - f) * z  # (2)
        c = tl.where(padding, c, c_new) if MASK else c_new
        g = c_new
        if TANH:
            g = tanh(c_new)
        out = gate * g  # (4)
        if HAS_X or K == 4:
            out += (1.0 - gate) * (ALPHA * load_highway(u, x, row, j, on, D, S, K, HAS_X))
        if MASK:
            out = tl.where(padding, 0.0, out)
        tl.store(h + row * D + j, out.to(h.dtype.element_ty), exists)
        if KEEP:
            tl.store(c_steps + row * D + j, c, exists)
    tl.store(c_last + r * D + j, c, exists)


@triton.jit
def sru_backward(
    gh, gc_last, u, x, v, b, c0, mask, bounds, out_mask, c_steps,
    gu, gx, gv, gc0, gm, sums,
    L, B, D, d,
    DOUBLE: tl.constexpr, K: tl.constexpr, HAS_X: tl.constexpr, V: tl.constexpr,
    HAS_B: tl.constexpr, HAS_C0: tl.constexpr, MASK: tl.constexpr, DOCUMENTS: tl.constexpr,
    OUT_MASK: tl.constexpr, DIRECTIONS: tl.constexpr, TANH: tl.constexpr,
    CONTRACTIVE: tl.constexpr, ALPHA: tl.constexpr,
    HAS_GC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients; of v [2, D] and of b the part of each row, sums [R, 4, D]."""
    S: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    r, batch, first, steps, backward, j, lane = place(bounds, L, d, DIRECTIONS, DOCUMENTS, BLOCK)
    exists = lane < d
    start = load_row(c0, r, j, exists, D, S, HAS_C0, 0.0)
    m = load_row(out_mask, r, j, exists, D, S, OUT_MASK, 1.0)
    carried = load_row(gc_last, r, j, exists, D, S, HAS_GC, 0.0)
    v_f, v_r = load_weights(v, j, exists, D, S, V == 1)
    b_f, b_r = load_weights(b, j, exists, D, S, HAS_B)
    zero = tl.zeros(j.shape, S)
    sum_vf, sum_vr, sum_bf, sum_br, sum_m = zero, zero, zero, zero, zero
    step = tl.where(backward, -1, 1).to(tl.int64) * B * D  # from c_{t-1} to c_t
    c = zero
    if steps > 0:
        t = first + tl.where(backward, 0, steps - 1)
        c = tl.load(c_steps + (t * B + batch) * D + j, exists, 0)
    for i in range(0, steps):
        t = first + tl.where(backward, i, steps - 1 - i)
        row = t * B + batch
        on = exists
        if MASK:
            padding = tl.load(mask + row) != 0
            on = lane < tl.where(padding, 0, d)
        earlier = lane < tl.where(i < steps - 1, d, 0)
        c_prev = tl.where(earlier, tl.load(c_steps + row * D + j - step, earlier, 0), start)
        z, f_in, r_in, vf, vr = load_gates(u, v, row, j, on, D, v_f, v_r, b_f, b_r, S, K, V == 2)
        inside = exists
        if CONTRACTIVE:
            inside = tl.abs(vf) <= _BOUND
            vf = tl.minimum(tl.maximum(vf, -_BOUND), _BOUND)
            s = tanh(c_prev - z)
        else:
            s = c_prev
        f = sigmoid(f_in + vf * s)
        gate = sigmoid(r_in + vr * c_prev)
        g = c
        dg = zero + 1.0
        if TANH:
            g = tanh(c)
            dg = 1.0 - g * g
        gh_t = tl.load(gh + row * D + j, on, 0).to(S)
        way = g
        if HAS_X or K == 4:
            way = g - ALPHA * load_highway(u, x, row, j, on, D, S, K, HAS_X)
        gm_t = gh_t * way * gate
        gr = gm_t * m * (1.0 - gate)
        gc = gh_t * m * gate * dg + carried
        df = (c_prev - z) * f * (1.0 - f)  # dc_t / d(f's argument)
        J = f + df * vf
        gz = gc * (1.0 - f)
        if CONTRACTIVE:
            J = f + df * vf * (1.0 - s * s)
            gz = gc * (1.0 - J)
        gf = gc * df
        g_x = ALPHA * gh_t * (1.0 - m * gate)
        before_it = gc * J + gr * vr
        gv_f = tl.where(inside, gf * s, 0.0)
        gv_r = gr * c_prev
        if MASK:
            before_it = tl.where(padding, carried, before_it)
            gz, gf, gr = (
                tl.where(padding, 0.0, gz),
                tl.where(padding, 0.0, gf),
                tl.where(padding, 0.0, gr),
            )
            gv_f, gv_r = tl.where(padding, 0.0, gv_f), tl.where(padding, 0.0, gv_r)
            g_x, gm_t = tl.where(padding, 0.0, g_x), tl.where(padding, 0.0, gm_t)
        carried = before_it
        c = c_prev

        at = gu + row * K * D + j
        IO = gu.dtype.element_ty
        tl.store(at, gz.to(IO), exists)
        tl.store(at + D, gf.to(IO), exists)
        tl.store(at + 2 * D, gr.to(IO), exists)
        if K == 4:
            tl.store(at + 3 * D, g_x.to(IO), exists)
        if HAS_X:
            tl.store(gx + row * D + j, g_x.to(IO), exists)
        if V == 2:
            tl.store(gv + row * 2 * D + j, gv_f, exists)
            tl.store(gv + row * 2 * D + D + j, gv_r, exists)
        if V == 1:
            sum_vf += gv_f
            sum_vr += gv_r
        if HAS_B:
            sum_bf += gf
            sum_br += gr
        if OUT_MASK:
            sum_m += gm_t
    if HAS_C0:
        tl.store(gc0 + r * D + j, carried, exists)
    if OUT_MASK:
        tl.store(gm + r * D + j, sum_m, exists)
    if V == 1:
        tl.store(sums + r * 4 * D + j, sum_vf, exists)
        tl.store(sums + r * 4 * D + D + j, sum_vr, exists)
    if HAS_B:
        tl.store(sums + r * 4 * D + 2 * D + j, sum_bf, exists)
        tl.store(sums + r * 4 * D + 3 * D + j, sum_br, exists)
