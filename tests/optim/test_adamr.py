"""AdamR as an optimizer: against twenty lines over fifty steps, against torch's Adam, and its bookkeeping."""

import copy
import math

import pytest
import torch
from optim_toy import X, Y, gradient, network, weights
from tensors import assert_same_bits, raises
from torch.nn.functional import cross_entropy

from pydelta.optim import AdamR


def plain_adamr(params, grads, base, state, t, lr, one, two, eps, wd, l1, previous):
    """The method, as its paper has it; vbar of this step, or of the last one."""
    for i, g in enumerate(grads):
        state["m"][i] = one * state["m"][i] + (1 - one) * g
        state["v"][i] = two * state["v"][i] + (1 - two) * g * g
    hats = [v / (1 - two**t) for v in state["v"]]
    vbar = math.sqrt(float(torch.cat([v.flatten() for v in hats]).mean())) or 1.0
    state["vbar"], now = vbar, state.get("vbar", vbar) if previous else vbar
    for i, p in enumerate(params):
        if base[i] is not None:
            tau = p - base[i].double()
            p -= lr * wd / now * (tau.sign() if l1 else tau)
        p -= lr / (1 - one**t) * state["m"][i] / (hats[i].sqrt() + eps)


@pytest.mark.parametrize("vbar", ["exact", "previous"])
@pytest.mark.parametrize("l1", [False, True])
def test_fifty_steps_of_twenty_lines(l1, vbar):
    torch.manual_seed(0)
    shapes = [(7, 5), (11,), (3, 3)]
    params = [torch.randn(shape, requires_grad=True) for shape in shapes]
    base = [torch.randn(7, 5).bfloat16(), None, torch.randn(3, 3)]
    truth = [p.detach().double().clone() for p in params]
    state = {name: [torch.zeros_like(p) for p in truth] for name in "mv"}
    optimizer = AdamR(params, base, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.5, l1=l1, vbar=vbar)
    for t in range(1, 51):
        grads = [torch.randn(shape) * (1 + i) for i, shape in enumerate(shapes)]
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        wide = [g.double() for g in grads]
        plain_adamr(truth, wide, base, state, t, 1e-2, 0.9, 0.99, 1e-8, 0.5, l1, vbar == "previous")
    for p, expected in zip(params, truth, strict=True):
        assert torch.allclose(p.detach().double(), expected, atol=2e-5)


@pytest.mark.parametrize("vbar", ["exact", "previous"])
def test_a_pull_that_comes_and_goes(vbar):
    """Nothing is counted without it; the sums of v are made from v when it comes."""
    torch.manual_seed(0)
    params = [torch.randn(shape, requires_grad=True) for shape in [(7, 5), (11,)]]
    base = [torch.randn(7, 5), None]
    truth = [p.detach().double().clone() for p in params]
    state = {name: [torch.zeros_like(p) for p in truth] for name in "mv"}
    optimizer = AdamR(params, base, lr=1e-2, betas=(0.9, 0.99), vbar=vbar)
    before = 0.0
    for t in range(1, 31):
        decay = 0.5 if 5 < t <= 10 or t > 20 else 0.0
        optimizer.param_groups[0]["weight_decay"] = decay
        grads = [t * torch.randn(p.shape) for p in params]
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        assert all((optimizer.state[p]["counted"] > 0) == (decay > 0) for p in params)
        previous = vbar == "previous" and before == decay
        wide, before = [g.double() for g in grads], decay
        plain_adamr(truth, wide, base, state, t, 1e-2, 0.9, 0.99, 1e-8, decay, False, previous)
    for p, expected in zip(params, truth, strict=True):
        assert torch.allclose(p.detach().double(), expected, atol=2e-5)


