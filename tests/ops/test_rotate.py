"""D H D': the published vector, orthogonality, and the reference's bits."""

import json
import math

import numpy as np
import oracles
import paths
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import (
    EXTREME_KEYS,
    FLOATS,
    KEY,
    SINGLES,
    WIDTHS,
    against_reference,
    assert_same_bits,
    integers,
    normal,
)
from tolerance import UNIT, assert_accurate, exact

import pydelta
from pydelta import reference

VECTOR = json.loads(paths.VECTORS.read_text())["rotate"][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_published_vector(backend, device, dtype):
    """The sums of integers are exact: the scale is rounded, and so is the product with it."""
    key, truth = pydelta.key(VECTOR["seed"], *VECTOR["names"]), np.array(VECTOR["y"])
    x = torch.tensor(VECTOR["x"], dtype=dtype, device=device)
    y = pydelta.rotate(x, key, block=VECTOR["block"], backend=backend).double().cpu().numpy()
    assert np.all(np.abs(y - truth) <= 2 * UNIT[dtype] * np.abs(truth))


@against_reference
@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("block", [1 << log for log in range(16)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_every_block(backend, device, dtype, block, inverse):
    """Three blocks a row, so that the signs of a block depend on where it stands."""
    x = normal(2 if block < 1024 else 1, 3 * block, dtype=dtype)
    actual = pydelta.rotate(x.to(device), KEY, block=block, inverse=inverse, backend=backend)
    assert_same_bits(actual, reference.rotate(x, KEY, block=block, inverse=inverse))


@against_reference
@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_default_blocks(backend, device, dtype, n):
    x = normal(3, n, dtype=dtype)
    for inverse in (False, True):
        truth = reference.rotate(x, KEY, block=oracles.default_block(n), inverse=inverse)
        assert_same_bits(pydelta.rotate(x.to(device), KEY, inverse=inverse, backend=backend), truth)


@against_reference
@pytest.mark.parametrize("n", [11008, 14336])
def test_bits_of_a_row_of_a_model(backend, device, n):
    x = normal(n, dtype=torch.bfloat16)
    assert_same_bits(pydelta.rotate(x.to(device), KEY, backend=backend), reference.rotate(x, KEY))


@pytest.mark.parametrize("key", EXTREME_KEYS)
def test_extreme_keys(backend, device, key):
    """With block 1 the transform is the product of the two sign vectors."""
    n = 300
    truth = oracles.signs(key, 0, n) * oracles.signs(key, oracles.OUTER_SIGNS, n)
    actual = pydelta.rotate(torch.ones(n, device=device), key, block=1, backend=backend)
    assert_same_bits(actual, torch.from_numpy(truth).float())


@against_reference
@pytest.mark.large
@pytest.mark.parametrize(("rows", "n"), [(140_000, 4), (70_000, 32)])
def test_more_rows_than_a_grid(backend, device, rows, n):
    x = normal(rows, n, dtype=torch.bfloat16)
    assert_same_bits(pydelta.rotate(x.to(device), KEY, backend=backend), reference.rotate(x, KEY))


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("log", [16, 17, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_of_blocks_beyond_the_cache(backend, dtype, log):
    x = normal(1 << log, dtype=dtype)
    for inverse in (False, True):
        actual = pydelta.rotate(x, KEY, block=1 << log, inverse=inverse, backend=backend)
        assert_same_bits(actual, reference.rotate(x, KEY, block=1 << log, inverse=inverse))


@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
@pytest.mark.parametrize("n", [96, 768, 2048])
@pytest.mark.parametrize("dtype", SINGLES)
def test_accuracy(backend, device, dtype, n, inverse):
    x = normal(4096 // n, n, dtype=dtype)
    y = pydelta.rotate(x.to(device), KEY, inverse=inverse, backend=backend)
    depth = math.log2(oracles.default_block(n)) + 1
    assert_accurate(y, oracles.rotate(exact(x), KEY, inverse=inverse), depth)


@pytest.mark.parametrize("n", [7, 96, 1024])
@pytest.mark.parametrize("dtype", SINGLES)
def test_the_inverse_recovers(backend, device, dtype, n):
    x = normal(2048 // n, n, dtype=dtype)
    y = pydelta.rotate(x.to(device), KEY, backend=backend)
    depth = math.log2(oracles.default_block(n)) + 1
    truth = oracles.rotate(exact(y), KEY, inverse=True)
    back = pydelta.rotate(y, KEY, inverse=True, backend=backend)
    assert_accurate(back, truth, depth)
    # y's own roundings come back through an orthogonal matrix: as far again, in the RMS.
    distance = np.linalg.norm(exact(back) - exact(x)) / np.linalg.norm(exact(x))
    one_way = UNIT[torch.float32] * (math.sqrt(depth / 3) + 1) + UNIT[dtype] / math.sqrt(3)
    assert distance <= 2 * one_way


@given(st.integers(0, 3), st.integers(0, 5), st.integers(0, 7), st.integers(0, 2**64 - 1))
@settings(max_examples=10, deadline=None)
def test_orthogonal_on_integers(backend, device, log4, rows, odd, seed):
    """Blocks of a power of four and integers make every step exact: the inverse too, and both norms."""
    key, block = pydelta.Key(seed, 5), 4**log4
    x = integers(rows, (2 * odd + 1) * block, seed=odd).to(device)
    y = pydelta.rotate(x, key, block=block, backend=backend)
    assert torch.equal(pydelta.rotate(y, key, block=block, inverse=True, backend=backend), x)
    assert torch.equal((y.double() ** 2).sum(), (x.double() ** 2).sum())


def test_inverse_is_another_transform(backend, device):
    x = normal(2, 64).to(device)
    assert not torch.equal(
        pydelta.rotate(x, KEY, backend=backend), pydelta.rotate(x, KEY, inverse=True, backend=backend)
    )
