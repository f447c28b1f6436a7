"""Attention in a small projection, and what it remembers: the transform of SRU++.

Letters: L time steps, B batch rows, N documents, R = N with `cu_seqlens` and B without, M slots of
memory, S steps of context, K keys, F input features, P projected features, H heads, E output rows.

Computes   z = W1 x;  q = z,  [k; v] = W2 z;  o = softmax(q k^T / sqrt(P / H)) v
           u = W3 dropout(norm(z + alpha o))       section 3 of Lei, 2021 (arXiv 2102.12459)
           q is the projection itself; alpha, a scalar, starts at 0; there are no positions
Kernels    torch.nn.functional.scaled_dot_product_attention picks one for the shape: with no memory,
           padding, documents or band the mask is implied (is_causal), else it is a bool tensor
           [rows, 1, L, K]; flash attention knows no such tensor and no head above 256
Why dense  how much of a row's memory is filled is data, which a mask alone can tell without waiting
           for it. Of a full memory torch.nn.attention.bias.causal_lower_right tells as much, but
           neither torch.compile(fullgraph=True) nor torch.export can make one (PyTorch 2.13), and
           on the CPU it becomes this tensor
Documents  in T steps take time and memory of T^2. varlen_attn takes their bounds, on a GPU, in half
           types and without dropout of the weights; nested tensors are not causal on the CPU, and
           wait for the data; flex_attention has no dropout, and no backward pass on the CPU
Memory     slots stand right-aligned, oldest first; those still empty hold zeros, and a count per
           row [1, R] says how many are not: shapes stay, and a row of zeros is a row started anew
Check      tests/nn/test_srupp.py
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORMS = (None, "pre", "post")


class Projection(nn.Module):
    """u = W3 dropout(norm(W1 x)): the transform of an SRU++ layer without attention.

    Args:
        in_features: F.
        out_features: E.
        projection_size: P.
        dropout: of what W3 sees, each number alone.
        layer_norm: None, or either name of a norm; without attention both are the same.

    Attributes:
        project: W1 [P, F].
        expand: W3 [E, P].
        norm: over P, or None.
    """

    norm: nn.LayerNorm | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        projection_size: int,
        *,
        dropout: float = 0.0,
        layer_norm: str | None = "post",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if layer_norm not in NORMS:
            raise ValueError(f"attention_layer_norm must be one of {NORMS}, got {layer_norm!r}")
        P = projection_size
        self.dropout = dropout
        self.layer_norm = layer_norm
        self.project = nn.Linear(in_features, P, bias=False, device=device, dtype=dtype)
        self.expand = nn.Linear(P, out_features, bias=False, device=device, dtype=dtype)
        norm = None if layer_norm is None else nn.LayerNorm(P, device=device, dtype=dtype)
        self.register_module("norm", norm)

    def reset_parameters(self) -> None:
        """Draw every matrix from Glorot's uniform distribution, as the original; W3 gives back what
        dropout takes from the variance."""
        for module in self.children():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        with torch.no_grad():
            self.expand.weight *= math.sqrt(1 - self.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x [L, B, F] -> u [L, B, E]."""
        return self._expand(self._normalise(self.project(x)))

    def _normalise(self, z: Tensor) -> Tensor:
        return z if self.norm is None else self.norm(z)

    def _expand(self, z: Tensor) -> Tensor:
        return self.expand(F.dropout(z, self.dropout, self.training))


