"""Plain files and folders, and the sources of the Python that runs.

Files              as named, a folder's sorted by path
What is held out   every n-th of them, n = round(1 / heldout), so that each folder gives its share,
                   one at least;
                   of fewer than FEW_FILES files, the last part of the text instead. Held-out bytes
                   are never in `train`.
Order of the text  on either side by a hash of each file's content, so that the loss does not drift
                   from folder to folder; fewer than FEW_FILES files stay as they are
Check              tests/data/test_files.py
"""

import math
import os
import site
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from torchsru.data.texts import (
    BytesText,
    DataError,
    FileText,
    JoinedText,
    check_all_utf8,
    content_of,
    size_of,
    unreadable,
)

FEW_FILES = 50
NUL = b"\0"
NOT_SOURCES = {
    *("test", "tests", "idle_test"),
    *("site-packages", "dist-packages", "__pycache__"),
    "pydoc_data",  # one file of prose, larger than all that is held out
}


@dataclass(frozen=True)
class Files:
    """Texts, not yet cut into what is trained on and what is held out."""

    name: str
    texts: list[FileText]

    def split(
        self, heldout: float, separator: bytes, words: bool = False
    ) -> tuple[JoinedText, JoinedText, int]:
        """What to train on, what is held out, and how many whole files that is.

        Args:
            heldout: part to hold out, 0 < heldout <= 0.5.
            separator: stands between files: NUL where symbols are bytes, else a line end; then a
                last part starts as `symbol_start` has it.
            words: whether a symbol is a word.

        Raises: DataError if a file can't be read, either side would be empty, or only words could
            be cut.
        """
        if len(self.texts) < FEW_FILES:
            whole = self.joined(separator)
            size = whole.size
            cut = size - max(1, math.floor(heldout * size))
            if separator != NUL:
                try:
                    cut = symbol_start(whole, cut, words)
                except ValueError as error:
                    raise DataError(f"{self.name} can't be split: {error}") from error
            train, held, held_files = whole.part(0, cut), whole.part(cut, size), 0
        else:
            every = max(2, round(1 / heldout))
            first = min(every, len(self.texts)) // 2
            held_texts = self.texts[first::every]
            rest = [text for i, text in enumerate(self.texts) if i % every != first]
            train, held = (self._hashed_order(part, separator) for part in (rest, held_texts))
            held_files = len(held_texts)
        if not train.size or not held.size:
            raise DataError(
                f"{self.name} is too small to hold out a part of {heldout}: "
                f"{train.size + held.size} bytes"
            )
        return train, held, held_files

    def joined(self, separator: bytes) -> JoinedText:
        """All of it, in the order of `split`."""
        if len(self.texts) >= FEW_FILES:
            return self._hashed_order(self.texts, separator)
        return JoinedText(self.name, self._followed(self.texts, separator)[:-1])

    def _hashed_order(self, texts: list[FileText], separator: bytes) -> JoinedText:
        """In the order of their hashes, the separator after each."""
        ordered = sorted(texts, key=lambda text: text.sum)
        return JoinedText(self.name, self._followed(ordered, separator))

    def _followed(self, texts: list[FileText], separator: bytes) -> list[FileText | BytesText]:
        """Each with the separator after it."""
        after = BytesText(self.name, separator)
        return [part for text in texts for part in (text, after)]


def symbol_start(text: JoinedText, cut: int, words: bool) -> int:
    """Where the last part of a UTF-8 text, about text[cut:], starts so that no symbol is cut.

    Behind the last line end before the cut, else behind the last blank, if the part grows by no
    more than half; else with the character at the cut, unless symbols are words.

    Raises: ValueError if they are, and there is neither a line end nor a blank.
    """
    size = text.size
    most = (size - cut) // 2
    for mark in (b"\n", b" "):
        if start := text.rfind(mark, max(0, cut - most - 1), cut) + 1:
            return start
    if words:
        raise ValueError(
            f"of {size:,} bytes the last {size - cut:,} are to be held out, and the "
            f"{most + 1:,} before them hold no line end and no blank to part words at"
        )
    near = content_of(text.part(max(0, cut - 3), cut + 1))
    while cut and near and near[-1] & 0xC0 == 0x80:  # inside a character
        cut, near = cut - 1, near[:-1]
    return cut


