"""The CUDA kernels on the CPU, thread by thread, give the reference's bits: see emulator/cuda_emulator.h.

The emulator knows barriers, shuffles and shared memory, which starts as NaN and is checked for overruns. What
memory costs, and races that only parallel warps have, show on a GPU alone.
"""

from functools import partial

import pytest
import torch
from tensors import (
    EXTREME_KEYS,
    HALVES,
    KEYS,
    OPS,
    SINGLES,
    TRANSFORMS,
    assert_nothing_beside,
    assert_same_bits,
    call,
    expected,
    integers,
    laid_out,
    normal,
    operands,
    poisoned,
    raises,
)

from pydelta import reference
from pydelta.core.masks import DellaMask, MagnitudeThreshold, RandomMask


def check(kernels, op, tensors, *, layout="contiguous", **options):
    """Every element is written, with the reference's bits, and nothing else."""
    truth = expected(op, tensors, **options)
    out = poisoned(*truth.shape, dtype=truth.dtype, layout=layout)
    call(op, [laid_out(x, layout) for x in tensors], of=kernels, out=out, **options)
    assert_same_bits(out, truth)
    assert_nothing_beside(out)


def options_of(op, transform="hadamard", dim=1, block=1, models=3, **options):
    """All options of an op: the kernels know no defaults."""
    if op == "hadamard":
        return {"block": block, "scale": 0.37}
    if op == "rotate":
        return {"block": block, "inverse": False}
    if op == "sign_flip":
        return {"dim": dim}
    if op == "mask_rescale":
        return {}
    if op == "merge_into":
        return {"weights": [0.7, -0.2, 1.0][:models], "elect": "ties", "lam": 0.7, "normalize": True} | {
            "start": 0,
            "out_dtype": options.get("out_dtype", torch.float32),
        }
    options = {"transform": transform, "dim": dim, "out_dtype": torch.float32} | options
    if op == "superpose":
        return options | {"weights": [1.0 if k % 3 == 1 else 0.1 - 0.3 * k for k in range(models)]}
    return options | {"lam": 0.7}


BLOCKS = [
    # block, shape: within a thread, a warp, a thread block; one row, several at once, more than fit
    (1, (3, 5)),
    (2, (1030, 6)),
    (4, (4, 100)),
    (8, (5, 40)),
    (32, (7, 96)),
    (64, (5, 64)),
    (256, (9, 768)),
    (256, (1, 11008)),
    (2048, (3, 2048)),
    (4096, (2, 12288)),
    (8192, (6, 8192)),
    (16384, (2, 16384)),
    (32768, (2, 32768)),
]


@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize(("block", "shape"), BLOCKS)
def test_blocks(kernels, dtype, block, shape):
    x = normal(*shape, dtype=dtype)
    check(kernels, "hadamard", [x], block=block, scale=block**-0.5)
    check(kernels, "rotate", [x], block=block, inverse=False)
    check(kernels, "rotate", [x], block=block, inverse=True)


@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("shape", [(1,), (130,), (3, 5, 7), (6, 8, 40), (2, 2049), (35, 256), (1, 11008)])
def test_signs(kernels, dtype, shape):
    for dim in range(len(shape)):
        check(kernels, "sign_flip", [normal(*shape, dtype=dtype)], dim=dim)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("out_dtype", SINGLES)
def test_sums(kernels, transform, dtype, out_dtype):
    for models, shape, dim in [
        (1, (6, 40), 0),
        (3, (4, 8, 12), 1),
        (8, (5, 96), 1),
        (33, (3, 100), 1),
        (2, (2, 2048), 1),
    ]:
        tensors = [normal(*shape, dtype=dtype, seed=seed) for seed in range(models + 1)]
        options = options_of("superpose", transform, dim, models=models, out_dtype=out_dtype)
        check(kernels, "superpose", tensors, **options)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("superposed_dtype", SINGLES)
def test_retrieval(kernels, transform, dtype, superposed_dtype):
    for shape, dim in [((6, 40), 0), ((4, 8, 12), 1), ((5, 96), 1), ((3, 100), 1), ((2, 2048), 1)]:
        tensors = [normal(*shape, dtype=dtype), normal(*shape, dtype=superposed_dtype, seed=1)]
        for out_dtype in SINGLES:
            options = options_of("retrieve", transform, dim, out_dtype=out_dtype)
            check(kernels, "retrieve", tensors, **options)


@pytest.mark.parametrize("op", ["superpose", "retrieve"])
@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize(("shape", "dim"), [((2, 11008), 1), ((2, 32768), 1), ((16384, 2), 0)])
def test_large_blocks(kernels, op, dtype, shape, dim):
    tensors = operands(op, *shape, dtype=dtype)[:3]
    check(kernels, op, tensors, **options_of(op, dim=dim, models=2, out_dtype=dtype))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("shape", [(3, 4096), (5, 100)])
