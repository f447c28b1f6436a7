"""What a training needs, from the model itself: shapes flow through it, nothing is computed.

FLOPs    of matrix products and attention, by torch.utils.flop_counter; what works element by
         element is left out: it is bound by memory, not by arithmetic
Memory   the peak of one part of a step, by the tracker of torch.distributed, on tensors without
         content; not in it: what libraries, kernels and the allocator keep for themselves
Check    tests/train/test_estimate.py, against runs that were measured
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from torchsru.nn.state import detach
from torchsru.train.config import Training
from torchsru.train.strategy import blocks, prepare

HALF_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# the optimiser's, a parameter
AVERAGES = {"adamw": 2, "adam": 2, "radam": 2, "adamax": 2, "sgd": 0}
MOST_SEGMENTS = 64  # until an attention memory is full

Loss = Callable[[nn.Module, Any], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Estimate:
    """The needs of one optimiser step; bytes are those of one device, FLOPs those of all."""

    parameters: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    state_bytes: int
    """Recurrent states and attention memories that are carried from step to step."""
    activations_bytes: int
    """What one part of a step holds at its peak besides: what the backward pass needs, logits,
    temporaries; with fsdp the weights and gradients of a block in full, too."""
    step_flops: int

    @property
    def peak_bytes(self) -> int:
        """Memory of one device."""
        fixed = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return fixed + self.state_bytes + self.activations_bytes


def estimate(
    make_model: Callable[[], nn.Module],
    loss: Loss,
    training: Training,
    *,
    precision: str,
    devices: int,
) -> Estimate:
    """Run a part of a training step on tensors without content.

    Args:
        make_model: as for `torchsru.train.loop.fit`.
        loss: (model, state) -> the loss of one part of a batch, and the state after it.
        training: its optimiser, parts, strategy and checkpointing count.
        precision: "float32", "bfloat16" or "float16"; "auto" is not settled here.
        devices: processes, on all machines.
    """
    dtype = HALF_TYPES.get(precision)

    def run(state: Any) -> tuple[Tensor, Any]:
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            value, state = loss(model, state)
        return value, detach(state)

    with FakeTensorMode():
        model = make_model().train()
        prepare(model, replace(training, compile=False), "cpu", False)
        state, shapes = None, None
        with torch.no_grad():
            for _ in range(MOST_SEGMENTS):
                _, state = run(state)
                if shapes == (shapes := [leaf.shape for leaf in tensors_of(state)]):
                    break
        with FlopCounterMode(display=False, custom_mapping=MORE_FLOPS) as flops:
            run(state)[0].backward()
        tracker = MemTracker()
        tracker.track_external(model)  # its gradients are there by now, as they are in DDP
        with tracker:
            run(state)[0].backward()
        peak = sum(tracked["Total"] for tracked in tracker.get_tracker_snapshot("peak").values())

    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    weights += sum(b.numel() * b.element_size() for b in model.buffers())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    shards, whole = 1, 0
    if training.strategy == "fsdp" and devices > 1:
        shards = devices
        inside = {id(p) for block in blocks(model) for p in block.parameters()}
        units = [list(block.parameters()) for block in blocks(model)]
        units.append([p for p in model.parameters() if id(p) not in inside])
        whole = 2 * max(sum(p.numel() * p.element_size() for p in unit) for unit in units)
    one_state = sum(leaf.numel() * leaf.element_size() for leaf in tensors_of(state))
    return Estimate(
        parameters=sum(p.numel() for p in model.parameters()),
        weights_bytes=weights // shards,
        gradients_bytes=trained // shards,
        optimizer_bytes=AVERAGES[training.optimizer] * trained // shards,
        state_bytes=one_state * training.accumulate,
        activations_bytes=max(0, peak - weights - trained) + whole,
        step_flops=flops.get_total_flops() * training.accumulate * devices,
    )


def tensors_of(state: Any) -> list[Tensor]:
    """A state's leaves."""
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


def rnn_flops(
    x: Sequence[int], w_in: Sequence[int], w_state: Sequence[int], *_: Any, **__: Any
) -> int:
    """Of oneDNN's LSTM layer, which the counter does not know: x [L, B, F], weights [4 d, F]."""
    steps, rows = x[0], x[1]
    return 2 * steps * rows * (w_in[0] * w_in[1] + w_state[0] * w_state[1])


# What torch's counter does not know, on a CPU
MORE_FLOPS: dict[Any, Any] = {
    torch.ops.aten.mkldnn_rnn_layer: rnn_flops,
    torch.ops.aten.mkldnn_rnn_layer_backward: lambda *a, **k: 2 * rnn_flops(*a, **k),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
