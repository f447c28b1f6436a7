"""A corpus: what a model is trained on and what is held out, as symbols.

Check      tests/data/test_files.py, of plain files; tests/data/test_prepare.py, of prepared ones
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from torchsru.data.config import TextData
from torchsru.data.files import NUL, python_sources, read_files
from torchsru.data.texts import BytesText, DataError, JoinedText, content_of
from torchsru.data.vocabulary import ByteVocabulary, Vocabulary, as_tensor

IN_MEMORY = 1 << 26  # bytes of plain files, on all sides; more are mapped from the cache


@dataclass(frozen=True)
class Counts:
    """What a side of a corpus holds."""

    tokens: int = 0
    """Symbols."""
    bytes: int = 0
    characters: int = 0
    """0, like words: not counted."""
    words: int = 0
    """As papers count them: between blanks, and one <eos> a line."""
    unknown: int = 0
    """Symbols that stand for what the vocabulary lacks."""


@dataclass(frozen=True)
class Side:
    """A side of a corpus: "train", "valid" or "test"."""

    ids: Tensor
    """[N], of an integer type that holds the vocabulary; mapped from a file if it was prepared."""
    counts: Counts
    ends: Tensor | None = None
    """[S] int64, where each sentence ends, if every pass has them in a new order."""


@dataclass(frozen=True)
class Corpus:
    """Its sides, and what their symbols stand for."""

    name: str
    vocabulary: Vocabulary
    sides: dict[str, Side]
    content: str
    """Hash of all symbols, in their order and on their side, and of what they stand for."""
    files: int = 0
    """How many there were, of files and folders."""
    heldout_files: int = 0
    """How many of them are held out; 0: the last part of the text is."""
    folder: Path | None = None
    """Where it is kept, prepared."""

    @property
    def train(self) -> Side:
        """What is trained on."""
        return self.sides["train"]

    @property
    def valid(self) -> Side:
        """What is held out, to choose by."""
        return self.sides["valid"]

    def __str__(self) -> str:
        files = how = ""
        if self.files:
            files = f"{self.files:,} files; "
            whole = f"{self.heldout_files} whole files" if self.heldout_files else "the last part"
            how = f" ({whole})"
        train, valid = (side.counts.tokens for side in (self.train, self.valid))
        return (
            f"{self.name}: {files}{train:,} {self.vocabulary.unit}s to train on, "
            f"{valid:,} held out{how}"
        )


def counted(counts: Counts, text: bytes, ids: Tensor, vocabulary: Vocabulary) -> Counts:
    """The counts and those of one more piece of text, whole lines, in symbols."""
    decoded = text.decode("utf-8", "replace")
    return Counts(
        counts.tokens + len(ids),
        counts.bytes + len(text),
        counts.characters + len(decoded),
        counts.words + len(decoded.split()) + decoded.count("\n"),
        counts.unknown + int((ids == vocabulary.unknown).sum()),
    )


def in_symbols(
    blocks: Iterable[bytes], vocabulary: Vocabulary, where: str
) -> Iterator[tuple[Tensor, Counts]]:
    """Each block of a text in symbols, of the narrowest type, and the counts up to its end.

    Raises: DataError naming the text, and the place that the vocabulary can't name.
    """
    dtype, counts = narrowest(vocabulary.size), Counts()
    for block in blocks:
        try:
            ids = vocabulary.to_ids(block, before=counts.tokens)
        except ValueError as error:
            raise DataError(f"{where!r}: {error}") from error
        counts = counted(counts, block, ids, vocabulary)
        yield ids.to(dtype), counts


def narrowest(size: int) -> torch.dtype:
    """The type that symbols of a vocabulary of that size are kept in."""
    return torch.uint8 if size <= 2**8 else torch.int16 if size <= 2**15 else torch.int32


def byte_content(sums: Iterable[bytes]) -> str:
    """The `content` of a corpus in all 256 byte values: of the SHA-256 sums of its sides."""
    return hashlib.sha256(b"".join(sums)).hexdigest()


def byte_corpus(
    train: bytes, heldout: bytes, name: str = "text", files: int = 0, heldout_files: int = 0
) -> Corpus:
    """A corpus in all 256 byte values, in memory."""
    parts = {"train": train, "valid": heldout}
    sides = {k: Side(as_tensor(part), Counts(len(part), len(part))) for k, part in parts.items()}
    content = byte_content(hashlib.sha256(part).digest() for part in parts.values())
    return Corpus(name, ByteVocabulary(), sides, content, files, heldout_files)


def load_corpus(data: TextData | None = None) -> Corpus:
    """What a recipe's data name.

    Bytes of plain files are read as they are, IN_MEMORY of them at most. All else is turned into
    symbols once, kept in the cache (torchsru.data.cache) and mapped into memory from there.

    Args:
        data: default: the sources of the Python that runs, in bytes.

    Raises: DataError if anything is missing, damaged, empty, too small or not what it should be.
    """
    from torchsru.data import prepare, published  # with the cache they need torchsru[train]

    data = data or TextData()
    if data.source in published.PUBLISHED:
        return prepare.prepare(data, published.find(data.source, data.paths), data.source)
    if data.source == "hub":
        from torchsru.data.hub import find_on_hub

        return prepare.prepare(data, find_on_hub(data), data.paths[0])
    as_bytes = data.vocabulary in ("auto", "bytes")
    if data.source == "packages":
        files = python_sources(not as_bytes, packages=True)
    else:
        files = read_files(data.paths, not as_bytes)
    separator, words = NUL if as_bytes else b"\n", data.vocabulary == "words"
    train, held, held_files = files.split(data.heldout, separator, words)
    if as_bytes and train.size + held.size <= IN_MEMORY:
        sides = content_of(train), content_of(held)
        return byte_corpus(*sides, files.name, len(files.texts), held_files)
    found = prepare.prepare(data, {"train": [train], "valid": [held]}, files.name)
    return replace(found, files=len(files.texts), heldout_files=held_files)


def load_side(paths: tuple[str, ...], vocabulary: Vocabulary) -> Side:
    """All of files and folders, in the order of a corpus, in a vocabulary that is there.

    In memory, or mapped from the cache if it is more than IN_MEMORY.

    Raises: DataError if a path is missing or unreadable, or the vocabulary can't name all of it;
        if the cache can't be written.
    """
    files = read_files(paths, vocabulary.name != "bytes")
    text = files.joined(NUL if vocabulary.name == "bytes" and vocabulary.size == 256 else b"\n")
    if vocabulary.name == "words" and content_of(text.part(text.size - 1, text.size)) != b"\n":
        text = JoinedText(text.where, [*text.parts, BytesText(text.where, b"\n")])
    if text.size > IN_MEMORY:
        from torchsru.data import prepare  # with the cache it needs torchsru[train]

        return prepare.prepare_side(text, vocabulary)
    ids, counts = zip(*in_symbols(text.blocks(), vocabulary, text.where), strict=True)
    return Side(torch.cat(ids), counts[-1])
