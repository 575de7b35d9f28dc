"""``pydelta.magnitude_threshold`` beside torch's kthvalue and the time of reading the data once."""

import pytest
import torch
from harness import MIB, Bench, Case, grid

import pydelta
from pydelta import reference

CASES = [case for case in grid(places=[False]) if case.row == 4096 and case.size >= MIB]


@pytest.mark.parametrize("of", ["x", "x - base", "rows of x"])
def test_magnitude_threshold(case: Case, bench: Bench, of: str) -> None:
    inputs = 2 if of == "x - base" else 1
    x = bench.normal("x", case.shape(inputs), case.dtype)
    options = {"keep": 0.2, "drop_large": 0.01}
    if of == "x - base":
        options["base"] = bench.normal("base", x.shape, case.dtype)
    if of == "rows of x":
        options["group"] = "row"
    if x.numel() <= 16 * MIB:
        truth, found = reference.magnitude_threshold(x, **options), pydelta.magnitude_threshold(x, **options)
        assert torch.equal(truth.low, found.low)
        assert torch.equal(truth.low_index, found.low_index)

    # Reading: a sum of words is the fastest pass over the bytes that torch has.
    words = x.view(torch.int32) if case.dtype is torch.bfloat16 else x
    floats = words.view(torch.float32)
    slow = {}
    if case.worth_slow_peers and of == "x":
        count = int(0.2 * x.numel())
        slow["torch"] = lambda: x.float().abs().flatten().kthvalue(x.numel() - count + 1)
    bench.measure(
        lambda: pydelta.magnitude_threshold(x, **options),
        case,
        inputs * x.nbytes,
        rivals={"read once": lambda: [torch.max(floats) for _ in range(inputs)]},
        slow=slow,
        op="magnitude_threshold",
        transform=of,
    )
