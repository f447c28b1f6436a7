"""Plain files and folders, and the sources of the Python that runs.

Files              as named, a folder's sorted by path
What is held out   every n-th of them, n = round(1 / heldout), so that each folder gives its share;
                   of fewer than FEW_FILES files, the last part of the text instead. Held-out bytes
                   are never in `train`.
Order of the text  on either side by a hash of each file's content, so that the loss does not drift
                   from folder to folder; fewer than FEW_FILES files stay as they are
Check              tests/data/test_files.py
"""

import hashlib
import math
import os
import site
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torchsru.data.texts import DataError, check_utf8, unreadable

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
    texts: list[bytes]

    def split(
        self, heldout: float, separator: bytes, words: bool = False
    ) -> tuple[bytes, bytes, int]:
        """What to train on, what is held out, and how many whole files that is.

        Args:
            heldout: part to hold out, 0 < heldout <= 0.5.
            separator: stands between files: NUL where symbols are bytes, else a line end; then a
                last part starts as `symbol_start` has it.
            words: whether a symbol is a word.

        Raises: DataError if either side would be empty, or only words could be cut.
        """
        if len(self.texts) < FEW_FILES:
            whole = separator.join(self.texts)
            cut = len(whole) - max(1, math.floor(heldout * len(whole)))
            if separator != NUL:
                try:
                    cut = symbol_start(whole, cut, words)
                except ValueError as error:
                    raise DataError(f"{self.name} can't be split: {error}") from error
            train, held, held_files = whole[:cut], whole[cut:], 0
        else:
            every = max(2, round(1 / heldout))
            held_texts = self.texts[every // 2 :: every]
            rest = [text for i, text in enumerate(self.texts) if i % every != every // 2]
            train, held = (hashed_order(part, separator) for part in (rest, held_texts))
            held_files = len(held_texts)
        if not train or not held:
            raise DataError(
                f"{self.name} is too small to hold out a part of {heldout}: "
                f"{len(train + held)} bytes"
            )
        return train, held, held_files

    def joined(self, separator: bytes) -> bytes:
        """All of it, in the order of `split`."""
        few = len(self.texts) < FEW_FILES
        return separator.join(self.texts) if few else hashed_order(self.texts, separator)


def symbol_start(text: bytes, cut: int, words: bool) -> int:
    """Where the last part of a UTF-8 text, about text[cut:], starts so that no symbol is cut.

    Behind the last line end before the cut, else behind the last blank, if the part grows by no
    more than half; else with the character at the cut, unless symbols are words.

    Raises: ValueError if they are, and there is neither a line end nor a blank.
    """
    most = (len(text) - cut) // 2
    for mark in (b"\n", b" "):
        if start := text.rfind(mark, max(0, cut - most - 1), cut) + 1:
            return start
    if words:
        raise ValueError(
            f"of {len(text):,} bytes the last {len(text) - cut:,} are to be held out, and the "
            f"{most + 1:,} before them hold no line end and no blank to part words at"
        )
    while cut and text[cut] & 0xC0 == 0x80:  # inside a character
        cut -= 1
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
    texts = {path: read(path) for path in found.values()}
    if utf8:
        for path, text in texts.items():
            check_utf8(text, str(path))
    return checked(", ".join(paths), texts.values())


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
    texts = [read(path) for path in found.values()]
    texts = [text for text in texts if not utf8 or is_utf8(text)]
    # the library's few copies are empty or tiny; without them other files would be held out than
    # those that earlier runs and results count
    return checked(name, texts, distinct=packages)


def checked(name: str, texts: Iterable[bytes], distinct: bool = True) -> Files:
    """The files of a corpus; of equal ones the first, if `distinct`. Raises DataError if all are
    empty."""
    kept = list(dict.fromkeys(texts) if distinct else texts)
    if not any(kept):
        raise DataError(f"no bytes to train on in {name}")
    return Files(name, kept)


def is_utf8(text: bytes) -> bool:
    """Whether a text can be decoded."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def hashed_order(texts: list[bytes], separator: bytes) -> bytes:
    """Joined in the order of their hashes, the separator after each."""
    ordered = sorted(texts, key=lambda text: hashlib.sha256(text).digest())
    return b"".join(text + separator for text in ordered)


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
