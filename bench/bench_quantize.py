"""``pydelta.quantize`` beside reading the data twice, and ``pydelta.retrieve`` from codes."""

import pytest
import torch
from harness import MIB, Bench, Case, grid, some_rows

import pydelta
from pydelta import reference

CASES = [case for case in grid(places=[False]) if case.row == 4096 and case.size >= MIB]
KEY = pydelta.key(7, "signs", "model")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_quantize(case: Case, bench: Bench, bits: int) -> None:
    x = bench.normal("x", case.shape(), case.dtype)
    found, rows = pydelta.quantize(x, bits=bits), some_rows(x)
    truth = reference.quantize(x[rows], bits=bits)
    assert torch.equal(found.codes[rows], truth.codes), "the result differs from the reference's"
    floats = x.view(torch.float32)
    bench.measure(
        lambda: pydelta.quantize(x, bits=bits),
        case,
        x.nbytes + found.nbytes,
        rivals={"read twice": lambda: (torch.max(floats), torch.max(floats))},
        op="quantize",
        transform=f"{bits} bits",
    )


@pytest.mark.parametrize("bits", [1, 4])
def test_retrieve_from_codes(case: Case, bench: Bench, bits: int) -> None:
    base = bench.normal("base", case.shape(), case.dtype)
    codes = pydelta.quantize(bench.normal("x", base.shape, case.dtype), bits=bits)
    out, rows = bench.result(base), some_rows(base)
    values = reference.dequantize(codes, dtype=torch.float32)[rows]
    expected = reference.retrieve(base[rows], values, KEY, out_dtype=case.dtype)
    bench.check(lambda: pydelta.retrieve(base, codes, KEY, out=out), out, rows, expected)
    bench.measure(
        lambda: pydelta.retrieve(base, codes, KEY, out=out),
        case,
        2 * base.nbytes + codes.nbytes,
        op="retrieve codes",
        transform=f"{bits} bits",
    )
