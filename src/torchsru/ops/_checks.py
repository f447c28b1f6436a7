"""What the recurrences ask of their arguments: each error names the argument, rule and value."""

import torch
from torch import Tensor

from torchsru.ops._dtypes import INPUT_DTYPES


def check_input(name: str, t: Tensor, letters: str) -> None:
    """Check an input's rank and type; `letters` are its dims: "L, B, D"."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a tensor [{letters}], got {type(t).__name__}")
    if t.dim() != letters.count(",") + 1:
        raise ValueError(f"{name} must be [{letters}], got shape {list(t.shape)}")
    if t.dtype not in INPUT_DTYPES:
        names = ", ".join(str(d).removeprefix("torch.") for d in INPUT_DTYPES)
        raise ValueError(f"{name} must be one of {names}, got {t.dtype}")


def check_shape(
    name: str, t: Tensor, shape: tuple[int, ...], letters: str, like: str, device: torch.device
) -> None:
    """Check that t has a shape, and stands on a device, which follow from the argument `like`."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a tensor [{letters}], got {type(t).__name__}")
    if t.shape != shape:
        raise ValueError(
            f"{name} must be [{letters}] = {list(shape)} to match {like}, got {list(t.shape)}"
        )
    if t.device != device:
        raise ValueError(f"{name} must be on {device} like {like}, got {t.device}")


def as_dtype(name: str, t: Tensor, dtype: torch.dtype, like: str) -> Tensor:
    """Return t in a state's type; lower precision is widened, higher is refused."""
    if t.dtype == dtype:
        return t
    if t.dtype not in INPUT_DTYPES or torch.promote_types(t.dtype, dtype) != dtype:
        raise ValueError(f"{name} must be {dtype} beside {like}, or narrower, got {t.dtype}")
    return t.to(dtype)


def check_sequences(
    mask: Tensor | None, cu_seqlens: Tensor | None, L: int, B: int, like: str, device: torch.device
) -> int:
    """Check padding mask and documents; return the number of states: B rows or N documents."""
    if mask is not None:
        check_shape("mask", mask, (L, B), "L, B", like, device)
        if mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, True at padding, got {mask.dtype}")
    if cu_seqlens is None:
        return B
    if mask is not None:
        raise ValueError("mask must be None beside cu_seqlens: documents have no padding")
    if B != 1:
        raise ValueError(f"{like} must have one batch row beside cu_seqlens, got B = {B}")
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(f"cu_seqlens must be a tensor [N + 1], got {type(cu_seqlens).__name__}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(f"cu_seqlens must be [N + 1], got shape {list(cu_seqlens.shape)}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"cu_seqlens must be int32 or int64, got {cu_seqlens.dtype}")
    if cu_seqlens.device != device:
        raise ValueError(f"cu_seqlens must be on {device} like {like}, got {cu_seqlens.device}")
    return cu_seqlens.shape[0] - 1


def check_directions(num_directions: int, D: int, like: str) -> None:
    """Check that D channels divide into the directions."""
    if num_directions not in (1, 2):
        raise ValueError(f"num_directions must be 1 or 2, got {num_directions}")
    if D % num_directions:
        raise ValueError(f"{like} must have an even D with two directions, got D = {D}")
