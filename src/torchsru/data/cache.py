"""Prepared data sets, kept from run to run: each is built once, and is whole or not there.

Where    $TORCHSRU_CACHE, or the folder that the platform has for caches
Name     a hash of all that the content follows from: texts, symbols, format
Atomic   written beside its place, flushed to disk, then renamed
Once     a lock: a second process waits, then finds what the first has built
Damage   sizes and SHA-256 sums tell, at every start; what is damaged is built again
Check    tests/data/test_cache.py
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from torchsru.data.texts import DataError

VARIABLE = "TORCHSRU_CACHE"
FORMAT = 1
FACTS = "facts.json"
CHUNK = 1 << 24


def cache_folder() -> Path:
    """Where prepared data sets are kept."""
    return Path(os.environ.get(VARIABLE) or user_cache_path("torchsru", appauthor=False)) / "text"


def prepared(key: str, what: str, build: Callable[[Path], None]) -> Path:
    """The folder of that key, built if it is not there or damaged.

    Args:
        key: hash of all that the content follows from.
        what: the data set's name, for messages.
        build: writes the files into a new folder.

    Raises: DataError if it can't be written; what `build` raises, and nothing is left then.
    """
    folder = cache_folder() / key
    if (damage := damage_of(folder)) is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder, what):
            damage = damage_of(folder)  # another process may have built it meanwhile
            if damage is not None:
                if damage:
                    tell(f"{damage}; it is built again")
                write(folder, build)
                damage = damage_of(folder)
    except OSError as error:
        raise DataError(
            f"{what} can't be kept in {folder.parent}: {error.strerror or error}; "
            f"name another folder with {VARIABLE}"
        ) from error
    if damage is not None:
        raise DataError(f"{damage or folder}, right after it was written")
    return folder


def damage_of(folder: Path) -> str | None:
    """What is wrong with a folder: None if nothing is, "" if it is not there."""
    if not folder.exists():
        return ""
    file = folder / FACTS
    try:
        facts = json.loads(file.read_bytes())
        if facts["format"] != FORMAT:
            return f"{file} is damaged: found format {facts['format']!r}, expected {FORMAT}"
        for name, expected in facts["files"].items():
            if (found := summary(folder / name)) != expected:
                return f"{folder / name} is damaged: found {found}, expected {expected}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{file} is damaged: {error}"
    return None


def summary(file: Path) -> str:
    """Size and sum of a file's content."""
    sum_, size = hashlib.sha256(), 0
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK):
            sum_.update(chunk)
            size += len(chunk)
    return f"{size} bytes, sha256 {sum_.hexdigest()}"


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Be the only process that writes the folder; wait for another one."""
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"another process prepares {what}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def beside(final: Path) -> Path:
    """Where a file or folder is written before it gets its name."""
    return final.with_name(f".{final.name}.new")


def is_quiet() -> bool:
    """Whether another process of the same launch speaks for this one."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def tell(what: str) -> None:
    """A line on stderr."""
    if not is_quiet():
        print(f"torchsru: {what}", file=sys.stderr)


def write(folder: Path, build: Callable[[Path], None]) -> None:
    """Build a folder in place of the one that is there: whole, or not at all."""
    temporary = beside(folder)
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        temporary.mkdir()
        build(temporary)
        files = {path.name: summary(path) for path in sorted(temporary.iterdir())}
        (temporary / FACTS).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))
        for path in temporary.iterdir():
            with open(path, "rb+") as stream:
                os.fsync(stream.fileno())
        sync_folder(temporary)
        damaged = temporary.with_suffix(".old")
        shutil.rmtree(damaged, ignore_errors=True)
        if folder.exists():
            folder.rename(damaged)
        temporary.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(damaged, ignore_errors=True)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(temporary, ignore_errors=True)
        raise
