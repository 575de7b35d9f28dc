"""Exact order statistics: the reference's cuts, exact counts, ties by index, a whole model as one."""

import math

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
    integers,
    laid_out,
    normal,
)

import pydelta
from pydelta import BandMask, MagnitudeMask, reference

FIELDS = ("low", "low_index", "high", "high_index")
FRACTIONS = [(0.0, 0.0), (0.1, 0.0), (0.5, 0.01), (0.9, 0.25), (1.0, 0.0), (1.0, 0.1), (0.0, 1.0)]


def assert_same_cuts(actual, truth):
    for field in FIELDS:
        assert_same_bits(getattr(actual, field), getattr(truth, field))


def check(backend, device, x, base=None, **options):
    truth = reference.magnitude_threshold(x, base=base, **options)
    if base is not None:
        options["base"] = base.to(device)
    assert_same_cuts(pydelta.magnitude_threshold(x.to(device), backend=backend, **options), truth)


@against_reference
@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("group", ["tensor", "row"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_cuts_of_widths(backend, device, dtype, group, n):
    x, base = normal(3, n, dtype=dtype), normal(3, n, dtype=dtype, seed=1)
    check(backend, device, x, keep=0.3, drop_large=0.05, group=group)
    check(backend, device, x, base, keep=0.3, drop_large=0.05, group=group)


@against_reference
@pytest.mark.parametrize(("keep", "drop_large"), FRACTIONS)
@pytest.mark.parametrize("group", ["tensor", "row"])
def test_cuts_of_fractions(backend, device, group, keep, drop_large):
    x = normal(5, 160)
    check(backend, device, x, keep=keep, drop_large=drop_large, group=group)


@against_reference
@pytest.mark.large
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["normal", "few values", "zeros", "half zeros", "one large"])
def test_cuts_of_a_large_tensor(backend, device, dtype, kind):
    """Larger than what is sampled or cut in pieces, with ties in every degree."""
    n = 700_001
    x = normal(n, dtype=dtype)
    if kind == "few values":
        x = integers(n, dtype=dtype, low=-3, high=3)
    if kind == "zeros":
        x = torch.zeros(n, dtype=dtype)
    if kind == "half zeros":
        x = x * integers(n, dtype=dtype, low=0, high=1)
    if kind == "one large":
        x = (x * 1e-3).to(dtype)
        x[n // 2] = 100
    for keep, drop_large in ((0.2, 0.0), (0.5, 0.01), (1e-6, 0.0), (0.9, 0.05), (0.999999, 1e-6)):
        check(backend, device, x, keep=keep, drop_large=drop_large)


@against_reference
@pytest.mark.large
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuts_of_an_ordered_tensor(backend, device, dtype):
    """Where every stretch of memory has magnitudes of its own, a sample must not mislead."""
    x = torch.linspace(0, 1, 600_000).to(dtype)
    for values in (x, x.flip(0)):
        check(backend, device, values, keep=0.2, drop_large=0.01)


@against_reference
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_column_norms_weigh_magnitudes(backend, device, dtype):
    x, base, norm = normal(6, 96, dtype=dtype), normal(6, 96, dtype=dtype, seed=1), normal(96).abs()
    truth = reference.magnitude_threshold(x, keep=0.3, group="row", base=base, column_norm=norm)
    options = {"base": base.to(device), "column_norm": norm.to(device), "backend": backend}
    assert_same_cuts(pydelta.magnitude_threshold(x.to(device), keep=0.3, group="row", **options), truth)


@pytest.mark.parametrize("n", [1, 7, 64, 99, 100])
@pytest.mark.parametrize(("keep", "drop_large"), FRACTIONS)
@pytest.mark.parametrize("dtype", SINGLES)
def test_counts_are_exact(backend, device, dtype, n, keep, drop_large):
    """Every element is one of three magnitudes, so nearly all are ties; no number of dropped large ones
    empties the band by an empty slice."""
    x = (integers(2, n, dtype=dtype, low=0, high=2) + 1).to(device)
    top = math.floor(drop_large * n)
    expected = min(math.floor(keep * n), n - top)
    kept = pydelta.mask_rescale(x, BandMask(keep, drop_large, "row"), backend=backend) != 0
    assert kept.sum(1).tolist() == [expected] * 2
    for row, stays in zip(x.cpu(), kept.cpu(), strict=True):
        order = sorted(range(n), key=lambda i: (-float(row[i]), i))
        assert stays.nonzero()[:, 0].tolist() == sorted(order[top : top + expected])


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-4, 4), min_size=1, max_size=60),
    keep=st.floats(0, 1),
    drop_large=st.floats(0, 1),
)
def test_any_band_keeps_what_a_sort_keeps(values, keep, drop_large):
    x = torch.tensor(values, dtype=torch.float32)
    order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
    top = math.floor(drop_large * len(values))
    stays = order[top : top + math.floor(keep * len(values))]
    truth = [float(v) if i in stays else 0.0 for i, v in enumerate(values)]
    for backend in ("reference", "cpu"):
        if pydelta.backends()[backend]:
            assert pydelta.mask_rescale(x, BandMask(keep, drop_large), backend=backend).tolist() == truth


