"""A small classifier and its data, for the tests of optimizers."""

import torch
from tensors import assert_same_bits
from torch import nn
from torch.nn.functional import cross_entropy

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 3


def network(seed=0, norm=False):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16) if norm else nn.Tanh(), nn.Linear(16, 3))


def gradient(model, rows=slice(None)):
    loss = cross_entropy(model(X[rows]), Y[rows])
    loss.backward()
    return loss


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def base_of(model):
    torch.manual_seed(3)
    return {name: p.detach() + 0.1 * torch.randn_like(p) for name, p in model.named_parameters()}


def train(model, optimizer, first, last):
    for i in range(first, last):
        x = (X + 0.1 * i).to(model[0].weight.dtype)

        def closure(x=x):
            optimizer.zero_grad()
            loss = cross_entropy(model(x).float(), Y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return weights(model)


def same(xs, ys):
    for x, y in zip(xs, ys, strict=True):
        assert_same_bits(x, y)
