"""Parallel in time: how much Newton's iteration solves, and from which shapes on it pays.

    python results/parallel.py shares   append rows of solved steps to results/parallel.jsonl
    python results/parallel.py times    append rows of seconds; on a quiet machine, 3 minutes
    python results/parallel.py table    draw the newest rows into docs/parallel.md

Both run the pure-PyTorch version. "shares" first trains the recipe `python-bytes` for 500 steps.
"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TORCHSRU_DISABLE_COMPILED"] = "1"  # before torchsru: SRU layers take the same path

import torch
from rows import DOCS, Rows, command, put, table
from torch import Tensor

from torchsru.models import LanguageModel
from torchsru.ops import _parallel, sru_recurrence
from torchsru.ops.sru import pytorch
from torchsru.ops.sru.parallel import Forget, solve
from torchsru.recipes.language_model import load_model
from torchsru.recipes.run import open_run
from torchsru.train.environment import describe

ROWS = Rows("parallel.jsonl")
PAGE = DOCS / "parallel.md"
ITERATIONS = (1, 2, 3, 4, 8)
WEIGHTS = {
    "paper's initialisation": (1.0, math.sqrt(1.5), False),
    "the same, inputs twice as large": (2.0, math.sqrt(1.5), False),
    "state weights up to 3": (1.0, 3.0, False),
    "contractive, state weights up to 10": (1.0, 10.0, True),
}


def append(**row) -> None:
    """Add a row, with what it was measured on."""
    ROWS.add({**row, "environment": describe()})


# -- shares ----------------------------------------------------------------------------------------


def random_problem(inputs: float, weights: float, contractive: bool, L: int, D: int) -> Forget:
    """Normal candidates of variance inputs^2 and gates of half that, as the paper's U and W give
    them, and state weights uniform within +-weights."""
    rng = torch.Generator().manual_seed(0)
    z, f_in = (inputs * torch.randn(L, 1, D, generator=rng) for _ in range(2))
    v = weights * (2 * torch.rand(D, generator=rng) - 1)
    return Forget(z, math.sqrt(0.5) * f_in, v, None, contractive)


def hardest_problem(L: int, D: int) -> tuple[Forget, str]:
    """The slowest to forget its first state among 240 random problems, by the mean log |J|."""
    found, c0 = [], torch.zeros(1, D)
    rng = torch.Generator().manual_seed(0)
    for scale in (1, 2, 4, 8):
        for spread in (0, 0.5, 1, 2):
            for mean in (-4, 0, 4):
                for v in (-8, -6, -3, 3, 8):
                    z, f_in = (torch.randn(1024, 1, 32, generator=rng) for _ in range(2))
                    weights = torch.full((32,), float(v))
                    forget = Forget(scale * z, spread * f_in + mean, weights, None, False)
                    before = torch.cat([c0[None, :, :32], forget.run(c0[:, :32])])[:-1]
                    J = forget.derivatives(before)[3].abs().clamp(min=1e-30)
                    found.append((J.log().mean().item(), scale, spread, mean, v))
    _, scale, spread, mean, v = max(found)
    z, f_in = (torch.randn(L, 1, D, generator=rng) for _ in range(2))
    name = f"hardest found: u of {scale}, gates {mean} +- {spread}, state weight {v}"
    return Forget(scale * z, spread * f_in + mean, torch.full((D,), float(v)), None, False), name


def train(folder: Path) -> LanguageModel:
    """A small language model, trained with the compiled kernels."""
    words = [sys.executable, "-m", "torchsru.cli", "train", "python-bytes", "--out", folder]
    words += ["--training.steps=500", "--training.seconds=null", "--training.precision=float32"]
    environment = {k: v for k, v in os.environ.items() if k != "TORCHSRU_DISABLE_COMPILED"}
    subprocess.run([str(word) for word in words], check=True, env=environment)
    return load_model(open_run(folder))


def trained_problems(model: LanguageModel, L: int) -> dict[str, tuple[Forget, Tensor]]:
    """What each layer has to solve on L bytes of source code."""
    seen: list[tuple[Forget, Tensor]] = []

    def record(forget, c0, **options):
        seen.append((forget, c0))
        return solve(forget, c0, **options)

    text = torch.frombuffer(bytearray(Path(__file__).read_bytes() * 9), dtype=torch.uint8)
    rule, _parallel.WORTH["torch"] = _parallel.WORTH["torch"], (2**62, 0)
    pytorch.solve, before = record, pytorch.solve
    try:
        with torch.no_grad():
            model(text[:L, None].long())
    finally:
        pytorch.solve, _parallel.WORTH["torch"] = before, rule
    return {f"trained, layer {n + 1}": problem for n, problem in enumerate(seen)}


def share(forget: Forget, c0: Tensor, iterations: int, length: int | None = None) -> float:
    """Part of all steps that Newton's iteration solves."""
    _, count = solve(forget, c0, iterations, length)
    return count.double().mean().item() / len(forget.z)


