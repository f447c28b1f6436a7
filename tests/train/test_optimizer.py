"""The optimisers against their definitions, written out."""

import math

import pytest
import torch

from torchsru.train import Training
from torchsru.train.optimizer import make_optimizer

LR, DECAY, BETAS = 0.1, 0.3, (0.9, 0.999)


def run(optimizer, steps=9, **options):
    """The weight after each step with fixed gradients, from make_optimizer."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).double()
    gradients = torch.randn(steps, 2, 3, dtype=torch.float64)
    start = model.weight.detach().clone()
    training = Training(
        steps=steps, lr=LR, optimizer=optimizer, betas=BETAS, weight_decay=DECAY, **options
    )
    made = make_optimizer(training, model)
    path = []
    for gradient in gradients:
        model.weight.grad, model.bias.grad = gradient.clone(), torch.zeros(2, dtype=torch.float64)
        made.step()
        path.append(model.weight.detach().clone())
    return start, gradients, torch.stack(path)


def radam(start, gradients, *, first_decayed=1, threshold=5):
    """RAdam (Liu et al. 2020, algorithm 2), weight decay decoupled in every step, rectified or not.

    Not rectified, while rho_t <= 5: a step along the average of the gradient.
    """
    w, m, v, path = start.clone(), 0.0, 0.0, []
    b1, b2 = BETAS
    rho_inf = 2 / (1 - b2) - 1
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
        if t >= first_decayed:
            w = w - LR * DECAY * w
        step = m / (1 - b1**t)
        if rho > threshold:
            r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            step = step * r * math.sqrt(1 - b2**t) / (v.sqrt() + 1e-8)
        w = w - LR * step
        path.append(w)
    return torch.stack(path)


def test_radam_decays_in_the_unrectified_steps_too():
    start, gradients, path = run("radam")
    torch.testing.assert_close(path, radam(start, gradients))
    with pytest.raises(AssertionError):  # decay from the first rectified step on
        torch.testing.assert_close(path, radam(start, gradients, first_decayed=6))
    for threshold, first in ((4, 5), (6, 6)):  # rectified from the 6th step on
        other = radam(start, gradients, threshold=threshold)
        torch.testing.assert_close(path[: first - 1], other[: first - 1])
        with pytest.raises(AssertionError):
            torch.testing.assert_close(path[first - 1], other[first - 1])


def adam(start, gradients, decoupled):
    w, m, v, path = start.clone(), 0.0, 0.0, []
    b1, b2 = BETAS
    for t, g in enumerate(gradients, start=1):
        if decoupled:
            w = w - LR * DECAY * w
        else:
            g = g + DECAY * w
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        w = w - LR * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + 1e-8)
        path.append(w)
    return torch.stack(path)


def test_adamax_divides_by_the_largest_gradient():
    """Kingma and Ba 2015, algorithm 2; the decay is added to the gradient."""
    start, gradients, path = run("adamax")
    w, m, u, expected = start.clone(), 0.0, torch.zeros_like(start), []
    for t, g in enumerate(gradients, start=1):
        g = g + DECAY * w
        m, u = BETAS[0] * m + (1 - BETAS[0]) * g, torch.maximum(BETAS[1] * u, g.abs())
        w = w - LR / (1 - BETAS[0] ** t) * m / u
        expected.append(w)
    torch.testing.assert_close(path, torch.stack(expected))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(path, adam(start, gradients, decoupled=False))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_adam_and_sgd_couple_the_decay_and_adamw_does_not(kind, fused):
    start, gradients, path = run(kind, fused=fused)
    if kind == "sgd":
        w, expected = start, []
        for g in gradients:
            w = w - LR * (g + DECAY * w)
            expected.append(w)
        torch.testing.assert_close(path, torch.stack(expected))
        return
    torch.testing.assert_close(path, adam(start, gradients, decoupled=kind == "adamw"))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(path, adam(start, gradients, decoupled=kind == "adam"))


def test_fused_is_what_is_asked_for():
    model = torch.nn.Linear(2, 2)
    for kind, fused in (
        ("adam", True),
        ("adamw", True),
        ("sgd", True),
        ("radam", None),
        ("adamax", None),
    ):
        made = make_optimizer(Training(steps=1, optimizer=kind), model)
        assert made.defaults.get("fused") == fused
        made = make_optimizer(Training(steps=1, optimizer=kind, fused=False), model)
        assert not made.defaults.get("fused")
