"""``pydelta.merge_into`` with four models beside torch, cuts made beforehand."""

import pytest
import torch
from harness import Bench, Case, grid, some_rows

import pydelta
from pydelta import MagnitudeThreshold, RandomMask
from pydelta.masks import Mask

CASES = [case for case in grid(places=[False]) if case.row in (4096, 11008)]
MODELS = 4
KEEP = 0.2
WEIGHTS = [0.4, 0.3, 0.2, 0.1]
MASKS = ("none", "random", "magnitude", "della", "ties")


def masks_of(kind: str, base: torch.Tensor, tuned: list[torch.Tensor]) -> list[Mask | None]:
    keys = [pydelta.key(7, "mask", f"model {i}") for i in range(MODELS)]
    if kind == "random":
        return [RandomMask(KEEP, key) for key in keys]
    if kind == "della":
        return [pydelta.DellaMask(0.5, 0.4, key) for key in keys]
    if kind in ("magnitude", "ties"):
        return [pydelta.magnitude_threshold(x, keep=KEEP, base=base) for x in tuned]
    return [None] * MODELS


def of_rows(masks: list[Mask | None], row: int, n: int) -> list[Mask | None]:
    return [mask.rows(row, 1) if isinstance(mask, MagnitudeThreshold) else mask for mask in masks]


def in_torch(kind: str, base: torch.Tensor, tuned: list[torch.Tensor]) -> torch.Tensor:
    """As it is usually written: one model after the other."""
    total = torch.zeros_like(base, dtype=torch.float32)
    for theta, weight in zip(tuned, WEIGHTS, strict=True):
        delta = theta.float() - base.float()
        if kind == "random":
            delta = delta * torch.bernoulli(torch.full_like(delta, KEEP)) / KEEP
        elif kind != "none":
            count = int(KEEP * delta.numel())
            least = delta.abs().flatten().kthvalue(delta.numel() - count + 1).values
            delta = delta * (delta.abs() >= least)
        total += weight * delta
    return (base.float() + total).to(base.dtype)


@pytest.mark.parametrize("kind", MASKS)
def test_merge_into(case: Case, bench: Bench, kind: str) -> None:
    shape = case.shape(MODELS + 1)
    base = bench.normal("base", shape, case.dtype)
    tuned = [bench.normal(f"model {i}", shape, case.dtype) for i in range(MODELS)]
    out, masks = bench.result(base), masks_of(kind, base, tuned)
    options = {"weights": WEIGHTS, "elect": "ties" if kind == "ties" else "sum"}

    def run() -> object:
        return pydelta.merge_into(base, tuned, masks=masks, out=out, **options)

    run()
    for row in some_rows(base):
        part = base[row : row + 1], [x[row : row + 1] for x in tuned]
        expected = pydelta.merge_into(
            *part, masks=of_rows(masks, row, case.row), start=row * case.row, backend="reference", **options
        )
        assert torch.equal(out[row : row + 1], expected), "the result differs from the reference's"
    slow = {}
    if case.worth_slow_peers and kind in ("none", "random", "magnitude"):
        slow["torch"] = lambda: in_torch(kind, base, tuned)
    moved = (MODELS + 2) * base.nbytes
    bench.measure(run, case, moved, slow=slow, op="merge_into", transform=kind, models=MODELS)
