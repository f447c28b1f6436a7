"""Whole networks built from the layers in `torchsru.nn`."""

from torchsru.models.beam import Hypothesis, Search, beam_search
from torchsru.models.classifier import Classifier, ClassifierConfig
from torchsru.models.denoiser import Denoiser, DenoiserConfig
from torchsru.models.generate import Generation, Sampling, generate_text
from torchsru.models.language_model import LanguageModel, LanguageModelConfig
from torchsru.models.reader import Reader, ReaderConfig
from torchsru.models.recognizer import Recognizer, RecognizerConfig
from torchsru.models.translator import Translator, TranslatorConfig

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Denoiser",
    "DenoiserConfig",
    "Generation",
    "Hypothesis",
    "LanguageModel",
    "LanguageModelConfig",
    "Reader",
    "ReaderConfig",
    "Recognizer",
    "RecognizerConfig",
    "Sampling",
    "Search",
    "Translator",
    "TranslatorConfig",
    "beam_search",
    "generate_text",
]
