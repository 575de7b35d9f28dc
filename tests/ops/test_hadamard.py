"""The block-diagonal Walsh-Hadamard transform: the reference's bits, exact answers, and its accuracy."""

import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import (
    FLOATS,
    SINGLES,
    WIDTHS,
    against_reference,
    assert_same_bits,
    call,
    integers,
    normal,
    poisoned,
    raises,
)
from tolerance import assert_accurate, exact

import pydelta
from pydelta import reference


@against_reference
@pytest.mark.parametrize("block", [1 << log for log in range(16)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_every_block(backend, device, dtype, block):
    x = normal(3 if block < 1024 else 1, 2 * block, dtype=dtype)
    actual = pydelta.hadamard(x.to(device), block=block, backend=backend)
    assert_same_bits(actual, reference.hadamard(x, block=block))


@against_reference
@pytest.mark.parametrize("n", [*WIDTHS, pytest.param(65536, marks=pytest.mark.large)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_default_blocks(backend, device, dtype, n):
    x = normal(2, n, dtype=dtype)
    truth = reference.hadamard(x, block=oracles.default_block(n))
    assert_same_bits(pydelta.hadamard(x.to(device), backend=backend), truth)


@against_reference
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [11008, 14336])
def test_bits_of_a_row_of_a_model(backend, device, dtype, n):
    x = normal(n, dtype=dtype)
    assert_same_bits(pydelta.hadamard(x.to(device), backend=backend), reference.hadamard(x))


@pytest.mark.parametrize("backend", ["cuda", "triton"], indirect=True)
@pytest.mark.parametrize("op", ["hadamard", "rotate"])
def test_a_gpu_refuses_blocks_beyond_its_registers(backend, device, op):
    out = poisoned(1 << 16, device=device)
    with raises(ValueError, f"[{op}] block must be at most 32768 on {backend}, got 65536"):
        call(op, [torch.ones(1 << 16, device=device)], block=1 << 16, out=out, backend=backend)
    assert bool(out.isnan().all())


@against_reference
@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 31, 33, 65])
@pytest.mark.parametrize("block", [2, 16, 64])
def test_bits_of_row_counts(backend, device, rows, block):
    x = normal(rows, block)
    assert_same_bits(pydelta.hadamard(x.to(device), backend=backend), reference.hadamard(x))


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy's, in Triton's interpreter
@against_reference
@pytest.mark.parametrize("scale", [1, -0.3, 0.0, 1e-30, 3e38])
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_a_given_scale(backend, device, dtype, scale):
    x = normal(2, 96, dtype=dtype)
    actual = pydelta.hadamard(x.to(device), scale=scale, backend=backend)
    assert_same_bits(actual, reference.hadamard(x, scale=scale))


@against_reference
@pytest.mark.parametrize("shape", [(64,), (1, 64), (2, 3, 64), (2, 1, 3, 64), (1, 1, 1)])
def test_leading_shapes(backend, device, shape):
    x = normal(*shape)
    assert_same_bits(pydelta.hadamard(x.to(device), backend=backend), reference.hadamard(x))


@against_reference
@pytest.mark.large
@pytest.mark.parametrize(("rows", "n"), [(140_000, 4), (140_000, 3), (70_000, 32)])
def test_more_rows_than_a_grid(backend, device, rows, n):
    x = normal(rows, n, dtype=torch.bfloat16)
    assert_same_bits(pydelta.hadamard(x.to(device), backend=backend), reference.hadamard(x))


BEYOND = [(torch.float32, log) for log in (16, 17, 18, 19, 20)]
BEYOND += [(torch.bfloat16, 17), (torch.bfloat16, 20), (torch.float16, 17), (torch.float64, 17)]


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize(("dtype", "log"), BEYOND)
def test_bits_of_blocks_beyond_the_cache(backend, dtype, log):
    x = normal(1 << log, dtype=dtype)
    assert_same_bits(
        pydelta.hadamard(x, block=1 << log, backend=backend), reference.hadamard(x, block=1 << log)
    )


def row_of_h(j, n):
    return torch.from_numpy(oracles.hadamard_row(j, n)).float()


@pytest.mark.parametrize("n", [1, 2, 8, 64, 1024, 4096, 32768])
def test_unit_vectors_give_rows_of_h(backend, device, n):
    for j in {0, n // 2, n - 1, 5 % n}:
        x = torch.zeros(n, device=device)
        x[j] = 1
        assert_same_bits(pydelta.hadamard(x, scale=1, backend=backend), row_of_h(j, n))


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_unit_vector_of_the_largest_block(backend):
    n, j = 1 << 24, 0xABCDEF
    x = torch.zeros(n)
    x[j] = 1
    assert torch.equal(pydelta.hadamard(x, block=n, scale=1, out=x, backend=backend), row_of_h(j, n))


# A power of four has an exact scale; the block is as large as the dtype's integers allow.
EXACT = [(torch.float32, 1), (torch.float32, 4), (torch.float32, 256), (torch.float32, 16384)]
EXACT += [(torch.bfloat16, 4), (torch.bfloat16, 16), (torch.float16, 64), (torch.float64, 4096)]


@pytest.mark.parametrize(("dtype", "block"), EXACT)
def test_integers_are_exact(backend, device, dtype, block):
    x = integers(3, 2 * block, dtype=dtype)
    y = pydelta.hadamard(x.to(device), block=block, backend=backend)
    truth = torch.from_numpy(oracles.hadamard(x.double().numpy(), min(block, 4096)))
    if block <= 4096:
        assert torch.equal(y.cpu().double(), truth)
    assert float((y.double() ** 2).sum()) == float((x.double() ** 2).sum())  # Parseval
    assert_same_bits(pydelta.hadamard(y, block=block, backend=backend), x + 0.0)


@pytest.mark.parametrize("block", [2, 8, 64, 512, 2048])
@pytest.mark.parametrize("dtype", SINGLES)
def test_accuracy(backend, device, dtype, block):
    x = normal(4096 // block, block, dtype=dtype)
    y = pydelta.hadamard(x.to(device), backend=backend)
    assert_accurate(y, oracles.hadamard(exact(x)), depth=math.log2(block) + 1)


@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
@pytest.mark.parametrize("block", [2, 64, 512])
def test_accuracy_of_float64(backend, block):
    x = normal(4096 // block, block, dtype=torch.float64)
    y = pydelta.hadamard(x, backend=backend)
    assert_accurate(y, oracles.hadamard(exact(x)), depth=math.log2(block) + 1)


@given(st.integers(0, 6), st.integers(0, 5), st.integers(0, 7), st.integers(0, 2**20))
@settings(max_examples=10, deadline=None)
def test_linear_symmetric_and_an_involution(backend, device, log, rows, odd, seed):
    """On integers these hold exactly: H (a + b) = H a + H b, <H a, b> = <a, H b>, H H = block."""
    n = (2 * odd + 1) << log
    a, b = (integers(rows, n, seed=seed + i).to(device) for i in range(2))

    def transform(x):
        return pydelta.hadamard(x, block=1 << log, scale=1, backend=backend)

    assert torch.equal(transform(a + b), transform(a) + transform(b))
    assert torch.equal((transform(a) * b).sum(), (a * transform(b)).sum())
    assert torch.equal(transform(transform(a)), a * 2**log)
