"""Corpora, vocabularies and batches: from files to tensors; takes paths, hub names, or nothing."""

from torchsru.data.batches import EverySymbol, Segment, Streams
from torchsru.data.config import TextData
from torchsru.data.corpus import Corpus, Counts, Side, byte_corpus, load_corpus, load_side
from torchsru.data.texts import DataError
from torchsru.data.vocabulary import (
    ByteVocabulary,
    CharacterVocabulary,
    SubwordVocabulary,
    Vocabulary,
    WordVocabulary,
)

__all__ = [
    "ByteVocabulary",
    "CharacterVocabulary",
    "Corpus",
    "Counts",
    "DataError",
    "EverySymbol",
    "Segment",
    "Side",
    "Streams",
    "SubwordVocabulary",
    "TextData",
    "Vocabulary",
    "WordVocabulary",
    "byte_corpus",
    "load_corpus",
    "load_side",
]
