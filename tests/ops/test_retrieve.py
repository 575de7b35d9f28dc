"""One model back out of a superposition: the reference's bits, exact round trips, the theory of its error."""

import math

import numpy as np
import oracles
import pytest
import torch
from tensors import KEY, KEYS, SINGLES, TRANSFORMS, WIDTHS, against_reference, assert_same_bits, normal
from tolerance import assert_accurate, exact, rms

import pydelta
from pydelta import reference

SHAPES = [(130,), (130, 5), (3, 129, 5), (3, 128, 5), (2, 3, 4, 8), (256, 40), (1, 1)]


def pair(*shape, base=torch.float32, superposed=torch.float32):
    return normal(*shape, dtype=base), normal(*shape, dtype=superposed, seed=1)


def retrieve(base, superposed, device, **options):
    return pydelta.retrieve(base.to(device), superposed.to(device), KEY, **options)


@against_reference
@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", [*SINGLES, torch.float64])
def test_bits_of_widths(backend, device, dtype, transform, n):
    base, superposed = pair(3, n, base=dtype, superposed=dtype)
    truth = reference.retrieve(base, superposed, KEY, transform=transform, lam=0.3)
    assert_same_bits(retrieve(base, superposed, device, transform=transform, lam=0.3, backend=backend), truth)


@against_reference
@pytest.mark.parametrize("transform", ["sign", "hadamard"])
@pytest.mark.parametrize("n", [11008, 14336])
def test_bits_of_a_row_of_a_model(backend, device, n, transform):
    base, superposed = pair(n, base=torch.bfloat16)
    truth = reference.retrieve(base, superposed, KEY, transform=transform)
    assert_same_bits(retrieve(base, superposed, device, transform=transform, backend=backend), truth)


@against_reference
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("s_dtype", SINGLES)
@pytest.mark.parametrize("dtype", SINGLES)
def test_bits_of_dtypes(backend, device, dtype, s_dtype, transform):
    base, superposed = pair(3, 192, base=dtype, superposed=s_dtype)
    for out_dtype in (None, *SINGLES):
        options = {"transform": transform, "out_dtype": out_dtype}
        truth = reference.retrieve(base, superposed, KEY, **options)
        assert truth.dtype is (out_dtype or dtype)
        assert_same_bits(retrieve(base, superposed, device, **options, backend=backend), truth)


@against_reference
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("transform", ["sign", "hadamard"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_of_every_dimension(backend, device, dtype, transform, shape):
    base, superposed = pair(*shape, base=dtype)
    for dim in range(len(shape)):
        truth = reference.retrieve(base, superposed, KEY, transform=transform, dim=dim)
        actual = retrieve(base, superposed, device, transform=transform, dim=dim, backend=backend)
        assert_same_bits(actual, truth)


@against_reference
@pytest.mark.parametrize("lam", [0, 1, -1.5, 1 / 3, 1e-30])
def test_bits_of_lambda(backend, device, lam):
    base, superposed = pair(3, 96)
    truth = reference.retrieve(base, superposed, KEY, lam=lam)
    assert_same_bits(retrieve(base, superposed, device, lam=lam, backend=backend), truth)


@against_reference
@pytest.mark.large
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("shape", "dim"), [((70_000, 32), -1), ((140_000, 3), 0), ((2, 70_000, 2), 1)])
def test_more_rows_than_a_grid(backend, device, shape, dim, transform):
    base, superposed = pair(*shape, base=torch.bfloat16)
    truth = reference.retrieve(base, superposed, KEY, transform=transform, dim=dim)
    assert_same_bits(retrieve(base, superposed, device, transform=transform, dim=dim, backend=backend), truth)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("n", [96, 768, 1024])
@pytest.mark.parametrize("dtype", SINGLES)
def test_accuracy(backend, device, dtype, n, transform):
    base, superposed = pair(2048 // n, n, base=dtype)
    actual = retrieve(base, superposed, device, transform=transform, lam=0.7, backend=backend)
    arrays = exact(base), exact(superposed)
    truth = oracles.retrieve(*arrays, KEY, 0.7, transform)
    stages = math.log2(oracles.default_block(n)) + 1 if transform == "hadamard" else 0
    assert_accurate(actual, truth, depth=stages + 2, magnitude=sum(rms(x) for x in arrays))


def test_ties_round_to_even(backend, device):
    """Base + 0 halfway between two bf16 (fp16) neighbours, on both sides, odd and even."""
    for dtype, half in ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)):
        base = torch.tensor([1 + half, 1 + 3 * half, -1 - half, -1 - 3 * half, 1 + half + 2.0**-23])
        truth = torch.tensor([1, 1 + 4 * half, -1, -1 - 4 * half, 1 + 2 * half], dtype=dtype)
        actual = retrieve(base, torch.zeros(5), device, transform="none", out_dtype=dtype, backend=backend)
        assert_same_bits(actual, truth)


