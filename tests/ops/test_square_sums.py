"""Sums of squares over lists: exact values, and an order that nothing but shapes decides."""

import pytest
import torch
from lists import SHAPES, all_shapes, many, wide
from tensors import FLOATS, against_reference, assert_same_bits, integers

from pydelta import ops, reference


@pytest.mark.parametrize("dtype", FLOATS)
def test_integers_are_summed_exactly(backend, device, dtype):
    xs = [integers(*shape, dtype=dtype, seed=i) for i, shape in enumerate(SHAPES)]
    weights = [integers(*shape, dtype=dtype, seed=9 + i) for i, shape in enumerate(SHAPES)]
    truth = torch.stack([(x.double() ** 2).sum() for x in xs])
    there = [x.to(device) for x in xs]
    assert_same_bits(ops.square_sums(there, backend=backend), truth)
    truth = torch.stack(
        [((x * (w.abs() + 1)).double() ** 2).sum() for x, w in zip(wide(xs), wide(weights), strict=True)]
    )
    found = ops.square_sums(there, weights=[w.to(device) for w in weights], eta=1.0, backend=backend)
    assert_same_bits(found, truth)


@against_reference
@all_shapes
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_the_reference(backend, device, dtype, shapes):
    xs, weights = many(dtype, shapes=shapes), many(dtype, seed=50, shapes=shapes)
    for given in (None, weights, wide(weights)):
        there = None if given is None else [w.to(device) for w in given]
        found = ops.square_sums([x.to(device) for x in xs], weights=there, eta=0.1, backend=backend)
        assert_same_bits(found, reference.square_sums(xs, weights=given, eta=0.1))


def test_neither_threads_nor_instruction_sets_show(isa, threads):
    xs = many(torch.float32, shapes=[(3, 70_001), (200_003,)])
    truth = reference.square_sums(xs)
    for count in (1, 2, 3):
        threads(count)
        assert_same_bits(ops.square_sums(xs, backend="cpu"), truth)


def test_lists_of_several_dtypes_and_layouts(backend, device):
    xs = [*many(torch.bfloat16), *many(torch.float32, layout="strided"), *many(torch.float16)]
    truth = torch.cat([reference.square_sums([x]) for x in xs])
    assert_same_bits(ops.square_sums([x.to(device) for x in xs], backend=backend), truth)


def test_large_and_tiny_values_neither_overflow_nor_vanish(backend, device):
    xs = [torch.full((100,), 1e30), torch.full((100,), 1e-30)]
    found = ops.square_sums([x.to(device) for x in xs], backend=backend)
    assert torch.allclose(found.cpu(), torch.tensor([1e62, 1e-58], dtype=torch.float64), rtol=1e-6)


def test_no_tensors_at_all(backend):
    assert ops.square_sums([], backend=backend).shape == (0,)


def test_more_than_a_chunk(backend, device):
    x = integers(65536 + 7, low=-3, high=3)
    found = ops.square_sums([x.to(device)], backend=backend)
    assert_same_bits(found, (x.double() ** 2).sum()[None])
