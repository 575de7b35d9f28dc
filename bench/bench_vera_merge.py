"""``pydelta.vera_merge`` beside PEFT's merge of the same layer, and the product alone that both must do."""

from __future__ import annotations

import pytest
import torch
from bench_vera_linear import KEY, peft_layer
from harness import ALL_THREADS, MIB, Bench, Case, Run

import pydelta

CASES = [Case(4096, 64 * MIB, torch.float32, threads, inplace=True) for threads in sorted({1, ALL_THREADS})]


@pytest.mark.parametrize("rank", [256, 1024])
def test_vera_merge(case: Case, bench: Bench, rank: int) -> None:
    weight = bench.normal("weight", case.shape(), case.dtype)
    d, b = (torch.full((n,), 1e-6, device=bench.device) for n in (rank, len(weight)))
    some = pydelta.vera_merge(weight[:4], d, b[:4], KEY, backend="reference")
    assert torch.allclose(pydelta.vera_merge(weight, d, b, KEY)[:4], some, rtol=1e-5, atol=1e-6)
    a, shared = (
        bench.normal("a", (rank, 4096), case.dtype),
        bench.normal("b", (len(weight), rank), case.dtype),
    )
    product = bench.empty("product", weight.shape, case.dtype)
    rivals: dict[str, Run] = {"product alone": lambda: torch.mm(shared, a, out=product)}
    if (theirs := peft_layer(weight, rank)) is not None:

        def merge() -> None:
            theirs.merge()
            theirs.merged_adapters.clear()

        rivals["peft"] = merge
    bench.measure(
        lambda: pydelta.vera_merge(weight, d, b, KEY, out=weight),
        case,
        2 * weight.nbytes,
        rivals=rivals,
        op="vera_merge",
        transform=f"r {rank}",
    )
