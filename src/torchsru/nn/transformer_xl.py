"""Transformer-XL, the papers' attention baseline (Dai et al. 2019, arXiv 1901.02860).

Letters: L time steps, B batch rows, R = documents with `cu_seqlens` and B without, m remembered
steps, K = m + L keys, D hidden size, H heads, E features of a head, M memory length.

State      {"length": [1, R] int64, how many of the m steps each row has seen, the last ones;
           "inputs": a tuple of each layer's inputs [m, R, D] (training), or
           "keys_values": of what was made of them [m, R, 2 H E] (evaluation)}, m <= M.
           Zeros are an empty memory, so that torchsru.nn.state serves it

Attention  score of query i and key j (section 3.3), in units of sqrt(E), with q = W_q x_i,
           k = W_kE x_j and r = W_kR R_{i-j}, R the sinusoids of the distance i - j:
               A_ij = q k + q r + u k + v r
           content, (q + u) k, is scaled_dot_product_attention's own product; position, (q + v) r,
           enters as its attn_mask, which carries the gradient
Memory     each layer's inputs of the last M steps, without gradient; in evaluation the keys and
           values made of them, so that nothing is projected twice
Publ. code layer norm after each sum, dropout at: input, sinusoids, the outputs of attention and of
           both matrices of the feed-forward part, the output; `attention_dropout` on the weights
Check      tests/nn/test_transformer_xl.py
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsru.nn.recurrent import (
    Recurrent,
    check_positive,
    check_probabilities,
    check_state_tensor,
    describe,
    wrong_type,
)
from torchsru.ops._sequences import Documents

INIT_STD = 0.02


class TransformerXLLayer(nn.Module):
    """Relative attention and a feed-forward part, each added to its input, then layer norm.

    Attributes:
        query, key_value, position, output: matrices without bias: W_q [H E, D], W_kE over W_v
            [2 H E, D], W_kR [H E, D], and back [D, H E].
        inner, outer: the feed-forward part's [F, D] and [D, F], with biases.
    """

    def __init__(
        self,
        size: int,
        heads: int,
        head_size: int,
        feedforward_size: int,
        *,
        dropout: float,
        attention_dropout: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        features = heads * head_size
        self.query = nn.Linear(size, features, bias=False, **made)
        self.key_value = nn.Linear(size, 2 * features, bias=False, **made)
        self.position = nn.Linear(size, features, bias=False, **made)
        self.output = nn.Linear(features, size, bias=False, **made)
        self.attention_norm = nn.LayerNorm(size, **made)
        self.inner = nn.Linear(size, feedforward_size, **made)
        self.outer = nn.Linear(feedforward_size, size, **made)
        self.norm = nn.LayerNorm(size, **made)

    def forward(
        self,
        x_LBD: Tensor,
        past: Tensor | None,
        projected: bool,
        place_KB: Tensor | None,
        memory_length: int,
        distances_KD: Tensor,
        u_HE: Tensor,
        v_HE: Tensor,
        hidden: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            x_LBD: its input.
            past: [m, B, ...] its inputs before, or if `projected` the keys and values made of them.
            place_KB: where each step of past and input goes, if they are not in order.
            memory_length: M.
            distances_KD: sinusoids of the distances K - 1 to 0.
            u_HE, v_HE: biases of content and position.
            hidden: [L, K] or [B, 1, L, K] bool, True where a query must not look.

        Returns: the output [L, B, D], and the new past: inputs in training, else keys and values.
        """
        if not self.training and past is not None and not projected:
            past = self.key_value(past.to(x_LBD.dtype))
        new = x_LBD if self.training else self.key_value(x_LBD)
        known = new if past is None else torch.cat([past.to(new.dtype), new])
        if place_KB is not None:
            known = move(known, place_KB)
        kept = known[max(known.shape[0] - memory_length, 0) :].detach()
        keys_values = self.key_value(known) if self.training else known
        attended = self._attend(x_LBD, keys_values, distances_KD, u_HE, v_HE, hidden)
        x_LBD = self.attention_norm(x_LBD + self._drop(attended))
        inner = self._drop(F.relu(self.inner(x_LBD)))
        return self.norm(x_LBD + self._drop(self.outer(inner))), kept

    def _attend(self, x_LBD, keys_values, distances_KD, u_HE, v_HE, hidden):
        q_BHLE = self._heads(self.query(x_LBD))
        k_BHKE, v_BHKE = (self._heads(t) for t in keys_values.chunk(2, dim=-1))
        u_H1E, v_H1E = (bias[:, None].to(q_BHLE.dtype) for bias in (u_HE, v_HE))
        scale = 1 / math.sqrt(q_BHLE.shape[-1])
        W_HED = self.position.weight.unflatten(0, (self.heads, -1))
        if x_LBD.shape[0] == 1:  # a step: one query is cheaper to project than K distances
            position = (q_BHLE + v_H1E) @ W_HED @ distances_KD.t()
        else:
            r_HKE = self.position(distances_KD).unflatten(-1, (self.heads, -1)).transpose(0, 1)
            position = to_keys((q_BHLE + v_H1E) @ r_HKE.transpose(1, 2))
        o_BHLE = F.scaled_dot_product_attention(
            q_BHLE + u_H1E, k_BHKE, v_BHKE,
            attn_mask=(position * scale).masked_fill(hidden, -math.inf),
            dropout_p=self.attention_dropout if self.training else 0.0,
            scale=scale,
        )  # fmt: skip
        return self.output(o_BHLE.permute(2, 0, 1, 3).flatten(2))

    def _heads(self, t: Tensor) -> Tensor:
        """[K, B, H E] -> [B, H, K, E]."""
        return t.unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3)

    def _drop(self, t: Tensor) -> Tensor:
        return F.dropout(t, self.dropout, self.training)


