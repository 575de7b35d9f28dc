"""``pydelta.vera_linear`` beside PEFT's VeRA layer and the bare linear layer; matrices kept and made anew.

    pytest bench/bench_vera_linear.py bench/bench_vera_merge.py --record vera

takes about five minutes on two idle cores. 512 tokens and more are timed in fp32 with all threads alone, and
those whose round takes longer than two seconds once, after a round that is not counted; the JSON says how
many rounds each had.
"""

from __future__ import annotations

import importlib.util
import math
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
FEW_TOKENS = 64
CASES = [
    Case(INPUTS, INPUTS * outputs * dtype.itemsize, dtype, threads)
    for outputs in (4096, 14336)
    for dtype in (torch.float32, torch.bfloat16)
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


def assert_near(
    found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, d: torch.Tensor, b: torch.Tensor
) -> None:
    """The formula in fp64."""
    a_matrix = pydelta.vera_matrix(KEY, "A", (len(d), x.shape[-1]), dtype=x.dtype, device=x.device).double()
    b_matrix = pydelta.vera_matrix(KEY, "B", (len(b), len(d)), dtype=x.dtype, device=x.device).double()
    inner = d * (x.double() @ a_matrix.mT) * math.sqrt(6 / x.shape[-1])
    truth = x.double() @ weight.double().mT + b * (inner @ b_matrix.mT) * math.sqrt(6 / len(d))
    error = (found.double() - truth).norm() / truth.norm()
    assert error < (1e-5 if x.dtype is torch.float32 else 2e-2), f"the result is wrong by {error:.2g}"


def skip_what_takes_long(case: Case, tokens: int) -> None:
    if tokens > FEW_TOKENS and (case.threads < ALL_THREADS or case.dtype is not torch.float32):
        pytest.skip("many tokens are timed in fp32 with all threads alone")


def bytes_of(case: Case, rank: int, tokens: int, outputs: int, entry: int) -> int:
    """The weight, A and B with entries of so many bytes, and activations, each read or written once."""
    shared, activations = rank * (case.row + outputs), tokens * (case.row + outputs)
    return case.row * outputs * case.dtype.itemsize + shared * entry + activations * case.dtype.itemsize


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("rank", [256, 1024])
def test_vera_linear(case: Case, bench: Bench, rank: int, tokens: int, backward: bool) -> None:
    skip_what_takes_long(case, tokens)
    weight = bench.normal("weight", case.shape(), case.dtype)
    x = bench.normal("x", (tokens, case.row), case.dtype)
    ours, theirs = adapted(weight, rank), peft_layer(weight, rank)
    d, b = ours.d["default"], ours.b["default"]
    with torch.no_grad():
        b.fill_(0.5)
        assert_near(ours(x[:1])[:, :8], x[:1], weight[:8], d, b[:8])

    def regenerated(x: torch.Tensor) -> torch.Tensor:
        return pydelta.vera_linear(x, weight, d, b, KEY, matrices="regenerated")

    rivals = {"bare layer": runner(ours.base, x, False)}
    if tokens == FEW_TOKENS and not backward:
        rivals["regenerated"] = runner(regenerated, x, backward)
    if theirs is not None:
        rivals["peft"] = runner(theirs, x, backward)
    moved = bytes_of(case, rank, tokens, len(weight), case.dtype.itemsize)
    bench.measure(
        runner(ours, x, backward),
        case,
        moved,
        rivals=rivals,
        bound=bytes_of(case, rank, tokens, len(weight), 4) / moved,
        op="vera_linear",
        transform=f"r {rank} {'both' if backward else 'forward'} x{tokens}",
        rank=rank,
        tokens=tokens,
    )


@pytest.mark.parametrize("tokens", [64, 512])
@pytest.mark.parametrize("rank", [256, 1024])
def test_mixed_batch(case: Case, bench: Bench, rank: int, tokens: int) -> None:
    """Rows of 64 adapters beside rows of one."""
    skip_what_takes_long(case, tokens)
    weight = bench.normal("weight", case.shape(), case.dtype)
    x, outputs = bench.normal("x", (tokens, case.row), case.dtype), len(weight)
    d, b = (torch.full((ADAPTERS, n), 0.1, device=bench.device) for n in (rank, outputs))
    adapter = torch.arange(tokens, device=bench.device) % ADAPTERS
    bench.measure(
        lambda: pydelta.vera_linear(x, weight, d, b, KEY, adapter=adapter),
        case,
        bytes_of(case, rank, tokens, outputs, case.dtype.itemsize),
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
        lambda: pydelta.vera_matrix(KEY, "A", (rank, case.row), dtype=case.dtype, device=bench.device),
        case,
        out.nbytes,
        rivals={"torch uniform": lambda: torch.empty_like(out).uniform_(-1, 1, generator=generator)},
        op="vera_matrix",
    )
