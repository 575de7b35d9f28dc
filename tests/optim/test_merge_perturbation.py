"""MergePerturbation: Laplace noise of the size that merging would make, under one backward pass."""

import math

import pytest
import torch
from optim_toy import X, gradient, network, weights
from tensors import assert_same_bits, raises

from pydelta.optim import MergePerturbation


def test_merge_perturbation():
    model = network()
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    del base["2.bias"]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    start = weights(model)
    inner = torch.optim.SGD(list(model.named_parameters()), lr=0.0)
    noisy = MergePerturbation(inner, base, models=4, alpha=0.5, model=model)
    seen = []
    for _ in range(2):
        gradient(model)
        seen.append(weights(model))
        noisy.step()
        for p, old in zip(weights(model), start, strict=True):
            assert_same_bits(p, old)
    noise = [(a - b).flatten() for a, b in zip(seen[0], start, strict=True)]
    assert not torch.equal(seen[0][0], seen[1][0])
    assert float(noise[3].abs().sum()) == 0
    # (K alpha - 1) times the mean delta of .01: the mean magnitude of a Laplace variate is its scale.
    assert float(torch.cat(noise[:3]).abs().mean()) == pytest.approx(0.01, rel=0.35)
    with torch.no_grad():
        model(X)
    assert not noisy._moved
    noisy.detach()
    model(X)
    assert not noisy._moved
    again = MergePerturbation(inner, base, models=4, alpha=0.5)
    again.step(lambda: seen.append(weights(model)))
    for a, b in zip(seen[2], seen[0], strict=True):
        assert_same_bits(a, b)
    with raises(TypeError, "[MergePerturbation] step needs a closure, or perturb() before, got None"):
        again.step()
    again.perturb()
    with raises(RuntimeError, "[MergePerturbation] perturb must be followed by step, got another perturb"):
        again.perturb()
    with raises(ValueError, "[MergePerturbation] models must be at least 1, got 0"):
        MergePerturbation(inner, base, models=0, alpha=0.5)


def test_laplace_variates():
    model = network()
    noisy = MergePerturbation(torch.optim.SGD(model.parameters(), lr=0.0), [None] * 4, models=2, alpha=1.0)
    x = noisy._laplace("0", 200_000, torch.device("cpu")).double()
    assert float(x.mean()) == pytest.approx(0, abs=0.02)
    assert float(x.abs().mean()) == pytest.approx(1, rel=0.01)
    assert float(x.square().mean()) == pytest.approx(2, rel=0.03)
    assert float((x.abs() > 1).double().mean()) == pytest.approx(math.exp(-1), rel=0.02)
