"""Many deltas into one: the reference's bits, the order of the sum, and the accuracy."""

import math

import oracles
import pytest
import torch
from tensors import (
    FLOATS,
    KEYS,
    SINGLES,
    TRANSFORMS,
    WIDTHS,
    against_reference,
    assert_same_bits,
    integers,
    normal,
)
from tolerance import assert_accurate, exact

import pydelta
from pydelta import reference

COUNTS = [1, 2, 3, 9, *(pytest.param(count, marks=pytest.mark.large) for count in (4, 5, 6, 7, 8, 33))]
SHAPES = [(130,), (130, 5), (3, 129, 5), (3, 128, 5), (2, 3, 4, 8), (256, 40), (1, 1)]


def models(count, *shape, dtype=torch.float32):
    """A base and ``count`` fine-tunes: large weights, small deltas."""
    base = normal(*shape, dtype=dtype)
    deltas = [normal(*shape, seed=i + 1) * 2.0**-6 for i in range(count)]
    return base, [(base.float() + delta).to(dtype) for delta in deltas]


def superpose(base, tuned, device, **options):
    return pydelta.superpose(base.to(device), [x.to(device) for x in tuned], KEYS[: len(tuned)], **options)


@against_reference
@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_widths(backend, device, dtype, transform, n):
    base, tuned = models(3, 2, n, dtype=dtype)
    truth = reference.superpose(base, tuned, KEYS[:3], transform=transform)
    assert_same_bits(superpose(base, tuned, device, transform=transform, backend=backend), truth)


@against_reference
@pytest.mark.parametrize("transform", ["sign", "hadamard"])
@pytest.mark.parametrize("n", [11008, 14336])
def test_bits_of_a_row_of_a_model(backend, device, n, transform):
    base, tuned = models(2, n, dtype=torch.bfloat16)
    truth = reference.superpose(base, tuned, KEYS[:2], transform=transform)
    assert_same_bits(superpose(base, tuned, device, transform=transform, backend=backend), truth)


@against_reference
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_of_model_counts(backend, device, dtype, transform, count):
    base, tuned = models(count, 2, 96, dtype=dtype)
    weights = [1 / (i + 3) for i in range(count)]
    truth = reference.superpose(base, tuned, KEYS[:count], transform=transform, weights=weights)
    actual = superpose(base, tuned, device, transform=transform, weights=weights, backend=backend)
    assert_same_bits(actual, truth)


@against_reference
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("transform", ["sign", "hadamard"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_of_every_dimension(backend, device, dtype, transform, shape):
    base, tuned = models(3, *shape, dtype=dtype)
    for dim in range(len(shape)):
        truth = reference.superpose(base, tuned, KEYS[:3], transform=transform, dim=dim)
        assert_same_bits(superpose(base, tuned, device, transform=transform, dim=dim, backend=backend), truth)


@against_reference
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", SINGLES)
def test_bits_of_out_dtypes(backend, device, dtype, transform):
    base, tuned = models(3, 3, 192, dtype=dtype)
    for out_dtype in SINGLES:
        truth = reference.superpose(base, tuned, KEYS[:3], transform=transform, out_dtype=out_dtype)
        options = {"transform": transform, "backend": backend}
        assert_same_bits(superpose(base, tuned, device, out_dtype=out_dtype, **options), truth)
        out = torch.full(base.shape, float("nan"), dtype=out_dtype, device=device)
        assert superpose(base, tuned, device, out=out, **options) is out
        assert_same_bits(out, truth)


def test_dtype_of_the_result(backend, device):
    for dtype in SINGLES:
        assert superpose(*models(1, 4, dtype=dtype), device, backend=backend).dtype is torch.float32


@against_reference
@pytest.mark.large
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("shape", "dim"), [((70_000, 32), -1), ((140_000, 3), 0), ((2, 70_000, 2), 1)])
def test_more_rows_than_a_grid(backend, device, shape, dim, transform):
    base, tuned = models(2, *shape, dtype=torch.bfloat16)
    truth = reference.superpose(base, tuned, KEYS[:2], transform=transform, dim=dim)
    assert_same_bits(superpose(base, tuned, device, transform=transform, dim=dim, backend=backend), truth)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("n", [96, 768, 1024])
@pytest.mark.parametrize("dtype", SINGLES)
def test_accuracy(backend, device, dtype, n, transform):
    base, tuned = models(5, 2048 // n, n, dtype=dtype)
    weights = [0.3, 1.0, -0.7, 2.0, 1.1]
    actual = superpose(base, tuned, device, weights=weights, transform=transform, backend=backend)
    truth = oracles.superpose(exact(base), [exact(x) for x in tuned], KEYS[:5], weights, transform)
    stages = math.log2(oracles.default_block(n)) + 1 if transform == "hadamard" else 0
    assert_accurate(actual, truth, depth=2 + stages + 5)  # delta, weight, transform, five sums


def test_the_sum_runs_in_the_models_order(backend, device):
    """2^30 + 1 - 2^30: the one is lost before the large terms cancel, and kept after."""
    base, large, one = (torch.full((3, 8), value) for value in (0.0, 2.0**30, 1.0))
    lost = superpose(base, [large, one, -large], device, transform="none", backend=backend)
    kept = superpose(base, [large, -large, one], device, transform="none", backend=backend)
    assert torch.equal(lost.cpu(), base)
    assert torch.equal(kept.cpu(), one)


def test_each_step_is_rounded_by_itself(backend, device):
    """A fused multiply-add would keep the low half of the product: (1 + 2^-12)^2 - 1 - 2^-11 = 2^-24."""
    x = torch.full((2, 8), 1 + 2.0**-12)
    tuned, weights = [torch.full_like(x, -1 - 2.0**-11), x], [1.0, 1 + 2.0**-12]
    total = superpose(torch.zeros_like(x), tuned, device, weights=weights, transform="none", backend=backend)
    assert torch.equal(total.cpu(), torch.zeros_like(x))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", SINGLES)
def test_integers_are_exact_in_any_order(backend, device, dtype, transform):
    base = integers(4, 64, dtype=dtype)
    tuned = [integers(4, 64, dtype=dtype, seed=i + 1) for i in range(5)]
    streams, order = KEYS[:5], [3, 0, 4, 2, 1]
    arrays = [exact(x) for x in (base, *tuned)]
    truth = oracles.superpose(arrays[0], arrays[1:], streams, name=transform)
    for models_order in (range(5), order):
        actual = pydelta.superpose(
            base.to(device),
            [tuned[i].to(device) for i in models_order],
            [streams[i] for i in models_order],
            transform=transform,
            backend=backend,
        )
        assert torch.equal(actual.cpu().double(), torch.from_numpy(truth))


def test_the_total_starts_at_plus_zero(backend, device):
    base = torch.zeros(2, 64)
    total = superpose(base, [base], device, weights=[-1.0], transform="none", backend=backend)
    assert_same_bits(total, base)


def test_keys_belong_to_models(backend, device):
    """Models that share a key share their transform: their deltas cancel with opposite weights."""
    base, (tuned, _) = models(2, 3, 64)
    base, tuned = base.to(device), tuned.to(device)
    for streams, cancels in ((KEYS[:1] * 2, True), (KEYS[:2], False)):
        total = pydelta.superpose(base, [tuned, tuned], streams, weights=[1, -1], backend=backend)
        assert (torch.count_nonzero(total) == 0) == cancels


def test_no_gradient_flows(backend, device):
    base, tuned = models(2, 3, 16)
    base.requires_grad_()
    assert not superpose(base, tuned, device, backend=backend).requires_grad
