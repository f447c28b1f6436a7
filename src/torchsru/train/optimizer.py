"""Optimisers by name, over a model's parameters in groups."""

from typing import Any

import torch
from torch import nn

from torchsru.train.config import Training


def make_optimizer(training: Training, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that `training` names; see its fields.

    RAdam is PyTorch's, whose decoupled weight decay also acts on the first steps, those whose
    adaptive rate is not rectified yet: as SRU++ was trained.
    """
    groups = parameter_groups(model, training.embedding_lr)
    shared: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay}
    fused = {"fused": True} if training.fused else {}
    match training.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, betas=training.betas, **shared, **fused)
        case "adam":
            return torch.optim.Adam(groups, betas=training.betas, **shared, **fused)
        case "radam":
            return torch.optim.RAdam(
                groups, betas=training.betas, decoupled_weight_decay=True, **shared
            )
        case "adamax":
            return torch.optim.Adamax(groups, betas=training.betas, **shared)
        case "sgd":
            return torch.optim.SGD(groups, **shared, **fused)


def parameter_groups(model: nn.Module, embedding_lr: float) -> list[dict[str, Any]]:
    """The parameters in two groups, embedding tables last, each with the scale of its rate."""
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    is_table = {id(table) for table in tables}
    others = [p for p in model.parameters() if id(p) not in is_table]
    return [
        {"params": others, "lr_scale": 1.0},
        {"params": tables, "lr_scale": embedding_lr},
    ]