def test_without_decay_this_is_torchs_adam():
    model = network()
    other = copy.deepcopy(model)
    ours = AdamR(model.named_parameters(), copy.deepcopy(model.state_dict()), lr=1e-2, weight_decay=0)
    theirs = torch.optim.Adam(other.parameters(), lr=1e-2)
    for _ in range(50):
        for m, optimizer in ((model, ours), (other, theirs)):
            optimizer.zero_grad()
            gradient(m)
            optimizer.step()
    for a, b in zip(weights(model), weights(other), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_pull_keeps_deltas_small():
    """And leaves a head without a base alone."""
    deltas = []
    for decay in (0.0, 1.0):
        model = network()
        base = {name: p.detach().clone() for name, p in model.named_parameters() if name[0] == "0"}
        optimizer = AdamR(model.named_parameters(), base, lr=1e-2, weight_decay=decay)
        for _ in range(30):
            optimizer.step(lambda model=model, o=optimizer: (o.zero_grad(), gradient(model)))
        deltas.append(float((model[0].weight.detach() - base["0.weight"]).norm()))
    assert deltas[1] < 0.5 * deltas[0]


def test_groups_of_their_own_dials_and_parameters_that_rest():
    model = network()
    groups = [
        {"params": [("a", model[0].weight), ("b", model[0].bias)]},
        {"params": [("c", model[2].weight)], "lr": 0.0, "l1": True},
    ]
    optimizer = AdamR(groups, {"a": torch.zeros(16, 6)}, lr=1e-2, weight_decay=0.1)
    before = weights(model)
    for i in range(3):
        optimizer.zero_grad()
        gradient(model)
        if i == 1:
            model[0].bias.grad = None
        optimizer.step()
    steps = [optimizer.state[p]["step"] for group in optimizer.param_groups for p in group["params"]]
    assert steps == [3, 2, 3]
    assert_same_bits(weights(model)[2], before[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masters", [True, False])
def test_state_dict_round_trip(dtype, masters, tmp_path):
    def make(seed):
        model = network(seed).to(dtype)
        base = network(7).to(dtype).state_dict()
        return model, AdamR(model.named_parameters(), base, lr=1e-2, weight_decay=0.1, masters=masters)

    def run(model, optimizer):
        optimizer.zero_grad()
        cross_entropy(model(X.to(dtype)).float(), Y).backward()
        optimizer.step()

    (first, ours), (second, theirs) = make(0), make(1)
    run(first, ours)
    torch.save([first.state_dict(), ours.state_dict()], tmp_path / "saved")
    model_state, state = torch.load(tmp_path / "saved")
    second.load_state_dict(model_state)
    theirs.load_state_dict(state)
    for _ in range(3):
        run(first, ours)
        run(second, theirs)
    for a, b in zip(weights(first), weights(second), strict=True):
        assert_same_bits(a, b)
    moments = theirs.state[next(second.parameters())]
    assert moments["exp_avg"].dtype is torch.float32
    assert ("master" in moments) == (masters and dtype is torch.bfloat16)


def test_bases_are_read_where_they_are():
    model = network()
    base = {name: p.detach().bfloat16() for name, p in model.named_parameters()}
    optimizer = AdamR(model.named_parameters(), base)
    gradient(model)
    optimizer.step()
    assert {x.data_ptr() for x in optimizer._base.values()} == {x.data_ptr() for x in base.values()}
    kept = sum(x.nbytes for s in optimizer.state.values() for x in s.values() if isinstance(x, torch.Tensor))
    weights_bytes = sum(p.nbytes for p in model.parameters())
    assert kept == 2 * weights_bytes + 8 * len(base)


def test_bad_input():
    model = network()
    named, good = list(model.named_parameters()), model.state_dict()
    wrong = {"0.weight": torch.ones(2, 2), "2.bias": torch.ones(3).double(), "0.bias": torch.ones(16)}
    with raises(
        ValueError,
        "[AdamR] base must fit the parameters, got 0.weight of shape (2, 2) for (16, 6); "
        "2.bias in float64 for float32",
    ):
        AdamR(named, wrong)
    with raises(ValueError, "[AdamR] base must fit the parameters, got parameter 1 on meta for cpu"):
        AdamR(model.parameters(), [None, torch.ones(16, device="meta"), None, None])
    message = "[AdamR] params must be named_parameters() where base is a dict, got no names"
    with raises(ValueError, message):
        AdamR(model.parameters(), good)
    with raises(ValueError, "[AdamR] base must have an entry per parameter (4), got 1"):
        AdamR(model.parameters(), [None])
    with raises(TypeError, "[AdamR] base must be a list or tuple, got int"):
        AdamR(model.parameters(), 3)
    with raises(ValueError, "[AdamR] vbar must be one of exact, previous, got 'last'"):
        AdamR(named, good, vbar="last")
    with raises(ValueError, "[AdamR] weight_decay must be at least 0, got -0.1"):
        AdamR(named, good, weight_decay=-0.1)
    with raises(ValueError, "[AdamR] betas must be two numbers in [0, 1), got (0.9, 1.0)"):
        AdamR(named, good, betas=(0.9, 1.0))
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = AdamR(table.parameters(), [None])
    table(torch.tensor([1])).sum().backward()
    with raises(ValueError, "[AdamR] gradients must be dense, got torch.sparse_coo"):
        optimizer.step()
