"""AdamR's step, with its norms, beside torch's AdamW in its fused and its foreach form.

cd bench && pytest bench_adamr_step_.py bench_sam.py --record training      the table in docs/results/speed.md
"""

import torch
from harness import Bench, Case
from tensor_lists import cases, tensors

import pydelta
from pydelta import ops, reference

CASES = cases()
OPTIONS = {"step": 3, "lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8}


def test_adamr_step(case: Case, bench: Bench) -> None:
    """Bytes an element: 4 for the norms, then p, g, m, v, base read and p, m, v written; AdamW 28."""
    names = ("params", "grads", "moments", "base")
    params, grads, moments, bases = (tensors(bench, name, case) for name in names)
    squares = [x.zero_() for x in tensors(bench, "squares", case)]
    pull = torch.tensor(1e-4, dtype=torch.float64, device=params[0].device)
    ours, theirs = ([x[0].clone() for x in (params, moments, squares)] for _ in range(2))
    lists = [[x] for x in ours]
    pydelta.adamr_step_(lists[0], grads[:1], *lists[1:], bases=bases[:1], pull=pull, **OPTIONS)
    lists, sums = [[x] for x in theirs], torch.zeros_like(pull).view(1)
    reference.adamr_step_(
        lists[0], grads[:1], *lists[1:], bases[:1], [], pull, l1=False, sums=sums, **OPTIONS
    )
    assert torch.equal(ours[0], theirs[0]), "the result differs from the reference's"

    def run() -> None:
        ops.square_sums(grads)
        lists = params, grads, moments, squares
        pydelta.adamr_step_(*lists, bases=bases, pull=pull, sums=False, **OPTIONS)

    rivals = {}
    for form in ("fused", "foreach"):
        others = [torch.nn.Parameter(p) for p in params]
        optimizer = torch.optim.AdamW(others, lr=1e-4, **{form: True})
        for p, g, m, v in zip(others, grads, moments, squares, strict=True):
            p.grad = g
            step = torch.tensor(3.0, device=p.device if form == "fused" else "cpu")  # where each wants it
            optimizer.state[p] = {"step": step, "exp_avg": m, "exp_avg_sq": v}
        rivals[f"{form} AdamW"] = optimizer.step
    bench.measure(run, case, 36 * case.size // 4, rivals=rivals, op="adamr_step_")