def test_product_and_sum_are_rounded_one_by_one(backend, device):
    """A fused multiply-add would keep the low half of the product: (1 + 2^-12)^2 - 1 - 2^-11 = 2^-24."""
    base, superposed = torch.full((8,), -1 - 2.0**-11), torch.full((8,), 1 + 2.0**-12)
    actual = retrieve(base, superposed, device, lam=1 + 2.0**-12, transform="none", backend=backend)
    assert torch.equal(actual.cpu(), torch.zeros(8))


def fine_tune(dtype, shape=(64, 768)):
    base = (normal(*shape) * 0.05).to(dtype)
    return base, (base.float() + normal(*shape, seed=1) * 1e-3).to(dtype)


@pytest.mark.parametrize("s_dtype", [torch.float32, None])
def test_one_bf16_model_comes_back_bit_for_bit(backend, device, s_dtype):
    base, tuned = (x.to(device) for x in fine_tune(torch.bfloat16))
    s = pydelta.superpose(base, [tuned], [KEY], out_dtype=s_dtype, backend=backend)
    assert_same_bits(pydelta.retrieve(base, s, KEY, backend=backend), tuned)


def test_one_fp32_model_comes_back_to_a_unit_in_the_last_place(backend, device):
    base, tuned = (x.to(device) for x in fine_tune(torch.float32))
    s = pydelta.superpose(base, [tuned], [KEY], backend=backend)
    back = pydelta.retrieve(base, s, KEY, backend=backend)
    ulp = np.spacing(torch.maximum(base.abs(), tuned.abs()).cpu().numpy())
    assert np.all((back - tuned).abs().cpu().numpy() <= ulp)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dim", [0, 1])
def test_one_model_comes_back_along_any_dimension(backend, device, transform, dim):
    base, tuned = (x.to(device) for x in fine_tune(torch.float32, (96, 80)))
    s = pydelta.superpose(base, [tuned], [KEY], transform=transform, dim=dim, backend=backend)
    back = pydelta.retrieve(base, s, KEY, transform=transform, dim=dim, backend=backend)
    # About six roundings at the delta's size on the way there and back, and one of the sum.
    assert_accurate(back, exact(tuned), depth=1, magnitude=rms(exact(tuned)) + 6 * rms(exact(tuned - base)))


# The theory: K deltas of equal norm, lambda = 1. The other K - 1 are noise of their own squared norm.


def interference(deltas, streams, device, transform, backend):
    """The first delta as retrieved, in float64."""
    base = torch.zeros_like(deltas[0])
    s = pydelta.superpose(base, deltas, streams, transform=transform, backend=backend)
    return pydelta.retrieve(base, s, streams[0], transform=transform, backend=backend).double()


def equal_norms(count, *shape, device):
    deltas = [normal(*shape, seed=i) for i in range(count)]
    return [(delta / delta.norm()).to(device) for delta in deltas]


@pytest.mark.large
@pytest.mark.parametrize("transform", ["sign", "hadamard"])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_cosine_and_error_of_random_deltas(backend, device, count, transform):
    deltas = equal_norms(count, 64, 1024, device=device)
    found, truth = interference(deltas, KEYS[:count], device, transform, backend), deltas[0].double()
    cosine = float((found * truth).sum() / found.norm() / truth.norm())
    assert cosine == pytest.approx(1 / math.sqrt(count), rel=0.05)
    error = float((found - truth).square().sum() / truth.square().sum())
    assert error == pytest.approx(count - 1, rel=0.05)


@pytest.mark.large
@pytest.mark.parametrize("transform", ["sign", "hadamard"])
def test_unbiased_over_seeds(backend, device, transform):
    """The mean error of M seeds has 1/M of one error's squared norm, also where all deltas are alike."""
    count, trials = 4, 32
    delta = normal(16, 1024)
    deltas = [(delta / delta.norm()).to(device)] * count
    errors = []
    for trial in range(trials):
        streams = [pydelta.key(trial, "signs", str(model), "w") for model in range(count)]
        errors.append(interference(deltas, streams, device, transform, backend) - deltas[0].double())
    single = sum(float(error.square().sum()) for error in errors) / trials
    assert single == pytest.approx(count - 1, rel=0.05)
    mean = float((sum(errors) / trials).square().sum())
    assert mean == pytest.approx((count - 1) / trials, rel=0.25)


@pytest.mark.large
def test_plain_sums_fail_on_aligned_deltas(backend, device):
    """Without a transform the errors of aligned deltas add up: (K - 1)^2 in place of K - 1."""
    count = 8
    noise = equal_norms(count + 1, 64, 1024, device=device)
    deltas = [(noise[-1] + 0.1 * own) / math.sqrt(1.01) for own in noise[:-1]]
    truth, errors = deltas[0].double(), {}
    for transform in TRANSFORMS:
        found = interference(deltas, KEYS[:count], device, transform, backend)
        errors[transform] = float((found - truth).square().sum() / truth.square().sum())
    assert errors["sign"] == pytest.approx(count - 1, rel=0.1)
    assert errors["hadamard"] == pytest.approx(count - 1, rel=0.1)
    assert errors["none"] > 0.9 * (count - 1) ** 2
