"""What the loop asks of a task: batches, their loss, an evaluation."""

from typing import Any, Protocol

from torch import Tensor, nn


class Batch(Protocol):
    """One step's input; `fresh`: the recurrent state starts anew with it."""

    @property
    def fresh(self) -> bool: ...


class Task(Protocol):
    """A thing to learn. Position is one integer: batch(step) is a pure function."""

    unit: str
    """What is counted and predicted, in the singular: "byte", "word"."""
    content: str
    """Hash of all that batch() can return, so that a resumed run sees the same data."""
    steps_per_pass: int
    """Batches in a pass over the data, at least 1."""
    higher_is_better: bool
    """Of the first of the numbers that evaluate() returns, by which a run is judged."""

    def batch(self, step: int) -> Batch:
        """The step-th batch, any step from 0."""

    def split(self, batch: Any, parts: int) -> list[Any]:
        """The batch's rows in `parts` equal batches."""

    def units(self, batch: Any) -> int:
        """How many units the batch predicts."""

    def loss(self, model: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any]:
        """Mean loss in nats per unit, and the state after the batch."""

    def numbers(self, loss: float) -> dict[str, float]:
        """The loss under the task's own names: {"bits_per_byte": ...}."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Numbers on held-out data; the model is in evaluation mode, without gradients.

        Every rank calls the model as often: before each call all look together for a Ctrl-C.
        """
