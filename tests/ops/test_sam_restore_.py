"""SAM's way back: bits of backups, masters rounded once."""

import pytest
import torch
from lists import many, wide
from tensors import FLOATS, HALVES, assert_same_bits, poisoned

import pydelta

VALUES = [0.0, -0.0, 1.0, 1 + 2**-9, 1 + 3 * 2**-9, 1 + 2**-12, 65519.0, 65520.0, 1e-8, float("inf")]


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "unaligned"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_copies(backend, device, dtype, layout):
    sources = many(dtype, device=device)
    params = [poisoned(*x.shape, dtype=dtype, device=device) for x in sources[:1]] + many(
        dtype, seed=50, device=device, layout=layout
    )[1:]
    pydelta.sam_restore_(params, sources, backend=backend)
    for p, source in zip(params, sources, strict=True):
        assert_same_bits(p, source)


@pytest.mark.parametrize("dtype", HALVES)
def test_masters_are_rounded_to_nearest_even(backend, device, dtype):
    masters = [torch.tensor(VALUES), *wide(many(torch.float32, seed=3))]
    params = [torch.zeros_like(x, dtype=dtype, device=device) for x in masters]
    pydelta.sam_restore_(params, [x.to(device) for x in masters], backend=backend)
    for p, master in zip(params, masters, strict=True):
        assert_same_bits(p, master.to(dtype))


def test_a_large_list(isa):
    """Beyond the cache results are written around it."""
    sources = many(torch.float32, shapes=[(1 << 20,), (1_049_003,)])
    params = [torch.zeros_like(x) for x in sources]
    pydelta.sam_restore_(params, sources, backend="cpu")
    assert all(torch.equal(p, s) for p, s in zip(params, sources, strict=True))
