"""AdamR's step: Adam's without a pull, exact answers with one, the same bits everywhere."""

import math

import pytest
import torch
from lists import all_shapes, copies, many, wide
from tensors import FLOATS, HALVES, SINGLES, against_reference, assert_same_bits

import pydelta

ADAM = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8}


def state_of(dtype, shapes=None):
    """Parameters, gradients and moments as after some steps."""
    shapes = {} if shapes is None else {"shapes": shapes}
    params, grads = many(dtype, **shapes), many(dtype, seed=50, **shapes)
    moments = wide(many(dtype, seed=70, scale=0.1, **shapes))
    squares = [x.square() for x in wide(many(dtype, seed=90, scale=0.1, **shapes))]
    return params, grads, moments, squares


def stepped(state, *, device="cpu", bases=None, masters=None, pull=None, **options):
    """What a step makes of copies: parameters, moments, squares, masters, and the sums."""
    params, grads, moments, squares = ([x.to(device, copy=True) for x in xs] for xs in state)
    over = None if masters is None else [x.to(device, copy=True) for x in masters]
    origins = None if bases is None else [None if x is None else x.to(device) for x in bases]
    strength = None if pull is None else torch.tensor(pull, dtype=torch.float64, device=device)
    lists = {"bases": origins, "masters": over, "pull": strength}
    sums = pydelta.adamr_step_(params, grads, moments, squares, **{**ADAM, **options, **lists})
    return [x.cpu() for x in (*params, *moments, *squares, *(over or ()), sums)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_pull_this_is_adam(backend, device, dtype):
    params = [x.to(device) for x in many(dtype)]
    others = [x.clone().requires_grad_() for x in params]
    adam = torch.optim.Adam(others, foreach=False, **ADAM)
    moments, squares = ([torch.zeros_like(x) for x in params] for _ in range(2))
    for step in range(1, 6):
        grads = [x.to(device) for x in many(dtype, seed=100 * step)]
        for p, g in zip(others, grads, strict=True):
            p.grad = g.clone()
        adam.step()
        pydelta.adamr_step_(params, grads, moments, squares, step=step, backend=backend, **ADAM)
    tolerance = 1e-14 if dtype is torch.float64 else 1e-6
    for p, other in zip(params, others, strict=True):
        assert torch.allclose(p, other.detach(), rtol=0, atol=tolerance)


def test_the_first_step_by_hand(backend, device):
    """m = g / 2, v = g^2 / 2, both corrected to g and g^2: the step is lr sign(g), after the pull."""
    p, g = torch.tensor([4.0, -2.0, 8.0]), torch.tensor([2.0, -4.0, 8.0])
    base = torch.tensor([2.0, -2.0, 16.0], dtype=torch.bfloat16)
    zeros = torch.zeros(3)
    adam = {"step": 1, "lr": 0.25, "betas": (0.5, 0.5), "eps": 0.0, "backend": backend, "device": device}
    for l1, truth in ((False, [3.25, -1.75, 9.75]), (True, [3.25, -1.75, 8.25])):
        pull = 0.5 if l1 else 0.25
        found = stepped(([p], [g], [zeros], [zeros]), bases=[base], pull=pull, l1=l1, **adam)
        assert torch.allclose(found[0], torch.tensor(truth), rtol=1e-6)
        assert found[1].tolist() == [1.0, -2.0, 4.0]
        assert found[2].tolist() == [2.0, 8.0, 32.0]
        assert float(found[3]) == 84


@against_reference
@all_shapes
@pytest.mark.parametrize("l1", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_the_reference(backend, device, dtype, l1, shapes):
    state = state_of(dtype, shapes)
    kinds = [torch.float64] if dtype is torch.float64 else SINGLES
    masters = [x + 1e-3 for x in wide(state[0])]
    for kind in kinds:
        bases = many(kind, seed=120, shapes=shapes)
        for more in ({}, {"masters": masters}, {"bases": bases, "pull": 0.01}):
            options = {"step": 7, "l1": l1, **more}
            truth = stepped(state, backend="reference", **options)
            found = stepped(state, backend=backend, device=device, **options)
            for ours, expected in zip(found, truth, strict=True):
                assert_same_bits(ours, expected)
    options = {"step": 7, "l1": l1, "bases": bases, "pull": 0.01, "masters": masters}
    for ours, expected in zip(
        stepped(state, backend=backend, device=device, **options),
        stepped(state, backend="reference", **options),
        strict=True,
    ):
        assert_same_bits(ours, expected)


def test_without_sums_the_same_step(backend, device):
    state = [xs + ys for xs, ys in zip(state_of(torch.float32), state_of(torch.bfloat16), strict=True)]
    options = {"step": 3, "bases": [torch.zeros_like(p) for p in state[0]], "pull": 0.1}
    truth = stepped(state, backend=backend, device=device, **options)
    found = stepped(state, backend=backend, device=device, sums=False, **options)
    assert found.pop().shape == (0,)
    for ours, expected in zip(found, truth[:-1], strict=True):
        assert_same_bits(ours, expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_masters_and_their_rounded_copies(backend, device, dtype):
    state, masters = state_of(dtype), wide(many(dtype))
    found = stepped(state, masters=masters, step=1, backend=backend, device=device)
    count = len(masters)
    for p, w in zip(found[:count], found[3 * count : 4 * count], strict=True):
        assert w.dtype is torch.float32
        assert_same_bits(p, w.to(dtype))


def test_only_what_has_a_base_is_pulled(backend, device):
    state = state_of(torch.float32, shapes=[(40,)] * 3)
    bases = [torch.zeros(40), None, torch.zeros(40, dtype=torch.bfloat16)]
    free = stepped(state, step=3, backend=backend, device=device)
    found = stepped(state, step=3, bases=bases, pull=0.5, backend=backend, device=device)
    assert_same_bits(found[1], free[1])
    for i in (0, 2):
        assert torch.allclose(found[i], free[i] - 0.5 * state[0][i], rtol=1e-5, atol=1e-6)


def test_neither_threads_nor_instruction_sets_show(isa, threads):
    state = state_of(torch.bfloat16, shapes=[(3, 70_001), (200_003,)])
    bases = many(torch.float16, shapes=[(3, 70_001), (200_003,)], seed=120)
    truth = stepped(state, step=4, bases=bases, pull=0.1, backend="reference")
    for count in (1, 3):
        threads(count)
        found = stepped(state, step=4, bases=bases, pull=0.1, backend="cpu")
        for ours, expected in zip(found, truth, strict=True):
            assert_same_bits(ours, expected)


@pytest.mark.parametrize("layout", ["transposed", "strided", "unaligned"])
def test_layouts_and_addresses(backend, device, layout):
    params = many(torch.float32, layout=layout, device=device)
    grads = many(torch.float32, layout="transposed", seed=50, device=device)
    moments, squares = ([torch.zeros_like(x) for x in params] for _ in range(2))
    flat = [x.contiguous().clone() for x in params]
    others = [torch.zeros_like(x) for x in flat], [torch.zeros_like(x) for x in flat]
    addresses = [x.data_ptr() for x in params]
    pydelta.adamr_step_(params, grads, moments, squares, step=1, backend=backend, **ADAM)
    pydelta.adamr_step_(flat, [g.contiguous() for g in grads], *others, step=1, backend=backend, **ADAM)
    for p, other in zip(params, flat, strict=True):
        assert_same_bits(p.contiguous(), other)
    assert [x.data_ptr() for x in params] == addresses


def test_no_tensors_and_several_dtypes(backend, device):
    assert pydelta.adamr_step_([], [], [], [], step=1, **ADAM).shape == (0,)
    states = [state_of(dtype, shapes=[(5, 3), (7,)]) for dtype in SINGLES]
    mixed = [[x for xs in lists for x in xs] for lists in zip(*states, strict=True)]
    found = stepped(mixed, step=2, backend=backend, device=device)
    alone = [stepped(state, step=2, backend=backend, device=device) for state in states]
    for i in range(3):
        for j in range(2):
            assert_same_bits(found[2 * i + j], alone[i][j])
            assert float(found[-1][2 * i + j]) == float(alone[i][-1][j])
    assert all(math.isfinite(float(x.sum())) for x in copies(found))
