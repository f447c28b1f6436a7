"""Adaptive input and softmax: frequent symbols get more features than rare ones.

Letters: V symbols, N positions, W width of the network, e features of the first cluster.

Clusters   symbols are numbered by falling frequency; cutoffs c_1 < c_2 < ... cut 0 .. V - 1, and
           cluster i has e / div_value^i features per symbol and a projection [e_i, W]
Input      sqrt(W) times the symbol's row times its cluster's projection (Baevski & Auli 2019,
           arXiv 1809.10853, section 3)
Output     log p(symbol) of the first cluster, log p(cluster) + log p(symbol | cluster) of the
           others (Grave et al. 2017, arXiv 1609.04309); a loss computes what the targets need
Tied       the output may use the input's rows, and its projections too; with no cutoffs and
           e = W that is a plain tied embedding
Dropout    of features, where there are projections: of a symbol's row before its projection, and
           of what the projection leads back to, anew for each cluster, each number alone
Start      rows of variance 1 / e_i, projections of 2 / (e_i + W), so that inputs and scores have
           a variance between 1 and 2; with `init_range` rows from U(-init_range, init_range) in
           their place; biases 0
Check      tests/nn/test_adaptive.py, against a softmax over all symbols and against
           torch.nn.AdaptiveLogSoftmaxWithLoss, which has neither a projection of the first
           cluster nor biases of the others, and whose rows can't be tied
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchsru.nn.recurrent import check_positive, check_probabilities


@dataclass(frozen=True)
class Clusters:
    """How V symbols are cut, and the features of each part.

    Attributes:
        bounds: 0, the cutoffs, V.
        features: e_i of each cluster.
        projected: whether there are projections: not for one cluster with e = W.
    """

    bounds: tuple[int, ...]
    features: tuple[int, ...]
    projected: bool

    @classmethod
    def make(
        cls,
        vocabulary_size: int,
        embedding_size: int,
        width: int,
        cutoffs: Sequence[int],
        div_value: float,
    ) -> "Clusters":
        """Raises: ValueError naming the argument that does not fit."""
        check_positive(vocabulary_size=vocabulary_size, embedding_size=embedding_size, width=width)
        bounds = (0, *cutoffs, vocabulary_size)
        if any(a >= b for a, b in pairwise(bounds)):
            raise ValueError(
                f"cutoffs must rise between 0 and vocabulary_size = {vocabulary_size}, "
                f"got {tuple(cutoffs)}"
            )
        if not div_value >= 1:
            raise ValueError(f"div_value must be at least 1, got {div_value}")
        features = tuple(int(embedding_size / div_value**i) for i in range(len(bounds) - 1))
        if features[-1] < 1:
            raise ValueError(
                f"embedding_size must be at least div_value^{len(cutoffs)} = "
                f"{div_value ** len(cutoffs):g}, got {embedding_size}"
            )
        return cls(bounds, features, bool(cutoffs) or embedding_size != width)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Symbols of each cluster."""
        return tuple(b - a for a, b in pairwise(self.bounds))


