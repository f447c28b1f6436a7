"""The processes of one run: who speaks, what all must agree on, what one of them needs of all.

Rank 0     holds the folder, writes it and shows the progress; the others only compute
Agreement  what only rank 0 can know or do is told to all, and what any rank failed in: none waits
           for another that has ended
Lost       a peer that ended makes the next exchange fail; that becomes one clear RunError
Check      tests/train/test_ranks.py
"""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import NoneType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from torchsru.data import DataError
from torchsru.train.folder import RunError

T = TypeVar("T")

RUN_ID = "started-by-torchsru"  # of the processes that the command itself starts


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run; alone, every exchange is the identity."""

    rank: int = 0
    size: int = 1
    device: torch.device | str = "cpu"

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def first(self, act: Callable[[], T]) -> T | None:
        """Rank 0 acts and gets the result, the others None; a RunError is raised by all."""
        done, error = None, None
        if self.is_first:
            try:
                done = act()
            except RunError as failed:
                error = failed
        if self.size > 1:
            told = [error]
            dist.broadcast_object_list(told, src=0)
            error = told[0]
        if error is not None:
            raise error
        return done

    def all(self, act: Callable[[], T]) -> T:
        """Every rank acts; if any fails all raise the error of the lowest one that did.

        Its rank and machine are named, unless all of them meet the same. An error that is neither a
        RunError nor a DataError is a RunError for the others.
        """
        done, error = None, None
        try:
            done = act()
        except Exception as failed:
            error = failed
        told: Any = error
        if not isinstance(error, (RunError, DataError, NoneType)):
            told = RunError(f"{type(error).__name__}: {error}")
        met = self.gather((told, platform.node()), everywhere=True)
        failures = [(rank, told, where) for rank, (told, where) in enumerate(met) if told]
        if not failures:
            return done  # type: ignore[return-value]
        if error is not None and told is not error:
            raise error
        rank, first, where = failures[0]
        if len(failures) == self.size and len({str(told) for _, told, _ in failures}) == 1:
            raise first
        raise type(first)(f"rank {rank} of {self.size}, on {where}: {first}")

    def share(self, value: T) -> T:
        """Rank 0's value, everywhere."""
        if self.size == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    def gather(self, value: T, *, everywhere: bool = False) -> list[T]:
        """Every rank's value in the order of ranks, for rank 0 or `everywhere`; else nothing."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found if everywhere or self.is_first else []

    def sum(self, *values: float) -> list[float]:
        """The sums over all ranks."""
        if self.size == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        return together.tolist()

    def gather_states(self, states: list[Any]) -> list[Any]:
        """The recurrent states of all ranks' parts in the order of the batch's rows.

        Rank 0 gets them, on the CPU, a leaf at a time; the others get an empty list.

        Args:
            states: of this rank's parts; pytrees of one structure on all ranks.
        """
        if self.size == 1:
            return states
        leaves, shape = tree_flatten(states)
        columns: list[list[Any]] = []
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                columns.append([leaf] * self.size)
                continue
            leaf = leaf.detach().contiguous()
            there = [torch.empty_like(leaf) for _ in range(self.size)] if self.is_first else None
            dist.gather(leaf, there, dst=0)
            columns.append([t.cpu() for t in there or []])
        if not self.is_first:
            return []
        of_rank = (tree_unflatten([c[r] for c in columns], shape) for r in range(self.size))
        return [part for parts in of_rank for part in parts]

    @contextmanager
    def naming_lost(self) -> Iterator[None]:
        """Raise as a RunError what an exchange with a process that has ended raises."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, RunError) or not is_lost(error):
                raise
            said = str(error).splitlines()[0][:200]
            raise RunError(
                f"rank {self.rank} of {self.size} lost the others: one of the run's processes was "
                f"killed or failed ({said}); go on with --resume"
            ) from error


ALONE = Ranks()


def leave() -> None:
    """Part from the other processes; what torch has not parted from at exit aborts the process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_lost(error: RuntimeError) -> bool:
    """Whether this is what torch.distributed raises when a peer is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def launched() -> tuple[int, int] | None:
    """(processes on this machine, machines) that torchrun started; None: this one is alone."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        return None
    here, all_of_them = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return here, all_of_them // here


def speaks() -> bool:
    """Whether this process is the one of its machine that prints; known before they have met."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def is_watched() -> bool:
    """Whether the command that started this process says how the run ended."""
    return os.environ.get("TORCHELASTIC_RUN_ID") == RUN_ID


def part_here(tensor: Tensor, place: Tensor) -> Tensor:
    """The part of a whole tensor that `place`, sharded or not, holds on this rank."""
    if not isinstance(place, DTensor):
        return tensor
    there = tensor.to(place.device)
    # every rank has the whole: none needs to send
    return distribute_tensor(there, place.device_mesh, place.placements, src_data_rank=None)


def deal(states: list[Any], parts: int) -> list[Any]:
    """The same rows' states in another number of equal parts: batch at dim 1 of each leaf.

    Raises: RunError if the rows can't be dealt out evenly.
    """
    if len(states) == parts:
        return states
    if any(state is None for state in states):
        return [None] * parts
    flat, shapes = zip(*(tree_flatten(state) for state in states), strict=True)
    cut: list[Any] = []
    for of_parts in zip(*flat, strict=True):
        if not isinstance(of_parts[0], Tensor):
            cut.append([of_parts[0]] * parts)
            continue
        leaf = torch.cat(of_parts, dim=1)
        if leaf.shape[1] % parts:
            raise RunError(
                f"the saved state's {leaf.shape[1]} rows can't be cut into {parts} equal parts"
            )
        cut.append([part.clone() for part in leaf.chunk(parts, dim=1)])
    return [tree_unflatten([leaf[i] for leaf in cut], shapes[0]) for i in range(parts)]
