"""Lists of tensors for the tests of the ops that take them."""

import pytest
from tensors import laid_out, normal

from pydelta.core.check import compute_dtype

SHAPES = [(3, 5), (0,), (), (1023,), (1025,), (33, 31)]
"""Odd, empty, a scalar, beside the lanes of a sum."""

CHUNKED = [(65536 + 7,), (3, 65536)]
"""Beside a chunk, and several of them."""

all_shapes = pytest.mark.parametrize("shapes", [SHAPES, pytest.param(CHUNKED, marks=pytest.mark.large)])


def many(dtype, *, shapes=SHAPES, seed=0, layout=None, device="cpu", scale=1.0):
    """Normal tensors of these shapes; ``layout``: of those that have rows."""
    found = [normal(*shape, dtype=dtype, seed=seed + i) * scale for i, shape in enumerate(shapes)]
    return [(laid_out(x, layout) if layout and x.dim() else x).to(device) for x in found]


def wide(xs):
    """Their values in the dtype that ops compute in."""
    return [x.to(compute_dtype(x.dtype)) for x in xs]


def copies(xs):
    """The same values in the same layout, elsewhere."""
    return [x.clone() for x in xs]
