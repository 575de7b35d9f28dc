"""The time of one public call on small tensors: 64 KiB of input in all, where checks and dispatch count."""

from collections.abc import Callable

import pytest
import torch
from harness import ALL_THREADS, DTYPES, KIB, Bench, Case

import pydelta

MODELS = 8
KEYS = [pydelta.key(7, "signs", f"model {i}") for i in range(MODELS)]
CASES = [Case(4096, 64 * KIB, dtype, threads) for dtype in DTYPES for threads in sorted({1, ALL_THREADS})]

Call = Callable[[list[torch.Tensor], torch.Tensor], object]
CALLS: dict[str, tuple[int, Call]] = {
    "hadamard": (1, lambda xs, out: pydelta.hadamard(xs[0], out=out)),
    "hadamard, new": (1, lambda xs, out: pydelta.hadamard(xs[0])),
    "sign_flip": (1, lambda xs, out: pydelta.sign_flip(xs[0], KEYS[0], out=out)),
    "rotate": (1, lambda xs, out: pydelta.rotate(xs[0], KEYS[0], out=out)),
    "retrieve": (2, lambda xs, out: pydelta.retrieve(xs[0], xs[1], KEYS[0], out=out)),
    "superpose 1": (2, lambda xs, out: pydelta.superpose(xs[0], xs[1:], KEYS[:1], out=out)),
    "superpose 8": (9, lambda xs, out: pydelta.superpose(xs[0], xs[1:], KEYS, out=out)),
}


@pytest.mark.parametrize("call", CALLS)
def test_call(case: Case, bench: Bench, call: str) -> None:
    inputs, function = CALLS[call]
    xs = [bench.normal(str(i), case.shape(inputs), case.dtype) for i in range(inputs)]
    out = torch.empty_like(xs[0])
    tiny = [x[:1, :16].contiguous() for x in xs]
    nothing = torch.empty_like(tiny[0])
    bench.measure(
        lambda: function(xs, out),
        case,
        (inputs + 1) * xs[0].nbytes,
        rivals={"nearly empty call": lambda: function(tiny, nothing)},
        op="call",
        transform=call,
    )
