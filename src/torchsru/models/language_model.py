"""Byte language model: embedding, stacked recurrent layers, a score for each next byte.

L time steps, B batch rows, D width, V = 256 byte values.

State    the layers' own: a pytree with the batch at dim 1 (torchsru.nn.state), so a text may be
         cut anywhere
Check    tests/models/test_language_model.py
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchsru.nn import RNNS

VOCABULARY = 256
START = 0  # the byte before a text; corpora put it between files


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Shape of a byte language model."""

    rnn: Literal["sru", "lstm", "gru", "qrnn", "ssru", "mingru", "kernelnn"] = "sru"
    """Kind of recurrent layer; see torchsru.nn.RNNS."""
    width: int = 512
    """D, channels of the embedding and of each layer."""
    layers: int = 4
    """Recurrent layers, stacked."""
    dropout: float = 0.0
    """After the embedding, between layers and before the output."""
    projection: int = 0
    """SRU: inner size of each layer's factorised transform; 0: not factorised."""
    layer_norm: Literal["pre", "post"] | None = None
    """SRU: layer norm before or after each layer."""
    highway_bias: float = 0.0
    """SRU: initial bias of the reset gate."""
    rescale: bool = True
    """SRU: scale the highway input by the paper's alpha."""
    state_dropout: float = 0.0
    """SRU: dropout on the state's part of the output, one mask for all time steps."""
    input_dropout: float = 0.0
    """SRU: dropout on the transform's input, one mask for all time steps."""

    def __post_init__(self) -> None:
        if self.rnn not in tuple(RNNS):
            raise ValueError(f"rnn must be one of {', '.join(RNNS)}, got {self.rnn!r}")
        for name, least in (("width", 1), ("layers", 1), ("projection", 0)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name in ("dropout", "state_dropout", "input_dropout"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if not -100 < self.highway_bias < 100:
            raise ValueError(f"highway_bias must lie in (-100, 100), got {self.highway_bias}")
        if self.layer_norm not in (None, "pre", "post"):
            raise ValueError(f"layer_norm must be None, 'pre' or 'post', got {self.layer_norm!r}")
        if self.rnn != "sru":
            plain = type(self)()
            for name in SRU_ONLY:
                if (value := getattr(self, name)) != getattr(plain, name):
                    raise ValueError(f"{name} needs rnn='sru', got {value!r} with {self.rnn!r}")


SRU_ONLY = (
    *("projection", "layer_norm", "highway_bias", "rescale"),
    *("state_dropout", "input_dropout"),
)


def build_rnn(config: LanguageModelConfig) -> nn.Module:
    """Stacked layers D -> D, called as `out [L, B, D], state = rnn(x [L, B, D], state or None)`."""
    c = config
    options: dict[str, Any] = {"dropout": c.dropout}
    if c.rnn == "sru":
        options |= {name: getattr(c, name) for name in SRU_ONLY if name != "projection"}
        options["projection_size"] = c.projection
    return RNNS[c.rnn](c.width, c.width, c.layers, **options)


class LanguageModel(nn.Module):
    """Scores of the next byte after each byte of a text."""

    def __init__(self, config: LanguageModelConfig, vocabulary_size: int = VOCABULARY):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary_size, config.width)
        self.rnn = build_rnn(config)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.width, vocabulary_size)

    def forward(
        self, x: Tensor, state: Any = None, y: Tensor | None = None, ignore_index: int = -100
    ) -> tuple[Tensor, Any]:
        """Scores of every symbol, or the loss at targets.

        Args:
            x: [L, B] int64, symbols.
            state: after the symbols before; None: the text begins.
            y: [L, B] int64, what follows each symbol of x.
            ignore_index: value of targets that count for nothing.

        Returns: without y, logits [L, B, V]; with it, nats [L, B], 0 at targets to ignore; and the
            state.
        """
        h_LBD, state = self.rnn(self.dropout(self.embedding(x)), state)
        logits_LBV = self.output(self.dropout(h_LBD))
        if y is None:
            return logits_LBV, state
        nats = cross_entropy(
            logits_LBV.flatten(0, 1), y.flatten(), reduction="none", ignore_index=ignore_index
        )
        return nats.view(y.shape), state

    def generate(
        self,
        prompt: bytes,
        count: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        seed: int = 0,
    ) -> Iterator[int]:
        """Yield `count` bytes that follow the prompt, each as soon as it is drawn.

        The work per byte is constant: only the state is carried, the text is not read again.

        Args:
            prompt: what comes before; b"" starts a new file.
            count: bytes to draw.
            temperature: logits are divided by it; 0 takes the likeliest byte.
            top_k: draw from the k likeliest bytes only; 0: from all.
            seed: same seed, same text.

        Raises: ValueError if count, temperature or top_k is negative.
        """
        for name, value in (("count", count), ("temperature", temperature), ("top_k", top_k)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
            if not value < float("inf"):
                raise ValueError(f"{name} must be finite, got {value}")
        return self._generate(prompt or bytes([START]), count, temperature, top_k, seed)

    @torch.inference_mode()
    def _generate(
        self, prompt: bytes, count: int, temperature: float, top_k: int, seed: int
    ) -> Iterator[int]:
        was_training = self.training
        self.eval()
        try:
            device = self.output.weight.device
            random = torch.Generator().manual_seed(seed)
            x_L1, state = torch.tensor(list(prompt), device=device)[:, None], None
            for _ in range(count):
                logits_L1V, state = self(x_L1, state)
                byte = draw(logits_L1V[-1, 0].float().cpu(), temperature, top_k, random)
                yield byte
                x_L1 = torch.tensor([[byte]], device=device)
        finally:
            self.train(was_training)


def draw(logits: Tensor, temperature: float, top_k: int, random: torch.Generator) -> int:
    """Draw an index of logits [V]; see `LanguageModel.generate` for temperature and top_k."""
    if temperature == 0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    p = torch.softmax(logits / temperature, dim=-1)
    return int(torch.multinomial(p, 1, generator=random))
