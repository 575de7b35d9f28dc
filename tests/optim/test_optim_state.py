"""Optimizers saved, copied and resumed; groups with dials of their own."""

import copy
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from optim_toy import X, Y, base_of, gradient, network, same, train, weights
from tensors import assert_same_bits, raises
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.nn.functional import cross_entropy

from pydelta.optim import SAM, AdamR, MergePerturbation

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable).*:UserWarning")


MAKERS = {
    "SAM": lambda m: SAM(torch.optim.AdamW(m.parameters(), lr=1e-2), rho=0.5, adaptive=True, max_norm=1.0),
    "SAM around AdamR": lambda m: SAM(
        AdamR(m.named_parameters(), base_of(network().to(m[0].weight.dtype)), lr=1e-2, weight_decay=0.5)
    ),
    "AdamR": lambda m: AdamR(
        m.named_parameters(), base_of(network().to(m[0].weight.dtype)), lr=1e-2, weight_decay=0.5
    ),
    "MergePerturbation": lambda m: MergePerturbation(
        torch.optim.AdamW(m.named_parameters(), lr=1e-2),
        base_of(network().to(m[0].weight.dtype)),
        models=4,
        alpha=0.5,
    ),
}
KINDS = pytest.mark.parametrize("kind", MAKERS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@KINDS
@DTYPES
def test_resumed_from_a_distributed_checkpoint(kind, dtype, tmp_path):
    """Into an optimizer of another process, whose state is made by a step of nothing."""
    make, model = MAKERS[kind], network().to(dtype)
    optimizer = make(model)
    train(model, optimizer, 0, 3)
    state = {"model": model.state_dict(), "optim": get_optimizer_state_dict(model, optimizer)}
    dcp.save(state, checkpoint_id=str(tmp_path), no_dist=True)
    expected = train(model, optimizer, 3, 6)
    again = network(9).to(dtype)
    fresh = make(again)
    before = weights(again)
    state = {"model": again.state_dict(), "optim": get_optimizer_state_dict(again, fresh)}
    same(weights(again), before)
    dcp.load(state, checkpoint_id=str(tmp_path), no_dist=True)
    again.load_state_dict(state["model"])
    set_optimizer_state_dict(again, fresh, state["optim"])
    same(train(again, fresh, 3, 6), expected)


@KINDS
@DTYPES
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_step_as_the_original(kind, dtype, copied):
    model = network(norm=dtype is torch.float32).to(dtype)
    optimizer = MAKERS["SAM"](model) if kind == "SAM" else None
    model = network().to(dtype) if optimizer is None else model
    optimizer = MAKERS[kind](model) if optimizer is None else optimizer
    train(model, optimizer, 0, 2)
    other, theirs = copied((model, optimizer))
    expected = train(model, optimizer, 2, 4)
    same(train(other, theirs, 2, 4), expected)
    assert theirs.state_dict().keys() == optimizer.state_dict().keys()


def test_a_copied_model_is_perturbed_by_its_optimizers_copy_alone():
    model = network()
    noisy = MergePerturbation(
        torch.optim.SGD(model.named_parameters(), lr=0.0),
        base_of(network()),
        models=4,
        alpha=0.5,
        model=model,
    )
    alone = copy.deepcopy(model)
    (other, theirs) = copy.deepcopy((model, noisy))
    start = weights(model)
    alone(X)
    same(weights(alone), start)
    gradient(other)
    assert theirs._moved
    assert not noisy._moved
    same(weights(model), start)
    with raises(RuntimeError, "[MergePerturbation] a copy must not be made while the weights are perturbed"):
        copy.deepcopy(theirs)
    gradient(model)
    same(weights(other), weights(model))
    for optimizer in (theirs, noisy):
        optimizer.step()
    same(weights(other), start)


def test_a_step_of_nothing_is_not_counted():
    model = network()
    optimizer = MAKERS["AdamR"](model)
    get_optimizer_state_dict(model, optimizer)
    assert {state["step"] for state in optimizer.state.values()} == {0}
    other = network()
    same(train(model, optimizer, 0, 3), train(other, MAKERS["AdamR"](other), 0, 3))
    gradient(model)
    sam = MAKERS["SAM"](model)
    with raises(TypeError, "[SAM] step needs a closure that computes the gradient, got None"):
        sam.step()


def test_weights_that_are_loaded_before_the_first_step_stay():
    """Masters are made of the weights that the first step finds."""
    model, other = network().bfloat16(), network(5).bfloat16()
    optimizer = MAKERS["AdamR"](model)
    model.load_state_dict(other.state_dict())
    same(train(model, optimizer, 0, 2), train(other, MAKERS["AdamR"](other), 0, 2))


@pytest.mark.parametrize("kind", ["AdamR", "SAM around AdamR"])
def test_weights_that_are_loaded_between_steps_stay(kind):
    """Masters do not bring the old weights back; those of weights that are the same keep their low bits."""
    model, other = network().bfloat16(), network(5).bfloat16()
    optimizer = MAKERS[kind](model)
    train(model, optimizer, 0, 2)
    inner = optimizer.base_optimizer if kind.startswith("SAM") else optimizer
    kept = inner.state[model[2].bias]["master"].clone()
    with torch.no_grad():
        model[0].weight.copy_(other[0].weight)
        model[2].bias.copy_(model[2].bias.clone())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, 2, 3)
    assert_same_bits(model[0].weight.detach(), other[0].weight.detach())
    assert_same_bits(inner.state[model[2].bias]["master"], kept)