@pytest.mark.parametrize("layout", ["transposed", "strided", "unaligned"])
def test_indices_are_logical(backend, device, layout):
    """Ties are broken by the index of the contiguous tensor, whatever the strides."""
    x = integers(8, 33, low=0, high=2)
    truth = reference.magnitude_threshold(x, keep=0.4)
    assert_same_cuts(
        pydelta.magnitude_threshold(laid_out(x, layout, device), keep=0.4, backend=backend), truth
    )


@pytest.mark.parametrize("shape", [(), (0,), (0, 8), (8, 0), (3, 0, 5)], ids=str)
@pytest.mark.parametrize("group", ["tensor", "row"])
def test_scalars_and_empty_tensors(backend, device, group, shape):
    x = torch.ones(shape, device=device)
    found = pydelta.magnitude_threshold(x, keep=0.5, group=group, backend=backend)
    groups = math.prod(shape[:-1]) if group == "row" else 1
    for field in FIELDS:
        assert getattr(found, field).shape == (groups,)
    assert pydelta.mask_rescale(x, found, backend=backend).count_nonzero() == 0
    whole = pydelta.mask_rescale(x, MagnitudeMask(1.0, group), backend=backend)
    assert torch.equal(whole, x)


def model(dtype):
    shapes = [(4, 40), (7,), (0, 3), (), (129,)]
    tensors = [integers(*shape, dtype=dtype, seed=i) for i, shape in enumerate(shapes)]
    return tensors, [integers(*shape, dtype=dtype, seed=9 + i) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("keep", "drop_large"), FRACTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_model_is_one_long_tensor(backend, device, dtype, keep, drop_large):
    tuned, base = ([x.to(device) for x in tensors] for tensors in model(dtype))
    cuts = pydelta.magnitude_threshold(
        tuned, keep=keep, drop_large=drop_large, group="model", base=base, backend=backend
    )
    parts = [
        pydelta.mask_rescale(x, c, base=b, backend=backend).flatten()
        for x, b, c in zip(tuned, base, cuts, strict=True)
    ]
    whole, origin = (torch.cat([x.flatten() for x in tensors]) for tensors in (tuned, base))
    truth = pydelta.mask_rescale(whole, BandMask(keep, drop_large), base=origin, backend=backend)
    assert_same_bits(torch.cat(parts), truth)


def test_a_model_larger_than_a_part():
    """Counted part by part: the last tie lies in a later part of a later tensor."""
    tensors = [torch.ones(5), torch.ones((1 << 20) + 9), torch.ones(3)]
    count = sum(x.numel() for x in tensors)
    cuts = pydelta.magnitude_threshold(tensors, keep=(5 + (1 << 20) + 2.5) / count, group="model")
    kept = [int(pydelta.mask_rescale(x, c).sum()) for x, c in zip(tensors, cuts, strict=True)]
    assert kept == [5, (1 << 20) + 2, 0]


def test_an_empty_model():
    assert pydelta.magnitude_threshold([], keep=0.5, group="model") == []


def test_rows_of_cuts_serve_parts_of_a_tensor(backend, device):
    x = normal(9, 64).to(device)
    for group in ("tensor", "row"):
        cuts = pydelta.magnitude_threshold(x, keep=0.3, drop_large=0.1, group=group, backend=backend)
        whole = pydelta.merge_into(None, [x], masks=[cuts], backend=backend)
        parts = [
            pydelta.merge_into(
                None, [x[i : i + 2]], masks=[cuts.rows(i, len(x[i : i + 2]))], start=64 * i, backend=backend
            )
            for i in range(0, 9, 2)
        ]
        assert_same_bits(torch.cat(parts), whole)


def test_opcheck_and_compilation(backend, device):
    x, base = (normal(3, 48, seed=seed).to(device) for seed in range(2))
    operator = torch.ops.pydelta.magnitude_threshold.default
    for group, norm in (("tensor", None), ("row", None), ("row", torch.ones(48, device=device))):
        torch.library.opcheck(operator, (x, base, norm, 0.5, 0.1, group, backend))

    def masked(x):
        return pydelta.mask_rescale(2 * x, MagnitudeMask(0.3), base=base, backend=backend) + 1

    torch._dynamo.reset()
    compiled = torch.compile(masked, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(x), masked(x))


@against_reference
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("group", ["tensor", "row"])
def test_what_is_no_number_is_never_hidden(backend, device, dtype, group):
    """NaN ranks first and takes a place of the count, yet it stays whether it is kept or dropped."""
    x = normal(3, 40, dtype=dtype)
    x[0, 1], x[1, 2], x[2, 3] = float("nan"), float("inf"), -float("nan")
    for keep, drop_large in ((1.0, 0.0), (0.5, 0.0), (0.5, 0.3), (0.001, 0.0), (0.5, 0.001), (0.9, 0.026)):
        check(backend, device, x, keep=keep, drop_large=drop_large, group=group)
        mask = BandMask(keep, drop_large, group)
        actual = pydelta.mask_rescale(x.to(device), mask, backend=backend)
        assert bool(actual[0, 1].isnan())
        assert bool(actual[2, 3].isnan())
        assert_same_bits(actual, pydelta.mask_rescale(x, mask, backend="reference"))
