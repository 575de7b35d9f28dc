"""Several models into one: the reference's bits, elections, order, parts, and masks that mix."""

import itertools
import math

import numpy as np
import pytest
import torch
from tensors import FLOATS, SINGLES, WIDTHS, against_reference, assert_same_bits, integers, normal
from tolerance import assert_accurate, exact

import pydelta
from pydelta import BandMask, DellaMask, MagnitudeMask, RandomMask, WandaMask

ELECTIONS = ["sum", "ties", "ties_unweighted"]
COUNTS = [1, 2, 3, 9, *(pytest.param(count, marks=pytest.mark.large) for count in (4, 5, 8, 33))]
WEIGHTS = [0.5, 1.0, -0.25, 2.0, 0.1]


def models(count, *shape, dtype=torch.float32):
    """A base and ``count`` fine-tunes: large weights, small deltas."""
    base = normal(*shape, dtype=dtype)
    deltas = [normal(*shape, seed=i + 1) * 2.0**-6 for i in range(count)]
    return base, [(base.float() + delta).to(dtype) for delta in deltas]


def mixed(count, n):
    """One mask of each kind, and again."""
    kinds = itertools.cycle(
        [
            lambda key: RandomMask(0.3, key),
            lambda key: None,
            lambda key: MagnitudeMask(0.4),
            lambda key: DellaMask(0.5, 0.4, key),
            lambda key: BandMask(0.5, 0.1, "row"),
            lambda key: WandaMask(0.5, torch.arange(n) % 7 / 3),
            lambda key: RandomMask(0.7, key, rescale=1.25),
        ]
    )
    return [make(pydelta.key(1, "mask", f"{i}", "w")) for i, make in zip(range(count), kinds, strict=False)]


def on(device, masks):
    return [
        WandaMask(mask.keep, mask.column_norm.to(device)) if isinstance(mask, WandaMask) else mask
        for mask in masks
    ]


def check(backend, device, base, tuned, *, masks=None, **options):
    truth = pydelta.merge_into(base, tuned, masks=masks, backend="reference", **options)
    origin = None if base is None else base.to(device)
    if masks is not None:
        options["masks"] = on(device, masks)
    actual = pydelta.merge_into(origin, [x.to(device) for x in tuned], backend=backend, **options)
    assert_same_bits(actual, truth)


