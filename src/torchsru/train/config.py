"""How a model is trained: the numbers that no model and no data set own."""

from dataclasses import dataclass
from typing import Literal, get_args

Schedule = Literal["cosine", "linear", "constant", "exponential", "noam", "srupp"]
Optimizer = Literal["adamw", "adam", "radam", "adamax", "sgd"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
Strategy = Literal["auto", "ddp", "fsdp"]
Keep = Literal["last", "best"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Optimiser, schedule and budget: one at least of `steps`, `epochs` and `seconds` ends the
    run."""

    lr: float = 1e-3
    """Peak learning rate, after the warm-up."""
    embedding_lr: float = 1.0
    """Learning rate of embedding tables, in units of `lr`: a row is met but now and then."""
    steps: int | None = None
    """Budget in optimiser steps."""
    epochs: float | None = None
    """Budget in passes over the training data, in place of `steps`."""
    seconds: float | None = None
    """Budget in seconds spent in training steps; evaluation and saving are not counted."""
    warmup: float = 0.05
    """Part of the budget in which the learning rate climbs to its peak."""
    warmup_steps: int | None = None
    """The same in optimiser steps, as papers state it; needs `steps`. None: `warmup` counts."""
    schedule: Schedule = "cosine"
    """How the rate falls after the warm-up; see torchsru.train.schedule."""
    decay_from: float = 0.0
    """Part of the budget at whose end the schedule "exponential" begins to fall."""
    decay_to: float = 0.01
    """Where "exponential" ends, in units of `lr`."""
    optimizer: Optimizer = "adamw"
    """"adamw" and "radam" decouple the weight decay; "adam", "adamax" and "sgd" (no momentum) add
    it to the gradient."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the averages of the gradient and of its square; not of "sgd"."""
    weight_decay: float = 0.0
    """Weight decay of every parameter; decoupled: times the learning rate, a step."""
    fused: bool = True
    """One kernel updates all parameters, where the optimiser has one ("radam" and "adamax" have
    none)."""
    clip: float | None = 1.0
    """Largest norm of the gradient; None: not clipped."""
    skip_nonfinite: int = 0
    """Steps in a row that may be left out because loss or gradient is not finite; one more stops
    the run. A skipped step leaves weights and optimiser alone, and the state starts anew."""
    accumulate: int = 1
    """Parts that each process cuts its rows of a batch into, one after the other, for memory."""
    activation_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the layer again: less memory,
    a third more work."""
    compile: bool = False
    """Train through torch.compile; needs a C++ compiler on a CPU, a C compiler on a GPU."""
    precision: Precision = "auto"
    """bfloat16 and float16 are mixed precision, float16 with a scaled loss; "auto" takes bfloat16
    where the processor computes in it, else float32."""
    device: Device = "auto"
    """Where to train."""
    devices: int | Literal["auto"] = 1
    """Processes on this machine, a GPU each; "auto": one for each GPU, one on a CPU. Under torchrun
    it is torchrun's number that counts."""
    nodes: int = 1
    """Machines; each starts the same command, with MASTER_ADDR, MASTER_PORT and NODE_RANK set.
    Under torchrun it is torchrun's number that counts."""
    strategy: Strategy = "auto"
    """Several processes: "ddp" keeps the whole model on each; "fsdp" shards weights, gradients and
    optimiser; "auto" is ddp."""
    seed: int = 0
    """Seed of the weights, the dropout and the data's order; a resumed run keeps it."""
    evaluations: int = 10
    """Evaluations on held-out data, spread evenly over the budget, the last at its end."""
    checkpoints: int = 10
    """Checkpoints spread evenly over the budget; the end of the run saves one in any case."""
    keep: Keep = "last"
    """Weights that the run gives: "last"; or "best", those of the best evaluation, of equal
    ones the last, as in papers that choose a model on held-out data and judge it on a test set."""
    average: int = 1
    """Newest checkpoints whose weights' mean the run gives, with keep "last", as many as there are
    (Vaswani et al. 2017, section 6.1); so many are kept."""
    log_every: int = 10
    """Optimiser steps per row of the log."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None and self.seconds is None:
            raise ValueError("steps, epochs or seconds must be set: they end the run")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"epochs must be None beside steps = {self.steps}, got {self.epochs}")
        for name in ("lr", "embedding_lr", "steps", "epochs", "seconds", "clip"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name in ("warmup", "decay_from"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        if not 0 < self.decay_to <= 1:
            raise ValueError(f"decay_to must lie in (0, 1], got {self.decay_to}")
        if (warm := self.warmup_steps) is not None and not 0 <= warm <= (self.steps or -1):
            raise ValueError(f"warmup_steps must lie in [0, steps = {self.steps}], got {warm}")
        if self.keep == "best" and not self.evaluations:
            raise ValueError("evaluations must be positive with keep 'best', got 0")
        if self.keep == "best" and self.average > 1:
            raise ValueError(f"average must be 1 with keep 'best', got {self.average}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")
        for name, least in (
            ("weight_decay", 0),
            ("skip_nonfinite", 0),
            ("accumulate", 1),
            ("nodes", 1),
            ("seed", 0),
            ("evaluations", 0),
            ("checkpoints", 0),
            ("average", 1),
            ("log_every", 1),
        ):
            if not least <= (value := getattr(self, name)) < 2**63:
                raise ValueError(f"{name} must be at least {least}, and below 2^63, got {value}")
        if self.schedule == "noam" and not self.warmup_share:
            raise ValueError("warmup or warmup_steps must be positive with schedule 'noam', got 0")
        if self.devices != "auto" and not 1 <= self.devices < 2**63:
            raise ValueError(f"devices must be 'auto' or at least 1, got {self.devices}")
        for name, allowed in (
            ("schedule", get_args(Schedule)),
            ("optimizer", get_args(Optimizer)),
            ("precision", get_args(Precision)),
            ("device", get_args(Device)),
            ("strategy", get_args(Strategy)),
            ("keep", get_args(Keep)),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")

    @property
    def warmup_share(self) -> float:
        """Part of the budget in which the learning rate climbs, however it was given."""
        if self.warmup_steps is None:
            return self.warmup
        assert self.steps is not None  # checked above
        return self.warmup_steps / self.steps
