"""The run's folder: one process writes in it, and each file is whole or not there.

Lock     RUN/.lock, the operating system's: however its process ends, the lock ends with it
Atomic   a file or folder is written beside its place, flushed to disk, then renamed
Errors   an OSError becomes a RunError that names the path
Check    tests/train/test_folder.py, tests/train/test_survival.py
"""

import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from torchsru.data.cache import beside, sync_folder

LOCK = ".lock"
RECIPE = "recipe.json"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
BEST = "best"  # with Training.keep "best": the weights of the best evaluations


class RunError(RuntimeError):
    """A run folder that is missing, foreign, damaged, full or in use; the message names it."""


@contextmanager
def naming(path: Path, done: str = "written") -> Iterator[None]:
    """Raise an OSError of the block as a RunError: `path` can't be `done`, and why."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} can't be {done}: {error.strerror or error}") from error


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Create the folder if need be, and be the only process that writes in it.

    Raises: RunError if it can't be written, or naming the process that holds it.
    """
    make_folder(folder)
    lock = FileLock(folder / LOCK, timeout=0)
    with naming(folder):
        try:
            lock.acquire()
        except Timeout:
            raise RunError(f"{folder} is in use by {holder(folder)}; wait, or stop it") from None
    try:
        with suppress(OSError):  # Windows locks the bytes themselves; a full disk takes no more
            (folder / LOCK).write_text(f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        lock.release()


def holder(folder: Path) -> str:
    """Who holds the folder's lock, as far as is known."""
    with suppress(OSError, ValueError):
        if said := re.fullmatch(r"process \d+ on \S*", (folder / LOCK).read_text()):
            return said[0]
    return "another process"


def check_free(folder: Path) -> None:
    """Raise RunError if a new run in this folder would meet anything that is there already."""
    cut_short = {LOCK, beside(folder / RECIPE).name}  # what a start that failed may leave
    with naming(folder, "read"):
        if (folder / RECIPE).exists():
            raise RunError(f"{folder} holds a run already; add --resume, or name another --out")
        if not folder.exists():
            return
        if not folder.is_dir() or {item.name for item in folder.iterdir()} - cut_short:
            raise RunError(f"{folder} is not an empty folder; name another --out")


def write_folder(final: Path, files: dict[str, bytes]) -> None:
    """Create a new folder with these files: after a crash it is there whole, or not at all."""
    make_folder(final.parent)
    temporary = beside(final)
    shutil.rmtree(temporary, ignore_errors=True)
    with naming(final):
        try:
            temporary.mkdir()
            for name, content in files.items():
                write_through(temporary / name, content)
            sync_folder(temporary)
            temporary.rename(final)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(final.parent)


def write_file(final: Path, content: str | bytes) -> None:
    """Replace a file's content: after a crash it holds the old one or the new one."""
    temporary = beside(final)
    with naming(final):
        try:
            write_through(temporary, content.encode() if isinstance(content, str) else content)
            temporary.replace(final)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(final.parent)


def write_through(file: Path, content: bytes) -> None:
    """Write a file and flush it to disk."""
    with open(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def remove_folder(folder: Path) -> None:
    """Remove a folder: under its own name it is whole, or gone."""
    with suppress(OSError):  # Windows keeps what another process reads
        if not folder.name.startswith("."):
            folder = folder.rename(beside(folder))
        shutil.rmtree(folder)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, if it is not there."""
    with naming(folder):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)


def read_json(file: Path) -> Any:
    """What a JSON file holds. Raises RunError if it can't be read or is no JSON."""
    with naming(file, "read"):
        content = file.read_bytes()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged: expected JSON, found {found(content)}") from error


def found(content: bytes) -> str:
    """The start of what a file holds instead, for an error."""
    return f"{len(content):,} bytes, {content[:20]!r} first" if content else "an empty file"