class AdaptiveEmbedding(nn.Module):
    """Symbols -> features [..., W]; see the top of the file.

    Args:
        vocabulary_size: V.
        embedding_size: e.
        width: W.
        cutoffs: see above; none: one cluster.
        div_value: by which features fall from cluster to cluster.
        dropout, init_range: see the top of the file.
        device: where the parameters are made.
        dtype: type of the parameters.

    Attributes:
        tables: an `nn.Embedding` [V_i, e_i] for each cluster.
        projections: [e_i, W] of each; empty for one cluster with e = W.

    Raises:
        ValueError: naming the argument, if a size or range is not positive, dropout not in [0, 1),
            or cutoffs do not rise.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        width: int,
        cutoffs: Sequence[int] = (),
        *,
        div_value: float = 4.0,
        dropout: float = 0.0,
        init_range: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.clusters = cut = Clusters.make(
            vocabulary_size, embedding_size, width, cutoffs, div_value
        )
        self.width = width
        self.dropout, self.init_range = check_options(dropout, init_range)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.tables = nn.ModuleList(
            nn.Embedding(n, e, **made) for n, e in zip(cut.sizes, cut.features, strict=True)
        )
        self.projections = nn.ParameterList(make_projections(cut, width, made))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """See the top of the file."""
        for table in self.tables:
            assert isinstance(table, nn.Embedding)
            reset_rows(table.weight, self.init_range)
        for projection in self.projections:
            nn.init.xavier_uniform_(projection)

    def forward(self, x: Tensor) -> Tensor:
        """x [...] int64 -> [..., W].

        Every cluster is looked up at every position and what is not its own is 0: one product
        then does all, and shapes depend on nothing that x holds.
        """
        found = []
        for i, table in enumerate(self.tables):
            start, end = self.clusters.bounds[i : i + 2]
            # clamped towards the other clusters alone: a symbol of none is the table's to refuse
            place = x - start
            place = place if i == 0 else place.clamp(min=0)
            place = place if i == len(self.tables) - 1 else place.clamp(max=end - start - 1)
            rows = table(place)
            if len(self.tables) > 1:
                rows = rows * ((x >= start) & (x < end)).unsqueeze(-1)
            found.append(rows)
        rows = torch.cat(found, dim=-1) if len(found) > 1 else found[0]
        if self.clusters.projected:
            rows = F.dropout(rows, self.dropout, self.training)
            projections = [*self.projections]
            rows = rows @ (torch.cat(projections) if len(projections) > 1 else projections[0])
        return rows * math.sqrt(self.width)

    def extra_repr(self) -> str:
        """Bounds of the clusters, their features, the width, the dropout."""
        cut = self.clusters
        return f"bounds={cut.bounds}, features={cut.features}, {self.width}, dropout={self.dropout}"


class AdaptiveSoftmax(nn.Module):
    """Features [..., W] -> log-probabilities, of all symbols or of targets alone; of one cluster,
    plain scores of all symbols.

    Args:
        vocabulary_size, embedding_size, width, cutoffs, div_value, dropout, init_range: as in
            `AdaptiveEmbedding`.
        tie: use the rows of the embedding that each call is given.
        tie_projections: use its projections as well. Needs `tie`.
        device: where the parameters are made.
        dtype: type of the parameters.

    Attributes:
        rows, projections: [V_i, e_i] and [e_i, W] of each cluster; empty if tied.
        biases: [V_i] of each cluster.
        cluster_rows, cluster_biases: [clusters - 1, e] and [clusters - 1]: the first cluster's
            symbols compete with the other clusters. None if there are none.

    Raises:
        ValueError: naming the argument, as in `AdaptiveEmbedding`.
    """

    cluster_rows: nn.Parameter | None
    cluster_biases: nn.Parameter | None

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        width: int,
        cutoffs: Sequence[int] = (),
        *,
        div_value: float = 4.0,
        dropout: float = 0.0,
        init_range: float | None = None,
        tie: bool = True,
        tie_projections: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.clusters = cut = Clusters.make(
            vocabulary_size, embedding_size, width, cutoffs, div_value
        )
        self.width = width
        self.dropout, self.init_range = check_options(dropout, init_range)
        self.tie, self.tie_projections = tie, tie and tie_projections
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        shapes = zip(cut.sizes, cut.features, strict=True)
        self.rows = nn.ParameterList([] if tie else [torch.empty(*s, **made) for s in shapes])
        self.projections = nn.ParameterList(
            [] if self.tie_projections else make_projections(cut, width, made)
        )
        self.biases = nn.ParameterList(torch.empty(n, **made) for n in cut.sizes)
        tails = len(cut.sizes) - 1
        for name, shape in (
            ("cluster_rows", (tails, embedding_size)),
            ("cluster_biases", (tails,)),
        ):
            self.register_parameter(
                name, nn.Parameter(torch.empty(shape, **made)) if tails else None
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """See the top of the file."""
        for rows in (*self.rows, self.cluster_rows):
            if rows is not None:
                reset_rows(rows, self.init_range)
        for projection in self.projections:
            nn.init.xavier_uniform_(projection)
        for bias in (*self.biases, self.cluster_biases):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(self, h: Tensor, embedding: AdaptiveEmbedding | None = None) -> Tensor:
        """Log-probabilities of all symbols, float32 at least; of one cluster, plain scores.

        Args:
            h: [..., W].
            embedding: what `tie` ties to; else None.

        Returns: [..., V].
        """
        if len(self.clusters.sizes) == 1:
            return self._scores(0, h, embedding)
        head = self._scores(0, h, embedding).log_softmax(-1)
        n = self.clusters.bounds[1]
        found = [head[..., :n]]
        for i in range(1, len(self.clusters.sizes)):
            tail = self._scores(i, h, embedding).log_softmax(-1)
            found.append(tail + head[..., n + i - 1, None])
        return torch.cat(found, dim=-1) if len(found) > 1 else found[0]

    def nats(
        self,
        h: Tensor,
        y: Tensor,
        embedding: AdaptiveEmbedding | None = None,
        *,
        ignore_index: int = -100,
    ) -> Tensor:
        """Minus the log-probability of each target: what `forward` has at y, without the rest.

        Args:
            h: [..., W].
            y: [...] int64.
            embedding: as in `forward`.
            ignore_index: targets of this value give 0.

        Returns: [...], float32 at least.

        Raises: ValueError if the shapes do not fit.
        """
        check_targets(h, y)
        shape, h, y = y.shape, h.flatten(0, -2), y.flatten()
        bounds = self.clusters.bounds
        ignored = y == ignore_index
        y = y.masked_fill(ignored, 0)  # of the head, whatever was to be ignored
        # in the head a symbol of another cluster is that cluster's own place
        place = y
        for i in range(1, len(bounds) - 1):
            inside = (y >= bounds[i]) & (y < bounds[i + 1])
            place = torch.where(inside, bounds[1] + i - 1, place)
        nats = F.cross_entropy(self._scores(0, h, embedding), place, reduction="none")
        nats = nats.masked_fill(ignored, 0)
        for i in range(1, len(bounds) - 1):
            inside = ((y >= bounds[i]) & (y < bounds[i + 1])).nonzero()[:, 0]
            scores = self._scores(i, h.index_select(0, inside), embedding)
            more = F.cross_entropy(scores, y.index_select(0, inside) - bounds[i], reduction="none")
            nats = nats.index_add(0, inside, more)
        return nats.view(shape)

    def zipf_nats(self, h: Tensor, embedding: AdaptiveEmbedding | None = None) -> Tensor:
        """Mean loss of targets that fall into the clusters as Zipf's law has it, each the first
        symbol of its cluster: what `nats` costs, with shapes that depend on no data.

        Args:
            h: [..., W].
            embedding: as in `forward`.

        Returns: [], in nats.
        """
        h, bounds = h.flatten(0, -2), self.clusters.bounds
        total = h.new_zeros(())
        for i, (start, end) in enumerate(pairwise(bounds)):
            share = 1.0 if i == 0 else math.log(end / start) / math.log(bounds[-1])
            rows = h[: max(1, round(share * len(h)))]
            place = torch.zeros(len(rows), dtype=torch.int64, device=h.device)
            total = total + F.cross_entropy(
                self._scores(i, rows, embedding), place, reduction="sum"
            )
        return total / len(h)

    def _scores(self, i: int, h: Tensor, embedding: AdaptiveEmbedding | None) -> Tensor:
        """Scores [..., V_i] of cluster i's symbols, and in the first one of the other clusters."""
        if self.tie != (embedding is not None):
            raise ValueError(
                f"embedding must {'' if self.tie else 'not '}be given with tie={self.tie}"
            )
        rows: Tensor = self.rows[i] if embedding is None else embedding.tables[i].weight  # type: ignore[assignment]
        bias: Tensor = self.biases[i]
        if i == 0 and self.cluster_rows is not None and self.cluster_biases is not None:
            rows = torch.cat([rows, self.cluster_rows])
            bias = torch.cat([bias, self.cluster_biases])
        if self.clusters.projected:
            tied = embedding if self.tie_projections else None
            h = h @ (self.projections if tied is None else tied.projections)[i].t()
            h = F.dropout(h, self.dropout, self.training)
        scores = F.linear(h, rows, bias)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def extra_repr(self) -> str:
        """Bounds of the clusters, their features, the width, the dropout, what is tied."""
        cut = self.clusters
        return (
            f"bounds={cut.bounds}, features={cut.features}, {self.width}, dropout={self.dropout}, "
            f"tie={self.tie}, tie_projections={self.tie_projections}"
        )


def make_projections(cut: Clusters, width: int, made: dict[str, Any]) -> list[Tensor]:
    """[e_i, W] of each cluster, if they are projected."""
    return [torch.empty(e, width, **made) for e in cut.features] if cut.projected else []


def check_targets(h: Tensor, y: Tensor) -> None:
    """Raise ValueError unless each position of h [..., W] has a target in y [...]."""
    if y.shape != h.shape[:-1]:
        raise ValueError(
            f"y must be {list(h.shape[:-1])}, a target for each position, got {list(y.shape)}"
        )


def reset_rows(rows: Tensor, init_range: float | None) -> None:
    """Draw rows of variance 1 / e, or from U(-init_range, init_range)."""
    if init_range is None:
        nn.init.normal_(rows, std=rows.shape[1] ** -0.5)
    else:
        nn.init.uniform_(rows, -init_range, init_range)


def check_options(dropout: float, init_range: float | None) -> tuple[float, float | None]:
    """Both, if they are possible. Raises ValueError naming the one that is not."""
    check_probabilities(dropout=dropout)
    if init_range is not None and not 0 < init_range < math.inf:
        raise ValueError(f"init_range must be positive and finite, or None, got {init_range}")
    return dropout, init_range
