"""How the pure-PyTorch paths see documents laid end to end, and a second direction.

T steps in all, N documents, M the longest one's length.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


def check_bounds(cu_seqlens: Tensor, total: int) -> list[int]:
    """Return the documents' bounds as a list.

    Raises: RuntimeError unless they rise from 0 to `total`, the number of steps.
    """
    bounds: list[int] = cu_seqlens.tolist()
    if bounds[0] != 0:
        raise RuntimeError(f"cu_seqlens[0] must be 0, got {bounds[0]}")
    for i, (start, end) in enumerate(pairwise(bounds)):
        if end < start:
            raise RuntimeError(f"cu_seqlens must not fall, got {start} then {end} at index {i + 1}")
    if bounds[-1] != total:
        raise RuntimeError(
            f"cu_seqlens[{len(bounds) - 1}] must be the number of steps, {total}, got {bounds[-1]}"
        )
    return bounds


@dataclass(frozen=True)
class Documents:
    """Where each step of each document stands among the T steps.

    step: [M, N] index of the step among the T, clamped where the document has ended.
    mask: [M, N] True where the document has ended.
    """

    step: Tensor
    mask: Tensor
    total: int

    @classmethod
    def from_bounds(cls, cu_seqlens: Tensor, total: int) -> "Documents":
        bounds = check_bounds(cu_seqlens, total)
        lengths = [end - start for start, end in pairwise(bounds)]
        time = torch.arange(max(lengths, default=0), device=cu_seqlens.device)[:, None]
        start = cu_seqlens[:-1].long()
        mask = time >= cu_seqlens.diff()
        return cls((start + time).clamp(max=max(total - 1, 0)), mask, total)

    def pad(self, t: Tensor) -> Tensor:
        """[T, 1, ...] -> [M, N, ...]; steps past a document's end repeat another step."""
        return t[:, 0][self.step]

    def unpad(self, t: Tensor) -> Tensor:
        """[M, N, ...] -> [T, 1, ...]; the inverse of `pad` on the documents' own steps."""
        out = t.new_empty(self.total, *t.shape[2:])
        keep = ~self.mask
        out[self.step[keep]] = t[keep]
        return out[:, None]


def flip(t: Tensor, num_directions: int) -> Tensor:
    """Turn the second direction's channels, the upper half of the last dim, around in time."""
    if num_directions == 1:
        return t
    forward, backward = t.chunk(2, dim=-1)
    return torch.cat([forward, backward.flip(0)], dim=-1)
