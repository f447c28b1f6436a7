"""One loop, its checkpoints, schedules and logs: shared by every task. Needs torchsru[train]."""

from torchsru.train.checkpoint import RunError
from torchsru.train.config import Training

__all__ = ["RunError", "Training"]
