"""The CUDA kernels of low-bit codes on the CPU, thread by thread: the reference's bits and nothing beside."""

from functools import partial

import pytest
import torch
from tensors import (
    KEYS,
    SINGLES,
    TRANSFORMS,
    assert_nothing_beside,
    assert_same_bits,
    integers,
    laid_out,
    normal,
    poisoned,
)

from pydelta import reference
from pydelta.core.levels import code_shapes
from pydelta.core.quantized import BITS, Quantized

# Rows that share a byte, a vector, a tile; one element, a vector and its neighbours, more than a step ahead.
WIDTHS = [1, 7, 8, 12, 33, 96, 257, 512, 1025]
GROUPS = [1, 4, 12, 32, 60, 96, 480]


def unwritten(shape, dtype, bits, group="row"):
    """A Quantized in buffers of which it is a part; its bytes are 0xaa, its scales NaN."""
    codes, scales = code_shapes(shape, bits, 0 if group == "row" else group)
    count = torch.Size(codes).numel()
    room = torch.full((count + 16,), 0xAA, dtype=torch.uint8)
    return Quantized(room[8 : 8 + count].view(codes), poisoned(*scales), bits, group, shape, dtype)


def assert_written(out, truth):
    assert torch.equal(out.codes, truth.codes)
    assert_same_bits(out.scales, truth.scales)
    beside = torch.cat([out.codes._base[:8], out.codes._base[-8:]])
    assert beside.eq(0xAA).all(), "memory beside the codes was written"


def check_codes(kernels, x, bits, group="row", layout="contiguous"):
    truth = reference.quantize(x, bits=bits, group=group)
    out = unwritten(tuple(x.shape), x.dtype, bits, group)
    kernels.quantize(laid_out(x, layout), bits=bits, group=group, out=out)
    assert_written(out, truth)
    for dtype in SINGLES:
        values = poisoned(*x.shape, dtype=dtype, layout=layout)
        kernels.dequantize(truth, out=values, dtype=dtype)
        assert_same_bits(values, reference.dequantize(truth, dtype=dtype))
        assert_nothing_beside(values)


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", SINGLES)
def test_codes_of_widths(kernels, dtype, bits, n):
    check_codes(kernels, normal(5, n, dtype=dtype), bits)
    check_codes(kernels, normal(2, n, dtype=dtype, seed=1), bits, layout="unaligned")


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", SINGLES)
def test_codes_of_groups(kernels, dtype, bits, group):
    x = (normal(3, 480) * torch.logspace(-3, 3, 480)).to(dtype)
    check_codes(kernels, x, bits, group)


@pytest.mark.parametrize("bits", BITS)
def test_codes_of_many_rows(kernels, bits):
    """More than a grid takes at once."""
    check_codes(kernels, normal(700, 9, dtype=torch.bfloat16), bits)
    check_codes(kernels, normal(1, 5000, dtype=torch.bfloat16), bits, 5)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", SINGLES)
def test_codes_of_zeros_extremes_and_no_numbers(kernels, dtype, bits):
    tiny, huge = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps, torch.finfo(dtype).max
    x = torch.stack([integers(64, seed=i) for i in range(6)]).to(dtype)
    x[0] = 0
    x[1] = (x[1].double() * tiny).to(dtype)
    x[2] = (x[2].double() * (huge / 8)).to(dtype)
    x[3, 5], x[4, 6], x[5, ::2] = float("nan"), -float("inf"), -0.0
    truth = reference.quantize(x, bits=bits)
    assert truth.scales[:, 0].isfinite().tolist() == [True, True, True, False, False, True]
    for rows in (slice(0, 3), slice(4, 6)):  # whatever the sign of a NaN
        out = unwritten(tuple(x[rows].shape), dtype, bits)
        kernels.quantize(x[rows].contiguous(), bits=bits, group="row", out=out)
        assert_written(out, reference.quantize(x[rows], bits=bits))
    check_codes(kernels, x[:3], bits)


