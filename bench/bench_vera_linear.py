"""``pydelta.vera_linear`` beside PEFT's VeRA layer and the bare linear layer; matrices kept and made anew."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch
from harness import ALL_THREADS, Bench, Case, Run
from torch import nn

import pydelta
from pydelta import vera

INPUTS = 4096
TOKENS = (1, 16, 64, 512, 4096)
ADAPTERS = 64
CASES = [
    Case(INPUTS, INPUTS * outputs * 4, torch.float32, threads)
    for outputs in (4096, 14336)
    for threads in sorted({1, ALL_THREADS})
]
KEY = pydelta.key(42, "vera")


def peft_layer(weight: torch.Tensor, rank: int) -> nn.Module | None:
    """PEFT's VeRA around the same weight, where PEFT is installed."""
    if importlib.util.find_spec("peft") is None:
        return None
    import peft

    base = nn.Linear(*weight.shape[::-1], bias=False, device="meta")
    base.weight = nn.Parameter(weight, requires_grad=False)
    model = peft.get_peft_model(
        nn.ModuleDict({"layer": base}), peft.VeraConfig(r=rank, target_modules=["layer"])
    )
    found: nn.Module = model.base_model.model["layer"]
    return found.to(weight.device)


def adapted(weight: torch.Tensor, rank: int) -> vera.VeraLinear:
    base = nn.Linear(*weight.shape[::-1], bias=False, device="meta")
    base.weight = nn.Parameter(weight, requires_grad=False)
    adapters = vera.attach(nn.ModuleDict({"layer": base}), targets="layer", rank=rank)
    return adapters.layers["layer"]


def runner(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, backward: bool) -> Run:
    """Forward, or forward and backward with the gradient by the input too."""
    if not backward:

        def forward() -> None:
            with torch.no_grad():
                layer(x)

        return forward
    source, grad = x.detach().requires_grad_(), torch.ones_like(layer(x).detach())
    return lambda: torch.autograd.backward(layer(source), grad)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("rank", [256, 1024])
def test_vera_linear(case: Case, bench: Bench, rank: int, tokens: int, backward: bool) -> None:
    weight = bench.normal("weight", case.shape(), case.dtype)
    x = bench.normal("x", (tokens, case.row), case.dtype)
    ours, theirs = adapted(weight, rank), peft_layer(weight, rank)
    d, b = ours.d["default"], ours.b["default"]
    with torch.no_grad():
        b.fill_(0.5)
        few = pydelta.vera_linear(x[:1], weight[:8], d, b[:8], KEY)
        assert torch.allclose(ours(x[:1])[:, :8], few, rtol=1e-4, atol=1e-2)

    def regenerated(x: torch.Tensor) -> torch.Tensor:
        return pydelta.vera_linear(x, weight, d, b, KEY, matrices="regenerated")

    rivals = {"bare layer": runner(ours.base, x, False)}
    rivals["regenerated"] = runner(regenerated, x, backward)
    if theirs is not None:
        rivals["peft"] = runner(theirs, x, backward)
    moved = weight.nbytes + 4 * (rank * (case.row + len(weight)) + tokens * (case.row + len(weight)))
    bench.measure(
        runner(ours, x, backward),
        case,
        moved,
        rivals=rivals,
        op="vera_linear",
        transform=f"r {rank} {'both' if backward else 'forward'} x{tokens}",
        rank=rank,
        tokens=tokens,
    )


@pytest.mark.parametrize("tokens", [64, 512])
@pytest.mark.parametrize("rank", [256, 1024])
def test_mixed_batch(case: Case, bench: Bench, rank: int, tokens: int) -> None:
    """Rows of 64 adapters beside rows of one."""
    weight = bench.normal("weight", case.shape(), case.dtype)
    x, outputs = bench.normal("x", (tokens, case.row), case.dtype), len(weight)
    d, b = (torch.full((ADAPTERS, n), 0.1, device=bench.device) for n in (rank, outputs))
    adapter = torch.arange(tokens, device=bench.device) % ADAPTERS
    bench.measure(
        lambda: pydelta.vera_linear(x, weight, d, b, KEY, adapter=adapter),
        case,
        weight.nbytes + 4 * (rank + tokens) * (case.row + outputs),
        rivals={"one adapter": lambda: pydelta.vera_linear(x, weight, d[0], b[0], KEY)},
        op="vera_linear mixed",
        transform=f"r {rank} x{tokens}",
    )


@pytest.mark.parametrize("rank", [1024])
def test_vera_matrix(case: Case, bench: Bench, rank: int) -> None:
    """Making A beside torch's generator."""
    out = bench.empty("made", (rank, case.row), case.dtype)
    generator = torch.Generator(bench.device).manual_seed(1)
    bench.measure(
        lambda: pydelta.vera_matrix(KEY, "A", (rank, case.row), device=bench.device),
        case,
        out.nbytes,
        rivals={"torch uniform": lambda: torch.empty_like(out).uniform_(-1, 1, generator=generator)},
        op="vera_matrix",
    )
