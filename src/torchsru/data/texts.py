"""Texts that are read in blocks, again and again, and never held whole.

A block ends after a line, or after a blank where a line is longer than a block, so that no
character and no word is cut; the last one ends where the text does.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BLOCK_BYTES = 1 << 22


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

    def blocks(self) -> Iterator[bytes]:
        starts = range(0, len(self.content), BLOCK_BYTES)
        return in_blocks(self.content[start : start + BLOCK_BYTES] for start in starts)


def in_blocks(reads: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, cut where a block may end."""
    rest = b""
    for read in reads:
        rest += read
        end = rest.rfind(b"\n") + 1
        if not end and len(rest) >= BLOCK_BYTES:
            end = rest.rfind(b" ") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def check_utf8(block: bytes, where: str, at: int = 0) -> None:
    """Raise DataError, naming the place in the whole text, unless a block is UTF-8."""
    try:
        block.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where!r} is not UTF-8: byte {block[error.start]:#04x} at {at + error.start:,}; "
            "the vocabulary 'bytes' takes any file"
        ) from error


def size_of(path: Path) -> int:
    """A file's bytes. Raises DataError."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """What is told of a file that can't be read."""
    return DataError(f"cannot read data file {str(path)!r}: {error.strerror or error}")
