"""SAM and ASAM as optimizers: against plain loops, and what may go wrong between their two passes."""

import copy
import math

import pytest
import torch
from optim_toy import X, Y, gradient, network, weights
from tensors import assert_same_bits, raises
from torch import nn
from torch.nn.functional import cross_entropy

from pydelta.optim import SAM, AdamR, MergePerturbation


def plain_sam(model, optimizer, rho, adaptive, eta):
    """As one would write it."""
    gradient(model)
    params = list(model.parameters())
    t = [p.detach().abs() + eta if adaptive else torch.ones_like(p) for p in params]
    norm = torch.cat([(a * p.grad).flatten() for a, p in zip(t, params, strict=True)]).norm()
    e = [rho * a * a * p.grad / norm for a, p in zip(t, params, strict=True)]
    before = weights(model)
    with torch.no_grad():
        for p, step in zip(params, e, strict=True):
            p.add_(step)
    optimizer.zero_grad()
    gradient(model)
    with torch.no_grad():
        for p, old in zip(params, before, strict=True):
            p.copy_(old)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("form", [(0.05, False, 0.0), (0.5, True, 0.0), (0.5, True, 0.1)], ids=str)
def test_steps_of_a_plain_loop(form):
    model = network()
    other = copy.deepcopy(model)
    sam = SAM(torch.optim.AdamW(model.parameters(), lr=1e-2), *form)
    adamw = torch.optim.AdamW(other.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        losses.append(float(sam.step(lambda: gradient(model)).detach()))
        plain_sam(other, adamw, *form)
    for a, b in zip(weights(model), weights(other), strict=True):
        assert torch.allclose(a, b, atol=2e-6)
    assert losses[-1] < losses[0]


def test_accumulated_is_large_batch():
    model = network()
    other = copy.deepcopy(model)
    whole = SAM(torch.optim.SGD(model.parameters(), lr=0.5), rho=0.5)
    parts = SAM(torch.optim.SGD(other.parameters(), lr=0.5), rho=0.5)

    def accumulate():
        for start in range(0, 12, 3):
            (cross_entropy(other(X[start : start + 3]), Y[start : start + 3]) / 4).backward()

    for _ in range(3):
        whole.step(lambda: gradient(model))
        accumulate()
        parts.first_step()
        accumulate()
        assert parts.second_step(zero_grad=True)
    for a, b in zip(weights(model), weights(other), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_of_nothing_leaves_every_bit(dtype, adaptive):
    model = network().to(dtype)
    before, addresses = weights(model), [p.data_ptr() for p in model.parameters()]
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.5, adaptive=adaptive)
    for _ in range(2):
        sam.step(lambda: cross_entropy(model(X.to(dtype)), Y).backward())
    for p, old in zip(weights(model), before, strict=True):
        assert_same_bits(p, old)
    assert [p.data_ptr() for p in model.parameters()] == addresses


def test_the_second_gradient_is_clipped():
    model = network()
    before = weights(model)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=1.0), max_norm=1e-3)
    sam.step(lambda: gradient(model))
    moved = torch.cat([(a - b).flatten() for a, b in zip(weights(model), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_batch_statistics_stay_in_the_second_pass():
    model = network(norm=True)
    other = copy.deepcopy(model)
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.5, model=model)
    sam.step(lambda: gradient(model))
    other(X)
    for name, truth in other[1].named_buffers():
        assert_same_bits(dict(model[1].named_buffers())[name], truth)
    assert model[1].track_running_stats


def test_frozen_and_sparse():
    torch.manual_seed(0)
    table, head = nn.Embedding(8, 4, sparse=True), nn.Linear(4, 3)
    head.bias.requires_grad_(False)
    before = weights(table) + weights(head)
    sam = SAM(torch.optim.SGD([*table.parameters(), *head.parameters()], lr=0.1), rho=0.5, max_norm=10.0)
    rows = torch.tensor([1, 2, 5, 1])
    sam.step(lambda: cross_entropy(head(table(rows)), torch.tensor([0, 1, 2, 0])).backward())
    after = weights(table) + weights(head)
    same = (after[0] == before[0]).all(1)
    assert same.tolist() == [i not in (1, 2, 5) for i in range(8)]
    assert_same_bits(after[2], before[2])
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize("call", [1, 2])
def test_nan_skips_and_says_so_once(call):
    model = network()
    before, calls = weights(model), []
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1))

    def closure():
        calls.append(None)
        gradient(model)
        if len(calls) % 2 == call % 2:
            model[0].weight.grad[0, 0] = math.nan

    with pytest.warns(UserWarning, match="step skipped"):
        sam.step(closure)
    for _ in range(2):  # another warning would be an error
        sam.step(closure)
    assert sam.skipped == 3
    for p, old in zip(weights(model), before, strict=True):
        assert_same_bits(p, old)


