"""The CPU kernels: the same bits for every thread count and from every instruction set."""

import pytest
import torch
from tensors import FLOATS, ISAS, OPS, TRANSFORMS, assert_same_bits, call, expected, operands, raises

# Widths around one register of each instruction set, the tails of words of signs, and blocks of all sizes.
WIDTHS = [1, 3, 8, 12, 16, 31, 33, 40, 64, 96, 130, 257, 768, 2048, 4100, 8192]


def variants(op):
    return [{"transform": transform} for transform in TRANSFORMS] if op in ("superpose", "retrieve") else [{}]


def test_the_best_instruction_set_is_chosen(extension):
    assert extension.isa() == extension.isas()[0]
    assert extension.isas() == [isa for isa in ISAS if isa in extension.isas()]


def test_an_unknown_instruction_set_is_refused(extension):
    chosen = extension.isa()
    with raises(ValueError, "[set_isa] name must be one of isas(), got 'mmx'"):
        extension.set_isa("mmx")
    assert extension.isa() == chosen


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", OPS)
def test_every_instruction_set_gives_the_same_bits(isa, op, dtype, width):
    tensors = operands(op, 3, width, dtype=dtype)
    for options in variants(op):
        assert_same_bits(call(op, tensors, backend="cpu", **options), expected(op, tensors, **options))


@pytest.mark.parametrize("shape", [(300, 32), (41, 160), (13, 768), (9, 1024), (5, 2048)], ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", OPS)
def test_every_instruction_set_in_tiles_of_short_rows(isa, op, dtype, shape):
    tensors = operands(op, *shape, dtype=dtype)
    for options in variants(op):
        assert_same_bits(call(op, tensors, backend="cpu", **options), expected(op, tensors, **options))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["sign_flip", "superpose", "retrieve"])
def test_every_instruction_set_along_other_dimensions(isa, op, dtype):
    for shape, dim in (((96, 37), 0), ((3, 128, 5), 1), ((2, 64, 130), 1)):
        tensors = operands(op, *shape, dtype=dtype)
        for options in variants(op):
            options["dim"] = dim
            assert_same_bits(call(op, tensors, backend="cpu", **options), expected(op, tensors, **options))


@pytest.mark.parametrize("shape", [(1, 1 << 18), (1000, 300), (3, 65536), (65536, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op", OPS)
def test_thread_counts_give_the_same_bits(extension, threads, op, dtype, shape):
    tensors = operands(op, *shape, dtype=dtype)
    for options in variants(op):
        results = []
        for count in (1, 2, 3):
            threads(count)
            results.append(call(op, tensors, backend="cpu", **options))
        assert_same_bits(results[1], results[0])
        assert_same_bits(results[2], results[0])


@pytest.mark.parametrize("op", ["hadamard", "rotate"])
def test_thread_counts_give_the_same_bits_in_one_large_block(extension, threads, op):
    (x,) = operands(op, 1 << 19)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(call(op, [x], backend="cpu", block=1 << 19))
    assert_same_bits(results[1], results[0])
