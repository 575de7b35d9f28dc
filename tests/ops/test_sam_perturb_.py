"""SAM's ascent step: exact answers, the reference's bits, nothing left behind."""

import math

import pytest
import torch
from lists import all_shapes, copies, many, wide
from tensors import FLOATS, HALVES, against_reference, assert_same_bits

import pydelta

FORMS = [{}, {"adaptive": True}, {"adaptive": True, "eta": 0.1}]


def perturbed(params, grads, *, device="cpu", masters=None, backups=None, **options):
    """What the op makes of copies on the device, back on the CPU: parameters, backups, norm."""
    there = [x.to(device, copy=True) for x in params]
    kept = None if backups is None else [x.to(device, copy=True) for x in backups]
    wide_there = None if masters is None else [x.to(device) for x in masters]
    slopes = [x.to(device) for x in grads]
    norm = pydelta.sam_perturb_(there, slopes, masters=wide_there, backups=kept, **options)
    return [x.cpu() for x in there], [x.cpu() for x in kept or ()], norm.cpu()


@pytest.mark.parametrize("dtype", FLOATS)
def test_exact_answers(backend, device, dtype):
    """||g|| = 5 and ||T g|| = 13: e is representable."""
    params, grads = [torch.tensor([1.0, -4.0], dtype=dtype)], [torch.tensor([3.0, 4.0], dtype=dtype)]
    moved, _, norm = perturbed(params, grads, rho=10.0, backend=backend, device=device)
    assert float(norm) == 5
    assert moved[0].tolist() == [7.0, 4.0]
    grads = [torch.tensor([5.0, 3.0], dtype=dtype)]
    options = {"rho": 26.0, "adaptive": True, "backend": backend, "device": device}
    moved, _, norm = perturbed(params, grads, **options)
    assert float(norm) == 13
    assert moved[0].tolist() == [11.0, 92.0]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_step_has_length_rho(backend, device, form):
    params, grads = many(torch.float32), many(torch.float32, seed=50)
    moved, _, norm = perturbed(params, grads, rho=0.05, backend=backend, device=device, **form)
    e = torch.cat([(a.double() - b.double()).flatten() for a, b in zip(moved, params, strict=True)])
    t = [x.double().abs() + form.get("eta", 0) if form else torch.ones_like(x) for x in params]
    slope = torch.cat([(a * g.double()).flatten() for a, g in zip(t, grads, strict=True)])
    scaled = torch.cat([a.flatten() for a in t])
    assert float(norm) == pytest.approx(float(slope.norm()), rel=1e-6)
    assert float((e / scaled).norm()) == pytest.approx(0.05, rel=1e-2)
    assert float(e @ (scaled * slope)) > 0


@against_reference
@all_shapes
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_the_reference(backend, device, dtype, form, shapes):
    params, grads = many(dtype, shapes=shapes), many(dtype, seed=50, shapes=shapes)
    masters = [x + 0.001 for x in wide(params)]
    empty = [torch.full_like(x, math.nan) for x in params]
    for more in ({}, {"masters": masters}, {"backups": empty}):
        truths = perturbed(params, grads, rho=0.3, backend="reference", **form, **more)
        found = perturbed(params, grads, rho=0.3, backend=backend, device=device, **form, **more)
        for ours, truth in zip(
            [*found[0], *found[1], found[2]], [*truths[0], *truths[1], truths[2]], strict=True
        ):
            assert_same_bits(ours, truth)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "unaligned"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_there_and_back_bit_for_bit(backend, device, dtype, layout):
    params, grads = many(dtype, layout=layout, device=device), many(dtype, seed=50, device=device)
    before, addresses = copies(params), [x.data_ptr() for x in params]
    backups = [torch.full_like(x, math.nan) for x in params]
    pydelta.sam_perturb_(params, grads, rho=2.0, backups=backups, backend=backend)
    for p, old, kept in zip(params, before, backups, strict=True):
        assert_same_bits(kept, old)
        assert p.numel() == 0 or not torch.equal(p, old)
    pydelta.sam_restore_(params, backups, backend=backend)
    for p, old in zip(params, before, strict=True):
        assert_same_bits(p, old)
    assert [x.data_ptr() for x in params] == addresses


@pytest.mark.parametrize("dtype", HALVES)
def test_masters_carry_what_halves_would_swallow(backend, device, dtype):
    """A step far below a half's resolution moves those weights that it takes beyond a tie, and no others."""
    masters = [1 + torch.arange(4096, dtype=torch.float32, device=device) / 4096]
    working = [x.to(dtype) for x in masters]
    grads, before = [torch.ones_like(x) for x in working], copies(working)
    pydelta.sam_perturb_(working, grads, rho=0.064 * 2**-7, masters=masters, backend=backend)
    moved = int((working[0] != before[0]).sum())
    assert moved == (64 if dtype is torch.bfloat16 else 512)
    pydelta.sam_restore_(working, masters, backend=backend)
    assert_same_bits(working[0], before[0])


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_norm_without_a_direction_moves_nothing(backend, device, value):
    params, grads = many(torch.float32), many(torch.float32, seed=50)
    for g in grads:
        g.fill_(0.0)
    grads[0][1, 2] = value
    backups = [torch.full_like(x, math.nan) for x in params]
    options = {"rho": 0.1, "backups": backups, "backend": backend, "device": device}
    moved, kept, norm = perturbed(params, grads, **options)
    for p, k, old in zip(moved, kept, params, strict=True):
        assert_same_bits(p, old)
        assert_same_bits(k, old)
    assert not 0 < float(norm) < math.inf


def test_a_given_norm_and_lists_of_several_dtypes(backend, device):
    params = [*many(torch.bfloat16), *many(torch.float32)]
    grads = [*many(torch.bfloat16, seed=50), *many(torch.float32, seed=60)]
    norm = torch.tensor(4.0, dtype=torch.float64)
    moved, _, found = perturbed(params, grads, rho=0.5, norm=norm.to(device), backend=backend, device=device)
    assert float(found) == 4
    for p, old, g in zip(moved, params, grads, strict=True):
        assert_same_bits(p, (old.float() + g.float() * 0.125).to(old.dtype))


def test_neither_threads_nor_instruction_sets_show(isa, threads):
    params = many(torch.float32, shapes=[(3, 70_001), (200_003,)])
    grads = many(torch.float32, shapes=[(3, 70_001), (200_003,)], seed=50)
    truth = perturbed(params, grads, rho=0.5, adaptive=True, backend="reference")
    for count in (1, 3):
        threads(count)
        found = perturbed(params, grads, rho=0.5, adaptive=True, backend="cpu")
        for ours, expected in zip(found[0], truth[0], strict=True):
            assert_same_bits(ours, expected)


def test_what_is_written_counts_as_written():
    """Autograd sees that a tensor it saved has changed."""
    p = torch.ones(3, requires_grad=True)
    y = (p * p).sum()
    pydelta.sam_perturb_([p], [torch.ones(3)], rho=1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
