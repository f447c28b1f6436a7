"""Document reader: where in a context the answer to a question begins and ends.

The reader of DrQA (Chen et al. 2017, arXiv 1704.00051, section 3.2), with SRU, LSTM, GRU or QRNN
inside. L words of a context, M of a question, B batch rows, E features of a word, F of a word of
the context beside them, D = 2 d channels of an encoder, S words of the longest answer.

    p_i = [E(p_i), sum_j a_ij E(q_j), f_i]     a_ij ~ exp(ReLU(A E(p_i)) . ReLU(A E(q_j)))
    q   = sum_j b_j RNN(q)_j                   b_j ~ exp(w . RNN(q)_j)
    P_start(i) ~ exp(RNN(p)_i W_s q),  P_end(i) ~ exp(RNN(p)_i W_e q)

Vectors   fixed but for the first rows, those of frequent question words, which are trained
Padding   rows are padded at their ends, and what stands there is never read: an answer is the same
          in any batch
Check     tests/models/test_reader.py
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsru.nn import RNNS, SRUCell
from torchsru.nn.recurrent import drop_over_time

KINDS = ("sru", "lstm", "gru", "qrnn")


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """Shape of a reader."""

    encoder: Literal["sru", "lstm", "gru", "qrnn"] = "sru"
    """Kind of layer, in both encoders."""
    width: int = 128
    """d, channels of each direction of a layer."""
    layers: int = 6
    """Layers of each encoder, stacked."""
    dropout: float = 0.2
    """sru: of the states' part of each layer's output, and of what its product sees; else between
    layers. One mask for all words."""
    embedding_dropout: float = 0.5
    """Of the features of words, drawn anew for each."""
    join: bool = False
    """The outputs of all layers stand for a word, side by side; else the last one's."""
    highway: bool = False
    """qrnn: a highway past each layer."""
    embedding: int = 128
    """E, features of an embedding that is trained; word vectors have their own."""
    tuned: int = 1000
    """Words, the most frequent in questions, whose vectors are trained."""
    longest: int = 15
    """S, words of an answer at most."""

    def __post_init__(self) -> None:
        if self.encoder not in KINDS:
            raise ValueError(f"encoder must be one of {', '.join(KINDS)}, got {self.encoder!r}")
        for name, least in (
            ("width", 1),
            ("layers", 1),
            ("embedding", 1),
            ("tuned", 0),
            ("longest", 1),
        ):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in ("dropout", "embedding_dropout"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if self.highway and self.encoder != "qrnn":
            raise ValueError("highway needs encoder='qrnn', got True")


class WordTable(nn.Module):
    """Vectors of words, of which the first are trained.

    Args:
        vectors: [V, E].
        tuned: how many are trained, at most V.
    """

    fixed: Tensor

    def __init__(self, vectors: Tensor, tuned: int):
        super().__init__()
        self.tuned = nn.Embedding.from_pretrained(vectors[:tuned].clone(), freeze=False)
        self.register_buffer("fixed", vectors[tuned:].clone())

    def forward(self, ids: Tensor) -> Tensor:
        """[...] int64 -> [..., E]."""
        n = self.tuned.num_embeddings
        if not len(self.fixed):
            return self.tuned(ids)
        x = F.embedding((ids - n).clamp(min=0), self.fixed)
        if not n:
            return x
        return torch.where((ids < n)[..., None], self.tuned(ids.clamp(max=n - 1)), x)

    def all(self) -> Tensor:
        """[V, E]."""
        return torch.cat([self.tuned.weight, self.fixed])


class Encoder(nn.Module):
    """Bidirectional layers over padded rows.

    Args:
        config: their kind, number and width.
        features: of each word.

    Attributes:
        output_size: D; with `join`, that times the layers.
    """

    def __init__(self, config: ReaderConfig, features: int):
        super().__init__()
        self.config = c = config
        options: dict[str, Any] = {"bidirectional": True}
        if c.encoder == "sru":
            options |= {"state_dropout": c.dropout, "input_dropout": c.dropout}
        if c.encoder == "qrnn":
            options["highway"] = c.highway
        make = SRUCell if c.encoder == "sru" else RNNS[c.encoder]
        sizes = [features] + [2 * c.width] * (c.layers - 1)
        self.layers = nn.ModuleList(make(size, c.width, **options) for size in sizes)
        self.output_size = 2 * c.width * (c.layers if c.join else 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x [L, B, features] and how many words each row has [B] -> [L, B, output_size], 0 at
        padding."""
        mask = is_padding(len(x), lengths)
        found = []
        for i, layer in enumerate(self.layers):
            if i and self.training and self.config.encoder != "sru":
                x = drop_over_time(x, self.config.dropout, None)
            x, _ = layer(x, mask=mask)
            found.append(x)
        return torch.cat(found, -1) if self.config.join else x


class Reader(nn.Module):
    """Where answers begin and end.

    Args:
        config: its shape.
        features: F.
        vectors: [V, E] of words; the first `config.tuned` are trained.
        vocabulary_size: V, without vectors: an embedding [V, config.embedding] is trained.
    """

    def __init__(
        self,
        config: ReaderConfig,
        features: int,
        vectors: Tensor | None = None,
        vocabulary_size: int = 0,
    ):
        super().__init__()
        self.config = c = config
        if vectors is None:
            self.words = WordTable(torch.randn(vocabulary_size, c.embedding), vocabulary_size)
        else:
            self.words = WordTable(vectors.float(), c.tuned)
        E = self.words.fixed.shape[1]
        self.dropout = nn.Dropout(c.embedding_dropout)
        self.align = nn.Linear(E, E)
        self.context = Encoder(c, 2 * E + features)
        self.question = Encoder(c, E)
        D = self.question.output_size
        self.weigh = nn.Linear(D, 1, bias=False)
        self.start, self.end = nn.Linear(D, D), nn.Linear(D, D)
        for linear in (self.start, self.end):  # scores of the order of 1, whatever D
            nn.init.uniform_(linear.weight, -1 / D, 1 / D)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        context: Tensor,
        context_lengths: Tensor,
        features: Tensor,
        question: Tensor,
        question_lengths: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of an answer's first and last word.

        Args:
            context: [L, B] words, int64; anything stands behind a row's last one.
            context_lengths: [B], at least 1.
            features: [L, B, F].
            question: [M, B] words; question_lengths: [B], at least 1.

        Returns: start and end, each [B, L], -inf at padding.
        """
        x, q = self.words(context), self.words(question)
        return self.read(x, context_lengths, features, q, question_lengths)

    def read(
        self,
        x: Tensor,
        context_lengths: Tensor,
        features: Tensor,
        q: Tensor,
        question_lengths: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The same of words that are vectors already, x [L, B, E] and q [M, B, E]."""
        padding_LB = is_padding(len(x), context_lengths)
        padding_MB = is_padding(len(q), question_lengths)
        x, q = self.dropout(x), self.dropout(q)
        aligned_LBE = self.attend(x, q, padding_MB)
        h_LBD = self.context(torch.cat([x, aligned_LBE, features.to(x)], 2), context_lengths)
        g_MBD = self.question(q, question_lengths)
        b_MB = masked(self.weigh(g_MBD)[:, :, 0], padding_MB).softmax(0)
        q_BD = (b_MB[:, :, None] * g_MBD).sum(0)
        start, end = (
            masked((h_LBD * w(q_BD)).sum(2), padding_LB).log_softmax(0).T
            for w in (self.start, self.end)
        )
        return start, end

    def attend(self, x: Tensor, q: Tensor, padding: Tensor) -> Tensor:
        """The question aligned to each word of the context: sum_j a_ij E(q_j), [L, B, E]."""
        a_BLE = self.align(x).relu().transpose(0, 1)
        b_BEM = self.align(q).relu().permute(1, 2, 0)
        weights_BLM = masked(a_BLE @ b_BEM, padding.T[:, None]).softmax(2)
        return (weights_BLM.to(q.dtype) @ q.transpose(0, 1)).transpose(0, 1)


def is_padding(length: int, lengths: Tensor) -> Tensor:
    """True behind the ends of rows, [length, B]."""
    return torch.arange(length, device=lengths.device)[:, None] >= lengths


def masked(scores: Tensor, padding: Tensor) -> Tensor:
    """Scores before a softmax, in float32 at least, -inf at padding."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.masked_fill(padding, -torch.inf)


def best_spans(
    start: Tensor, end: Tensor, longest: int, count: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable answers.

    Args:
        start, end: [B, L] log-probabilities of the first and the last word.
        longest: S, words of an answer at most.
        count: K, answers of each row; of fewer spans, all.

    Returns: first and last word and log-probability, each [B, K], best first; -inf: no span.
    """
    L = start.shape[1]
    S = min(longest, L)
    ends_BLS = F.pad(end, (0, S - 1), value=-torch.inf).unfold(1, S, 1)
    found = (start[:, :, None] + ends_BLS).flatten(1).topk(min(count, L * S))
    first = found.indices.div(S, rounding_mode="floor")
    return first, first + found.indices % S, found.values
