"""``pydelta.retrieve`` beside the torch expression; base, superposition and result have one dtype."""

import peers
import pytest
from harness import Bench, Case, grid, some_rows

import pydelta
from pydelta import reference
from pydelta.core.check import default_block

CASES = grid()
KEY = pydelta.key(7, "signs", "bench")


@pytest.mark.parametrize("transform", ["sign", "hadamard"])
def test_retrieve(case: Case, bench: Bench, transform: str) -> None:
    base = bench.normal("base", case.shape(2), case.dtype)
    superposed = bench.normal("superposed", base.shape, case.dtype)
    out = bench.result(base, case.inplace)
    rows, block = some_rows(base), default_block(case.row)
    expected = reference.retrieve(base[rows], superposed[rows], KEY, transform=transform)

    def run() -> object:
        return pydelta.retrieve(base, superposed, KEY, transform=transform, out=out)

    bench.check(run, out, rows, expected)
    slow = {}
    if case.worth_slow_peers and not case.inplace:
        slow["torch"] = lambda: peers.retrieve(base, superposed, transform, block)
    bench.measure(run, case, 3 * base.nbytes, slow=slow, op="retrieve", transform=transform)
