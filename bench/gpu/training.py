"""Steps of models.py on training: optimizers over 1 B parameters, VeRA; and the cost of a small call."""

from __future__ import annotations

import statistics
import time

import torch
from bench_calls import CALLS
from bench_vera_linear import adapted, peft_layer, runner
from gpu.lab import Lab
from harness import KIB, Run

import pydelta
from pydelta import ops

RANKS, TOKENS = (256, 1024), (1, 16, 64, 512)
REPEATS = 200  # calls in one timing: the clock's own time does not count beside them


def lists(lab: Lab, count: int) -> list[list[torch.Tensor]]:
    """So many lists of fp32 tensors in the model's shapes."""
    shapes = lab.shapes["1B"].matrices().values()
    return [[lab.made(shape, 0.02, torch.float32) for shape in shapes] for _ in range(count)]


def sam(lab: Lab) -> None:
    """There and back: the norm reads 4 bytes an element, the step moves 16, the way back 8."""
    params, grads, backups = lists(lab, 3)

    def run() -> None:
        pydelta.sam_perturb_(params, grads, rho=0.05, backups=backups)
        pydelta.sam_restore_(params, backups)

    def foreach() -> None:
        scale = 0.05 / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        torch._foreach_copy_(backups, params)
        torch._foreach_add_(params, torch._foreach_mul(grads, scale))
        torch._foreach_copy_(params, backups)

    size = sum(x.nbytes for x in params)
    before = params[0].clone()
    seconds = lab.median(run)
    assert torch.equal(params[0], before), "the weights did not come back"
    facts = {"dtype": "fp32", "peers": {"foreach": lab.median(foreach)}}
    lab.file("SAM of a model", seconds, 28 * size // 4, size, **facts)


def adamr(lab: Lab) -> None:
    """Bytes an element: 4 for the norms, then p, g, m, v, base read and p, m, v written; AdamW 28."""
    params, grads, moments, bases, squares = lists(lab, 5)
    torch._foreach_zero_(squares)
    pull = torch.tensor(1e-4, dtype=torch.float64, device=lab.device)

    def run() -> None:
        ops.square_sums(grads)
        pydelta.adamr_step_(params, grads, moments, squares, bases=bases, pull=pull, step=3, lr=1e-4)

    others = [torch.nn.Parameter(p) for p in params]
    optimizer = torch.optim.AdamW(others, lr=1e-4, fused=True)
    for p, g, m, v in zip(others, grads, moments, squares, strict=True):
        p.grad = g
        step = torch.tensor(3.0, device=lab.device)
        optimizer.state[p] = {"step": step, "exp_avg": m, "exp_avg_sq": v}
    size = sum(x.nbytes for x in params)
    seconds = lab.median(run)
    facts = {"dtype": "fp32", "peers": {"fused AdamW": lab.median(optimizer.step)}}
    lab.file("AdamR of a model", seconds, 36 * size // 4, size, **facts)


def vera(lab: Lab) -> None:
    """One projection in bf16, beside PEFT's layer where it is installed, and beside the bare layer."""
    width = lab.shapes["7B"].width
    weight = lab.made((width, width), 0.02)
    for rank in RANKS:
        ours, theirs = adapted(weight, rank), peft_layer(weight, rank)
        for tokens in TOKENS:
            x = lab.made((tokens, width), 1.0)
            for backward in (False, True):
                layers = {"bare layer": runner(ours.base, x, False)}
                if theirs is not None:
                    layers["peft"] = runner(theirs, x, backward)
                peers = {name: lab.median(layer) for name, layer in layers.items()}
                seconds = lab.median(runner(ours, x, backward))
                moved = weight.nbytes + 2 * (2 * rank * width + 2 * tokens * width)
                transform = f"r {rank} {'both' if backward else 'forward'} x{tokens}"
                facts = {"transform": transform, "rank": rank, "tokens": tokens, "backward": backward}
                lab.file("VeRA projection", seconds, moved, weight.nbytes, peers=peers, **facts)


def calls(lab: Lab) -> None:
    """The host's time for a public call on 64 KiB, and how many kernels it starts."""
    for name, (inputs, function) in CALLS.items():
        xs = [lab.made((max(1, 64 * KIB // inputs // 8192), 4096), 1.0) for _ in range(inputs)]
        out = torch.empty_like(xs[0])

        def run(function: object = function, xs: object = xs, out: torch.Tensor = out) -> None:
            function(xs, out)  # type: ignore[operator]

        times = [host_seconds(lab, run) for _ in range(5)]
        facts = {"transform": name, **kernels_of(lab, run)}
        moved = (inputs + 1) * out.nbytes
        lab.file("call of the host", statistics.median(times), moved, inputs * out.nbytes, **facts)


def host_seconds(lab: Lab, run: Run) -> float:
    """One call of many that the device need not have finished."""
    run()
    if lab.device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(REPEATS):
        run()
    return (time.perf_counter() - start) / REPEATS


def kernels_of(lab: Lab, run: Run) -> dict[str, int]:
    """By torch's profiler, copies and fills included; nothing on the CPU."""
    if lab.device == "cpu":
        return {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    ran = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return {"kernels": len(ran)}


STEPS = (sam, adamr, vera, calls)
