"""One loop, its checkpoints, schedules and logs: shared by every task. Needs torchsru[train]."""

from torchsru.train.config import Training
from torchsru.train.folder import RunError

__all__ = ["RunError", "Training"]