def models(count, *shape, dtype):
    base = normal(*shape, dtype=dtype)
    return base, [(base.float() + 0.02 * normal(*shape, seed=i + 1)).to(dtype) for i in range(count)]


def check_superposition(kernels, base, tuned, *, transform, bits, group="row", layout="contiguous"):
    keys, weights = KEYS[: len(tuned)], [1.0 if k % 3 == 1 else 0.1 - 0.3 * k for k in range(len(tuned))]
    options = {"weights": weights, "transform": transform, "bits": bits, "group": group}
    out = unwritten(tuple(base.shape), base.dtype, bits, group)
    given = [laid_out(x, layout) for x in (base, *tuned)]
    kernels.superpose_codes(given[0], given[1:], keys, out=out, **options)
    assert_written(out, reference.superpose_codes(base, tuned, keys, **options))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("bits", BITS)
def test_superpositions(kernels, bits, dtype, transform):
    """Blocks of one row and of several, more models than a launch takes."""
    check = partial(check_superposition, kernels, transform=transform, bits=bits)
    for count, shape in [(1, (7,)), (3, (11, 96)), (2, (3, 1025))]:
        check(*models(count, *shape, dtype=dtype))
    check(*models(2, 3, 2, 100, dtype=dtype), layout="unaligned")
    check(*models(2, 9, 120, dtype=dtype), group=12)
    if bits == 1:
        check(*models(33, 3, 64, dtype=dtype))


def check_retrieval(kernels, base, q, *, transform, layout="contiguous"):
    options = {"lam": 0.7, "transform": transform}
    for out_dtype in SINGLES:
        out = poisoned(*base.shape, dtype=out_dtype, layout=layout)
        kernels.retrieve_codes(laid_out(base, layout), q, KEYS[0], out=out, out_dtype=out_dtype, **options)
        assert_same_bits(out, reference.retrieve_codes(base, q, KEYS[0], out_dtype=out_dtype, **options))
        assert_nothing_beside(out)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("bits", BITS)
def test_retrievals(kernels, bits, dtype, transform):
    check = partial(check_retrieval, kernels, transform=transform)
    for shape, group in [
        ((7,), "row"),
        ((5, 33), "row"),
        ((6, 40), 8),
        ((3, 2, 100), "row"),
        ((5, 96), 12),
        ((3, 1025), "row"),
        ((2, 2304), 32),
        ((70, 8), "row"),
    ]:
        base, x = normal(*shape, dtype=dtype), normal(*shape, seed=1) * 0.01
        check(base, reference.quantize(x, bits=bits, group=group))
    check(base, reference.quantize(x, bits=bits), layout="unaligned")


@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("n", [4096, 16384, 32768])
def test_large_blocks(kernels, dtype, n):
    base, x = normal(2, n, dtype=dtype), normal(2, n, seed=1)
    for bits in (1, 4):
        check_retrieval(kernels, base, reference.quantize(x, bits=bits, group=64), transform="hadamard")


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("bits", BITS)
def test_in_place(kernels, bits, transform):
    base, q = normal(5, 4096, dtype=torch.bfloat16), reference.quantize(normal(5, 4096), bits=bits)
    options = {"lam": 1.0, "transform": transform, "out_dtype": torch.bfloat16}
    truth = reference.retrieve_codes(base, q, KEYS[1], **options)
    kernels.retrieve_codes(base, q, KEYS[1], out=base, **options)
    assert_same_bits(base, truth)


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (0,)], ids=str)
def test_nothing_launches_nothing(kernels, shape):
    x = torch.ones(shape)
    for bits in BITS:
        q = reference.quantize(x, bits=bits)
        assert q.codes.numel() == 0
        check_codes(kernels, x, bits)
        check_superposition(kernels, x, [x] * 33, transform="hadamard", bits=bits)
        check_retrieval(kernels, x, q, transform="sign")
