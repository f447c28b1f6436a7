"""Recurrent state: detach it, reorder its rows, reset some of them.

The contract  a model's state is a pytree (tensors in tuples, lists, dicts; None is an empty one)
              whose every tensor has the batch at dim 1: [..., B, ...] = [layers, B, hidden] for
              SRU and LSTM alike, [n, B] for remembered symbols, [L, B, D] for an attention memory
Why           one helper each then serves every model, in training and in generation
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


def detach(state: Any) -> Any:
    """The same state, cut off from the graph that made it (truncated back-propagation)."""
    return tree_map_only(Tensor, Tensor.detach, state)


def reorder(state: Any, rows: Tensor) -> Any:
    """The state whose row i is row `rows[i]` of `state`.

    Args:
        state: pytree, batch at dim 1 of each tensor.
        rows: [B'] integer indices; repeats and any B' are fine (beam search, prompts copied).
    """
    return tree_map_only(Tensor, lambda leaf: leaf.index_select(1, rows.to(leaf.device)), state)


def reset(state: Any, rows: Tensor, fresh: Any = None) -> Any:
    """The state with the rows marked True set to their start; other rows and gradients are kept.

    Args:
        state: pytree, batch at dim 1 of each tensor.
        rows: [B] bool, True where a new sequence begins.
        fresh: pytree of the same shape holding the start values. Default: zeros.
    """
    if fresh is None:
        fresh = tree_map_only(Tensor, torch.zeros_like, state)

    def pick(leaf: Tensor, start: Tensor) -> Tensor:
        marked = rows.to(leaf.device).view(1, -1, *[1] * (leaf.ndim - 2))
        return torch.where(marked, start, leaf)

    return torch.utils._pytree.tree_map(
        lambda leaf, start: pick(leaf, start) if isinstance(leaf, Tensor) else leaf, state, fresh
    )
