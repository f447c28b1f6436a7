"""SRU's states: step by step, or solved in parallel by Newton's iteration, in pure PyTorch.

The forget gate alone feeds the state back, c_t = F_t(c_{t-1}), and dc_t / dc_{t-1} = J_t is a
number a channel. The sequence is cut into chunks, and the unknowns are the chunks' first states s_n
(multiple shooting; Newton's iteration over single steps, arXiv 2309.12252, has a chunk a step):

1. Guess   with v = 0 the recurrence is linear: one affine map a chunk, chained from c_0.
2. Run     every chunk from its s_n, step by step: its end e_n, and P_n = de_n / ds_n, the product
           of its J_t. Within a chunk each step is what a sequential loop computes.
3. Test    chunk n + 1 is solved if chunk n is and |s_{n+1} - e_n| <= 4 eps max(|c_{t-1}|, |u_t|) at
           the last step of n; NaN and infinity fail. The solved first states stay as they are.
4. Chain   s'_{n+1} = e_n + P_n (s'_n - s_n) for the others, clamped to the hull of c_0 and of all
           candidates before: a state is a convex mixture of them. Then 2. again, a few times.
5. Finish  what is not solved then is computed step by step, from the last solved chunk on.

So the answer is as exact as a sequential loop whatever the weights; they only decide the time.

Letters: L steps, C chunks, B rows, D channels.
Check      tests/ops/test_parallel.py
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchsru.ops._parallel import ITERATIONS, TOLERANCE, cut
from torchsru.ops.scan.pytorch import chain
from torchsru.ops.sru.reference import CONTRACTIVE_BOUND


@dataclass(frozen=True)
class Forget:
    """The part of the recurrence that feeds back, running forward in time.

    z: [L, B, D] candidates.
    f_in: [L, B, D] the forget gate's pre-activations with their biases.
    v: [D] or [L, B, D] its state weights, not clipped.
    pad: [L, B, D] True at a step to skip, or None.
    contractive: see `sru_recurrence`.
    linear: whether v is known to be zero.
    """

    z: Tensor
    f_in: Tensor
    v: Tensor
    pad: Tensor | None
    contractive: bool
    linear: bool = False

    def at(self, steps: slice) -> "Forget":
        """Some of the steps."""
        v = self.v[steps] if self.v.dim() == 3 else self.v
        pad = None if self.pad is None else self.pad[steps]
        return replace(self, z=self.z[steps], f_in=self.f_in[steps], v=v, pad=pad)

    def gate(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f of the states before, what its argument takes from them, and the weight of that."""
        v, s = self.v, c
        if self.contractive:
            v, s = v.clamp(-CONTRACTIVE_BOUND, CONTRACTIVE_BOUND), torch.tanh(c - self.z)
        return torch.sigmoid(torch.addcmul(self.f_in, v, s)), s, v

    def next(self, c: Tensor) -> Tensor:
        """c_t = F_t(c_{t-1}), for every step that c covers."""
        return self._mix(c, self.gate(c)[0])

    def next_and_slope(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """c_t and J_t."""
        f, s, v = self.gate(c)
        return self._mix(c, f), self._slope(c, f, s, v)[1]

    def derivatives(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """f, what its argument takes from the states before, dc_t / d argument, and J_t."""
        f, s, v = self.gate(c)
        return f, s, *self._slope(c, f, s, v)

    def _mix(self, c: Tensor, f: Tensor) -> Tensor:
        c_new = torch.lerp(self.z, c, f)  # f c + (1 - f) z
        return c_new if self.pad is None else torch.where(self.pad, c, c_new)

    def _slope(self, c: Tensor, f: Tensor, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        df = (c - self.z) * (f * (1 - f))
        J = torch.addcmul(f, df, v * (1 - s * s) if self.contractive else v)
        return df, J if self.pad is None else J.masked_fill(self.pad, 1)

    def run(self, c: Tensor) -> Tensor:
        """Every state [L, B, D] after c [B, D], step by step."""
        out = torch.empty_like(self.z)
        for t in range(len(out)):
            c = out[t] = self.at(slice(t, t + 1)).next(c[None])[0]
        return out


def solve(
    forget: Forget, c0: Tensor, iterations: int = ITERATIONS, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Every state [L, B, D] after c0 [B, D], and how many steps of each channel [B, D] Newton's
    iteration has solved, the others being computed step by step.

    Waits for the device, once an iteration.

    Args:
        iterations: at least 1.
        length: steps a chunk; None: those of `cut`.
    """
    L = len(forget.z)
    length = length or cut(L, c0.numel())[1]
    if (chunks := -(-L // length)) <= 1 or not c0.numel():
        return forget.run(c0), torch.full_like(c0, L, dtype=torch.int64)
    starts, low, high = _guess(forget, c0, length)
    if forget.linear:
        return _run(forget, starts, length)[0], torch.full_like(c0, L, dtype=torch.int64)

    eps = torch.finfo(c0.dtype).eps
    c = torch.empty_like(forget.z)
    solved = torch.ones_like(starts, dtype=torch.bool)
    for _ in range(iterations):
        c, slope, scale = _run(forget, starts, length)
        end = c[length - 1 :: length][: chunks - 1]
        near = (starts[1:] - end).abs() <= TOLERANCE * eps * scale[:-1]
        solved[1:] = near.cumprod(0).bool()
        if solved.all():
            break
        first = [c0]
        for n in range(chunks - 1):
            by = first[n] - starts[n]
            moved = torch.where(by == 0, end[n], end[n] + slope[n] * by)
            moved = torch.minimum(torch.maximum(moved, low[n]), high[n])
            first.append(torch.where(solved[n + 1], starts[n + 1], moved))
        starts = torch.stack(first)
    count = (solved.sum(0) * length).clamp(max=L)
    for t in range(int(count.min()), L):
        step = forget.at(slice(t, t + 1)).next(c[t - 1 : t])[0]
        c[t] = torch.where(t < count, c[t], step)
    return c, count


def _guess(forget: Forget, c0: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """First states of the chunks [C, B, D], exact where v is zero; and the bounds [C - 1, B, D] of
    the states that all chunks but the last end with."""
    z, pad = forget.z, forget.pad
    f = torch.sigmoid(forget.f_in)
    if pad is not None:
        f = f.masked_fill(pad, 1)
    decay, end = torch.ones_like(z[::length]), torch.zeros_like(z[::length])
    low, high = torch.full_like(end, float("inf")), torch.full_like(end, float("-inf"))
    for t in range(length):
        at = slice(t, None, length)  # step t of every chunk that has one
        n = len(z[at])
        decay[:n] *= f[at]
        end[:n] = torch.lerp(z[at], end[:n], f[at])
        for bound, nearer, nothing in ((low, torch.minimum, 1), (high, torch.maximum, -1)):
            value = z[at] if pad is None else z[at].masked_fill(pad[at], nothing * float("inf"))
            bound[:n] = nearer(bound[:n], value)
    low = torch.minimum(c0, low.cummin(0).values)[:-1]
    high = torch.maximum(c0, high.cummax(0).values)[:-1]
    return chain(decay, end, c0), low, high


def _run(forget: Forget, starts: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Run every chunk from its first state: every state [L, B, D]; de_n / ds_n; and of whole
    chunks the larger of |c_{t-1}| and |u_t| at the last step [C, B, D]."""
    out = torch.empty_like(forget.z)
    last, slope, scale = starts, torch.ones_like(starts), torch.ones_like(starts)
    for t in range(length):
        step = forget.at(slice(t, None, length))
        n = len(step.z)
        c = last[:n]
        last, J = step.next_and_slope(c)
        slope[:n] *= J
        out[t::length] = last
        if t == length - 1:
            size = torch.maximum(c.abs(), step.z.abs())
            scale[:n] = size if step.pad is None else torch.where(step.pad, c.abs(), size)
    return out, slope, scale
