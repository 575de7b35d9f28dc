"""``pydelta.sign_flip`` beside the torch expression."""

import peers
from harness import Bench, Case, grid, some_rows

import pydelta
from pydelta import reference

CASES = grid()
KEY = pydelta.key(7, "signs", "bench")


def test_sign_flip(case: Case, bench: Bench) -> None:
    x = bench.normal("x", case.shape(), case.dtype)
    out = bench.result(x, case.inplace)
    rows = some_rows(x)
    expected = reference.sign_flip(x[rows], KEY)

    def run() -> object:
        return pydelta.sign_flip(x, KEY, out=out)

    bench.check(run, out, rows, expected)
    slow = {"torch": lambda: peers.sign_flip(x)} if case.worth_slow_peers and not case.inplace else {}
    bench.measure(run, case, 2 * x.nbytes, slow=slow, op="sign_flip")
