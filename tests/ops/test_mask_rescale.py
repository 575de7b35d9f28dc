"""Masks on one delta: the reference's bits, and what each method promises."""

import math

import oracles
import pytest
import torch
from tensors import FLOATS, KEYS, SINGLES, WIDTHS, against_reference, assert_same_bits, integers, normal

import pydelta
from pydelta import BandMask, DellaMask, MagnitudeMask, RandomMask, WandaMask, reference

KEY = pydelta.key(42, "mask", "a", "w")


def masks(n):
    return {
        "random": RandomMask(0.3, KEY),
        "random, all": RandomMask(1.0, KEY),
        "random, none": RandomMask(0.0, KEY),
        "random, as it is": RandomMask(0.5, KEY, rescale=False),
        "random, 1/q": RandomMask(0.1, KEY, rescale=4.3),
        "della": DellaMask(0.4, 0.6, KEY),
        "magnitude": MagnitudeMask(0.3),
        "magnitude by row": MagnitudeMask(0.3, "row"),
        "band": BandMask(0.5, 0.1),
        "band by row": BandMask(0.5, 0.1, "row"),
        "wanda": WandaMask(0.3, torch.arange(n) % 5 / 3),
    }


NAMES = list(masks(1))


def truth_of(delta, mask, base=None):
    return pydelta.mask_rescale(delta, mask, base=base, backend="reference")


def on(device, mask):
    if isinstance(mask, WandaMask):
        return WandaMask(mask.keep, mask.column_norm.to(device))
    return mask


@against_reference
@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_widths(backend, device, dtype, name, n):
    delta, base, mask = normal(3, n, dtype=dtype), normal(3, n, dtype=dtype, seed=1), masks(n)[name]
    actual = pydelta.mask_rescale(delta.to(device), on(device, mask), backend=backend)
    assert_same_bits(actual, truth_of(delta, mask))
    options = {"base": base.to(device), "backend": backend}
    actual = pydelta.mask_rescale(delta.to(device), on(device, mask), **options)
    assert_same_bits(actual, truth_of(delta, mask, base))


@against_reference
@pytest.mark.parametrize("shape", [(), (1,), (130,), (2, 3, 40), (65, 7)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_bits_of_shapes(backend, device, name, shape):
    delta, mask = normal(*shape), masks(shape[-1] if shape else 1)[name]
    actual = pydelta.mask_rescale(delta.to(device), on(device, mask), backend=backend)
    assert_same_bits(actual, truth_of(delta, mask))


@against_reference
@pytest.mark.large
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_of_many_tiles(backend, device, dtype, name):
    delta, mask = normal(300, 1025, dtype=dtype), masks(1025)[name]
    actual = pydelta.mask_rescale(delta.to(device), on(device, mask), backend=backend)
    assert_same_bits(actual, truth_of(delta, mask))


@pytest.mark.parametrize("dtype", SINGLES)
def test_random_masks_are_the_contract(backend, device, dtype):
    """Element i stays iff u32(i) < floor(keep 2^32), by an independent Philox; factors are exact here."""
    x = integers(5, 13, dtype=dtype, low=1, high=9)
    actual = pydelta.mask_rescale(x.to(device), RandomMask(0.25, KEY), backend=backend).cpu().flatten()
    for i, value in enumerate(x.flatten().tolist()):
        assert actual[i] == (4 * value if oracles.u32(KEY, i) < 2**30 else 0)


def test_a_mask_belongs_to_its_key_and_index_alone(backend, device):
    ones = torch.ones(6, 50, device=device)
    kept = pydelta.mask_rescale(ones, RandomMask(0.5, KEY), backend=backend)
    flat = pydelta.mask_rescale(ones.view(300)[:170], RandomMask(0.5, KEY), backend=backend)
    assert torch.equal(kept.flatten()[:170], flat)
    other = pydelta.mask_rescale(ones, RandomMask(0.5, KEYS[0]), backend=backend)
    assert not torch.equal(kept, other)


def test_the_moments_of_dare():
    """METHODS' figures for one output S = sum c_j: mean (1-p)/q S, variance p (1-p) Q / q^2, over 4000 seeds.

    The bounds are five standard errors: of a mean sigma / sqrt(N), of a variance sigma^2 sqrt(2 / N) for the
    nearly normal sum of 400 terms.
    """
    c, keep, q, count = normal(400, dtype=torch.float64, seed=3) + 0.2, 0.3, 0.4, 4000
    outputs = torch.stack(
        [
            pydelta.mask_rescale(
                c, RandomMask(keep, pydelta.key(seed, "mask", "m", "t"), rescale=1 / q)
            ).sum()
            for seed in range(count)
        ]
    )
    variance = float((1 - keep) * keep * (c**2).sum()) / q**2
    error = float(outputs.mean()) - keep / q * float(c.sum())
    assert abs(error) < 5 * math.sqrt(variance / count)
    assert abs(float(outputs.var()) - variance) < 5 * variance * math.sqrt(2 / count)


def test_dare_is_unbiased_and_rescale_is_a_factor():
    x = torch.full((200_000,), 2.0)
    kept = {rescale: pydelta.mask_rescale(x, RandomMask(0.1, KEY, rescale)) for rescale in (True, False, 4.0)}
    assert float(kept[True].mean()) == pytest.approx(2, abs=5 * 2 * math.sqrt(9 / 200_000))
    assert torch.equal(kept[False] * 4, kept[4.0])
    assert torch.equal((kept[False] * (1 / 0.1)).float(), kept[True])


def test_della_keeps_large_deltas_more_often():
    """Of 40000 rows of 8, the element of rank r stays with probability keep + (1/2 - r/8) epsilon."""
    rows, mask = 40_000, DellaMask(0.5, 0.8, KEY)
    row = torch.tensor([3.0, -8, 1, 5, -2, 7, 4, -6])
    out = pydelta.mask_rescale(row.expand(rows, 8), mask)
    rank = row.abs().argsort(descending=True).argsort()
    probability = 0.5 + (0.5 - rank.double() / 8) * 0.8
    share = (out != 0).double().mean(0)
    assert torch.all((share - probability).abs() < 5 * (probability * (1 - probability) / rows).sqrt())
    factor = out.double().abs().max(0).values / row.abs()
    assert torch.allclose(factor, 1 / probability, rtol=1e-6)


def test_wanda_ranks_by_input_norms(backend, device):
    delta = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1]], device=device)
    norm = torch.tensor([8.0, 1, 1, 0.5], device=device)
    actual = pydelta.mask_rescale(delta, WandaMask(0.5, norm), backend=backend)
    assert actual.tolist() == [[1, 0, 3, 0], [4, 3, 0, 0]]


