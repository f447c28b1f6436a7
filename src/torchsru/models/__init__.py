"""Whole networks built from the layers in `torchsru.nn`."""

from torchsru.models.language_model import LanguageModel, LanguageModelConfig

__all__ = ["LanguageModel", "LanguageModelConfig"]
