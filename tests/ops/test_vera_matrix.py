"""VeRA's random matrices: the published values, and the same bits on every backend for every rectangle."""

import json

import oracles
import paths
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import EXTREME_KEYS, FLOATS, against_reference, assert_same_bits

import pydelta
from pydelta import reference
from pydelta.core.random import SECOND_MATRIX

KEY = pydelta.key(42, "vera")
VECTOR = json.loads(paths.VECTORS.read_text())["vera"][0]


def test_the_published_values(backend, device):
    key = pydelta.key(VECTOR["seed"], *VECTOR["names"])
    for which, rows in (("A", VECTOR["A_2x3"]), ("B", VECTOR["B_2x2"])):
        truth = torch.tensor(rows, dtype=torch.float64)
        found = pydelta.vera_matrix(key, which, tuple(truth.shape), device=device, backend=backend)
        torch.testing.assert_close(
            (6 / truth.shape[1]) ** 0.5 * found.cpu().double(), truth, rtol=1e-15, atol=0
        )


@pytest.mark.parametrize("key", EXTREME_KEYS)
@pytest.mark.parametrize("which", ["A", "B"])
def test_the_oracle(backend, device, key, which):
    """Every value is exact in fp32: it is compared with Python's integers."""
    start, shape = (2**30 - 1, 2**31 - 70), (3, 70)
    found = pydelta.vera_matrix(key, which, shape, start=start, device=device, backend=backend)
    origin = SECOND_MATRIX if which == "B" else 0
    draws = [
        [oracles.u32(key, origin + (start[0] + i << 32) + start[1] + j) for j in range(shape[1])]
        for i in range(shape[0])
    ]
    assert_same_bits(found, ((torch.tensor(draws) >> 8) - 2**23).float() * 2.0**-23)


@against_reference
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("shape", "start"),
    [((3, 1), (0, 0)), ((2, 63), (5, 1)), ((5, 64), (0, 64)), ((2, 65), (1, 127)), ((4, 260), (7, 3))],
)
def test_bits(backend, device, dtype, shape, start):
    for which in "AB":
        made = pydelta.vera_matrix(
            KEY, which, shape, start=start, dtype=dtype, device=device, backend=backend
        )
        assert_same_bits(made, reference.vera_matrix(KEY, which, shape, start=start, dtype=dtype))


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_every_instruction_set(backend, isa, dtype, threads):
    truth = reference.vera_matrix(KEY, "B", (9, 200), start=(2, 30), dtype=dtype)
    for count in (1, 2):
        threads(count)
        assert_same_bits(pydelta.vera_matrix(KEY, "B", (9, 200), start=(2, 30), dtype=dtype), truth)


@given(
    st.integers(0, 90), st.integers(0, 200), st.integers(0, 40), st.integers(0, 300), st.sampled_from("AB")
)
@settings(max_examples=25, deadline=None)
def test_a_rectangle_is_a_part_of_every_larger_one(rows, columns, top, left, which):
    large = pydelta.vera_matrix(KEY, which, (rows + top, columns + left))
    part = pydelta.vera_matrix(KEY, which, (rows, columns), start=(top, left))
    assert torch.equal(part, large[top:, left:])


def test_values_are_uniform_and_the_matrices_differ():
    a, b = (pydelta.vera_matrix(KEY, which, (64, 1024)) for which in "AB")
    for matrix in (a, b):
        assert -1 <= matrix.min() < -0.999 < 0.999 < matrix.max() < 1
        assert scipy.stats.kstest(matrix.flatten().numpy(), "uniform", (-1, 2)).pvalue > 1e-6
    assert abs(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1]) < 5 / a.numel() ** 0.5


def test_empty(backend, device):
    for shape in ((0, 4), (3, 0), (0, 0)):
        assert pydelta.vera_matrix(KEY, "A", shape, device=device, backend=backend).shape == shape


def test_opcheck(backend, device):
    arguments = 3, -5, "B", [3, 7], [1, 2], torch.bfloat16, device, backend
    torch.library.opcheck(torch.ops.pydelta.vera_matrix.default, arguments)


def test_compiled():
    def product(x):
        return x @ pydelta.vera_matrix(KEY, "A", (8, 8))

    x = torch.ones(2, 8)
    assert_same_bits(torch.compile(product, fullgraph=True, backend="aot_eager")(x), product(x))