class Attention(Projection):
    """Attention over a segment, a memory of what came before it, and a context.

    Args:
        num_heads: H; P must divide into them.
        attention_dropout: of the attention's weights.
        layer_norm: "post" normalises z + alpha o, "pre" what q, k and v are made of.
        context_size: features of a context, an encoder's output; 0: none is taken.

    Attributes:
        key_value: W2 [2 P, P], keys first.
        alpha: [1] scale of what attention adds.
        context_key_value: [2 P, context_size], keys first; with context_size.
        context_alpha: [1] scale of what attention to the context adds; with context_size.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        projection_size: int,
        *,
        num_heads: int = 1,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        layer_norm: str | None = "post",
        context_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features, out_features, projection_size,
            dropout=dropout, layer_norm=layer_norm, device=device, dtype=dtype,
        )  # fmt: skip
        P = projection_size
        if P % num_heads:
            raise ValueError(f"projection_size must divide into num_heads, got {P} and {num_heads}")
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.context_size = context_size
        self.key_value = nn.Linear(P, 2 * P, bias=False, device=device, dtype=dtype)
        self.alpha = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        if context_size:
            self.context_key_value = nn.Linear(
                context_size, 2 * P, bias=False, device=device, dtype=dtype
            )
            self.context_alpha = nn.Parameter(torch.empty_like(self.alpha))

    def reset_parameters(self) -> None:
        """As in `Projection`; attention starts switched off, alpha = 0."""
        super().reset_parameters()
        nn.init.zeros_(self.alpha)
        if self.context_size:
            nn.init.zeros_(self.context_alpha)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        sight: "Sight",
        memory: Tensor | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: [L, B, F], or with what is remembered joined before it (`Sight.join`).
            sight: who sees what.
            memory: [M, R, 2 P] keys and values remembered, in the place of inputs joined to x.
            context: [S, R, 2 P] keys and values of the context (`project_context`).

        Returns: u [L, B, E], and the keys and values of everything attended to, as `Sight.join`
            lays it out.
        """
        z = self.project(x)
        before = z.shape[0] - sight.steps
        inner = self._normalise(z) if self.layer_norm == "pre" else z
        z, q = z.narrow(0, before, sight.steps), inner.narrow(0, before, sight.steps)
        key_value = self.key_value(inner)
        if memory is not None:
            key_value = sight.join(memory, key_value)
        y = z + self.alpha * self._attend(q, key_value, sight.visible, sight.causal)
        if context is not None:
            if sight.documents:
                context = context.flatten(0, 1).unsqueeze(1)
            seen = self._attend(q, context, sight.context_visible, False)
            y = y + self.context_alpha * seen
        if self.layer_norm == "post":
            y = self._normalise(y)
        return self._expand(y), key_value

    def project_context(self, context: Tensor, mask: Tensor) -> Tensor:
        """Keys and values [S, R, 2 P] of a context [S, R, context_size], zero under its mask."""
        hidden = mask.unsqueeze(-1)
        context = context.masked_fill(hidden, 0).to(self.alpha.dtype)
        return self.context_key_value(context).masked_fill(hidden, 0)

    def _attend(self, q: Tensor, key_value: Tensor, visible: Tensor | None, causal: bool) -> Tensor:
        """q [L, B, P] and keys and values [K, B, 2 P] -> o [L, B, P]."""
        k, v = key_value.to(q.dtype).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3) for t in (q, k, v))
        p = self.attention_dropout if self.training else 0.0
        o = F.scaled_dot_product_attention(q, k, v, visible, p, is_causal=causal)
        return o.permute(2, 0, 1, 3).flatten(2)


@dataclass(frozen=True)
class Sight:
    """Which keys each step of a call sees, and what is remembered after it; of all layers alike.

    steps: L.
    slots: M.
    rows: R.
    documents: whether the rows are documents, in which case all keys stand in one batch row.
    causal: every step sees the keys up to its own, and there are no others.
    visible: [B or 1, 1, L, K] bool, True where step sees key; None: all, or `causal`.
    context_visible: the same of the context.
    remembers: whether memory comes before this call.
    kept: [M, R] which keys are remembered, None for the last M; with documents, counted from the
        first slot of all memories.
    empty: [M, R] True at the slots that stay empty; None: those hold zeros anyway.
    length: [1, R] how many slots are filled after the call; None without memory.
    """

    steps: int
    slots: int
    rows: int
    documents: bool
    causal: bool
    visible: Tensor | None
    context_visible: Tensor | None
    remembers: bool
    kept: Tensor | None
    empty: Tensor | None
    length: Tensor | None

    def join(self, memory: Tensor | None, now: Tensor) -> Tensor:
        """Memory [M, R, F] and this call's [L, B, F], in one row of keys [K, B, F]."""
        if memory is None:
            return now
        if self.documents:
            memory = memory.flatten(0, 1).unsqueeze(1)
        return torch.cat([memory.to(now.dtype), now])

    def keep(self, joined: Tensor) -> Tensor:
        """What is remembered of `join`'s result: [M, R, F]."""
        M, R = self.slots, self.rows
        if not self.remembers:
            columns = (M * R, 1) if self.documents else (M, R)
            joined = torch.cat([joined.new_zeros(*columns, joined.shape[2]), joined])
        if self.kept is None:
            last = joined.narrow(0, self.steps, M)
            # a view would keep the whole call's memory alive
            return last.clone() if torch.compiler.is_compiling() or self.steps > M else last
        if self.documents:
            kept = joined[:, 0][self.kept]
        else:
            kept = joined.gather(0, self.kept.unsqueeze(-1).expand(-1, -1, joined.shape[2]))
        assert self.empty is not None
        return kept.masked_fill(self.empty.unsqueeze(-1), 0)


