"""Language model: embedding, stacked recurrent layers, a score for each next symbol.

L time steps, B batch rows, D width, V symbols of the vocabulary, E features of the embedding.

Kinds    the stacks of torchsru.nn.RNNS, SRU++ and Transformer-XL, behind one config
Input    a table [V, E], and output a matrix [V, D]; tied or with cutoffs, torchsru.nn.adaptive's
State    the layers' own: a pytree with the batch at dim 1 (torchsru.nn.state), so a text may be
         cut anywhere
Check    tests/models/test_language_model.py
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchsru.nn import RNNS, SRUpp, TransformerXL
from torchsru.nn.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, check_targets

VOCABULARY = 256  # all byte values
NOTHING = -100  # a target that is not to be predicted

SRUS = ("projection", "highway_bias", "layer_norm")
ATTENTION = ("heads", "memory", "attention_dropout")
#: Fields that not every kind takes.
OWN = {
    "sru": (*SRUS, "rescale", "state_dropout", "input_dropout"),
    "srupp": (*SRUS, *ATTENTION, "attention_every", "attention_last"),
    "transformer-xl": (*ATTENTION, "head_size", "feedforward", "clamp", "tied_biases"),
}
#: Fields of all kinds in whose place a kind has its own.
REPLACED = {"transformer-xl": ("embedding_dropout", "output_dropout")}
KINDS = (*RNNS, *(kind for kind in OWN if kind not in RNNS))


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Shape of a language model."""

    rnn: Literal[
        "sru",
        "lstm",
        "gru",
        "qrnn",
        "ssru",
        "mingru",
        "kernelnn",
        "srupp",
        "transformer-xl",
    ] = "sru"
    """Kind of layer; see torchsru.nn.RNNS, SRUpp and TransformerXL."""
    width: int = 512
    """D, channels of each layer."""
    layers: int = 4
    """Layers, stacked."""
    dropout: float = 0.0
    """After the embedding, between layers and before the output; transformer-xl has its own
    places."""
    embedding: int = 0
    """E, features of the embedding, with cutoffs of the most frequent symbols; 0: the width."""
    embedding_dropout: float | None = None
    """After the embedding; None: as dropout."""
    output_dropout: float | None = None
    """Before the output; None: as dropout."""
    tie: bool = False
    """The output uses the embedding's table."""
    tie_projections: bool = True
    """If tie: and its projections to the width, where there are any."""
    cutoffs: tuple[int, ...] = ()
    """Adaptive input and softmax: the symbols, by falling frequency, are cut here; none: not
    adaptive. See torchsru.nn.adaptive."""
    div_value: float = 4.0
    """By which the features of the embedding fall from one cutoff to the next."""
    adaptive_dropout: float = 0.0
    """With projections of the embedding (cutoffs, or tied and narrower than the width): of its
    features before them, and of the output's behind them. See torchsru.nn.adaptive."""
    init_range: float | None = None
    """Embedding and output start from U(-init_range, init_range), their projections as they do
    without, biases 0; None: PyTorch's values, with tie or cutoffs those of torchsru.nn.adaptive."""
    projection: int = 0
    """sru: inner size of each layer's factorised transform, of the first one only if the embedding
    is larger; 0: not factorised. srupp: features that attention works in; 0: a quarter of the
    width."""
    layer_norm: Literal["pre", "post"] | None = None
    """sru, srupp: layer norm before or after each layer."""
    highway_bias: float | None = None
    """sru, srupp: initial bias of the reset gate; None: 0 for sru, -2 for srupp."""
    rescale: bool = True
    """sru: scale the highway input by the paper's alpha."""
    state_dropout: float = 0.0
    """sru: dropout on the state's part of the output, one mask for all time steps."""
    input_dropout: float = 0.0
    """sru: dropout on the transform's input, one mask for all time steps."""
    heads: int = 1
    """srupp, transformer-xl: attention heads."""
    memory: int = 512
    """srupp, transformer-xl: past steps that attention remembers."""
    attention_dropout: float = 0.0
    """srupp, transformer-xl: dropout on the attention weights."""
    attention_every: int = 1
    """srupp: every so many layers one has attention, the last of them."""
    attention_last: int | None = None
    """srupp: in its place, so many layers have attention, the last ones."""
    head_size: int = 0
    """transformer-xl: features of a head; 0: width / heads."""
    feedforward: int = 0
    """transformer-xl: inner size of the feed-forward part; 0: four times the width."""
    clamp: int = 0
    """transformer-xl: distances above it count as it; 0: all are told apart."""
    tied_biases: bool = True
    """transformer-xl: all layers share the biases u and v."""

    def __post_init__(self) -> None:
        if self.rnn not in KINDS:
            raise ValueError(f"rnn must be one of {', '.join(KINDS)}, got {self.rnn!r}")
        for name, least in (
            *((name, 1) for name in ("width", "layers", "heads", "memory", "attention_every")),
            *((name, 0) for name in ("embedding", "projection", "head_size", "feedforward")),
            ("clamp", 0),
            ("div_value", 1),
        ):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in DROPOUTS:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if self.init_range is not None and not 0 < self.init_range < math.inf:
            raise ValueError(f"init_range must be positive and finite, got {self.init_range}")
        projected = self.cutoffs or (self.tie and self.embedding not in (0, self.width))
        if self.adaptive_dropout and not projected:
            raise ValueError(
                "adaptive_dropout needs cutoffs, or tie and an embedding other than the width, "
                f"got {self.adaptive_dropout}"
            )
        if self.highway_bias is not None and not -100 < self.highway_bias < 100:
            raise ValueError(f"highway_bias must lie in (-100, 100), got {self.highway_bias}")
        if self.layer_norm not in (None, "pre", "post"):
            raise ValueError(f"layer_norm must be None, 'pre' or 'post', got {self.layer_norm!r}")
        defaults = type(self).__dataclass_fields__
        for name in sorted({name for names in OWN.values() for name in names}):
            takers = [kind for kind, names in OWN.items() if name in names]
            value = getattr(self, name)
            unset = (defaults[name].default, UNSET_BEFORE.get(name))
            if self.rnn not in takers and value not in unset:
                needed = " or ".join(map(repr, takers))
                raise ValueError(f"{name} needs rnn={needed}, got {value!r} with {self.rnn!r}")
        if self.rnn == "srupp":
            if self.attention_every > self.layers:
                raise ValueError(
                    f"attention_every must be at most layers = {self.layers}, got "
                    f"{self.attention_every}; no layer has attention with attention_last = 0"
                )
            if self.attention_last is not None:
                if self.attention_every != 1:
                    raise ValueError(
                        "attention_every must be 1 beside attention_last, "
                        f"got {self.attention_every}"
                    )
                if not 0 <= self.attention_last <= self.layers:
                    raise ValueError(
                        f"attention_last must lie in [0, layers = {self.layers}], "
                        f"got {self.attention_last}"
                    )
            if not self.projection and self.width < 4:
                raise ValueError(f"width must be at least 4 for 'srupp', got {self.width}")
            if (inner := self.projection or self.width // 4) % self.heads:
                raise ValueError(f"heads must divide projection = {inner}, got {self.heads}")
        if self.rnn == "transformer-xl":
            for name in REPLACED[self.rnn]:
                if (value := getattr(self, name)) is not None:
                    raise ValueError(
                        f"{name} must be None with 'transformer-xl', which has its own places of "
                        f"dropout, got {value}"
                    )
            if self.width % 2:
                raise ValueError(f"width must be even for 'transformer-xl', got {self.width}")
            if not self.head_size and self.width % self.heads:
                raise ValueError(f"heads must divide width = {self.width}, got {self.heads}")

    @property
    def attends(self) -> bool:
        """Whether any layer has attention."""
        return "memory" in OWN.get(self.rnn, ()) and self.attention_last != 0


#: What runs of before say in fields whose default was another.
UNSET_BEFORE = {"highway_bias": 0.0}
DROPOUTS = (
    *("dropout", "state_dropout", "input_dropout", "attention_dropout"),
    *("embedding_dropout", "output_dropout", "adaptive_dropout"),
)


def build_rnn(config: LanguageModelConfig, input_size: int | None = None) -> nn.Module:
    """Stacked layers, called as `out [L, B, D], state = rnn(x [L, B, input], state or None)`.

    Args:
        input_size: features of x. Default: D.
    """
    c = config
    size = c.width if input_size is None else input_size
    options: dict[str, Any] = {"dropout": c.dropout}
    if c.rnn == "transformer-xl":
        return TransformerXL(
            size, c.width, c.layers, num_heads=c.heads, head_size=c.head_size or None,
            feedforward_size=c.feedforward or None, memory_length=c.memory,
            clamp_length=c.clamp, tied_biases=c.tied_biases,
            attention_dropout=c.attention_dropout, **options,
        )  # fmt: skip
    if c.rnn in ("sru", "srupp"):
        options["layer_norm"] = c.layer_norm
        if c.highway_bias is not None:
            options["highway_bias"] = c.highway_bias
    if c.rnn == "srupp":
        return SRUpp(
            size, c.width, c.projection or c.width // 4, c.layers, num_heads=c.heads,
            memory_length=c.memory, attention_dropout=c.attention_dropout,
            attention_every_n_layers=c.attention_every, attention_last_n_layers=c.attention_last,
            **options,
        )  # fmt: skip
    if c.rnn == "sru":
        options |= {
            name: getattr(c, name) for name in ("rescale", "state_dropout", "input_dropout")
        }
        first = 0 if size < c.width and size <= c.projection else c.projection
        options["projection_size"] = [first, *[c.projection] * (c.layers - 1)]
    return RNNS[c.rnn](size, c.width, c.layers, **options)


class LanguageModel(nn.Module):
    """Scores of the next symbol after each symbol of a text.

    Args:
        config: its shape.
        vocabulary_size: V.

    Raises: ValueError naming the field of `config` that does not fit the vocabulary.
    """

    def __init__(self, config: LanguageModelConfig, vocabulary_size: int = VOCABULARY):
        super().__init__()
        self.config = c = config
        self.vocabulary_size = V = vocabulary_size
        features = c.embedding or c.width
        if c.tie or c.cutoffs:
            cut: dict[str, Any] = {
                "cutoffs": c.cutoffs, "div_value": c.div_value,
                "dropout": c.adaptive_dropout, "init_range": c.init_range,
            }  # fmt: skip
            self.embedding: nn.Module = AdaptiveEmbedding(V, features, c.width, **cut)
            self.rnn = build_rnn(c)
            self.output: nn.Module = AdaptiveSoftmax(
                V, features, c.width, tie=c.tie, tie_projections=c.tie_projections, **cut
            )
        else:
            self.embedding = table = nn.Embedding(V, features)
            self.rnn = build_rnn(c, features)
            self.output = linear = nn.Linear(c.width, V)
            if c.init_range is not None:
                for weight in (table.weight, linear.weight):
                    nn.init.uniform_(weight, -c.init_range, c.init_range)
                nn.init.zeros_(linear.bias)
        dropout = 0.0 if c.rnn == "transformer-xl" else c.dropout
        self.dropout = nn.Dropout(dropout if c.output_dropout is None else c.output_dropout)
        self.embedding_dropout = nn.Dropout(
            dropout if c.embedding_dropout is None else c.embedding_dropout
        )

    def forward(
        self, x: Tensor, state: Any = None, y: Tensor | None = None, ignore_index: int = NOTHING
    ) -> tuple[Tensor, Any]:
        """Scores of every symbol, or the loss at targets.

        Args:
            x: [L, B] int64, symbols.
            state: after the symbols before; None: the text begins.
            y: [L, B] int64, what follows each symbol of x.
            ignore_index: value of targets that count for nothing.

        Returns: without y, logits [L, B, V] (log-probabilities with cutoffs); with it,
            nats [L, B], float32 at least, 0 at targets to ignore; and the state.
        """
        h_LBD, state = self.hidden(x, state)
        return (self.scores(h_LBD) if y is None else self._nats(h_LBD, y, ignore_index)), state

    def nats(
        self, x: Tensor, y: Tensor, state: Any = None, ignore_index: int = NOTHING
    ) -> tuple[Tensor, Any]:
        """Loss of each target, nats [L, B] float32 at least, and the state; see `forward`.

        With cutoffs only what the targets need is computed.
        """
        nats, state = self(x, state, y, ignore_index)
        return nats, state

    def zipf_nats(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Mean loss [] of x [L, B] if it followed Zipf's law: for estimates, see `nn.adaptive`."""
        if not isinstance(self.output, AdaptiveSoftmax):
            nats, state = self(x, state, x)
            return nats.mean(), state
        h_LBD, state = self.hidden(x, state)
        return self.output.zipf_nats(h_LBD, *self._tied()), state

    def hidden(
        self, x: Tensor, state: Any = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """x [L, B], state, mask [L, B] True at padding -> what `scores` takes [L, B, D], state."""
        given = {} if mask is None else {"mask": mask}
        h_LBD, state = self.rnn(self.embedding_dropout(self.embedding(x)), state, **given)
        return self.dropout(h_LBD), state

    def scores(self, h: Tensor) -> Tensor:
        """[..., D] -> logits or log-probabilities [..., V]."""
        scores: Tensor = self.output(h, *self._tied())
        return scores

    @property
    def memory_length(self) -> int:
        """Past steps that attention remembers; 0 without attention. Evaluation may set another."""
        return self.rnn.memory_length if self.config.attends else 0  # type: ignore[return-value]

    @memory_length.setter
    def memory_length(self, steps: int) -> None:
        if not self.memory_length:
            raise ValueError(f"memory_length needs attention; this {self.config.rnn!r} has none")
        if steps < 1:
            raise ValueError(f"memory_length must be at least 1, got {steps}")
        self.rnn.memory_length = steps  # type: ignore[assignment]

    def _nats(self, h: Tensor, y: Tensor, ignore_index: int) -> Tensor:
        check_targets(h, y)
        if isinstance(self.output, AdaptiveSoftmax):
            return self.output.nats(h, y, *self._tied(), ignore_index=ignore_index)
        logits = self.scores(h).flatten(0, -2)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nats = cross_entropy(logits, y.flatten(), reduction="none", ignore_index=ignore_index)
        return nats.view(y.shape)

    def _tied(self) -> tuple[AdaptiveEmbedding, ...]:
        """What the output borrows its rows from."""
        tied = self.embedding
        return (tied,) if self.config.tie and isinstance(tied, AdaptiveEmbedding) else ()
