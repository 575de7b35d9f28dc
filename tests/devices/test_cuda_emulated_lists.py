"""The CUDA kernels of lists of tensors on the CPU, thread by thread, give the reference's bits."""

import math

import pytest
import torch
from lists import CHUNKED, SHAPES, copies, many, wide
from tensors import SINGLES, assert_same_bits

from pydelta import reference

SCALAR = torch.float64


def assert_same(found, truths):
    for ours, truth in zip(found, truths, strict=True):
        assert_same_bits(ours, truth)


def sums_of(xs):
    return torch.full((len(xs),), math.nan, dtype=SCALAR)


@pytest.mark.parametrize("layout", ["contiguous", "unaligned"])
@pytest.mark.parametrize("dtype", SINGLES)
def test_square_sums(kernels, dtype, layout):
    xs = [x for x in many(dtype, layout=layout) if x.is_contiguous()]
    shapes = {"shapes": SHAPES}
    if layout == "contiguous":
        shapes = {"shapes": CHUNKED}
        xs = many(dtype, **shapes)
    for weights in (None, many(dtype, seed=40, **shapes), wide(many(dtype, seed=40, **shapes))):
        sums = sums_of(xs)
        kernels.square_sums(xs, weights=weights, eta=0.1, out=sums)
        assert_same_bits(sums, reference.square_sums(xs, weights=weights, eta=0.1))


def test_more_tensors_than_a_launch_takes(kernels):
    xs = [torch.full((1 + i % 7,), float(i)) for i in range(150)]
    sums = sums_of(xs)
    kernels.square_sums(xs, weights=None, eta=0.0, out=sums)
    assert_same_bits(sums, reference.square_sums(xs))
    params, backups = copies(xs), [torch.full_like(x, math.nan) for x in xs]
    kernels.sam_perturb_(
        params,
        xs,
        torch.tensor(0.5, dtype=SCALAR),
        adaptive=False,
        eta=0.0,
        masters=[],
        backups=backups,
    )
    assert_same(params, [x + x * 0.5 for x in xs])
    assert_same(backups, xs)
    kernels.sam_restore_(params, backups)
    assert_same(params, xs)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtype", SINGLES)
def test_perturbing(kernels, dtype, adaptive):
    xs, grads = many(dtype), many(dtype, seed=50)
    for masters in ([], [x + 0.001 for x in wide(xs)]):
        for value in (0.0, 0.25):
            scale = torch.tensor(value, dtype=SCALAR)
            options = {"adaptive": adaptive, "eta": 0.1, "masters": masters}
            ours, theirs = copies(xs), copies(xs)
            kept, backups = ([torch.full_like(x, math.nan) for x in xs] for _ in range(2))
            kernels.sam_perturb_(ours, grads, scale, **options, backups=kept)
            reference.sam_perturb_(theirs, grads, scale, **options, backups=backups)
            assert_same([*ours, *kept], [*theirs, *backups])


@pytest.mark.parametrize("dtype", SINGLES)
def test_restoring(kernels, dtype):
    for sources in (many(dtype), many(torch.float32)):
        params = [torch.full_like(x, math.nan, dtype=dtype) for x in sources]
        kernels.sam_restore_(params, sources)
        assert_same(params, [x.to(dtype) for x in sources])


@pytest.mark.parametrize("l1", [False, True])
@pytest.mark.parametrize("dtype", SINGLES)
def test_steps(kernels, dtype, l1):
    xs, grads = many(dtype), many(dtype, seed=50)
    first = many(torch.float32, seed=70)
    second = [x.square() for x in many(torch.float32, seed=90)]
    numbers = {"step": 3, "lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "l1": l1}
    pull = torch.tensor(0.01, dtype=SCALAR)
    for bases in ([], *(many(kind, seed=120) for kind in SINGLES)):
        for masters in ([], many(torch.float32, seed=4)):
            results = []
            for of in (kernels, reference):
                lists = [copies(values) for values in (xs, first, second, masters)]
                sums = sums_of(xs)
                of.adamr_step_(lists[0], grads, *lists[1:3], bases, lists[3], pull, **numbers, sums=sums)
                results.append([*(x for xs in lists for x in xs), sums])
            assert_same(*results)
