"""Byte language models of four million parameters within 2 %, on the running Python's own sources.

One budget, one loop: what differs is the stack of layers, and the learning rate and the length of
segments, which results/python_4m.py chose by as many trials each; it runs them beside each other.
"""

from typing import Any

from torchsru.data import TextData
from torchsru.models import LanguageModelConfig
from torchsru.recipes.base import described
from torchsru.recipes.language_model import LanguageModelRecipe
from torchsru.train.config import Training

#: name: what it is, the learning rate, the steps of a segment, the model's fields
MODELS: dict[str, tuple[str, float, int, dict[str, Any]]] = {
    "sru": ("SRU, 4 layers of 552", 1e-3, 64, {"rnn": "sru", "width": 552, "layers": 4}),
    "srupp": ("SRU++, 4 layers of 888", 4e-3, 64, {"rnn": "srupp", "width": 888, "layers": 4}),
    "srupp-k2": (
        "SRU++, 4 layers of 912, attention in every second",
        4e-3,
        128,
        {"rnn": "srupp", "width": 912, "layers": 4, "attention_every": 2},
    ),
    "srupp-last": (
        "SRU++, 4 layers of 920, attention in the last alone",
        4e-3,
        64,
        {"rnn": "srupp", "width": 920, "layers": 4, "attention_last": 1},
    ),
    "srupp-none": (
        "SRU++, 4 layers of 936, no attention",
        4e-3,
        128,
        {"rnn": "srupp", "width": 936, "layers": 4, "attention_last": 0},
    ),
    "lstm": ("LSTM, 1 layer of 672", 8e-3, 64, {"rnn": "lstm", "width": 672, "layers": 1}),
    "gru": ("GRU, 1 layer of 776", 4e-3, 64, {"rnn": "gru", "width": 776, "layers": 1}),
    "qrnn": ("QRNN, 4 layers of 552", 4e-3, 64, {"rnn": "qrnn", "width": 552, "layers": 4}),
    "transformer-xl": (
        "Transformer-XL, 4 layers of 272",
        2e-3,
        64,
        {"rnn": "transformer-xl", "width": 272, "layers": 4, "heads": 4},
    ),
}
ATTENTIVE = ("srupp", "transformer-xl")


def _make(lr: float, unroll: int, fields: dict[str, Any]) -> LanguageModelRecipe:
    memory: dict[str, Any] = {"memory": 128} if fields["rnn"] in ATTENTIVE else {}
    return LanguageModelRecipe(
        model=LanguageModelConfig(**fields, **memory),
        data=TextData(unroll=unroll, batch=16),
        training=Training(lr=lr, embedding_lr=3.0, seconds=180, evaluations=6, checkpoints=1),
    )


RECIPES = {
    f"python-4m-{name}": described(_make, f"{said}: 4M parameters, 180 s of training.", *about)
    for name, (said, *about) in MODELS.items()
}