def test_in_place(kernels, op, dtype, shape):
    for transform in TRANSFORMS if op in ("superpose", "retrieve") else TRANSFORMS[-1:]:
        block = 4096 if shape[-1] == 4096 else 4
        options = options_of(op, transform, block=block, out_dtype=dtype)
        tensors = operands(op, *shape, dtype=dtype)
        truth = expected(op, tensors, **options)
        for i in range(len(tensors)):
            mine = [x.clone() for x in tensors]
            call(op, mine, of=kernels, out=mine[i], **options)
            assert_same_bits(mine.pop(i), truth)
            assert all(map(torch.equal, mine, tensors[:i] + tensors[i + 1 :]))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("shape", [(4, 512), (3, 33)])
def test_unaligned_views(kernels, op, dtype, shape):
    for transform in TRANSFORMS if op in ("superpose", "retrieve") else TRANSFORMS[-1:]:
        block = shape[-1] & -shape[-1]
        options = options_of(op, transform, block=block, out_dtype=dtype)
        check(kernels, op, operands(op, *shape, dtype=dtype), layout="unaligned", **options)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [(1, 1), (0, 4), (3, 0), (0, 0)])
def test_one_element_and_none(kernels, op, shape):
    for dtype in SINGLES:
        check(kernels, op, operands(op, *shape, dtype=dtype), **options_of(op))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", HALVES)
def test_denormals_and_overflow(kernels, op, dtype):
    tiny, huge = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    for factor in (tiny, huge / 8):
        tensors = [(x.double() * factor).to(dtype) for x in operands(op, 4, 64, dtype=dtype)]
        check(kernels, op, tensors, **options_of(op, block=64, out_dtype=dtype))


def test_a_device_with_too_little_shared_memory_is_refused(kernels, monkeypatch):
    monkeypatch.setenv("EMULATED_SHARED_BYTES", str(99 << 10))
    message = "blocks of 32768 need 160 KiB of shared memory, got a device with 99 KiB"
    tensors, out = operands("superpose", 1, 32768), poisoned(1, 32768)
    with raises(RuntimeError, f"[superpose] {message}"):
        call("superpose", tensors, of=kernels, out=out, **options_of("superpose"))
    check(kernels, "rotate", tensors[:1], block=32768, inverse=False)


def some_mask(k, x, base):
    """Masks of one kind after the other."""
    cut = partial(reference.magnitude_threshold, x, base=base, keep=0.6, drop_large=0.1)
    kinds = [
        lambda: RandomMask(0.3, KEYS[k]),
        lambda: DellaMask(0.5, 0.6, KEYS[k]),
        lambda: cut(),
        lambda: None,
        lambda: cut(group="row"),
        lambda: cut(group="row", column_norm=torch.arange(x.shape[-1]) % 5 / 2),
        lambda: RandomMask(1.0, KEYS[k], rescale=1.25),
    ]
    return kinds[k % len(kinds)]()


def some_masks(tuned, base):
    return [some_mask(k, x, base) for k, x in enumerate(tuned)]


def check_merge(kernels, base, tuned, *, layout="contiguous", **options):
    options = {
        "weights": [1.0 if k % 3 == 1 else 0.1 - 0.3 * k for k in range(len(tuned))],
        "masks": some_masks(tuned, base),
        "elect": "sum",
        "lam": 0.7,
        "normalize": False,
        "start": 0,
        "out_dtype": tuned[0].dtype,
    } | options
    truth = reference.merge_into(base, tuned, **options)
    out = poisoned(*truth.shape, dtype=truth.dtype, layout=layout)
    origin = None if base is None else laid_out(base, layout)
    kernels.merge_into(origin, [laid_out(x, layout) for x in tuned], out=out, **options)
    assert_same_bits(out, truth)
    assert_nothing_beside(out)


ELECTIONS = [("sum", False), ("ties", False), ("ties", True), ("ties_unweighted", True)]


@pytest.mark.parametrize(("elect", "normalize"), ELECTIONS)
@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("with_base", [True, False])
def test_merges(kernels, dtype, elect, normalize, with_base):
    for models, shape in [(1, (7,)), (2, (5, 3)), (7, (6, 40)), (7, (3, 1)), (7, (9, 257)), (33, (3, 40))]:
        base = normal(*shape, dtype=dtype) if with_base else None
        tuned = [normal(*shape, dtype=dtype, seed=k + 1) for k in range(models)]
        options = {"elect": elect, "normalize": normalize}
        for out_dtype in SINGLES:
            check_merge(kernels, base, tuned, out_dtype=out_dtype, **options)
        check_merge(kernels, base, tuned, masks=[None] * models, **options)
        check_merge(kernels, base, tuned, layout="unaligned", **options)


@pytest.mark.parametrize("start", [1, 2, 3, 4, 2**40 + 6])
@pytest.mark.parametrize("dtype", SINGLES)
def test_merges_of_parts_count_from_where_they_start(kernels, dtype, start):
    base, *tuned = [integers(4, 33, dtype=dtype, low=-2, high=2, seed=k) for k in range(3)]
    cuts = reference.magnitude_threshold(tuned[1], base=base, keep=0.5, drop_large=0.2)
    there = MagnitudeThreshold(cuts.low, cuts.low_index + start, cuts.high, cuts.high_index + start)
    check_merge(kernels, base, tuned, masks=[RandomMask(0.4, KEYS[0]), there], start=start)