def test_zero_gradients_make_an_ordinary_step():
    model = network()
    sam = SAM(torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5))
    before = weights(model)

    def closure():
        for p in model.parameters():
            p.grad = torch.zeros_like(p)

    sam.step(closure)
    for p, old in zip(weights(model), before, strict=True):
        assert torch.allclose(p, 0.95 * old)


@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_gradient_scaler_decides(call):
    """Inf in either gradient: weights back, step skipped, scale halved. Else unscaled."""
    model = network()
    other = copy.deepcopy(model)
    sam, plain = (SAM(torch.optim.SGD(m.parameters(), lr=0.1), max_norm=0.1) for m in (model, other))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = weights(model)
    for i in (1, 2):
        scaler.scale(cross_entropy(model(X), Y)).backward()
        if i == call:
            model[2].weight.grad[1, 1] = math.inf
        stepped = sam.first_step() if i == 1 else None
    if call:
        with pytest.warns(UserWarning, match="step skipped"):
            stepped = sam.second_step(scaler=scaler)
    else:
        stepped = sam.second_step(scaler=scaler)
    scaler.update()
    assert stepped is not bool(call)
    assert scaler.get_scale() == (2.0 if call else 4.0)
    plain.step(lambda: gradient(other))
    for p, truth in zip(weights(model), before if call else weights(other), strict=True):
        assert torch.allclose(p, truth, atol=0 if call else 1e-7)


