"""Byte corpora: the sources of the Python that runs, or the user's own files and folders.

Files              as named, a folder's sorted by path
What is held out   every n-th of them, n = round(1 / heldout), so that each folder gives its share;
                   of fewer than FEW_FILES files, the last part of the text instead. Held-out bytes
                   are never in `train`.
Order of the text  on either side by a hash of each file's content, so that the loss does not drift
                   from folder to folder; fewer than FEW_FILES files stay as they are
Between files      a NUL byte
"""

import hashlib
import math
import os
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

FEW_FILES = 50
SEPARATOR = b"\0"
NOT_SOURCES = {
    *("test", "tests", "idle_test"),
    *("site-packages", "dist-packages", "__pycache__"),
    "pydoc_data",  # one file of prose, larger than all that is held out
}


class DataError(ValueError):
    """Data that is missing, empty, unreadable or too small; the message names the path."""


@dataclass(frozen=True, kw_only=True)
class ByteData:
    """Which bytes a model learns from, and how they are laid out in batches."""

    paths: tuple[str, ...] = ()
    """Files and folders; none: the sources of the Python that runs, without its tests."""
    heldout: float = 0.05
    """Part of the corpus that is never trained on, 0 < heldout <= 0.5."""
    unroll: int = 128
    """L, bytes per step of truncated back-propagation; the state is carried on."""
    batch: int = 32
    """B, streams per optimiser step, all devices together."""
    eval_bytes: int = 262144
    """Held-out bytes used by each evaluation, the same ones each time; 0: all."""
    eval_batch: int = 64
    """Streams that the held-out bytes are laid out in."""

    def __post_init__(self) -> None:
        if not 0 < self.heldout <= 0.5:
            raise ValueError(f"heldout must lie in (0, 0.5], got {self.heldout}")
        for name, least in (("unroll", 1), ("batch", 1), ("eval_bytes", 0), ("eval_batch", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class Corpus:
    """Bytes to train on and bytes held out, each a uint8 tensor [N]."""

    name: str
    train: Tensor
    heldout: Tensor
    files: int
    heldout_files: int

    def __str__(self) -> str:
        whole = f"{self.heldout_files} whole files" if self.heldout_files else "the last part"
        return (
            f"{self.name}: {self.files:,} files; {len(self.train):,} bytes to train on, "
            f"{len(self.heldout):,} held out ({whole})"
        )

    @cached_property
    def content(self) -> str:
        """Hash of all bytes, in their order and on their side."""
        both = (hashlib.sha256(part.numpy().data) for part in (self.train, self.heldout))
        return hashlib.sha256(b"".join(part.digest() for part in both)).hexdigest()


def load_corpus(paths: tuple[str, ...] = (), heldout: float = 0.05) -> Corpus:
    """Read the files named, or the running Python's own sources when none is.

    Args:
        paths: files and folders (names starting with "." are left out).
        heldout: part to hold out, 0 < heldout <= 0.5.

    Raises: DataError if a path is missing, unreadable or holds no bytes.
    """
    name, texts = _texts(paths)
    files = len(texts)
    if len(texts) < FEW_FILES:
        whole = SEPARATOR.join(texts)
        cut = len(whole) - max(1, math.floor(heldout * len(whole)))
        train, held, heldout_files = whole[:cut], whole[cut:], 0
    else:
        every = max(2, round(1 / heldout))
        held_texts = texts[every // 2 :: every]
        del texts[every // 2 :: every]
        train, held = map(_joined, (texts, held_texts))
        heldout_files = len(held_texts)
    if not train or not held:
        raise DataError(
            f"{name} is too small to hold out a part of {heldout}: {len(train + held)} bytes"
        )
    return Corpus(name, _to_tensor(train), _to_tensor(held), files, heldout_files)


def load_text(paths: tuple[str, ...]) -> Tensor:
    """All bytes of files and folders in the corpus's order, uint8 [N]. Raises DataError."""
    _, texts = _texts(paths)
    few = len(texts) < FEW_FILES
    return _to_tensor(SEPARATOR.join(texts) if few else _joined(texts))


def _texts(paths: tuple[str, ...]) -> tuple[str, list[bytes]]:
    if paths:
        name = ", ".join(paths)
        # neither a file named twice nor a copy of one may be on both sides
        found = {item.resolve(): item for path in paths for item in _files_of(Path(path))}
        texts = list(dict.fromkeys(_read(path) for path in found.values()))
    else:
        name = "Python standard library"
        texts = [_read(path) for path in _python_sources()]
    if not any(texts):
        raise DataError(f"no bytes to train on in {name}")
    return name, texts


def _joined(texts: list[bytes]) -> bytes:
    return b"".join(t + SEPARATOR for t in sorted(texts, key=lambda t: hashlib.sha256(t).digest()))


def _python_sources() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    found = [path for path in _walk(root, skip=NOT_SOURCES) if path.suffix == ".py"]
    if not found:
        raise DataError(f"this Python has no source files in {root}; name your own with --data")
    return found


def _files_of(path: Path) -> list[Path]:
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
    found = _walk(path, skip={"__pycache__"})
    if not found:
        raise DataError(f"data folder {str(path)!r} holds no files")
    return found


def _walk(root: Path, skip: set[str]) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read data folder {error.filename!r}: {error.strerror}")

    found: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [f for f in folders if f not in skip and not f.startswith(".")]
        found += [p for f in files if not f.startswith(".") and (p := Path(folder, f)).is_file()]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read data file {str(path)!r}: {error.strerror}") from error


def _to_tensor(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)
