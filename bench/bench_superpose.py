"""``pydelta.superpose`` with eight models beside the torch expression. bf16 models give a bf16 sum."""

import peers
import pytest
import torch
from harness import Bench, Case, grid, some_rows

import pydelta
from pydelta import reference
from pydelta.core.check import default_block

CASES = grid(places=[False])
MODELS = 8
KEYS = [pydelta.key(7, "signs", f"model {i}") for i in range(MODELS)]


@pytest.mark.parametrize("transform", ["sign", "hadamard"])
def test_superpose(case: Case, bench: Bench, transform: str) -> None:
    shape = case.shape(MODELS + 1)
    base = bench.normal("base", shape, case.dtype)
    tuned = [bench.normal(f"model {i}", shape, case.dtype) for i in range(MODELS)]
    out = bench.result(base)
    rows, block = some_rows(base), default_block(case.row)
    expected = reference.superpose(
        base[rows], [x[rows] for x in tuned], KEYS, transform=transform, out_dtype=case.dtype
    )

    def run() -> object:
        return pydelta.superpose(base, tuned, KEYS, transform=transform, out=out)

    bench.check(run, out, rows, expected)
    slow = {}
    if case.worth_slow_peers:
        slow["torch"] = lambda: peers.superpose(base, tuned, transform, block, case.dtype)
    moved = (MODELS + 2) * base.nbytes
    bench.measure(run, case, moved, slow=slow, op="superpose", transform=transform, models=MODELS)


@pytest.mark.parametrize("transform", ["sign", "hadamard"])
def test_superpose_into_one_bit(case: Case, bench: Bench, transform: str) -> None:
    shape = case.shape(MODELS + 1)
    base = bench.normal("base", shape, case.dtype)
    tuned = [bench.normal(f"model {i}", shape, case.dtype) for i in range(MODELS)]
    out = torch.empty_like(base, dtype=torch.bfloat16)
    found, rows = pydelta.superpose(base, tuned, KEYS, transform=transform, bits=1), some_rows(base)
    summed = reference.superpose(base[rows], [x[rows] for x in tuned], KEYS, transform=transform)
    assert torch.equal(found.codes[rows], reference.quantize(summed, bits=1).codes), "the codes differ"
    bench.measure(
        lambda: pydelta.superpose(base, tuned, KEYS, transform=transform, bits=1),
        case,
        (MODELS + 1) * base.nbytes + found.nbytes,
        rivals={"into bf16": lambda: pydelta.superpose(base, tuned, KEYS, transform=transform, out=out)},
        op="superpose codes",
        transform=transform,
        models=MODELS,
    )
