"""How a model is trained: the numbers that no model and no data set own."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Training:
    """Optimiser, schedule and budget. At least one of `steps` and `seconds` ends the run."""

    lr: float = 1e-3
    """Peak learning rate, after the warm-up."""
    embedding_lr: float = 1.0
    """Learning rate of embedding tables, in units of `lr`: a row is met but now and then."""
    steps: int | None = None
    """Budget in optimiser steps."""
    seconds: float | None = None
    """Budget in seconds spent in training steps; evaluation and saving are not counted."""
    warmup: float = 0.05
    """Part of the budget in which the learning rate climbs to its peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warm-up: to zero at the end of the budget, or not at all."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay of its averages of the gradient and of its square."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay, times the learning rate, a step."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None: not clipped."""
    skip_nonfinite: int = 0
    """Steps in a row that may be left out because loss or gradient is not finite; one more stops
    the run. A skipped step leaves weights and optimiser alone, and the state starts anew."""
    accumulate: int = 1
    """Parts that a batch's rows are cut into, one after the other, to save memory."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16 is mixed precision; "auto" takes it where the processor computes in it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    seed: int = 0
    """Seed of the weights, the dropout and the data's order; a resumed run keeps it."""
    evaluations: int = 10
    """Evaluations on held-out data, spread evenly over the budget, the last at its end."""
    checkpoints: int = 10
    """Checkpoints spread evenly over the budget; the end of the run saves one in any case."""
    log_every: int = 10
    """Optimiser steps per row of the log."""

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise ValueError("steps or seconds must be set: they end the run")
        for name in ("lr", "embedding_lr", "steps", "seconds", "clip"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must lie in [0, 1], got {self.warmup}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        for name, least in (
            ("weight_decay", 0),
            ("skip_nonfinite", 0),
            ("accumulate", 1),
            ("seed", 0),
            ("evaluations", 0),
            ("checkpoints", 0),
            ("log_every", 1),
        ):
            if not least <= (value := getattr(self, name)) < 2**63:
                raise ValueError(f"{name} must be at least {least}, and below 2^63, got {value}")
        for name, allowed in (
            ("schedule", ("cosine", "linear", "constant")),
            ("precision", ("auto", "float32", "bfloat16")),
            ("device", ("auto", "cpu", "cuda")),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
