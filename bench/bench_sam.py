"""``sam_perturb_`` and ``sam_restore_`` beside the code that one finds, and torch's foreach functions.

cd bench && pytest bench_sam.py bench_adamr_step_.py --record training      the table in docs/results/speed.md
"""

import torch
from harness import Bench, Case
from tensor_lists import cases, tensors

import pydelta
from pydelta import reference

CASES = cases()
RHO = 0.05


def test_sam(case: Case, bench: Bench) -> None:
    """There and back: the norm reads 4 bytes an element, the step moves 16, the way back 8."""
    params, grads = tensors(bench, "params", case), tensors(bench, "grads", case)
    backups = tensors(bench, "backups", case)
    before, norm = params[0].clone(), reference.square_sums(grads[:1])
    moved = before.clone()
    pydelta.sam_perturb_([moved], grads[:1], rho=RHO)
    expected = before.clone()
    options = {"adaptive": False, "eta": 0.0, "masters": [], "backups": []}
    reference.sam_perturb_([expected], grads[:1], (RHO / norm.sqrt())[0], **options)
    assert torch.equal(moved, expected), "the result differs from the reference's"

    def run() -> None:
        pydelta.sam_perturb_(params, grads, rho=RHO, backups=backups)
        pydelta.sam_restore_(params, backups)

    def usual() -> None:
        scale = RHO / torch.norm(torch.stack([g.norm(p=2) for g in grads]), p=2)
        old = []
        for p, g in zip(params, grads, strict=True):
            old.append(p.clone())
            p.add_(g * scale)
        for p, kept in zip(params, old, strict=True):
            p.copy_(kept)

    def foreach() -> None:
        scale = RHO / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        torch._foreach_copy_(backups, params)
        torch._foreach_add_(params, torch._foreach_mul(grads, scale))
        torch._foreach_copy_(params, backups)

    bench.measure(
        run, case, 28 * case.size // 4, rivals={"foreach": foreach}, slow={"per tensor": usual}, op="sam"
    )
    assert torch.equal(params[0], before)
