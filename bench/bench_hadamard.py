"""``pydelta.hadamard`` beside torch butterflies, scipy's matrix by matmul, and fht-cpu."""

import peers
from harness import MIB, Bench, Case, grid, some_rows

import pydelta
from pydelta import reference
from pydelta.core.check import default_block

CASES = grid(extra=[(1 << 20, 4 * MIB), (1 << 24, 64 * MIB)])
MATMUL_FLOPS = 2e10  # a product with scipy's matrix that takes more is left out: it bounds the run's time


def test_hadamard(case: Case, bench: Bench) -> None:
    x = bench.normal("x", case.shape(), case.dtype)
    long = case.row > 32768
    block = case.row if long else default_block(case.row)
    out = bench.result(x, case.inplace)
    rows = some_rows(x)
    expected = reference.hadamard(x[rows], block=block)

    def run() -> object:
        return pydelta.hadamard(x, block=block, out=out)

    bench.check(run, out, rows, expected)
    slow = {}
    if case.worth_slow_peers and not case.inplace and not long:
        slow["torch"] = lambda: peers.butterflies(x, block)
        if 2.0 * x.numel() * block <= MATMUL_FLOPS:
            slow["matmul"] = peers.matmul(x, bench.empty("product", x.shape, x.dtype), block)
    apart = bench.normal("apart", x.shape, x.dtype)
    rivals = peers.fast_transforms(apart if case.inplace else x, apart, block, case.threads)
    bench.measure(run, case, 2 * x.nbytes, rivals=rivals, slow=slow, op="hadamard", block=block)