def look(
    x: Tensor,
    slots: int,
    length: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    context_mask: Tensor | None,
    *,
    causal: bool,
    band: bool,
) -> Sight:
    """Find out who sees what in a call.

    Args:
        x: [L, B, ...].
        slots: M; 0: nothing is remembered, and a call sees its own steps alone.
        length: [1, R] filled slots of the memory before the call; None: there is none.
        mask: [L, B], True at padding, or None.
        cu_seqlens: [N + 1] bounds of documents, or None.
        context_mask: [S, R], True at padding, or None for no context.
        causal: steps see no later ones.
        band: with memory, steps see no key more than M real steps back.
    """
    L, B = x.shape[0], x.shape[1]
    R = B if cu_seqlens is None else cu_seqlens.shape[0] - 1
    reach = slots if band and slots else None  # how far back a step sees
    step = torch.arange(L, device=x.device)
    slot = torch.arange(-slots, 0, device=x.device)  # places before the call's first step
    plain = False  # nothing is hidden but, with `causal`, what is to come
    visible: Tensor | None = None
    document = None
    if cu_seqlens is not None:
        bounds = cu_seqlens.long()
        document = torch.bucketize(step, bounds[1:], right=True)  # R past the last bound
        visible = _see_documents(bounds, document, step, slot, length, causal, reach)
    elif mask is None and length is None and not _hides(reach, L):
        plain = True
    else:
        visible = _see_rows(B, mask, step, slot, length, causal, reach)

    kept: Tensor | None = None
    empty: Tensor | None = None
    after: Tensor | None = None
    if slots:
        before = x.new_zeros(1, R, dtype=torch.int64) if length is None else length
        new: Tensor | int = L
        if cu_seqlens is not None:
            new = bounds.diff()
            kept = _last_of_documents(bounds, L, slot)
        elif mask is not None:
            new = (~mask).sum(0)
            real = torch.cat([slot[:, None] >= -before, ~mask])
            kept = real.int().argsort(dim=0, stable=True)[L:]  # the last M real ones, in order
        after = (before + new).clamp(max=slots)
        empty = None if kept is None else slot[:, None] < -after

    context_visible = None
    if context_mask is not None:
        # a row whose context is padding alone sees it whole: it is zeros
        shown = ~context_mask | context_mask.all(0)  # [S, R]
        if document is None:
            context_visible = shown.t()[:, None, None]
        else:
            row = torch.arange(R, device=x.device).expand(shown.shape[0], -1)
            own = row.flatten() == document[:, None]
            context_visible = (shown.flatten() & own)[None, None]
    return Sight(
        steps=L, slots=slots, rows=R, documents=cu_seqlens is not None,
        causal=causal and plain, visible=visible, context_visible=context_visible,
        remembers=length is not None, kept=kept, empty=empty, length=after,
    )  # fmt: skip


def _hides(reach: int | None, L: int) -> bool:
    """Whether a band hides anything in a segment without memory; in a graph, L may be any."""
    return reach is not None and (torch.compiler.is_compiling() or reach + 1 < L)


def _in_sight(key: Tensor, step: Tensor, causal: bool, reach: int | None) -> Tensor:
    """Places of keys [..., 1, K] and of steps [..., L, 1] -> bool [..., L, K]."""
    back = step - key
    seen = back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)
    return seen if reach is None else seen & (back <= reach)


def _see_rows(
    B: int,
    mask: Tensor | None,
    step: Tensor,
    slot: Tensor,
    length: Tensor | None,
    causal: bool,
    reach: int | None,
) -> Tensor:
    """[B or 1, 1, L, K] of batch rows; keys are the slots of memory, if any, then the steps."""
    real = None if mask is None else ~mask.t()  # [B, L]
    place = step[None] if real is None else real.cumsum(1) - 1  # [B or 1, L], among real steps
    key = place
    if length is not None:
        key = torch.cat([slot.expand(place.shape[0], -1), place], 1)
        now = step.new_ones(B, step.shape[0], dtype=torch.bool) if real is None else real
        real = torch.cat([slot >= -length.t(), now], 1)
    visible = _in_sight(key[:, None], place[:, :, None], causal, reach)
    if real is not None:
        visible = visible & real[:, None]
    if mask is not None:  # padding sees itself: nobody reads it, but no softmax is over nothing
        own = torch.arange(key.shape[1], device=key.device) - key.shape[1] + step.shape[0]
        visible = visible | (own == step[:, None])
    return visible[:, None]


def _see_documents(
    bounds: Tensor,
    document: Tensor,
    step: Tensor,
    slot: Tensor,
    length: Tensor | None,
    causal: bool,
    reach: int | None,
) -> Tensor:
    """[1, 1, L, K] of documents end to end; keys are the slots of all memories, slot by slot, if
    any, then the steps. Of bounds that do not fit anything may come: the recurrence refuses them.
    """
    N = bounds.shape[0] - 1
    place = step - bounds[document.clamp(max=max(N - 1, 0))]
    key_document, key, real = document, place, None
    if length is not None:
        slots = slot[:, None].expand(-1, N)
        row = torch.arange(N, device=step.device)
        key_document = torch.cat([row.expand(slot.shape[0], -1).flatten(), document])
        key = torch.cat([slots.flatten(), place])
        real = torch.cat([(slots >= -length).flatten(), torch.ones_like(step, dtype=torch.bool)])
    visible = _in_sight(key, place[:, None], causal, reach) & (key_document == document[:, None])
    return (visible if real is None else visible & real)[None, None]


def _last_of_documents(bounds: Tensor, L: int, slot: Tensor) -> Tensor:
    """[M, N] where the last M steps of each document stand, or the memory from before it, in a row
    of all memories, slot by slot, and L steps."""
    M, N = slot.shape[0], bounds.shape[0] - 1
    back = -1 - slot[:, None]  # 0 in the last slot
    new = bounds.diff()
    step = M * N + bounds[1:] - 1 - back
    earlier = (M - 1 - back + new) * N + torch.arange(N, device=slot.device)
    return torch.where(back < new, step, earlier).clamp(0, max(M * N + L - 1, 0))
