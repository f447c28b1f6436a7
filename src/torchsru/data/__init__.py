"""Corpora and batches: from files to tensors; takes paths or the built-in Python sources."""

from torchsru.data.batches import ByteStreams, EveryByte
from torchsru.data.corpus import ByteData, Corpus, DataError, load_corpus, load_text

__all__ = [
    "ByteData",
    "ByteStreams",
    "Corpus",
    "DataError",
    "EveryByte",
    "load_corpus",
    "load_text",
]