class TransformerXL(Recurrent):
    """A stack of Transformer-XL layers behind the door of every recurrent module here.

        out, state = transformer(x, state)

    Swaps in for `torchsru.SRU` where time runs forward: batch_first, unbatched input, padding,
    documents, `step`. In training a query sees all of its memory and the segment up to itself, as
    published. In evaluation it sees itself and the M steps before, so a text may be cut anywhere:
    the carried state gives what one pass gives. (The published same_length shows M - 1 of them.)

    The state is a dict, see the top of the file: the memory has no gradient, and the type of the
    hidden values, so that nothing is lost. One from training goes into evaluation, not the other
    way. A step in evaluation costs the same once the memory is full. Documents need eager mode.

    Args:
        input_size: features of x; if it is not hidden_size, a matrix without bias leads there.
        hidden_size: D.
        num_layers: layers, each fed with the one below.
        num_heads: H.
        head_size: E. Default: D / H.
        feedforward_size: of the feed-forward part's inner layer. Default: 4 D.
        memory_length: M, steps that are remembered.
        clamp_length: distances above it count as it; 0: all are told apart. For evaluation with a
            memory longer than training's.
        same_length: in evaluation, as above; False: as in training.
        tied_biases: all layers share u and v, as in the paper's base models; False: each has its
            own.
        dropout: see the top of the file.
        attention_dropout: of the attention weights.
        batch_first: x and out are [B, L, ...] and mask is [B, L]. States keep batch at dim 1.
        device: where the parameters are made.
        dtype: type of the parameters.

    Raises:
        ValueError: naming the argument, if a size is not positive, a probability not in [0, 1), or
            H does not divide D.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        num_heads: int = 1,
        head_size: int | None = None,
        feedforward_size: int | None = None,
        memory_length: int = 512,
        clamp_length: int = 0,
        same_length: bool = True,
        tied_biases: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers,
            num_heads=num_heads, memory_length=memory_length,
        )  # fmt: skip
        check_probabilities(dropout=dropout, attention_dropout=attention_dropout)
        if hidden_size % 2:
            raise ValueError(f"hidden_size must be even, for sines and cosines, got {hidden_size}")
        if head_size is None:
            if hidden_size % num_heads:
                raise ValueError(
                    f"num_heads must divide hidden_size = {hidden_size} where head_size is not "
                    f"given, got {num_heads}"
                )
            head_size = hidden_size // num_heads
        feedforward_size = 4 * hidden_size if feedforward_size is None else feedforward_size
        check_positive(head_size=head_size, feedforward_size=feedforward_size)
        if clamp_length < 0:
            raise ValueError(f"clamp_length must be 0 (none) or more, got {clamp_length}")
        self.input_size = input_size
        self.hidden_size = self.output_size = hidden_size
        self.num_layers = num_layers
        self.num_directions = 1
        self.num_heads = num_heads
        self.head_size = head_size
        self.feedforward_size = feedforward_size
        self.memory_length = memory_length
        self.clamp_length = clamp_length
        self.same_length = same_length
        self.tied_biases = tied_biases
        self.batch_first = batch_first
        self.dropout = dropout
        self.attention_dropout = attention_dropout

        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.input: nn.Module = nn.Identity()
        if input_size != hidden_size:
            self.input = nn.Linear(input_size, hidden_size, bias=False, **made)
        pairs = 1 if tied_biases else num_layers
        #: [1 or layers, 2, H, E]: u and v
        self.biases = nn.Parameter(torch.empty(pairs, 2, num_heads, head_size, **made))
        self.layers = nn.ModuleList(
            TransformerXLLayer(
                hidden_size, num_heads, head_size, feedforward_size,
                dropout=dropout, attention_dropout=attention_dropout, **made,
            )
            for _ in range(num_layers)
        )  # fmt: skip
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As in the published code: matrices, u and v from N(0, 0.02^2), scales of layer norms
        from N(1, 0.02^2), other biases 0."""
        nn.init.normal_(self.biases, std=INIT_STD)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                mean = 1.0 if isinstance(module, nn.LayerNorm) else 0.0
                nn.init.normal_(module.weight, mean, INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _run(self, x, state, mask, cu_seqlens):
        if cu_seqlens is not None:
            documents = Documents.from_bounds(cu_seqlens, x.shape[0])
            x = documents.pad(x).masked_fill(documents.mask[:, :, None], 0)
            h, state = self._run(x, state, documents.mask, None)
            return documents.unpad(h), state
        L, B, _ = x.shape
        name, memory, count_1B = "", None, None
        if state is not None:
            count_1B = state["length"]
            name = "inputs" if "inputs" in state else "keys_values"
            memory = state[name]
        m = 0 if memory is None else memory[0].shape[0]
        K, M = m + L, self.memory_length
        order_LB = place_KB = None
        added: Any = L  # steps that each row gains
        if mask is not None:  # padding goes to the front, where it looks like an empty memory
            order_LB = mask.sort(dim=0, descending=True, stable=True).indices
            x = move(x, order_LB)
            added = (~mask).sum(0, keepdim=True)
            if count_1B is None:
                count_1B = torch.zeros_like(added)
            empty = torch.arange(m, device=x.device)[:, None] < m - count_1B
            empty = torch.cat([empty, mask.sort(dim=0, descending=True).values])
            place_KB = empty.sort(dim=0, descending=True, stable=True).indices

        distance_LK = torch.arange(m, K, device=x.device)[:, None] - torch.arange(
            K, device=x.device
        )
        hidden = distance_LK < 0
        if self.same_length and not self.training:
            hidden = hidden | (distance_LK > M)
        if count_1B is not None:
            start_B = K - (count_1B + added)[0]
            unseen_BK = torch.arange(K, device=x.device) < start_B[:, None]
            # what a step at padding sees is itself: a row of -inf alone would be NaN
            hidden = hidden | (unseen_BK[:, None] & (distance_LK != 0))
            hidden = hidden[:, None]

        try:
            h = self._drop(self.input(x))
            distances = self._drop(self._sinusoids(K, h))
            kept = []
            for i, layer in enumerate(self.layers):
                past = None if memory is None else memory[i]
                u, v = self.biases[0 if self.tied_biases else i]
                h, last = layer(
                    h, past, name == "keys_values", place_KB, M, distances, u, v, hidden
                )
                kept.append(last)
        except RuntimeError as error:
            if reason := wrong_type(x, self):
                raise ValueError(reason) from error
            raise
        h = self._drop(h)
        if order_LB is not None:
            h = move(h, order_LB.argsort(dim=0)).masked_fill(mask[:, :, None], 0)
        if count_1B is None:
            count_1B = torch.zeros(1, B, dtype=torch.int64, device=x.device)
        name = "inputs" if self.training else "keys_values"
        return h, {"length": (count_1B + added).clamp(max=M), name: tuple(kept)}

    def _sinusoids(self, K: int, like: Tensor) -> Tensor:
        """[K, D] of the distances K - 1 to 0: sines of falling frequency, then cosines."""
        wide = torch.promote_types(like.dtype, torch.float32)
        half = self.hidden_size // 2
        frequency = 10000 ** -(torch.arange(half, device=like.device, dtype=wide) / half)
        distance = torch.arange(K - 1, -1, -1, device=like.device, dtype=wide)
        if self.clamp_length:
            distance = distance.clamp(max=self.clamp_length)
        angle = distance[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)

    def _drop(self, t: Tensor) -> Tensor:
        return F.dropout(t, self.dropout, self.training)

    def _check_state(self, state, rows):
        if not isinstance(state, dict):
            raise TypeError(
                f"state must be a dict, what a call returned, got {type(state).__name__}"
            )
        names = sorted(state)
        if names not in (["inputs", "length"], ["keys_values", "length"]):
            raise ValueError(
                f"state must have length, and inputs or keys_values, got {', '.join(names)}"
            )
        if self.training and "inputs" not in state:
            raise ValueError(
                "state must hold inputs in training, got keys_values: it is from evaluation"
            )
        name, count = names[0], state["length"]
        memory, n = state[name], self.num_layers
        if not isinstance(memory, (tuple, list)) or len(memory) != n:
            got = len(memory) if isinstance(memory, (tuple, list)) else type(memory).__name__
            raise TypeError(f"state[{name!r}] must be {n} tensors, one a layer, got {got}")
        features = self.hidden_size if name == "inputs" else 2 * self.num_heads * self.head_size
        sizes = (memory[0].shape[0], features)
        wide = torch.promote_types(self.biases.dtype, torch.float32)
        like = self.biases.new_empty(0, dtype=wide)
        letters = "m, hidden_size" if name == "inputs" else "m, 2 heads head_size"
        for i, leaf in enumerate(memory):
            check_state_tensor(f"state[{name!r}][{i}]", leaf, sizes, letters, rows, like)
        whole = like.new_empty(0, dtype=torch.int64)
        check_state_tensor("state['length']", count, (1,), "1", rows, whole)

    def extra_repr(self) -> str:
        """Sizes, and the options that differ from their defaults."""
        return describe(
            (self.input_size, self.hidden_size),
            {
                "num_layers": (self.num_layers, 1),
                "num_heads": (self.num_heads, 1),
                "head_size": (self.head_size, self.hidden_size // self.num_heads),
                "feedforward_size": (self.feedforward_size, 4 * self.hidden_size),
                "memory_length": (self.memory_length, 512),
                "clamp_length": (self.clamp_length, 0),
                "same_length": (self.same_length, True),
                "tied_biases": (self.tied_biases, True),
                "batch_first": (self.batch_first, False),
                "dropout": (self.dropout, 0.0),
                "attention_dropout": (self.attention_dropout, 0.0),
            },
        )


def to_keys(by_distance: Tensor) -> Tensor:
    """[..., L, K] with columns of distance K - 1 to 0 -> the same with a column for each key.

    Query i stands at m + i among the keys, so key j is at distance m + i - j, column
    j + L - 1 - i: row i moves left by L - 1 - i. So does each row that is laid out one longer,
    read after the first L numbers. Keys after the query get those of another row: they are hidden.
    """
    L, K = by_distance.shape[-2:]
    return F.pad(by_distance, (1, 0)).flatten(-2)[..., L:].unflatten(-1, (L, K))


def move(t_LBD: Tensor, place_LB: Tensor) -> Tensor:
    """t with row b's step i taken from step place[i, b]."""
    return t_LBD.gather(0, place_LB[:, :, None].expand(-1, -1, t_LBD.shape[2]))
