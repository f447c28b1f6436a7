"""Byte language models of the running Python's own sources, for a laptop: the demo's pair."""

from dataclasses import replace

from torchsru.data import TextData
from torchsru.models import LanguageModelConfig
from torchsru.recipes.base import LanguageModelRecipe
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


def debug(recipe: LanguageModelRecipe) -> LanguageModelRecipe:
    """The same code in seconds: a small model, few steps."""
    return replace(
        recipe,
        model=replace(recipe.model, width=32, layers=2),
        data=replace(recipe.data, unroll=16, batch=4, eval_tokens=2048, eval_batch=4),
        training=replace(
            recipe.training, lr=1e-2, steps=60, seconds=None, evaluations=2, checkpoints=2
        ),
    )


def python_bytes_debug() -> LanguageModelRecipe:
    """python-bytes in seconds."""
    return debug(python_bytes())


def python_bytes_lstm_debug() -> LanguageModelRecipe:
    """python-bytes-lstm in seconds."""
    return debug(python_bytes_lstm())
