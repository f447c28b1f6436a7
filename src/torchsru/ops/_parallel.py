"""Parallel in time: how a sequence is cut, and when that is worth while.

The L steps are cut into chunks that are worked on side by side: first what each chunk makes of
any state it may start from, then, from chunk to chunk, the states that they do start from, then
the steps themselves. A linear recurrence's chunk is an affine map; SRU's forward pass is not
linear, and its chunks are solved by Newton's iteration, see `torchsru.ops.sru.parallel`.
"""

import torch

#: Newton's iterations; what they leave unsolved is computed step by step.
ITERATIONS = 8

#: How far, in roundings, a chunk's first state may stand from the state that the chunk before it
#: ends with: of the larger of |c_{t-1}| and |u_t|, in the state's type.
TOLERANCE = 4

#: States times chunks beyond which more chunks only mean more work: a large GPU has half as many
#: threads.
ENOUGH = 2**19

#: backend: (most states, fewest steps) for which "auto" computes in parallel, as measured by
#: results/parallel.py; None: not measured, never.
WORTH = {"torch": (512, 1024), "triton": None}


def cut(L: int, states: int) -> tuple[int, int]:
    """Number of chunks and steps a chunk for L steps of `states` channels, all rows counted.

    A function of the shape alone: the same arithmetic on every machine.
    """
    if states == 0:
        return 1, max(1, L)
    length = 1
    while length * length < L or (length < L and -(-L // length) * states > ENOUGH):
        length *= 2
    return max(1, -(-L // length)), length


def worth_while(backend: str, L: int, states: int) -> bool:
    """Whether "auto" computes L steps of that many channels in parallel."""
    rule = WORTH[backend]
    if rule is None or states > rule[0] or rule[1] > L:
        return False
    # pure PyTorch waits for the device, which a CUDA graph can't
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())
