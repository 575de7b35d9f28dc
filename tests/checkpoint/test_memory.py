"""Where operands lie and where results go: strides, offsets, in place, ``out=``, nothing beside it."""

import pytest
import torch
from tensors import (
    FLOATS,
    LAYOUTS,
    OPS,
    SINGLES,
    TRANSFORMS,
    against_reference,
    assert_nothing_beside,
    assert_same_bits,
    call,
    expected,
    laid_out,
    operands,
    poisoned,
)

VIEWS = [layout for layout in LAYOUTS if layout != "contiguous"]
EMPTY = [(0,), (0, 8), (8, 0), (3, 0, 5), (0, 0)]


def result_dtype(op, dtype):
    return torch.promote_types(dtype, torch.float32) if op == "superpose" else dtype


@pytest.mark.parametrize("layout", VIEWS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_inputs_of_any_layout(backend, device, dtype, op, layout):
    tensors = operands(op, 5, 96, dtype=dtype)
    views = [laid_out(x, layout, device) for x in tensors]
    actual = call(op, views, backend=backend)
    assert actual.is_contiguous()
    assert_same_bits(actual, expected(op, tensors))
    for view, x in zip(views, tensors, strict=True):
        assert_same_bits(view, x)


@pytest.mark.parametrize("op", OPS)
def test_expanded_inputs(backend, device, op):
    tensors = [x[:1].to(device).expand(5, -1) for x in operands(op, 5, 96)]
    assert_same_bits(call(op, tensors, backend=backend), expected(op, tensors))
    tensors = [x[:, :1].to(device).expand(-1, 96) for x in operands(op, 5, 96)]
    assert_same_bits(call(op, tensors, backend=backend), expected(op, tensors))


# A tile may hold several short rows: one tile, one and a part, many.
SHORT_ROWS = [
    (300, 32),
    (130, 96),
    (41, 160),
    (2, 768),
    (13, 768),
    (9, 1024),
    (5, 2016),
    (5, 2048),
    (3, 4096),
]


@against_reference
@pytest.mark.parametrize("shape", SHORT_ROWS, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_rows_that_share_a_tile(backend, device, op, shape):
    tensors = operands(op, *shape)
    assert_same_bits(call(op, [x.to(device) for x in tensors], backend=backend), expected(op, tensors))


@pytest.mark.parametrize("op", ["superpose", "retrieve"])
def test_operands_of_different_layouts(backend, device, op):
    tensors = operands(op, 6, 64)
    views = [laid_out(x, layout, device) for x, layout in zip(tensors, LAYOUTS, strict=False)]
    assert_same_bits(call(op, views, backend=backend), expected(op, tensors))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_out_of_any_layout(backend, device, dtype, op, layout):
    tensors = operands(op, 5, 96, dtype=dtype)
    out = poisoned(5, 96, dtype=result_dtype(op, dtype), device=device, layout=layout)
    assert call(op, [x.to(device) for x in tensors], out=out, backend=backend) is out
    assert_same_bits(out, expected(op, tensors))
    assert_nothing_beside(out)


@pytest.mark.parametrize("width", [1, 7, 31, 33, 100, 127, 129, 256, 1023, 1025])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", SINGLES)
def test_nothing_is_written_beside_an_unaligned_out(backend, device, dtype, op, width):
    tensors = operands(op, 3, width, dtype=dtype)
    views = [laid_out(x, "unaligned", device) for x in tensors]
    out = poisoned(3, width, dtype=result_dtype(op, dtype), device=device, layout="unaligned")
    call(op, views, out=out, backend=backend)
    assert_same_bits(out, expected(op, tensors))
    assert_nothing_beside(out)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("op", OPS)
def test_in_place(backend, device, op, transform, layout):
    options = {"transform": transform} if op in ("superpose", "retrieve") else {}
    tensors = operands(op, 9, 160)
    truth = expected(op, tensors, **options)
    for place in range(len(tensors)):
        views = [laid_out(x, layout, device) for x in tensors]
        assert call(op, views, out=views[place], backend=backend, **options) is views[place]
        assert_same_bits(views[place], truth)
        for i in set(range(len(tensors))) - {place}:
            assert_same_bits(views[i], tensors[i])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_place_of_other_dtypes(backend, device, dtype, op):
    tensors = operands(op, 3, 256, dtype=dtype)
    options = {"out_dtype": dtype} if op == "superpose" else {}
    views = [x.to(device, copy=True) for x in tensors]
    call(op, views, out=views[0], backend=backend, **options)
    assert_same_bits(views[0], expected(op, tensors, **options))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("op", ["superpose", "retrieve"])
def test_in_place_along_a_dimension(backend, device, op, transform, dim):
    tensors, options = operands(op, 64, 10, 6), {"transform": transform, "dim": dim}
    views = [x.to(device, copy=True) for x in tensors]
    call(op, views, out=views[0], backend=backend, **options)
    assert_same_bits(views[0], expected(op, tensors, **options))


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_empty_tensors(backend, device, dtype, op, shape):
    tensors = [x.to(device) for x in operands(op, *shape, dtype=dtype)]
    actual = call(op, tensors, backend=backend)
    assert actual.shape == shape
    assert actual.dtype == result_dtype(op, dtype)
    out = torch.empty(shape, dtype=actual.dtype, device=device)
    assert call(op, tensors, out=out, backend=backend) is out


@pytest.mark.parametrize("op", OPS)
def test_out_may_lie_between_the_rows_of_an_input(backend, device, op):
    """Halves of one buffer share no memory."""
    tensors = operands(op, 4, 64)
    buffer = torch.full((8, 64), float("nan"), device=device)
    first = buffer[:4].copy_(tensors[0])
    views = [first, *[x.to(device) for x in tensors[1:]]]
    call(op, views, out=buffer[4:], backend=backend)
    assert_same_bits(buffer[4:], expected(op, tensors))
    assert_same_bits(buffer[:4], tensors[0])


@pytest.mark.parametrize("backend", ["cuda", "triton"], indirect=True)
@pytest.mark.parametrize("op", ["sign_flip", "hadamard", "rotate"])
@pytest.mark.large
def test_indices_beyond_32_bits(backend, device, op):
    """2^31 + 3072 elements in place: the last rows are the reference's."""
    x = torch.zeros((2**31 >> 10) + 3, 1024, dtype=torch.bfloat16, device=device)
    (rows,) = operands(op, 4, 1024, dtype=torch.bfloat16)
    x[-4:] = rows.to(device)
    call(op, [x], out=x, backend=backend)
    assert_same_bits(x[-4:], expected(op, [rows]))
