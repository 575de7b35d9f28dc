"""Random signs along one dimension: exact in every dtype."""

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import EXTREME_KEYS, FLOATS, KEY, SINGLES, against_reference, assert_same_bits, normal

import pydelta
from pydelta import reference

# Signs come 32 to a word and 128 to a Philox block.
SIZES = [1, 7, 31, 32, 33, 127, 128, 129, 255, 257, 768, 1023, 1025, 4096, 11008, 14336]
LONG = [((140_000, 3), -1), ((70_000, 32), -1), ((140_000, 3), 0), ((2, 70_000, 2), 1)]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_signs_of_the_oracle(backend, device, dtype, n):
    x = normal(3, n, dtype=dtype)
    truth = x * torch.from_numpy(oracles.signs(KEY, 0, n)).to(dtype)
    assert_same_bits(pydelta.sign_flip(x.to(device), KEY, backend=backend), truth)


@pytest.mark.parametrize("shape", [(129,), (130, 5), (3, 129, 5), (2, 3, 4, 5), (1, 1), (257, 1), (64, 130)])
@pytest.mark.parametrize("dtype", SINGLES)
def test_every_dimension(backend, device, dtype, shape):
    x = normal(*shape, dtype=dtype)
    for dim in range(-len(shape), len(shape)):
        signs = torch.from_numpy(oracles.signs(KEY, 0, shape[dim])).to(dtype)
        truth = (x.movedim(dim, -1) * signs).movedim(-1, dim)
        assert_same_bits(pydelta.sign_flip(x.to(device), KEY, dim=dim, backend=backend), truth)


@pytest.mark.parametrize("dtype", FLOATS)
def test_twice_is_the_identity(backend, device, dtype):
    x = normal(5, 333, dtype=dtype).to(device)
    x[0, :5] = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), 1e-8])
    once = pydelta.sign_flip(x, KEY, backend=backend)
    assert not torch.equal(once, x)
    assert_same_bits(pydelta.sign_flip(once, KEY, backend=backend), x)


@pytest.mark.parametrize("key", EXTREME_KEYS)
def test_extreme_keys(backend, device, key):
    ones = torch.ones(300)
    truth = torch.from_numpy(oracles.signs(key, 0, 300)).float()
    assert_same_bits(pydelta.sign_flip(ones.to(device), key, backend=backend), truth)


@against_reference
@pytest.mark.large
@pytest.mark.parametrize(("shape", "dim"), LONG)
def test_more_rows_than_a_grid(backend, device, shape, dim):
    x = normal(*shape, dtype=torch.bfloat16)
    actual = pydelta.sign_flip(x.to(device), KEY, dim=dim, backend=backend)
    assert_same_bits(actual, reference.sign_flip(x, KEY, dim=dim))


@given(st.integers(0, 70), st.integers(0, 140), st.integers(0, 2**64 - 1), st.booleans())
@settings(max_examples=10, deadline=None)
def test_flips_only_signs(backend, device, rows, n, seed, last):
    key, x = pydelta.Key(seed, 1), normal(rows, n).to(device)
    y = pydelta.sign_flip(x, key, dim=-1 if last else 0, backend=backend)
    assert torch.equal(y.abs(), x.abs())
    assert torch.equal(y, pydelta.sign_flip(x.T, key, dim=0 if last else -1, backend=backend).T)
