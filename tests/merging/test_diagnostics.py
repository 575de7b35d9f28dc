"""Sharpness and interference where the answers are known."""

import math

import pytest
import torch
from tensors import assert_same_bits
from torch import nn

from pydelta.diagnostics import interference, sharpness


def bowl(diagonal):
    """A model whose loss is sum of diagonal * w^2 / 2."""
    model = nn.Module()
    model.w = nn.Parameter(torch.tensor([3.0, 4.0]))
    return model, lambda: (torch.tensor(diagonal) * model.w**2).sum() / 2


def test_sharpness_of_a_bowl():
    """||g|| = 5: w + e = 1.1 w for rho = .5, and the loss rises by 21 % of 12.5."""
    model, loss = bowl([1.0, 1.0])
    before = model.w.detach().clone()
    assert sharpness(model, loss, 0.5) == pytest.approx(0.21 * 12.5, rel=1e-5)
    assert_same_bits(model.w.detach(), before)
    assert model.w.grad is None
    assert sharpness(model, loss, 0.0) == 0


def test_a_steeper_bowl_is_sharper_and_an_error_restores():
    flat, steep = (sharpness(*bowl([a, a]), 0.1) for a in (1.0, 10.0))
    assert steep == pytest.approx(10 * flat, rel=1e-3)
    model, loss = bowl([1.0, 2.0])
    before, calls = model.w.detach().clone(), []

    def breaks():
        calls.append(None)
        return loss() if len(calls) == 1 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        sharpness(model, breaks, 0.5, adaptive=True)
    assert_same_bits(model.w.detach(), before)


def test_interference_of_bowls_is_predicted():
    """Each task's loss is quadratic around its own minimum, so curvature tells all."""
    base = {"w": torch.zeros(3), "steps": torch.tensor(7)}
    minima = {"a": torch.tensor([1.0, 0.0, 2.0]), "b": torch.tensor([0.0, -1.0, 1.0])}
    models = {task: {"w": w.clone(), "steps": torch.tensor(9)} for task, w in minima.items()}

    def loss(task, weights):
        assert weights["steps"] in (7, 9)
        return ((weights["w"] - minima[task]) ** 2).sum() + 0.5

    found = interference(base, models, 0.5, loss)
    for task, other in (("a", "b"), ("b", "a")):
        cost = float(((minima[other] - minima[task]) ** 2).sum()) / 4
        assert found[task].tuned == 0.5
        assert found[task].first_order == pytest.approx(0.5)
        assert found[task].measured == pytest.approx(0.5 + cost, rel=1e-6)
        assert found[task].predicted == pytest.approx(found[task].measured, rel=1e-6)


def test_interference_beyond_the_quadratic():
    base = {"w": torch.zeros(1)}
    models = {"a": {"w": torch.tensor([1.0])}, "b": {"w": torch.tensor([3.0])}}
    found = interference(base, models, 1.0, lambda task, weights: (weights["w"] - 1).exp().sum())
    assert found["a"].measured == pytest.approx(math.exp(3), rel=1e-5)
    assert found["a"].first_order == pytest.approx(1 + 3)
    assert found["a"].predicted == pytest.approx(1 + 3 + 4.5)