def shares() -> None:
    """Measure the solved part of the steps for initial, trained and adversarial weights."""
    with tempfile.TemporaryDirectory() as folder:
        model = train(Path(folder, "run"))
    for L in (512, 4096):
        D = 256
        problems = {
            name: (random_problem(*kind, L, D), torch.zeros(1, D)) for name, kind in WEIGHTS.items()
        }
        hardest, name = hardest_problem(L, D)
        problems[name] = (hardest, torch.zeros(1, D))
        problems |= trained_problems(model, L)
        for name, (forget, c0) in problems.items():
            found = {str(n): share(forget, c0, n) for n in ITERATIONS}
            single = share(forget, c0, max(ITERATIONS), length=1) if L == 512 else None
            append(
                kind="share", weights=name, steps=L, chunk=_parallel.cut(L, c0.numel())[1],
                solved=found, solved_by_single_steps=single,
            )  # fmt: skip
            print(L, name, found, single, flush=True)


# -- times -----------------------------------------------------------------------------------------


def seconds(backend: str, u: Tensor, x: Tensor, v: Tensor) -> float:
    """One forward and backward pass."""
    began = time.perf_counter()
    h, _ = sru_recurrence(u, x, v, backend=backend)
    h.backward(torch.ones_like(h))
    return time.perf_counter() - began


def times() -> None:
    """Time one loop over time against chunks of it, turn by turn."""
    for L in (16, 32, 64, 128, 256, 1024, 4096):
        for states in (64, 512, 4096, 2**15, 2**17):
            if L * states > 2**25:
                continue
            gates = torch.tensor([1.0, 0.5, 0.5]).sqrt()[:, None]
            u = (gates * torch.randn(L, 1, 3, states)).requires_grad_()
            x = torch.randn(L, 1, states)
            v = math.sqrt(1.5) * (2 * torch.rand(2, states) - 1)  # the paper's initialisation
            taken: dict[str, list[float]] = {"torch": [], "torch_parallel": []}
            for turn in range(6):
                for backend, measured in taken.items():
                    one = seconds(backend, u, x, v)
                    measured += [one] if turn else []  # the first warms up
            medians = {backend: statistics.median(found) for backend, found in taken.items()}
            append(kind="time", steps=L, states=states, seconds=medians)
            print(L, states, medians, flush=True)


# -- the page --------------------------------------------------------------------------------------


def percent(part: float | None) -> str:
    """A share, cut and not rounded up: 100 % is all."""
    return "" if part is None else f"{math.floor(part * 1000) / 10:g} %"


def show() -> None:
    """Put the newest row of each case into the page."""
    newest = ROWS.newest("kind", "weights", "steps", "states").values()
    headings = ["weights", "steps", "chunk", *(f"{n} it." for n in ITERATIONS)]
    headings.append(f"chunks of 1, {max(ITERATIONS)} it.")
    cells = [
        [row["weights"], f"{row['steps']:,}", row["chunk"]]
        + [percent(row["solved"][str(n)]) for n in ITERATIONS]
        + [percent(row["solved_by_single_steps"])]
        for row in newest
        if row["kind"] == "share"
    ]
    put(PAGE, "shares", table(headings, cells))

    timed = [row for row in newest if row["kind"] == "time"]
    widths = sorted({row["states"] for row in timed})
    ratio = {
        (row["steps"], row["states"]): row["seconds"]["torch"] / row["seconds"]["torch_parallel"]
        for row in timed
    }
    cells = [
        [f"{L:,}", *(f"{ratio[L, n]:.2f}" if (L, n) in ratio else "" for n in widths)]
        for L in sorted({row["steps"] for row in timed})
    ]
    headings = ["steps", *(f"{n:,} states" for n in widths)]
    put(PAGE, "times", [*table(headings, cells), "", ROWS.about(timed)])


if __name__ == "__main__":
    command({"shares": shares, "times": times, "table": show})
