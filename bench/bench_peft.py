"""Four 4096 x 4096 deltas merged by ``pydelta.merge_into`` and by PEFT's merge utilities."""

import functools
import importlib.util
from collections.abc import Sequence

import pytest
import torch
from harness import ALL_THREADS, MIB, Bench, Case, Run

import pydelta
from pydelta import RandomMask

MODELS = 4
KEEP = 0.2
WEIGHTS = [0.4, 0.3, 0.2, 0.1]
CASES = [Case(4096, (MODELS + 1) * 64 * MIB, torch.float32, threads) for threads in sorted({1, ALL_THREADS})]


def in_peft(kind: str, tuned: Sequence[torch.Tensor]) -> dict[str, Run]:
    """The function of PEFT that does this, where PEFT is installed."""
    if importlib.util.find_spec("peft") is None:
        return {}
    from peft.utils import merge_utils

    name = {"random": "dare_linear", "magnitude": "magnitude_prune", "ties": "ties"}[kind]
    merge = functools.partial(getattr(merge_utils, name), list(tuned), torch.tensor(WEIGHTS), KEEP)
    return {"peft": merge}


@pytest.mark.parametrize("kind", ["random", "magnitude", "ties"])
def test_beside_peft(case: Case, bench: Bench, kind: str) -> None:
    """Four 4096 x 4096 deltas in, one out, the cuts counted in the call, as PEFT does."""
    shape = case.shape(MODELS + 1)
    deltas = [bench.normal(f"model {i}", shape, case.dtype) for i in range(MODELS)]
    out = bench.result(deltas[0])
    keys = [pydelta.key(7, "mask", f"model {i}") for i in range(MODELS)]
    masks = [RandomMask(KEEP, key) if kind == "random" else pydelta.MagnitudeMask(KEEP) for key in keys]
    elect = "ties" if kind == "ties" else "sum"

    def run() -> object:
        return pydelta.merge_into(None, deltas, weights=WEIGHTS, masks=masks, elect=elect, out=out)

    moved = (MODELS + 1) * out.nbytes
    slow = in_peft(kind, deltas)
    bench.measure(run, case, moved, slow=slow, op="merge_into with counting", transform=kind, models=MODELS)