def test_the_masks_of_the_reference_need_cuts():
    """The reference reads what kernels read: masks by magnitude as cuts."""
    x = normal(4, 16)
    cuts = reference.magnitude_threshold(x, keep=0.25)
    assert_same_bits(reference.mask_rescale(x, cuts), truth_of(x, MagnitudeMask(0.25)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NAMES)
def test_no_mask_hides_what_is_no_number(backend, device, dtype, name):
    """NaN stays where it is dropped too; an infinity stays where it is kept, and is NaN where it is dropped,
    as in ``delta * mask`` of torch. Its finite neighbours do not change."""
    delta, mask = normal(3, 130, dtype=dtype), masks(130)[name]
    delta[:, ::7], delta[:, 1::9], delta[:, 2::9] = float("nan"), float("inf"), -float("inf")
    actual = pydelta.mask_rescale(delta.to(device), on(device, mask), backend=backend).cpu()
    assert actual[delta.isnan()].isnan().all()
    infinite = actual[delta.isinf()]
    assert (infinite.isnan() | (infinite == delta[delta.isinf()])).all()
    assert actual[delta.isfinite()].isfinite().all()
    assert_same_bits(actual, truth_of(delta, mask))


def test_infinities_by_hand(backend, device):
    delta = torch.tensor([1.0, float("inf"), -2.0, float("nan")], device=device)
    kept = pydelta.mask_rescale(delta, MagnitudeMask(0.75), backend=backend).tolist()
    assert kept[:3] == [0.0, float("inf"), -2.0]
    assert math.isnan(kept[3])
    large = pydelta.mask_rescale(delta, BandMask(0.25, 0.5), backend=backend).tolist()
    assert large[0] == 0.0
    assert large[2] == -2.0
    assert math.isnan(large[1])
    assert math.isnan(large[3])


@against_reference
def test_an_infinity_times_a_norm_of_zero_is_before_no_cut(backend, device):
    """Its magnitude is NaN: no cut keeps it, whatever the others are."""
    delta = normal(2, 64)
    delta[:, 3], delta[0, 5] = float("inf"), float("nan")
    norm = torch.ones(64)
    norm[3] = 0
    for keep, drop_large in ((0.5, 0.0), (1.0, 0.0), (0.5, 1 / 64), (0.5, 2 / 64), (1 / 64, 0.0)):
        options = {"keep": keep, "drop_large": drop_large, "group": "row"}
        cuts = pydelta.magnitude_threshold(
            delta.to(device), column_norm=norm.to(device), backend=backend, **options
        )
        actual = pydelta.mask_rescale(delta.to(device), cuts, backend=backend)
        assert actual[:, 3].isnan().all()
        truth = reference.magnitude_threshold(delta, column_norm=norm, **options)
        assert_same_bits(actual, reference.mask_rescale(delta, truth))
