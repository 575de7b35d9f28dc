"""Values at the edge of a dtype: zeros of both signs, subnormals, infinities, NaN, overflow and ties."""

import pytest
import torch
from tensors import (
    FLOATS,
    OPS,
    SINGLES,
    TRANSFORMS,
    against_reference,
    assert_same_bits,
    call,
    expected,
    integers,
    operands,
)

import pydelta

# Triton's interpreter computes in numpy, which warns of what is asked for here.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")


def sprinkled(tensors, values):
    """Each value in its own column of each tensor, where the other tensors hold ordinary numbers."""
    for i, x in enumerate(tensors):
        for j, value in enumerate(values):
            x[:, (7 * j + i) % x.shape[1]] = value
    return tensors


@against_reference
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_of_both_signs(backend, device, dtype, op):
    for sign in (0.0, -0.0):
        tensors = [torch.full_like(x, sign) for x in operands(op, 2, 96, dtype=dtype)]
        assert_same_bits(call(op, [x.to(device) for x in tensors], backend=backend), expected(op, tensors))
        tensors = sprinkled(operands(op, 2, 33, dtype=dtype), [0.0, -0.0])
        assert_same_bits(call(op, [x.to(device) for x in tensors], backend=backend), expected(op, tensors))


@against_reference
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_infinities_and_nan(backend, device, dtype, op):
    """Odd widths put every value in a block of its own, even ones mix them: inf - inf is NaN."""
    values = [float("inf"), float("-inf"), float("nan"), 0.0]
    for width in (33, 64, 68, 130):
        tensors = sprinkled(operands(op, 2, width, dtype=dtype), values)
        assert_same_bits(call(op, [x.to(device) for x in tensors], backend=backend), expected(op, tensors))


@against_reference
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_subnormals_are_not_flushed(backend, device, dtype, op):
    """Small multiples of the smallest subnormal, alone and among them some ordinary numbers."""
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    tensors = [(integers(4, 64, seed=i).double() * tiny).to(dtype) for i in range(len(operands(op, 1, 1)))]
    truth = expected(op, tensors)
    assert torch.count_nonzero(truth) > truth.numel() // 4
    assert_same_bits(call(op, [x.to(device) for x in tensors], backend=backend), truth)
    sprinkled(tensors, [1.0])
    assert_same_bits(call(op, [x.to(device) for x in tensors], backend=backend), expected(op, tensors))


@against_reference
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("op", ["superpose", "retrieve"])
def test_narrow_results_keep_subnormals(backend, device, op, transform):
    for dtype in (torch.bfloat16, torch.float16):
        tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        tensors = [x * tiny for x in operands(op, 4, 96)]
        options = {"transform": transform, "out_dtype": dtype}
        truth = expected(op, tensors, **options)
        assert_same_bits(call(op, [x.to(device) for x in tensors], backend=backend, **options), truth)


@against_reference
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_overflow(backend, device, dtype, op):
    """Sums beyond the dtype's largest number, and numbers that round up to infinity."""
    largest = torch.finfo(dtype).max
    tensors = [torch.full_like(x, largest).copysign(x) for x in operands(op, 4, 64, dtype=dtype)]
    assert_same_bits(call(op, [x.to(device) for x in tensors], backend=backend), expected(op, tensors))


@against_reference
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_rounding_of_a_16_bit_result(backend, device, dtype):
    """For each finite 16-bit pattern: the number, its upper neighbour's midpoint, and both sides of that."""
    patterns = torch.arange(2**15, dtype=torch.int16).view(dtype)
    values = patterns[patterns.isfinite()].float()
    ties = (values[:-1].double() + values[1:].double()).div(2).float()
    infinity = torch.tensor(float("inf"))
    rows = torch.stack([values[:-1], ties, ties.nextafter(infinity), ties.nextafter(-infinity)])
    base = torch.cat([rows, -rows])
    zeros = torch.zeros_like(base, device=device)
    options = {"transform": "none", "out_dtype": dtype, "backend": backend}
    actual = pydelta.retrieve(base.to(device), zeros, pydelta.Key(0), **options)
    assert_same_bits(actual, (base + 0.0).to(dtype))


@pytest.mark.parametrize("dtype", SINGLES)
def test_half_precision_overflows_in_the_last_rounding_only(backend, device, dtype):
    """The plain sum, 65536, is more than float16 holds; the scale brings it back."""
    x = torch.full((64,), 1024.0, dtype=dtype, device=device)
    y = pydelta.hadamard(x, scale=1 / 64, backend=backend)
    assert y.tolist() == [1024.0] + [0.0] * 63