@pytest.mark.parametrize("dtype", SINGLES)
def test_elections_of_equal_values_and_no_values(kernels, dtype):
    """Sums of zero, terms of zero, infinities that cancel, NaN, subnormals, divisors that are too small."""
    base = torch.zeros(4, 66, dtype=dtype)
    tuned = [integers(4, 66, dtype=dtype, low=-1, high=1, seed=k) for k in range(3)]
    tuned[0][0, ::3], tuned[1][0, ::3] = float("inf"), float("-inf")
    tuned[2][1, ::5], tuned[2][2] = float("nan"), torch.finfo(dtype).tiny / 4
    for weights in ([1.0, 1.0, 1.0], [1e-9, 0.0, 1.0], [-1.0, 2.0, 1e-8]):
        for elect, normalize in ELECTIONS:
            for masks in ([None] * 3, some_masks(tuned, base)):
                options = {"elect": elect, "normalize": normalize, "masks": masks}
                check_merge(kernels, base, tuned, weights=weights, **options)


@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("shape", [(1,), (5, 3), (6, 40), (2, 4099)])
def test_masked_deltas(kernels, dtype, shape):
    whole, base = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    for delta, origin in ((whole, None), (whole, base), (values("nan", *shape, dtype=dtype), None)):
        for mask in some_masks([delta] * 7, origin):
            if mask is not None:
                out = poisoned(*shape, dtype=dtype)
                kernels.mask_rescale(delta, mask, base=origin, out=out)
                assert_same_bits(out, reference.mask_rescale(delta, mask, base=origin))


def values(kind, *shape, dtype):
    """Without equal magnitudes, with many, with nothing else, or with NaN and infinities."""
    if kind == "few":
        return integers(*shape, dtype=dtype, low=-3, high=3)
    x = normal(*shape, dtype=dtype) * (kind != "zeros")
    if kind == "nan":
        x.view(-1)[::5] = float("nan")
        x.view(-1)[1::7] = -float("inf")
    return x


@pytest.mark.parametrize("kind", ["normal", "few", "zeros", "nan"])
@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize(
    # Groups for one block each, groups that are cut up, none.
    ("shape", "group"),
    [
        ((), "tensor"),
        ((9, 33), "row"),
        ((300, 17), "tensor"),
        ((1, 33_001), "tensor"),
        ((2, 32_776), "row"),
        ((0, 4), "row"),
        ((3, 0), "row"),
    ],
)
def test_cuts(kernels, shape, group, dtype, kind):
    x, base = values(kind, *shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    norm = torch.arange(shape[-1]) % 5 / 2 if group == "row" else None
    for options in (
        {"keep": 0.3, "drop_large": 0.05, "base": None, "column_norm": None},
        {"keep": 0.999, "drop_large": 0.0, "base": base, "column_norm": norm},
        {"keep": 1.0, "drop_large": 1.0, "base": base, "column_norm": None},
    ):
        truth = reference.magnitude_threshold(x, group=group, **options)
        out = MagnitudeThreshold(
            *(torch.full_like(part, -5) for part in (truth.low, truth.low_index) * 2), group
        )
        kernels.magnitude_threshold(x, group=group, out=out, **options)
        for field in ("low", "low_index", "high", "high_index"):
            assert_same_bits(getattr(out, field), getattr(truth, field))


def test_a_merge_of_nothing_launches_nothing(kernels):
    for shape in ((0, 4), (3, 0), (0,)):
        check_merge(
            kernels, torch.ones(shape), [torch.ones(shape)] * 34, masks=[RandomMask(0.5, KEYS[0])] * 34
        )


@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize("key", EXTREME_KEYS)
@pytest.mark.parametrize(
    ("shape", "start"),
    [
        ((1, 1), (0, 0)),
        ((3, 64), (5, 0)),
        ((2, 65), (0, 3)),
        ((2, 2056), (1, 6)),
        ((0, 4), (0, 0)),
        ((3, 0), (1, 1)),
    ],
)
def test_matrices_of_vera(kernels, dtype, key, shape, start):
    for which in "AB":
        for layout in ("contiguous", "unaligned"):
            out = poisoned(*shape, dtype=dtype, layout=layout)
            options = {"start": start, "dtype": dtype, "device": out.device}
            kernels.vera_matrix(key, which, shape, **options, out=out)
            assert_same_bits(out, reference.vera_matrix(key, which, shape, **options))
            assert_nothing_beside(out)


def test_a_matrix_of_more_rows_than_a_grid(kernels):
    key, shape = KEYS[0], (65_540, 1)
    out = poisoned(*shape)
    kernels.vera_matrix(key, "A", shape, start=(0, 0), dtype=out.dtype, device=out.device, out=out)
    last = reference.vera_matrix(key, "A", (8, 1), start=(65_532, 0))
    assert_same_bits(out[-8:].clone(), last)
    assert not bool(out.isnan().any())
