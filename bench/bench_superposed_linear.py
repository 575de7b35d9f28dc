"""``pydelta.superposed_linear`` beside the base's linear layer alone: eight models in one batch."""

import pytest
import torch
from harness import MIB, Bench, Case, grid, some_rows
from torch.nn.functional import linear

import pydelta
from pydelta import reference

CASES = [case for case in grid(places=[False]) if case.row in (1024, 4096, 14336) and case.size >= MIB]
KEYS = [pydelta.key(7, "signs", f"model {k}") for k in range(8)]


@pytest.mark.parametrize("rows", [1, 8, 32])
@pytest.mark.parametrize("bits", [0, 1, 4], ids=["float", "1 bit", "4 bits"])
def test_superposed_linear(case: Case, bench: Bench, bits: int, rows: int) -> None:
    weight = bench.normal("weight", case.shape(), case.dtype)
    x = bench.normal("x", (rows, case.row), case.dtype)
    superposed = bench.normal("superposed", weight.shape, case.dtype)
    s = pydelta.quantize(superposed, bits=bits) if bits else superposed
    model = torch.arange(rows) % len(KEYS)
    alone = torch.zeros(rows, dtype=torch.int64)
    found, some = pydelta.superposed_linear(x, weight, s, KEYS, model), some_rows(x)
    options = {"lams": [1.0] * len(KEYS), "transform": "sign", "bias": None}
    truth = reference.superposed_linear(x[some], weight, s, KEYS, model[some], **options)
    tolerance = 2.0**-6 if case.dtype is torch.bfloat16 else 2.0**-16
    error = (found[some].float() - truth.float()).abs().max()
    assert float(error) <= tolerance * float(truth.float().abs().max()), "the result differs"
    bench.measure(
        lambda: pydelta.superposed_linear(x, weight, s, KEYS, model),
        case,
        weight.nbytes + s.nbytes,
        rivals={
            "base alone": lambda: linear(x, weight),
            "one model": lambda: pydelta.superposed_linear(x, weight, s, KEYS, alone),
        },
        op="superposed_linear",
        transform=f"{bits} bits, {rows} rows" if bits else f"float, {rows} rows",
    )
