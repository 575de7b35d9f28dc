"""``pydelta.mask_rescale`` with random masks (DARE) beside the usual torch."""

import torch
from harness import Bench, Case, grid, some_rows

import pydelta

CASES = [case for case in grid() if case.row == 4096]
MASK = pydelta.RandomMask(0.1, pydelta.key(7, "mask", "model"))


def dare(x: torch.Tensor) -> torch.Tensor:
    return x * torch.bernoulli(torch.full_like(x, 0.1)) / 0.1


def test_mask_rescale(case: Case, bench: Bench) -> None:
    x = bench.normal("x", case.shape(), case.dtype)
    before, out = x.clone(), bench.result(x, case.inplace)
    pydelta.mask_rescale(before, MASK, out=out)
    for row in some_rows(x):
        alone = before[row : row + 1]
        expected = pydelta.merge_into(None, [alone], masks=[MASK], start=row * case.row, backend="reference")
        assert torch.equal(out[row : row + 1], expected), "the result differs from the reference's"
    slow = {"torch": lambda: dare(before)} if case.worth_slow_peers else {}
    bench.measure(
        lambda: pydelta.mask_rescale(x, MASK, out=out),
        case,
        2 * x.nbytes,
        slow=slow,
        op="mask_rescale",
        transform="random",
    )