def test_copies_follow_fp32_masters():
    model = network()
    working = copy.deepcopy(model).bfloat16()
    copies = dict(zip(model.parameters(), working.parameters(), strict=True))
    sam = SAM(torch.optim.AdamW(model.parameters(), lr=1e-2), rho=0.5, copies=copies)
    addresses = [p.data_ptr() for p in working.parameters()]
    losses = []

    def closure():
        loss = cross_entropy(working(X.bfloat16()).float(), Y)
        loss.backward()
        return loss

    for _ in range(15):
        losses.append(float(sam.step(closure).detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert not sam._backups
    assert [p.data_ptr() for p in working.parameters()] == addresses
    for p, w in zip(model.parameters(), working.parameters(), strict=True):
        assert_same_bits(w, p.detach().bfloat16())


def test_state_dict_round_trip(tmp_path):
    models = [network(), network(seed=9)]
    optimizers = [SAM(torch.optim.AdamW(models[0].parameters(), lr=1e-2), rho=0.3, adaptive=True, eta=0.1)]
    optimizers.append(SAM(torch.optim.AdamW(models[1].parameters(), lr=1.0)))
    optimizers[0].step(lambda: gradient(models[0]))
    torch.save([models[0].state_dict(), optimizers[0].state_dict()], tmp_path / "saved")
    weights_there, state = torch.load(tmp_path / "saved")
    models[1].load_state_dict(weights_there)
    optimizers[1].load_state_dict(state)
    for model, sam in zip(models, optimizers, strict=True):
        sam.step(lambda model=model: gradient(model))
    assert optimizers[1].rho == 0.3
    for a, b in zip(weights(models[0]), weights(models[1]), strict=True):
        assert_same_bits(a, b)


def test_schedulers_and_hooks_see_the_groups():
    model = network()
    sam = SAM(torch.optim.SGD(model.parameters(), lr=1.0))
    schedule = torch.optim.lr_scheduler.LambdaLR(sam, lambda step: 0.5**step)
    sam.step(lambda: gradient(model))
    schedule.step()
    assert sam.base_optimizer.param_groups[0]["lr"] == 0.5
    sam.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert len(sam.param_groups) == len(sam.base_optimizer.param_groups) == 2


def test_an_error_in_the_closure_leaves_the_weights():
    model = network(norm=True)
    before, calls = weights(model), []
    sam = SAM(torch.optim.SGD(model.parameters(), lr=0.1), model=model)

    def closure():
        calls.append(gradient(model))
        if len(calls) == 2:
            raise KeyError("data")

    with pytest.raises(KeyError):
        sam.step(closure)
    for p, old in zip(weights(model), before, strict=True):
        assert_same_bits(p, old)
    assert model[1].track_running_stats
    sam.step(lambda: gradient(model))


def test_bad_input():
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    with raises(TypeError, "[SAM] base_optimizer must be a torch.optim.Optimizer, got list"):
        SAM([])
    with raises(ValueError, "[SAM] rho must be at least 0, got -1"):
        SAM(base, rho=-1)
    with raises(TypeError, "[SAM] adaptive must be a bool, got int"):
        SAM(base, adaptive=1)
    sam = SAM(base)
    with raises(TypeError, "[SAM] step needs a closure that computes the gradient, got None"):
        sam.step()
    with raises(RuntimeError, "[SAM] first_step needs gradients, got none"):
        sam.first_step()
    with raises(RuntimeError, "[SAM] second_step must follow first_step, got no first_step"):
        sam.second_step()
    gradient(model)
    sam.first_step()
    with raises(RuntimeError, "[SAM] first_step must be followed by second_step, got another first_step"):
        sam.first_step()
    with raises(RuntimeError, "[SAM] state_dict must not be taken while the weights are perturbed"):
        sam.state_dict()
    rule = "[SAM] parameters must stay as they are while they are perturbed, got "
    before = {id(p): p.detach().clone() for p in model.parameters()}
    gradient(model)
    with torch.no_grad():
        model[0].bias.add_(1)
    with raises(RuntimeError, rule + "1 changed weights"):
        sam.second_step()
    assert not torch.equal(model[0].weight, before[id(model[0].weight)])
    gradient(model)
    sam.first_step()
    sam.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with raises(RuntimeError, rule + "other parameters"):
        sam.second_step()


@pytest.mark.parametrize("kind", ["SAM", "AdamR", "MergePerturbation"])
def test_loops_that_hand_over_a_closure(kind):
    """As Lightning's do: by keyword, and the closure itself clears the gradients."""

    def make(model):
        base = {name: p.detach() + 0.1 for name, p in model.named_parameters()}
        if kind == "AdamR":
            return AdamR(model.named_parameters(), base, lr=0.1, weight_decay=0.5)
        inner = torch.optim.SGD(list(model.named_parameters()), lr=0.1)
        return SAM(inner) if kind == "SAM" else MergePerturbation(inner, base, models=4, alpha=0.5)

    model = network()
    other = copy.deepcopy(model)
    ours, plain = make(model), make(other)
    for _ in range(3):

        def closure():
            ours.zero_grad()
            return gradient(model)

        loss = ours.step(closure=closure)
        plain.zero_grad()
        if kind == "MergePerturbation":
            plain.perturb()
        expected = gradient(other)
        if kind == "SAM":
            plain.first_step()
            gradient(other)
            plain.second_step()
        else:
            plain.step()
        assert float(loss.detach()) == float(expected.detach())
    for a, b in zip(weights(model), weights(other), strict=True):
        assert_same_bits(a, b)


def test_sam_around_adamr_perturbs_its_masters():
    model = network().bfloat16()
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    sam = SAM(AdamR(model.named_parameters(), base, lr=1e-2), rho=0.5)
    losses = []

    def closure():
        loss = cross_entropy(model(X.bfloat16()).float(), Y)
        loss.backward()
        return loss

    for _ in range(15):
        losses.append(float(sam.step(closure).detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert not sam._backups
