"""Whole networks built from the layers in `torchsru.nn`."""

from torchsru.models.classifier import Classifier, ClassifierConfig
from torchsru.models.generate import Generation, Sampling, generate_text
from torchsru.models.language_model import LanguageModel, LanguageModelConfig
from torchsru.models.reader import Reader, ReaderConfig

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Generation",
    "LanguageModel",
    "LanguageModelConfig",
    "Reader",
    "ReaderConfig",
    "Sampling",
    "generate_text",
]