def read_files(paths: tuple[str, ...], utf8: bool = False) -> Files:
    """Files and folders (names starting with "." are left out), or Python's sources if none.

    Raises: DataError if a path is missing, unreadable or holds no bytes; with `utf8`, if a file is
        not UTF-8.
    """
    if not paths:
        return python_sources(utf8)
    # neither a file named twice nor a copy of one may be on both sides
    found = {item.resolve(): item for path in paths for item in files_of(Path(path))}
    texts = [as_it_is_now(path) for path in found.values()]
    if utf8:
        for text in texts:
            check_all_utf8(text)
    return checked(", ".join(paths), texts)


def python_sources(utf8: bool = False, packages: bool = False) -> Files:
    """The standard library without its tests; with `packages`, all that is installed too.

    With `utf8` the few files that are not UTF-8 are left out.
    """
    roots = [Path(sysconfig.get_path("stdlib"))]
    if packages:
        roots += [root for root in map(Path, site.getsitepackages()) if root.is_dir()]
    found = {
        path.resolve(): path
        for root in roots
        for path in walk(root, skip=NOT_SOURCES)
        if path.suffix == ".py"
    }
    if not found:
        raise DataError(
            f"this Python has no source files in {', '.join(map(str, roots))}; "
            "name your own with --data"
        )
    name = "Python standard library" + (" and packages" if packages else "")
    texts = [as_it_is_now(path) for path in found.values()]
    texts = [text for text in texts if not utf8 or is_utf8(text)]
    # the library's few copies are empty or tiny; without them other files would be held out than
    # those that earlier runs and results count
    return checked(name, texts, distinct=packages)


def as_it_is_now(path: Path) -> FileText:
    """A file's text; what is written behind it later is not part of it. Raises DataError."""
    return FileText(path, 0, size_of(path))


def checked(name: str, texts: list[FileText], distinct: bool = True) -> Files:
    """The files of a corpus; of equal ones the first, if `distinct`. Raises DataError if all are
    empty."""
    if distinct and len(texts) > 1:
        first: dict[bytes, FileText] = {}
        for text in texts:
            first.setdefault(text.sum, text)
        texts = list(first.values())
    if not any(text.size for text in texts):
        raise DataError(f"no bytes to train on in {name}")
    return Files(name, texts)


def is_utf8(text: FileText) -> bool:
    """Whether a text can be decoded. Raises DataError if it can't be read."""
    try:
        content_of(text).decode()
    except UnicodeDecodeError:
        return False
    return True


def files_of(path: Path) -> list[Path]:
    """A file itself, or a folder's files. Raises DataError."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"data path {str(path)!r} does not exist") from None
    except OSError as error:  # no permission, name too long
        raise DataError(f"cannot read data path {str(path)!r}: {error.strerror}") from error
    if path.is_file():
        if path.stat().st_size == 0:
            raise DataError(f"data file {str(path)!r} is empty")
        return [path]
    if not path.is_dir():
        raise DataError(f"data path {str(path)!r} must be a file or a folder")
    found = walk(path, skip={"__pycache__"})
    if not found:
        raise DataError(f"data folder {str(path)!r} holds no files")
    return found


def walk(root: Path, skip: set[str]) -> list[Path]:
    """All files below a folder, sorted by path. Raises DataError if a folder can't be read."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read data folder {error.filename!r}: {error.strerror}")

    found: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [f for f in folders if f not in skip and not f.startswith(".")]
        found += [p for f in files if not f.startswith(".") and (p := Path(folder, f)).is_file()]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def read(path: Path) -> bytes:
    """A file's bytes. Raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
