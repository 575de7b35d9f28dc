"""The CPU kernels of sparsify and merge: every instruction set, every thread count, the same bits."""

import pytest
import torch
from tensors import FLOATS, assert_same_bits, normal

import pydelta
from pydelta import BandMask, DellaMask, MagnitudeMask, RandomMask, WandaMask

KEY = pydelta.key(3, "mask", "a", "w")
MASKS = {
    "none": lambda n: None,
    "random": lambda n: RandomMask(0.3, KEY),
    "tensor": lambda n: BandMask(0.5, 0.1),
    "row": lambda n: MagnitudeMask(0.4, "row"),
    "wanda": lambda n: WandaMask(0.5, torch.arange(n) % 7 / 3),
    "della": lambda n: DellaMask(0.5, 0.8, KEY),
}
# Widths around one register and one word of bits, and more than a tile.
WIDTHS = [1, 7, 16, 31, 33, 64, 100, 130, 2050]


def check(base, tuned, **options):
    truth = pydelta.merge_into(base, tuned, backend="reference", **options)
    assert_same_bits(pydelta.merge_into(base, tuned, backend="cpu", **options), truth)


@pytest.mark.parametrize("n", WIDTHS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", MASKS)
def test_every_instruction_set_merges_to_the_same_bits(isa, name, dtype, n):
    base, *tuned = (normal(3, n, dtype=dtype, seed=seed) for seed in range(4))
    alike, mixed = [MASKS[name](n)] * 3, [MASKS[name](n), None, RandomMask(0.7, KEY, rescale=1.5)]
    for elect in ("sum", "ties", "ties_unweighted"):
        for masks in (alike, mixed):
            check(base, tuned, masks=masks, elect=elect, weights=[1.0, -0.5, 0.3], normalize=True)
    check(None, tuned, masks=mixed, out_dtype=dtype)


@pytest.mark.parametrize("start", [1, 63, 64, 2**34 - 100, 2**34 - 64, 2**40 + 5])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_instruction_set_draws_from_any_start(isa, dtype, start):
    """From 2**34 on the number of a block of random numbers needs more than 32 bits."""
    base, *tuned = (normal(300, dtype=dtype, seed=seed) for seed in range(3))
    check(base, tuned, masks=[RandomMask(0.5, KEY), RandomMask(1.0, KEY, rescale=0.5)], start=start)


@pytest.mark.parametrize("kind", ["normal", "low bits", "two values", "equal"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_instruction_set_ranks_rows(isa, dtype, kind):
    """Codes that differ only far below their highest bits are what a sort by high digits misses."""
    x = normal(2, 3000, dtype=torch.float64)
    if kind == "low bits":
        x = 1 + x * 2.0**-18
        x[:, 7] = 2.0**-100
    if kind == "two values":
        x = x.sign()
    if kind == "equal":
        x = torch.ones_like(x)
    delta = x.to(dtype)
    truth = pydelta.mask_rescale(delta, DellaMask(0.5, 1.0, KEY), backend="reference")
    assert_same_bits(pydelta.mask_rescale(delta, DellaMask(0.5, 1.0, KEY), backend="cpu"), truth)


@pytest.mark.parametrize("rank", [1, 3, 1000, 150_000, 299_999, 300_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_instruction_set_finds_ranks_in_a_large_tensor(isa, dtype, rank):
    x = normal(300_000, dtype=dtype)
    x[::3] = 0.5
    x[1::50] = torch.inf
    options = {"keep": min((rank + 0.5) / 300_000, 1.0), "drop_large": 0.5 / 300_000}
    truth = pydelta.magnitude_threshold(x, backend="reference", **options)
    actual = pydelta.magnitude_threshold(x, backend="cpu", **options)
    for field in ("low", "low_index", "high", "high_index"):
        assert_same_bits(getattr(actual, field), getattr(truth, field))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thread_counts_give_the_same_bits(threads, dtype):
    base, *tuned = (normal(130, 4096, dtype=dtype, seed=seed) for seed in range(3))
    for name in MASKS:
        masks = [MASKS[name](4096), RandomMask(0.5, KEY)]
        results = []
        for count in (1, 2, 3):
            threads(count)
            results.append(pydelta.merge_into(base, tuned, masks=masks, elect="ties", backend="cpu"))
        assert_same_bits(results[1], results[0])
        assert_same_bits(results[2], results[0])