@pytest.mark.parametrize("kind", ["AdamR", "MergePerturbation"])
def test_state_in_another_order_is_refused(kind):
    class Turned:
        def __init__(self, model):
            self.model = model

        def named_parameters(self):
            return reversed(list(self.model.named_parameters()))

        def __getitem__(self, i):
            return self.model[i]

    model, other = network(), network()
    optimizer = MAKERS[kind](model)
    train(model, optimizer, 0, 1)
    theirs = MAKERS[kind](Turned(other))
    before = weights(other)
    with raises(
        ValueError,
        f"[{kind}] state must be of the same parameters in the same order, got that of 0.weight for 2.bias",
    ):
        theirs.load_state_dict(optimizer.state_dict())
    same(weights(other), before)
    wrapped = optimizer.state_dict()
    names = wrapped["param_groups"][0]["param_names"]
    wrapped["param_groups"][0]["param_names"] = [f"module._orig_mod.{name}" for name in names]
    third = network()
    MAKERS[kind](third).load_state_dict(wrapped)


def test_state_in_another_order_is_seen_by_its_shapes():
    model, other = network(), network()
    sam = MAKERS["SAM"](model)
    train(model, sam, 0, 1)
    turned = SAM(torch.optim.AdamW(reversed(list(other.parameters())), lr=1e-2))
    with raises(
        ValueError,
        "[SAM] state must be of the same parameters in the same order, "
        "got exp_avg of shape (16, 6) for parameter 0 of shape (3,)",
    ):
        turned.load_state_dict(sam.state_dict())


def test_a_distributed_checkpoint_finds_parameters_by_their_names(tmp_path):
    model, other = network(), network()
    make = MAKERS["AdamR"]
    optimizer = make(model)
    train(model, optimizer, 0, 2)
    saved = get_optimizer_state_dict(model, optimizer)
    turned = AdamR(reversed(list(other.named_parameters())), base_of(network()), lr=1e-2, weight_decay=0.5)
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, turned, copy.deepcopy(saved))
    assert turned.param_groups[0]["param_names"] == ["2.bias", "2.weight", "0.bias", "0.weight"]
    for x, y in zip(train(other, turned, 2, 4), train(model, optimizer, 2, 4), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


def test_numbers_of_older_states_are_read():
    model = network()
    sam = MAKERS["SAM"](model)
    old = sam.base_optimizer.state_dict()
    for group in old["param_groups"]:
        for key in [key for key in group if key.startswith("sam_")]:
            del group[key]
    sam.load_state_dict({**old, "pydelta": {"rho": 0.25, "skipped": 3}})
    assert (sam.rho, sam.skipped, sam.adaptive, sam.max_norm) == (0.25, 3, True, 1.0)
    sam.load_state_dict(old)
    assert sam.rho == 0.25


def test_a_gradient_scaler_that_skips_takes_the_noise_away():
    model = network()
    noisy = MergePerturbation(
        torch.optim.SGD(model.named_parameters(), lr=0.1),
        base_of(network()),
        models=4,
        alpha=0.5,
        model=model,
    )
    scaler, start = torch.amp.GradScaler("cpu", init_scale=8.0), weights(model)
    scaler.scale(cross_entropy(model(X), Y)).backward()
    model[0].bias.grad[0] = torch.inf
    scaler.step(noisy)
    scaler.update()
    same(weights(model), start)
    other = network()
    plain = MergePerturbation(
        torch.optim.SGD(other.named_parameters(), lr=0.1),
        base_of(network()),
        models=4,
        alpha=0.5,
        model=other,
    )
    plain.taken = 1
    noisy.zero_grad()
    scaler.scale(cross_entropy(model(X), Y)).backward()
    scaler.step(noisy)
    gradient(other)
    plain.step()
    for x, y in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-7)


def test_groups_with_rho_and_adaptive_of_their_own():
    """One norm over all tensors: of (|w| + eta) g where a group is adaptive, of g elsewhere."""
    model = network()
    (a, b, c, d), before = model.parameters(), weights(model)
    groups = [
        {"params": [a, c]},
        {"params": [b], "adaptive": False, "rho": 2.0},
        {"params": [d], "rho": 0.0},
    ]
    sam = SAM(torch.optim.Adadelta(groups[:0] + groups[1:2], lr=0.1, rho=0.7), rho=0.5)
    assert sam._options()[b] == (0.5, False, 0.0)  # Adadelta's rho is not SAM's
    sam = SAM(torch.optim.SGD(groups, lr=0.1), rho=0.5, adaptive=True, eta=0.1)
    gradient(model)
    grads = [p.grad.double() for p in (a, b, c, d)]
    scales = [
        before[0].double().abs() + 0.1,
        1.0,
        before[2].double().abs() + 0.1,
        before[3].double().abs() + 0.1,
    ]
    squares = sum(float((s * g).square().sum()) for s, g in zip(scales, grads, strict=True))
    sam.first_step(zero_grad=False)
    for p, w, g, s, rho in zip((a, b, c, d), before, grads, scales, (0.5, 2.0, 0.5, 0.0), strict=True):
        expected = w.double() + rho * s * s * g / squares**0.5
        torch.testing.assert_close(p.detach().double(), expected, rtol=0, atol=1e-6)
    sam.second_step()
    state = sam.state_dict()
    other = SAM(torch.optim.SGD([{"params": [nn.Parameter(x)]} for x in (a, b, d)], lr=0.1))
    state["state"] = {}
    for group in state["param_groups"]:
        group["params"] = group["params"][:1]
    other.load_state_dict(state)
    assert list(other._options().values()) == [(0.5, True, 0.1), (2.0, False, 0.1), (0.0, True, 0.1)]
    with raises(ValueError, "[SAM] rho must be at least 0, got -1"):
        SAM(torch.optim.SGD([{"params": [a], "rho": -1}], lr=0.1))
    with raises(TypeError, "[SAM] adaptive must be a bool, got int"):
        sam.add_param_group({"params": [nn.Parameter(torch.ones(1))], "adaptive": 1})
