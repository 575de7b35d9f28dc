"""Buffers, parameters and bases of all sorts that optimizers are given."""

import copy

import pytest
import torch
from optim_toy import X, base_of, gradient, network, same, train, weights
from tensors import assert_same_bits, raises
from torch import nn

from pydelta.optim import SAM, AdamR, MergePerturbation


class Counting(nn.Module):
    """Changes buffers of all sorts in its forward pass: in place, by another tensor, a counter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("other", torch.zeros(6), persistent=False)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        self.mean.mul_(0.5).add_(x.mean(0))
        self.other = self.other + x.sum(0)
        self.calls += 1
        return (x * self.weight).square().mean()


def test_every_buffer_that_the_second_pass_changes_is_put_back():
    model = Counting()
    once = copy.deepcopy(model)
    buffers = dict(model.named_buffers())
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model)
    sam.step(lambda: model(X).backward())
    once(X)
    for name, x in once.named_buffers():
        assert_same_bits(dict(model.named_buffers())[name], x)
    assert model.mean is buffers["mean"]
    with pytest.raises(KeyError):
        sam.step(lambda calls=[]: calls.append(model(X).backward()) or (len(calls) == 2 and {}["data"]))
    assert int(model.calls) == 2


def test_a_parameter_that_a_group_has_twice():
    model, other = network(), network()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        twice = torch.optim.SGD([model[0].weight, *model.parameters()], lr=0.0)
    start = weights(model)
    sam = SAM(twice, rho=0.5)
    sam.step(lambda: gradient(model))
    same(weights(model), start)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        adamr = AdamR([*other.named_parameters(), ("0.weight", other[0].weight)], base_of(network()))
    gradient(other)
    adamr.step()
    assert {state["step"] for state in adamr.state.values()} == {1}


def test_scalars_frozen_and_complex_parameters():
    scale, still, matrix = (
        nn.Parameter(torch.tensor(2.0)),
        nn.Parameter(torch.ones(3)),
        nn.Parameter(torch.ones(2, 3)),
    )
    still.requires_grad_(False)
    named = [("scale", scale), ("still", still), ("matrix", matrix)]
    base = {name: p.detach().clone() for name, p in named}
    optimizers = [
        SAM(torch.optim.SGD(named, lr=0.01), rho=0.1, adaptive=True),
        AdamR(named, base, lr=0.01, weight_decay=0.1),
        MergePerturbation(torch.optim.SGD(named, lr=0.01), base, models=4, alpha=0.3),
    ]
    for optimizer in optimizers:
        before = float(scale.detach())

        def closure(optimizer=optimizer):
            optimizer.zero_grad()
            loss = (scale * matrix).square().sum() + 0 * still.sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        assert float(scale.detach()) < before
        assert_same_bits(still.detach(), torch.ones(3))
    whole = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    rule = " parameters must be real, of 16 bits at least, got complex64 of "
    with raises(TypeError, "[SAM]" + rule + "a parameter of shape (3,)"):
        SAM(torch.optim.SGD([whole], lr=0.1))
    with raises(TypeError, "[AdamR]" + rule + "phase"):
        AdamR([("phase", whole)], {})


def test_bases_by_names_with_prefixes():
    model, other = network(), network()
    base = base_of(model)
    compiled = {f"_orig_mod.{name}": x for name, x in base.items()}
    wrapped = [(f"module.{name}", p) for name, p in model.named_parameters()]
    optimizer = AdamR(wrapped, compiled, lr=1e-2, weight_decay=0.5)
    assert optimizer.pulled == tuple(name for name, _ in wrapped)
    plain = AdamR(other.named_parameters(), base, lr=1e-2, weight_decay=0.5)
    same(train(model, optimizer, 0, 2), train(other, plain, 0, 2))
    some = AdamR(other.parameters(), [None, base["0.bias"], None, None])
    assert some.pulled == ("parameter 1",)


def test_bases_that_would_pull_nothing():
    model = network()
    named = list(model.named_parameters())
    with raises(
        ValueError,
        "[AdamR] base must be a copy of the weights before training, for what shares memory with a parameter "
        "moves with it, got 0.weight, 0.bias, 2.weight and 1 more: clone them",
    ):
        AdamR(named, model.state_dict())
    with raises(
        ValueError,
        "[AdamR] base must have tensors by the parameters' names (0.weight, 0.bias, 2.weight and 1 more), "
        "got bert.0.weight, bert.2.bias; near 0.weight: bert.0.weight; "
        "0.bias: bert.2.bias, bert.0.weight; 2.weight: bert.0.weight, bert.2.bias",
    ):
        AdamR(named, {f"bert.{name}": p.clone() for name, p in named[::3]})
    with pytest.raises(ValueError, match="got no tensors; near none"):
        AdamR(named, {})
    base = base_of(model)
    base["2.kernel"] = base.pop("2.weight")
    with pytest.warns(UserWarning, match=r"no base is named like 2\.weight \(2\.kernel\?\): left alone"):
        optimizer = AdamR(named, base)
    assert optimizer.pulled == ("0.weight", "0.bias", "2.bias")
    master = {p: p.detach().bfloat16() for _, p in named}
    with pytest.raises(ValueError, match="shares memory"):
        MergePerturbation(
            torch.optim.SGD(named, lr=0.1), [*master.values()], models=2, alpha=1.0, copies=master
        )
