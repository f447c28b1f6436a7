"""Sentence classifier: word vectors, an encoder, one score for each class.

L time steps, B batch rows, E features of a word, D channels, C classes.

Encoders  the stacks of torchsru.nn.RNNS, whose output at the last word stands for the sentence; and
          "cnn", convolutions of several widths with a maximum over time (Kim 2014, arXiv 1408.5882)
Padding   rows are padded at their ends, and what stands there is never read: a sentence has the
          same scores in any batch
Check     tests/models/test_classifier.py
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchsru.nn import RNNS

KINDS = ("sru", "lstm", "gru", "qrnn", "ssru", "mingru", "kernelnn", "cnn")
#: Fields that not every encoder takes.
OWN = {
    "sru": ("state_weights", "highway", "rescale", "highway_bias"),
    "qrnn": ("highway",),
    "cnn": ("widths",),
}


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Shape of a sentence classifier."""

    encoder: Literal["sru", "lstm", "gru", "qrnn", "ssru", "mingru", "kernelnn", "cnn"] = "sru"
    """Kind of layer; see torchsru.nn.RNNS; "cnn": one layer of convolutions."""
    width: int = 128
    """D, channels of each layer; of a cnn, those of each width of window."""
    layers: int = 2
    """Layers, stacked; a cnn has one."""
    dropout: float = 0.5
    """After the embedding, between layers and before the output; between layers of sru, of the
    states' part alone, as in the paper's code: the highway stays whole."""
    embedding: int = 128
    """E, features of an embedding that is trained; word vectors have their own."""
    widths: tuple[int, ...] = (3, 4, 5)
    """cnn: words that a convolution sees."""
    state_weights: bool = True
    """sru: the gates read v c_{t-1}."""
    highway: bool | None = None
    """sru, qrnn: a highway past each layer; None: sru has one, qrnn has none."""
    rescale: bool = True
    """sru: scale the highway input by the paper's alpha."""
    highway_bias: float = 0.0
    """sru: initial bias of the reset gate."""

    def __post_init__(self) -> None:
        if self.encoder not in KINDS:
            raise ValueError(f"encoder must be one of {', '.join(KINDS)}, got {self.encoder!r}")
        for name in ("width", "layers", "embedding"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must be positive, one at least, got {self.widths}")
        if not -100 < self.highway_bias < 100:
            raise ValueError(f"highway_bias must lie in (-100, 100), got {self.highway_bias}")
        if self.encoder == "cnn" and self.layers != 1:
            raise ValueError(f"layers must be 1 for 'cnn', got {self.layers}")
        defaults = type(self).__dataclass_fields__
        for name in sorted({name for names in OWN.values() for name in names}):
            takers = [kind for kind, names in OWN.items() if name in names]
            value = getattr(self, name)
            if self.encoder not in takers and value != defaults[name].default:
                needed = " or ".join(map(repr, takers))
                raise ValueError(f"{name} needs encoder={needed}, got {value!r}")


class Convolutions(nn.Module):
    """max over time of ReLU(W * x + b), for windows of several widths (Kim 2014, section 2).

    Args:
        features: E.
        channels: of each width.
        widths: words that a window sees.
    """

    def __init__(self, features: int, channels: int, widths: tuple[int, ...]):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(features, channels, w) for w in widths)
        self.widths = widths
        self.output_size = channels * len(widths)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x [L, B, E] and how many words each row has [B] -> [B, output_size].

        A sentence shorter than a window is filled up with zeros.
        """
        real_LB = torch.arange(x.shape[0], device=x.device)[:, None] < lengths
        x = nn.functional.pad(
            x.masked_fill(~real_LB[:, :, None], 0), (0, 0, 0, 0, 0, max(self.widths) - 1)
        )
        x_BEL = x.permute(1, 2, 0)
        found = []
        for width, convolution in zip(self.widths, self.convolutions, strict=True):
            y_BDL = convolution(x_BEL).relu()
            windows_B = (lengths - width + 1).clamp(min=1)
            place_L = torch.arange(y_BDL.shape[2], device=x.device)
            found.append(y_BDL.masked_fill(place_L >= windows_B[:, None, None], 0).amax(2))
        return torch.cat(found, 1)


class Classifier(nn.Module):
    """Scores of each class of a sentence.

    Args:
        config: its shape.
        classes: C.
        vectors: [V, E], word vectors that are not trained.
        vocabulary_size: V, without vectors: an embedding [V, config.embedding] is trained.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        classes: int,
        vectors: Tensor | None = None,
        vocabulary_size: int = 0,
    ):
        super().__init__()
        self.config = c = config
        if vectors is None:
            self.embedding = nn.Embedding(vocabulary_size, c.embedding)
        else:
            self.embedding = nn.Embedding.from_pretrained(vectors.float(), freeze=True)
        features = self.embedding.embedding_dim
        self.encoder = build_encoder(c, features)
        self.dropout = nn.Dropout(c.dropout)
        self.output = nn.Linear(self.encoder.output_size, classes)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores of sentences.

        Args:
            ids: [L, B] words, int64; anything stands behind a row's last one.
            lengths: [B] words of each row, at least 1.

        Returns: [B, C], before a softmax.
        """
        return self.score(self.embedding(ids), lengths)

    def score(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The same of words that are vectors already, x [L, B, E]."""
        x = self.dropout(x)
        if isinstance(self.encoder, Convolutions):
            h_BD = self.encoder(x, lengths)
        else:
            h_LBD, _ = self.encoder(x)
            last_1BD = (lengths - 1)[None, :, None].expand(1, -1, h_LBD.shape[2])
            h_BD = h_LBD.gather(0, last_1BD)[0]
        return self.output(self.dropout(h_BD))


def build_encoder(config: ClassifierConfig, features: int) -> Any:
    """The encoder: a `Recurrent`, or `Convolutions`; both have an `output_size`."""
    c = config
    if c.encoder == "cnn":
        return Convolutions(features, c.width, c.widths)
    options: dict[str, Any] = {"state_dropout" if c.encoder == "sru" else "dropout": c.dropout}
    if c.encoder == "qrnn":
        options["highway"] = bool(c.highway)
    if c.encoder == "sru":
        options |= {
            "state_weights": c.state_weights,
            "highway": c.highway is not False,
            "rescale": c.rescale,
            "highway_bias": c.highway_bias,
        }
    return RNNS[c.encoder](features, c.width, c.layers, **options)
