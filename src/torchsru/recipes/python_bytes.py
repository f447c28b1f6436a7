"""Byte language models of the running Python's own sources, for a laptop: the demo's pair."""

from dataclasses import replace

from torchsru.data import TextData
from torchsru.models import LanguageModelConfig
from torchsru.recipes.language_model import LanguageModelRecipe
from torchsru.train.config import Training


def python_bytes() -> LanguageModelRecipe:
    """Stacked SRU on the Python standard library, 100 s of training."""
    return LanguageModelRecipe(
        model=LanguageModelConfig(rnn="sru", width=256, layers=4),
        data=TextData(unroll=64, batch=32),
        training=Training(lr=4e-3, embedding_lr=3.0, seconds=100, evaluations=4, checkpoints=1),
    )


def python_bytes_lstm() -> LanguageModelRecipe:
    """The same with nn.LSTM: as many parameters within 2 %, its own tuned learning rate."""
    sru = python_bytes()
    return replace(
        sru,
        model=replace(sru.model, rnn="lstm", width=308, layers=1),
        training=replace(sru.training, lr=3.5e-3),
    )
