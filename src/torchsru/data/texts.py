"""Texts that are read in blocks, again and again, and never held whole.

A block ends after a line, or after a blank where a line is longer than a block, so that no
character and no word is cut; the last one ends where the text does. A run of more than LONGEST
bytes without either is cut behind its last other white space, or else between two characters:
whatever the text, memory is bounded and the work is linear.

Check      tests/data/test_texts.py
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

BLOCK_BYTES = 1 << 22
LONGEST = 1 << 24
SPACES = [chr(i).encode() for i in range(0x3001) if chr(i).isspace()]  # where str.split parts words


SURROGATE = re.compile("[\ud800-\udfff]")


class DataError(ValueError):
    """Data that is missing, empty, damaged, unreadable or too small; the message names the path."""


class Text(Protocol):
    """What a source gives."""

    @property
    def where(self) -> str:
        """Its name in errors: a path."""

    @property
    def size(self) -> int:
        """Its bytes, for progress: 0 if they are known only after reading."""

    def blocks(self) -> Iterator[bytes]:
        """All of it. Raises DataError if it can't be read."""


def content_of(text: Text) -> bytes:
    """All of a text at once. Raises DataError if it can't be read."""
    return b"".join(text.blocks())


def sum_of(text: Text) -> bytes:
    """SHA-256 of its content. Raises DataError if it can't be read."""
    sum_ = hashlib.sha256()
    for block in text.blocks():
        sum_.update(block)
    return sum_.digest()


Texts = dict[str, Sequence[Text]]  # of each side: "train", "valid" and, if there is one, "test"


@dataclass(frozen=True)
class FileText:
    """The bytes [start, stop) of a file; stop None: to its end."""

    path: Path
    start: int = 0
    stop: int | None = None

    @property
    def where(self) -> str:
        return str(self.path)

    @property
    def size(self) -> int:
        return (size_of(self.path) if self.stop is None else self.stop) - self.start

    @cached_property
    def sum(self) -> bytes:
        """SHA-256 of its content. Raises DataError."""
        return sum_of(self)

    def part(self, start: int, stop: int) -> "FileText":
        """Its bytes [start, stop)."""
        return FileText(self.path, self.start + start, self.start + stop)

    def blocks(self) -> Iterator[bytes]:
        return in_blocks(self._reads())

    def _reads(self) -> Iterator[bytes]:
        left = self.size
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                while left and (read := file.read(min(left, BLOCK_BYTES))):
                    left -= len(read)
                    yield read
        except OSError as error:
            raise unreadable(self.path, error) from error
        if left:
            raise DataError(f"data file {self.where!r} ended {left:,} bytes before it should have")


@dataclass(frozen=True)
class BytesText:
    """Bytes in memory."""

    where: str
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    def part(self, start: int, stop: int) -> "BytesText":
        """Its bytes [start, stop)."""
        return BytesText(self.where, self.content[start:stop])

    def blocks(self) -> Iterator[bytes]:
        return in_blocks([self.content])


@dataclass(frozen=True)
class JoinedText:
    """Texts one after the other, as one: a block may hold many of them."""

    where: str
    parts: Sequence[FileText | BytesText]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def part(self, start: int, stop: int) -> "JoinedText":
        """Its bytes [start, stop)."""
        found, at = [], 0
        for part in self.parts:
            size = part.size
            first, last = max(start - at, 0), min(stop - at, size)
            if first < last:
                found.append(part.part(first, last))
            at += size
        return JoinedText(self.where, found)

    def rfind(self, mark: bytes, start: int, stop: int) -> int:
        """Where in [start, stop) a byte stands last, read from behind; -1: nowhere."""
        while stop > start:
            first = max(start, stop - BLOCK_BYTES)
            if (found := content_of(self.part(first, stop)).rfind(mark)) >= 0:
                return first + found
            stop = first
        return -1

    def blocks(self) -> Iterator[bytes]:
        return in_blocks(block for part in self.parts for block in part.blocks())


def in_blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, cut where a block may end; how they came in pieces makes no difference."""
    rest = b""
    for read in regrouped(pieces):
        rest += read
        if end := block_end(rest):
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def regrouped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of BLOCK_BYTES; the last one holds the rest."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= BLOCK_BYTES:
            yield bytes(held[:BLOCK_BYTES])
            del held[:BLOCK_BYTES]
    if held:
        yield bytes(held)


def block_end(text: bytes) -> int:
    """Where a block that starts with the text ends; 0: not yet in it."""
    if end := text.rfind(b"\n") + 1:
        return end
    if len(text) >= BLOCK_BYTES and (end := text.rfind(b" ") + 1):
        return end
    if len(text) < LONGEST:
        return 0
    last = len(text) - 1  # may be a part of what follows: of "\r\n", of a character
    found = ((text.rfind(space, 0, last), len(space)) for space in SPACES)
    if end := max((at + size for at, size in found if at >= 0), default=0):
        return end
    for end in range(last, max(0, last - 4), -1):
        if text[end] & 0xC0 != 0x80:  # a character starts here
            return end
    return last  # it is no UTF-8


def check_all_utf8(text: Text) -> None:
    """Raise DataError, naming the place, unless a text is UTF-8."""
    at = 0
    for block in text.blocks():
        check_utf8(block, text.where, at)
        at += len(block)


def check_utf8(block: bytes, where: str, at: int = 0) -> None:
    """Raise DataError, naming the place in the whole text, unless a block is UTF-8."""
    try:
        block.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where!r} is not UTF-8: byte {block[error.start]:#04x} at {at + error.start:,}; "
            "the vocabulary 'bytes' takes any file"
        ) from error


def check_no_half_pair(text: str, what: str) -> None:
    """Raise DataError if a text from JSON holds half of a surrogate pair, which nothing writes."""
    if half := SURROGATE.search(text):
        raise DataError(
            f"{what} must be Unicode text, got half of a surrogate pair, {half[0]!r}, "
            f"at {half.start():,}"
        )


def size_of(path: Path) -> int:
    """A file's bytes. Raises DataError."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """What is told of a file that can't be read."""
    return DataError(f"cannot read data file {str(path)!r}: {error.strerror or error}")