@against_reference
@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("elect", ELECTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_widths(backend, device, dtype, elect, n):
    base, tuned = models(3, 2, n, dtype=dtype)
    options = {"weights": WEIGHTS[:3], "elect": elect, "lam": 0.7}
    check(backend, device, base, tuned, **options)
    masks = [RandomMask(0.3, pydelta.key(3, "mask")), None, BandMask(0.6, 0.1)]
    check(backend, device, base, tuned, masks=masks, normalize=True, **options)


@against_reference
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("elect", ELECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_of_mixed_masks(backend, device, dtype, elect, count):
    base, tuned = models(count, 3, 96, dtype=dtype)
    weights = [1 / (i + 3) for i in range(count)]
    options = {"elect": elect, "weights": weights, "masks": mixed(count, 96)}
    for normalize in (False, True):
        check(backend, device, base, tuned, normalize=normalize, **options)


@against_reference
@pytest.mark.parametrize("elect", ELECTIONS)
@pytest.mark.parametrize("dtype", SINGLES)
def test_bits_of_out_dtypes(backend, device, dtype, elect):
    base, tuned = models(3, 3, 130, dtype=dtype)
    for out_dtype in SINGLES:
        check(backend, device, base, tuned, elect=elect, out_dtype=out_dtype, masks=mixed(3, 130))


@against_reference
@pytest.mark.parametrize("elect", ELECTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_without_a_base(backend, device, dtype, elect):
    _, tuned = models(3, 5, 33, dtype=dtype)
    check(backend, device, None, tuned, elect=elect, weights=[0.5, 2.0, 1.0], normalize=True)


@against_reference
@pytest.mark.parametrize("shape", [(), (1,), (130,), (2, 3, 40), (65, 7)], ids=str)
@pytest.mark.parametrize("elect", ELECTIONS)
def test_bits_of_shapes(backend, device, elect, shape):
    base, tuned = models(7, *shape)
    check(backend, device, base, tuned, elect=elect, masks=mixed(7, shape[-1] if shape else 1))


@against_reference
@pytest.mark.large
@pytest.mark.parametrize("elect", ELECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_of_many_tiles(backend, device, dtype, elect):
    base, tuned = models(4, 300, 1025, dtype=dtype)
    check(backend, device, base, tuned, elect=elect, masks=mixed(4, 1025), normalize=True)
    check(backend, device, base, tuned, elect=elect, weights=WEIGHTS[:4])


@against_reference
@pytest.mark.parametrize("start", [1, 2, 3, 4, 33, 1000, 2**32 - 17, 2**40 + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_of_starts(backend, device, dtype, start):
    """Draws and cuts count from ``start``, which need be a multiple of nothing."""
    base, tuned = models(2, 3, 50, dtype=dtype)
    low, high = (torch.tensor([2.0**-k]) for k in (7, 6))
    index = [torch.tensor([start + k]) for k in (20, 70)]
    cuts = pydelta.MagnitudeThreshold(low, index[0], high, index[1])
    masks = [RandomMask(0.4, pydelta.key(5, "mask")), cuts]
    truth = pydelta.merge_into(base, tuned, masks=masks, start=start, backend="reference")
    masks[1] = pydelta.MagnitudeThreshold(*(x.to(device) for x in (low, index[0], high, index[1])))
    tensors = base.to(device), [x.to(device) for x in tuned]
    actual = pydelta.merge_into(*tensors, masks=masks, start=start, backend=backend)
    assert_same_bits(actual, truth)


def test_parts_are_the_whole(backend, device):
    """A tensor merged in parts, cuts made beforehand, has the bits of the tensor merged at once."""
    base, tuned = models(6, 10, 48)
    base, tuned, masks = base.to(device), [x.to(device) for x in tuned], on(device, mixed(6, 48))
    whole = pydelta.merge_into(base, tuned, masks=masks, backend=backend)
    options = {"base": base, "backend": backend}
    cut = {
        2: pydelta.magnitude_threshold(tuned[2], keep=0.4, **options),
        4: pydelta.magnitude_threshold(tuned[4], keep=0.5, drop_large=0.1, group="row", **options),
        5: pydelta.magnitude_threshold(
            tuned[5], keep=0.5, group="row", column_norm=masks[5].column_norm, **options
        ),
    }
    parts = []
    for row in range(0, 10, 4):
        piece = slice(row, row + 4)
        count = len(base[piece])
        ready = [cut[i].rows(row, count) if i in cut else mask for i, mask in enumerate(masks)]
        tensors = base[piece], [x[piece] for x in tuned]
        parts.append(pydelta.merge_into(*tensors, masks=ready, start=48 * row, backend=backend))
    assert_same_bits(torch.cat(parts), whole)


@pytest.mark.parametrize("dtype", SINGLES)
def test_task_arithmetic_is_exact_on_integers(backend, device, dtype):
    base = integers(4, 65, dtype=dtype)
    tuned = [integers(4, 65, dtype=dtype, seed=i + 1) for i in range(3)]
    tensors = base.to(device), [x.to(device) for x in tuned]
    actual = pydelta.merge_into(*tensors, weights=[1, 2, -1], lam=0.5, backend=backend)
    truth = base.double() + 0.5 * sum(
        w * (x.double() - base.double()) for w, x in zip([1, 2, -1], tuned, strict=True)
    )
    assert torch.equal(actual.cpu().double(), truth.to(dtype).double())


def test_the_election_by_hand(backend, device):
    """Five columns: all agree; one against two; a tie of sums elects plus; zeros vote for nobody."""
    base = torch.zeros(1, 5, device=device)
    rows = [[1.0, 4, 2, 0, 0], [2.0, -3, -2, 0, -1], [3.0, -2, 0, 0, 0]]
    tuned = [torch.tensor([row], device=device) for row in rows]
    options = {"elect": "ties", "backend": backend}
    assert pydelta.merge_into(base, tuned, **options).tolist() == [[6, -5, 2, 0, -1]]
    assert pydelta.merge_into(base, tuned, normalize=True, **options).tolist() == [[2, -2.5, 2, 0, -1]]
    weights = [4.0, 1.0, 1.0]
    assert pydelta.merge_into(base, tuned, weights=weights, **options).tolist() == [[9, 16, 8, 0, -1]]
    mean = pydelta.merge_into(base, tuned, weights=weights, normalize=True, **options)
    assert mean.tolist() == [[1.5, 4, 2, 0, -1]]
    options["elect"] = "ties_unweighted"
    assert pydelta.merge_into(base, tuned, weights=weights, **options).tolist() == [[9, -5, 8, 0, -1]]


def test_weights_that_cancel_divide_nothing(backend, device):
    base = torch.zeros(1, 2, device=device)
    tuned = [torch.tensor([[1.0, 1.0]], device=device), torch.tensor([[-3.0, 1.0]], device=device)]
    options = {"weights": [1.0, -1.0], "elect": "ties", "normalize": True, "backend": backend}
    assert pydelta.merge_into(base, tuned, **options).tolist() == [[4.0, 1.0]]


@pytest.mark.parametrize("dtype", SINGLES)
def test_accuracy(backend, device, dtype):
    base, tuned = models(5, 4, 512, dtype=dtype)
    actual = pydelta.merge_into(
        base.to(device), [x.to(device) for x in tuned], weights=WEIGHTS, lam=0.6, backend=backend
    )
    origin = exact(base)
    total = sum(w * (exact(x) - origin) for w, x in zip(WEIGHTS, tuned, strict=True))
    assert_accurate(actual, np.asarray(origin + 0.6 * total), depth=2 + 5 + 2)


def test_the_sum_runs_in_the_models_order(backend, device):
    """2^30 + 1 - 2^30: the one is lost before the large terms cancel, and kept after."""
    base, large, one = (torch.full((3, 8), value, device=device) for value in (0.0, 2.0**30, 1.0))
    lost = pydelta.merge_into(base, [large, one, -large], backend=backend)
    kept = pydelta.merge_into(base, [large, -large, one], backend=backend)
    assert torch.equal(lost, base)
    assert torch.equal(kept, one)


def test_each_step_is_rounded_by_itself(backend, device):
    """A fused multiply-add would keep the low half of the product: (1 + 2^-12)^2 - 1 - 2^-11 = 2^-24."""
    x = torch.full((2, 8), 1 + 2.0**-12, device=device)
    tuned, weights = [torch.full_like(x, -1 - 2.0**-11), x], [1.0, 1 + 2.0**-12]
    total = pydelta.merge_into(torch.zeros_like(x), tuned, weights=weights, backend=backend)
    assert torch.equal(total, torch.zeros_like(x))
    lam = pydelta.merge_into(tuned[0], [tuned[0] + x], lam=1 + 2.0**-12, backend=backend)
    assert torch.equal(lam, torch.zeros_like(x))


def test_dividing_by_the_weights(backend, device):
    base, tuned = models(3, 2, 40)
    tensors = base.to(device), [x.to(device) for x in tuned]
    weights = [0.5, 1.5, 2.0]
    mean = pydelta.merge_into(*tensors, weights=weights, lam=2.0, normalize=True, backend=backend)
    assert_same_bits(mean, pydelta.merge_into(*tensors, weights=weights, lam=0.5, backend=backend))


def test_one_model_without_masks_comes_back(backend, device):
    base, (tuned,) = models(1, 3, 50, dtype=torch.bfloat16)
    assert_same_bits(pydelta.merge_into(base.to(device), [tuned.to(device)], backend=backend), tuned)


def test_masks_do_not_depend_on_the_order_of_models(backend, device):
    """Sums of integers, doubled by the masks' rescaling, are exact in any order."""
    base, tuned = integers(4, 64).to(device), [integers(4, 64, seed=i + 1).to(device) for i in range(3)]
    masks = [RandomMask(0.5, pydelta.key(42, "mask", name, "w")) for name in "abc"]
    results = [
        pydelta.merge_into(base, [tuned[i] for i in order], masks=[masks[i] for i in order], backend=backend)
        for order in itertools.permutations(range(3))
    ]
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_no_gradient_flows(backend, device):
    base, tuned = models(2, 3, 16)
    base = base.to(device).requires_grad_()
    merged = pydelta.merge_into(base, [x.to(device).requires_grad_() for x in tuned], backend=backend)
    assert not merged.requires_grad


@pytest.mark.parametrize("elect", ELECTIONS)
def test_threads_do_not_matter(elect):
    base, tuned = models(3, 500, 1001, dtype=torch.bfloat16)
    masks, before = mixed(3, 1001), torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(pydelta.merge_into(base, tuned, masks=masks, elect=elect))
    torch.set_num_threads(before)
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])
    assert math.isfinite(float(results[0].sum()))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("elect", ELECTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_no_number_is_never_the_bases_value(backend, device, dtype, elect, normalize):
    """NaN in a model or in the base, an infinity alone, infinities that cancel; masked or not."""
    base, tuned = models(3, 3, 70, dtype=dtype)
    nan, infinity = float("nan"), float("inf")
    tuned[0][0, ::9], base[0, 1::9] = nan, nan
    tuned[1][1, ::9], tuned[2][1, 1::9] = infinity, -infinity
    tuned[0][2, ::9], tuned[1][2, ::9] = infinity, -infinity
    key = pydelta.key(1, "mask")
    some = [MagnitudeMask(0.4), BandMask(0.5, 0.1, "row"), RandomMask(0.5, key)]
    for masks in (None, some, [DellaMask(0.5, 0.4, key), None, some[0]]):
        options = {"masks": masks, "elect": elect, "normalize": normalize, "weights": [0.5, 1.0, 2.0]}
        tensors = base.to(device), [x.to(device) for x in tuned]
        actual = pydelta.merge_into(*tensors, backend=backend, **options).cpu()
        assert actual[0, ::9].isnan().all()
        assert actual[0, 1::9].isnan().all()
        assert actual[2, ::9].isnan().all()
        if masks is None:
            assert (actual[1, ::9] == infinity).all()
            assert (actual[1, 1::9] == -infinity).all()
        assert not actual[1, ::9].isfinite().any()
        assert not actual[1, 1::9].isfinite().any()
        odd = ~torch.stack([base, *tuned]).isfinite().all(0)
        assert actual[~odd].isfinite().all()
        assert_same_bits(actual, pydelta.merge_into(base, tuned, backend="reference", **options))
