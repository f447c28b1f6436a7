"""A progress bar over whatever takes long, on a terminal."""

from collections.abc import Iterable, Sized
from typing import TypeVar

from torchsru.data.cache import is_quiet

T = TypeVar("T")


def tracked(items: Iterable[T], doing: str) -> Iterable[T]:
    """The items, with a bar on a terminal, which is gone at the end; it stands below that of a
    training."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = is_quiet() or not console.is_terminal
    total = len(items) if isinstance(items, Sized) else None
    return track(items, doing, total, console=console, transient=True, disable=hidden)
