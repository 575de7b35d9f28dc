"""``pydelta.rotate`` beside ``hadamard`` alone and the torch expression."""

import peers
from harness import Bench, Case, grid, some_rows

import pydelta
from pydelta import reference
from pydelta.core.check import default_block

CASES = grid()
KEY = pydelta.key(7, "signs", "bench")


def test_rotate(case: Case, bench: Bench) -> None:
    x = bench.normal("x", case.shape(), case.dtype)
    block = default_block(case.row)
    out = bench.result(x, case.inplace)
    rows = some_rows(x)
    expected = reference.rotate(x[rows], KEY)

    def run() -> object:
        return pydelta.rotate(x, KEY, out=out)

    bench.check(run, out, rows, expected)
    slow = {}
    if case.worth_slow_peers and not case.inplace:
        slow["torch"] = lambda: peers.rotate(x, block)
    rivals = {"hadamard": lambda: pydelta.hadamard(x, out=out)}
    bench.measure(run, case, 2 * x.nbytes, rivals=rivals, slow=slow, op="rotate", block=block)
