"""Options, the measuring fixture, and what is printed and written at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import harness
import pytest
import summary
import targets
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import pydelta

RESULTS = pytest.StashKey[list[summary.Result]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pydelta")
    group.addoption("--quick", action="store_true", help="three points of the grid, one thread")
    group.addoption("--device", choices=["cpu", "cuda"], help="default: the GPU where a backend can use one")
    group.addoption("--backend", choices=["cpu", "cuda", "triton"], help="default: the dispatcher's choice")
    group.addoption("--record", metavar="NAME", help="write bench/results/NAME.json, or another path")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = []
    if config.option.device is None:
        config.option.device = "cuda" if harness.gpu_ready() else "cpu"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = metafunc.module.CASES
        if metafunc.config.option.quick:
            cases = [case for case in cases if (case.row, case.size) in harness.QUICK and case.threads == 1]
        device = metafunc.config.option.device
        cases = [
            case for case in cases if case.only in ("", device) and (device == "cpu" or case.threads == 1)
        ]
        metafunc.parametrize("case", cases, ids=str)


@pytest.fixture
def results(request: pytest.FixtureRequest) -> list[summary.Result]:
    return request.config.stash[RESULTS]


@pytest.fixture
def bench(
    benchmark: BenchmarkFixture,
    case: harness.Case,
    request: pytest.FixtureRequest,
    results: list[summary.Result],
) -> Iterator[harness.Bench]:
    torch.set_num_threads(case.threads)
    backend = request.config.option.backend
    with pydelta.use_backend(backend) if backend else nullcontext():
        yield harness.Bench(benchmark, request.config.option.device, budget=0.3)
    torch.set_num_threads(harness.ALL_THREADS)
    if benchmark.extra_info:
        results.append({**benchmark.extra_info, **({"backend": backend} if backend else {})})


def pytest_benchmark_group_stats(**_: Any) -> list[Any]:
    """pytest-benchmark's own table knows neither bytes nor copies: ours takes its place."""
    return []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    results = config.stash[RESULTS]
    if not results:
        return
    terminalreporter.section("benchmarks")
    for line in [*summary.table(results), "", *targets.targets(results)]:
        terminalreporter.write_line(line)
    if config.option.record:
        path = Path(__file__).parent / "results" / f"{config.option.record}.json"
        summary.write(path, results)
        terminalreporter.write_line(f"\nwritten: {path}")
