"""Devices, precision, strategy: what Lightning Fabric is told; and the model's blocks.

A block is a layer of a stack: what fsdp shards, what activation checkpointing computes again and,
with fsdp, what torch.compile compiles.
"""

import atexit
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from lightning_utilities.core import rank_zero
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from torchsru.train import environment
from torchsru.train.config import Training
from torchsru.train.folder import RunError
from torchsru.train.ranks import Ranks, launched, leave

MIXED: dict[str, Literal["16-mixed", "bf16-mixed"]] = {
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}


class Autocast(MixedPrecision):
    """Mixed precision inside the model alone: what goes in and out keeps its type, so that a state
    carried from call to call is not rounded at each."""

    def convert_input(self, data: Any) -> Any:
        """The same."""
        return data

    def convert_output(self, data: Any) -> Any:
        """The same."""
        return data


def device_kind(training: Training) -> str:
    """ "cpu" or "cuda". Raises RunError if the one asked for is not there."""
    has_gpu = torch.cuda.is_available()
    if training.device == "cuda" and not has_gpu:
        raise RunError("device 'cuda' was asked for, but torch sees no CUDA device")
    return training.device if training.device != "auto" else ("cuda" if has_gpu else "cpu")


def processes_here(training: Training) -> int:
    """How many processes `training` asks for on this machine."""
    if training.devices != "auto":
        return training.devices
    return torch.cuda.device_count() if device_kind(training) == "cuda" else 1


def make_fabric(training: Training, *, alone: bool = False) -> Fabric:
    """The devices, precision and strategy that `training` asks for; "auto" is settled here.

    Args:
        alone: one process whatever the training has, to use what it made; on the CPU where its
            device is not there.

    Raises: RunError if a device is not there, or if several processes are asked for and none has
        started them.
    """
    for log in (rank_zero.log, logging.getLogger("lightning.fabric")):
        log.setLevel(logging.WARNING)  # they announce precision and processes on stderr
    if alone and not torch.cuda.is_available():
        training = replace(training, device="cpu")
    kind = device_kind(training)
    precision = training.precision
    if precision == "auto":
        fast = environment.computes_in_bfloat16(torch.device(kind))
        precision = "bfloat16" if fast else "float32"
    here, nodes = (1, 1) if alone else launched() or (1, 1)
    if not alone and launched() is None and (n := processes_here(training) * training.nodes) > 1:
        raise RunError(
            f"training.devices and training.nodes ask for {n} processes, but this is one alone: "
            "start it with the command torchsru train, or under torchrun"
        )
    if kind == "cuda" and here > (count := torch.cuda.device_count()):
        raise RunError(f"{here} processes share this machine, but torch sees {count} CUDA devices")
    told: dict[str, Any] = {"precision": "32-true"}
    if precision in MIXED:
        told = {"plugins": [Autocast(MIXED[precision], kind)]}
    strategy = make_strategy(training, here * nodes) if here * nodes > 1 else "auto"
    return Fabric(accelerator=kind, devices=here, num_nodes=nodes, strategy=strategy, **told)


def meet(training: Training) -> tuple[Fabric, Ranks]:
    """Fabric as `training` asks for it, and this process among all of the run, which meet here.

    Raises: RunError as `make_fabric` does.
    """
    fabric = make_fabric(training)
    fabric.launch()
    ranks = Ranks(fabric.global_rank, fabric.world_size, fabric.device)
    if ranks.size > 1:
        atexit.register(leave)
    return fabric, ranks


def make_strategy(training: Training, size: int) -> Strategy:
    """DDP, or fully sharded data parallelism of PyTorch's second kind."""
    if training.strategy == "fsdp":
        return ModelParallelStrategy(shard, data_parallel_size=size, tensor_parallel_size=1)
    return DDPStrategy(gradient_as_bucket_view=True)


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard each block, then the rest; in full only while it computes."""
    # of layers that return views; nothing here changes what a layer returned in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for module in shards(model):
        fully_shard(module, mesh=mesh["data_parallel"], reshard_after_forward=True)
    return model


def shards(model: nn.Module) -> list[nn.Module]:
    """What is gathered at once, inner parts first: the blocks, and the rest of the model.

    A block's class names in `called_apart` the parts that others call, outside its forward.
    """
    found = blocks(model)
    apart = [b.get_submodule(name) for b in found for name in getattr(b, "called_apart", ())]
    return [*apart, *found, model]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of the model's stacks, in their order; of a model without, its parts.

    Those are the members of its outermost ModuleLists, but for single tables and matrices, and for
    what shares parameters with the rest.
    """
    found: list[nn.Module] = []

    def look_into(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                found.extend(m for m in child if not isinstance(m, (nn.Embedding, nn.Linear)))
            else:
                look_into(child)

    look_into(model)
    candidates = [m for m in found or model.children() if next(m.parameters(), None) is not None]
    return [m for m in candidates if owns_all(m, model)]


def owns_all(module: nn.Module, model: nn.Module) -> bool:
    """Whether no other part of the model has a parameter of this one."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    count = {id(p): 0 for p in module.parameters()}
    for name in names:
        if (key := id(model.get_parameter(name))) in count:
            count[key] += 1
    inside = [id(p) for _, p in module.named_parameters(remove_duplicate=False)]
    return all(inside.count(key) == times for key, times in count.items())


def prepare(model: nn.Module, training: Training, kind: str, sharded: bool) -> None:
    """Checkpoint activations and compile as asked; names of parameters stay as they are.

    Both hold in training mode alone: an evaluation keeps nothing, and would compile again for each
    of its shapes.

    Raises: RunError if torch.compile lacks its compiler.
    """
    if training.activation_checkpointing:
        for block in blocks(model):
            in_training(block, partial(checkpoint, block.forward, use_reentrant=False))
    if training.compile:
        check_compiler(kind)
        for module in blocks(model) if sharded else [model]:
            in_training(module, torch.compile(module.forward))


def in_training(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Let a module compute by `forward` in training mode."""
    usual = module.forward

    def choose(*args: Any, **kwargs: Any) -> Any:
        return (forward if module.training else usual)(*args, **kwargs)

    cast(Any, module).forward = choose


def check_compiler(kind: str) -> None:
    """Raise RunError unless the compiler that torch.compile calls is there."""
    usual = "clang++" if sys.platform == "darwin" else "g++"
    names = [os.environ.get("CXX", usual)]
    if kind == "cuda":  # Triton compiles a little C
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang", "cc"]
    if not any(shutil.which(name.split()[0]) for name in names if name):
        raise RunError(
            f"training.compile needs a compiler that torch.compile can call, found no "
            f"{' or '.join(names)!s} on PATH: install one, name it in "
            f"{'CC' if kind == 'cuda' else 'CXX'}, or leave training.compile false"
        )
