"""Corpora and batches: from files to tensors; takes paths or the built-in Python sources."""

from torchsru.data.batches import ByteStreams
from torchsru.data.corpus import ByteData, Corpus, DataError, load_corpus

__all__ = ["ByteData", "ByteStreams", "Corpus", "DataError", "load_corpus"]
