"""Translator: an encoder and a decoder of attention, SRU or SSRU, which share their embeddings.

S source steps, T target steps, B sentences, R = B K rows of a search for K hypotheses of each,
D channels, F inner channels, H heads, V symbols.

Transformer  Vaswani et al. 2017 (arXiv 1706.03762), with sinusoids as positions; layer norm before
             each sub-layer, or after its sum as published
SRU          in place of the position-wise feed-forward sub-layer (Lei et al. 2018, arXiv
             1709.02755, section 4.3): W relu(norm(SRU(x))) + b; SRU has F channels, no highway
SSRU         in place of the decoder's self-attention (Kim et al. 2019, WNGT): what is kept of
             the steps before is D numbers a layer, however many there were
Padding      stands at the ends of rows and is never read: a sentence has the same scores in any
             batch
State        {"position": [1, R], "layers": ((keys and values [t, R, 2 D], or SSRU's [1, R, D];
             SRU's [1, R, F] or None), ...)}, the batch at dim 1, as torchsru.nn.state has it
Context      what the decoder reads of the source, with B rows: ((keys and values [S, B, 2 D] of
             each layer), padding [S, B] or None); the K hypotheses of a sentence read one row
Check        tests/models/test_translator.py
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsru.nn import SSRU, SRUCell


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    """Shape of a translator."""

    width: int = 512
    """D, channels of each layer and of the embeddings."""
    heads: int = 8
    """H, of each attention; they divide the width."""
    encoder_layers: int = 6
    """Layers of the encoder."""
    decoder_layers: int = 6
    """Layers of the decoder."""
    inner: int = 2048
    """F, channels inside the position-wise sub-layer, or of the SRU in its place."""
    position_wise: Literal["feedforward", "sru"] = "feedforward"
    """The second sub-layer of each layer: two matrices with a ReLU between, or SRU."""
    bidirectional: bool = False
    """sru: the encoder's run in both directions, F / 2 channels each."""
    autoregression: Literal["attention", "ssru"] = "attention"
    """How the decoder reads its own steps: by self-attention, or by SSRU."""
    norm: Literal["pre", "post"] = "pre"
    """Layer norm before each sub-layer and after the last layer; or after each sum, as published
    in 2017."""
    dropout: float = 0.1
    """Of the embeddings and of each sub-layer's output, before the sum."""
    attention_dropout: float = 0.0
    """Of the weights of attention."""
    inner_dropout: float = 0.0
    """Of the position-wise sub-layer's F channels."""
    tied: Literal["all", "output"] = "all"
    """One table of embeddings for source, target and output; "output": the source has its own."""
    label_smoothing: float = 0.1
    """Part of each target's probability that the loss spreads over all symbols."""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "encoder_layers", "decoder_layers", "inner"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("dropout", "attention_dropout", "inner_dropout", "label_smoothing"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if self.width % self.heads or self.width % 2:
            raise ValueError(
                f"width must be even and a multiple of heads = {self.heads}, got {self.width}"
            )
        if self.bidirectional and (self.position_wise != "sru" or self.inner % 2):
            raise ValueError(
                f"bidirectional needs position_wise='sru' and an even inner, got "
                f"{self.position_wise!r} and {self.inner}"
            )
        for name, allowed in (
            ("position_wise", ("feedforward", "sru")),
            ("autoregression", ("attention", "ssru")),
            ("norm", ("pre", "post")),
            ("tied", ("all", "output")),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


class MultiHead(nn.Module):
    """Attention of several heads (Vaswani et al. 2017, section 3.2.2), on keys and values that are
    made apart, so that they can be kept.

    Args:
        size: D.
        heads: H.
        dropout: of the weights.

    Attributes:
        query, output: [D, D], with biases.
        key_value: [2 D, D], keys first, with biases.
    """

    def __init__(self, size: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.output = nn.Linear(size, size)
        for linear, blocks in ((self.query, 1), (self.key_value, 2), (self.output, 1)):
            for block in linear.weight.chunk(blocks):
                nn.init.xavier_uniform_(block)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, key_value: Tensor, visible: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend.

        Args:
            x: [T, R, D] what asks.
            key_value: [S, B, 2 D], R = B K: rows i K to i K + K - 1 ask row i.
            visible: bool, broadcast to [B, H, T K, S], False where a key is not seen; or None.
            causal: step t sees keys 0 to t; with K = 1.

        Returns: [T, R, D].
        """
        T, R, _ = x.shape
        B = key_value.shape[1]
        q = self.query(x).view(T, B, R // B, self.heads, -1)
        q = q.permute(1, 3, 0, 2, 4).flatten(2, 3)  # [B, H, T K, D / H]
        k, v = key_value.to(q.dtype).unflatten(2, (2, self.heads, -1)).permute(2, 1, 3, 0, 4)
        p = self.dropout if self.training else 0.0
        o = F.scaled_dot_product_attention(q, k, v, visible, p, is_causal=causal)
        o = o.unflatten(2, (T, R // B)).permute(2, 0, 3, 1, 4)  # [T, B, K, H, D / H]
        return self.output(o.reshape(T, R, -1))


class FeedForward(nn.Module):
    """W2 relu(W1 x + b1) + b2 (Vaswani et al. 2017, eq. 2)."""

    def __init__(self, size: int, inner: int, dropout: float):
        super().__init__()
        self.inner, self.outer = nn.Linear(size, inner), nn.Linear(inner, size)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.inner, self.outer):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, state: Tensor | None = None, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, R, D] -> the same shape; there is no state, and no step sees another."""
        return self.outer(self.dropout(self.inner(x).relu())), None


class RecurrentFeedForward(nn.Module):
    """W relu(norm(SRU(x))) + b, in place of `FeedForward`; SRU has no highway: the residual
    connection around the sub-layer is one."""

    def __init__(self, size: int, inner: int, dropout: float, bidirectional: bool = False):
        super().__init__()
        directions = 2 if bidirectional else 1
        self.sru = SRUCell(size, inner // directions, bidirectional=bidirectional, highway=False)
        self.norm = nn.LayerNorm(inner)
        self.outer = nn.Linear(inner, size)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(
        self, x: Tensor, state: Tensor | None = None, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, R, D] and SRU's state [directions, R, F / directions] -> the same; `hidden`
        [T, R] is True at padding."""
        h, state = self.sru(x, state, mask=hidden)
        return self.outer(self.dropout(self.norm(h).relu())), state


class SubLayers(nn.Module):
    """What the layers of encoder and decoder share: how a sub-layer's output is added.

    Args:
        config: of the whole.
        count: sub-layers; each has a norm.
        bidirectional: SRU in both directions.
    """

    def __init__(self, config: TranslatorConfig, count: int, bidirectional: bool):
        super().__init__()
        c = config
        self.is_pre = c.norm == "pre"
        self.norms = nn.ModuleList(nn.LayerNorm(c.width) for _ in range(count))
        self.dropout = nn.Dropout(c.dropout)
        self.position_wise: nn.Module
        if c.position_wise == "sru":
            self.position_wise = RecurrentFeedForward(
                c.width, c.inner, c.inner_dropout, bidirectional
            )
        else:
            self.position_wise = FeedForward(c.width, c.inner, c.inner_dropout)

    def before(self, i: int, x: Tensor) -> Tensor:
        """What sub-layer i sees."""
        return self.norms[i](x) if self.is_pre else x

    def after(self, i: int, x: Tensor, y: Tensor) -> Tensor:
        """x and what sub-layer i made, y, together."""
        x = x + self.dropout(y)
        return x if self.is_pre else self.norms[i](x)


class EncoderLayer(SubLayers):
    """Self-attention, then the position-wise sub-layer."""

    def __init__(self, config: TranslatorConfig):
        super().__init__(config, 2, config.bidirectional)
        self.attention = MultiHead(config.width, config.heads, config.attention_dropout)

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """x [S, B, D] -> the same shape; `hidden` [S, B] is True at padding."""
        inner = self.before(0, x)
        y = self.attention(inner, self.attention.key_value(inner), visible_of(hidden))
        x = self.after(0, x, y)
        y, _ = self.position_wise(self.before(1, x), None, hidden)
        return self.after(1, x, y)


class DecoderLayer(SubLayers):
    """Self-attention or SSRU, attention to the source, then the position-wise sub-layer."""

    called_apart = ("context.key_value",)  # once for a source, not at each step

    def __init__(self, config: TranslatorConfig):
        super().__init__(config, 3, False)
        c = config
        self.autoregression: nn.Module
        if c.autoregression == "ssru":
            self.autoregression = SSRU(c.width, c.width)
        else:
            self.autoregression = MultiHead(c.width, c.heads, c.attention_dropout)
        self.context = MultiHead(c.width, c.heads, c.attention_dropout)

    def forward(
        self, x: Tensor, context: Tensor, visible: Tensor | None, state: Any
    ) -> tuple[Tensor, Any]:
        """Run the layer.

        Args:
            x: [T, R, D].
            context: [S, B, 2 D] keys and values of the source.
            visible: [B, 1, 1, S] bool, False at its padding; or None.
            state: after the steps before, or None.

        Returns: [T, R, D] and the state after the last step.
        """
        past, inner_state = state or (None, None)
        inner = self.before(0, x)
        if isinstance(self.autoregression, MultiHead):
            y, past = attend_before(self.autoregression, inner, past)
        else:
            y, past = self.autoregression(inner, past)
        x = self.after(0, x, y)
        x = self.after(1, x, self.context(self.before(1, x), context, visible))
        y, inner_state = self.position_wise(self.before(2, x), inner_state)
        return self.after(2, x, y), (past, inner_state)


def attend_before(attention: MultiHead, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each step of x [T, R, D] attends to itself and all before it, `past` [t, R, 2 D] among them.
    Returns what it found, and the keys and values of all."""
    key_value = attention.key_value(x)
    if past is None:
        return attention(x, key_value, causal=True), key_value
    T, t = x.shape[0], past.shape[0]
    key_value = torch.cat([past.to(key_value.dtype), key_value])
    visible = None  # one step sees all
    if T > 1:
        visible = torch.ones(T, t + T, dtype=torch.bool, device=x.device).tril(t)
    return attention(x, key_value, visible), key_value


def visible_of(hidden: Tensor | None) -> Tensor | None:
    """Padding [S, B] as what attention takes, [B, 1, 1, S]."""
    return None if hidden is None else ~hidden.t()[:, None, None]


class Translator(nn.Module):
    """Scores of the next symbol of a translation.

    Args:
        config: its shape.
        vocabulary_size: V, of both languages together.
    """

    def __init__(self, config: TranslatorConfig, vocabulary_size: int):
        super().__init__()
        self.config = c = config
        self.embedding = nn.Embedding(vocabulary_size, c.width)  # of the target, and the output
        nn.init.normal_(self.embedding.weight, std=c.width**-0.5)
        self.source_embedding: nn.Embedding | None = None
        if c.tied == "output":
            self.source_embedding = nn.Embedding(vocabulary_size, c.width)
            nn.init.normal_(self.source_embedding.weight, std=c.width**-0.5)
        self.dropout = nn.Dropout(c.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(c) for _ in range(c.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(c) for _ in range(c.decoder_layers))
        last = nn.LayerNorm if c.norm == "pre" else nn.Identity
        self.encoder_norm, self.decoder_norm = last(c.width), last(c.width)

    def forward(
        self,
        target: Tensor,
        source: Tensor | None = None,
        hidden: Tensor | None = None,
        *,
        context: Any = None,
        state: Any = None,
    ) -> tuple[Tensor, Any, Any]:
        """Read the source, or go on in the target.

        Args:
            target: [T, R] symbols, int64; scores are of what follows each.
            source: [S, B] symbols; needed unless `context` is given, and not read then.
            hidden: [S, B] bool, True at the source's padding; None: there is none.
            context: what an earlier call returned for this source. With R = B K rows of `target`,
                rows i K to i K + K - 1 translate row i of it.
            state: what an earlier call returned; None: the target begins.

        Returns: scores [T, R, V] before a softmax, the context, and the state after the target.
        """
        if context is None:
            assert source is not None, "forward needs source or context"
            context = self.encode(source, hidden)
        keys_values, hidden = context
        visible = visible_of(hidden)
        states: Any = (None,) * len(self.decoder)
        position = target.new_zeros(1, target.shape[1])
        if state is not None:
            position, states = state["position"], state["layers"]
        place = torch.arange(target.shape[0], device=target.device)[:, None]
        x = self._embed(self.embedding, target, place if state is None else place + position)
        ends = []
        for layer, key_value, before in zip(self.decoder, keys_values, states, strict=True):
            x, end = layer(x, key_value, visible, before)
            ends.append(end)
        x = self.decoder_norm(x)
        scores = F.linear(x, self.embedding.weight.to(x.dtype))
        after = {"position": position + target.shape[0], "layers": tuple(ends)}
        return scores, context, after

    def encode(self, source: Tensor, hidden: Tensor | None = None) -> Any:
        """The context of a source [S, B]."""
        place = torch.arange(source.shape[0], device=source.device)[:, None]
        own = self.source_embedding
        x = self._embed(self.embedding if own is None else own, source, place)
        for layer in self.encoder:
            x = layer(x, hidden)
        x = self.encoder_norm(x)
        return tuple(layer.context.key_value(x) for layer in self.decoder), hidden  # type: ignore[union-attr, operator]

    def _embed(self, table: nn.Module, symbols: Tensor, place: Tensor) -> Tensor:
        """Symbols [T, R] at places [T, R or 1] -> [T, R, D] (section 3.4 and 3.5)."""
        x = table(symbols) * math.sqrt(self.config.width)
        return self.dropout(x + sinusoids(place, self.config.width).to(x.dtype))


def sinusoids(place: Tensor, size: int) -> Tensor:
    """Places [...], from 0 -> [..., size], sines in the first half (Vaswani et al. 2017, section
    3.5, whose channels take turns: the same up to their order)."""
    rate = torch.arange(size // 2, device=place.device) * (-math.log(10_000.0) * 2 / size)
    angle = place[..., None] * rate.exp()
    return torch.cat([angle.sin(), angle.cos()], -1)
