"""The committed report of what kernels take: complete, and what docs/gpu.md shows of it."""

import importlib.util
import json

import cuda_ahead
import pytest
from paths import ROOT
from triton_ahead import ALL_CASES, ARCHITECTURES, KERNELS


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "kernel_report", ROOT / "bench" / "gpu" / "kernel_report.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def committed(script):
    return json.loads(script.RESULT.read_text())


def test_every_op_and_kernel_is_in_the_report(committed):
    for architecture in ARCHITECTURES:
        cuda, triton = (committed[language][f"sm_{architecture}"] for language in ("cuda", "triton"))
        ops = {*cuda_ahead.WALKS, *cuda_ahead.OTHERS, *cuda_ahead.LISTS}
        assert {kernel["op"] for kernel in cuda} == ops
        assert {kernel["op"] for kernel in triton} == {case[0] for case in ALL_CASES}
        assert {kernel["kernel"] for kernel in triton} == {name for _, name in KERNELS}
        assert sum(kernel["spilled"] for kernel in cuda) == 0


def test_the_page_shows_the_report(script, committed):
    page = script.PAGE.read_text()
    assert script.with_table(page, committed) == page
    assert script.text(committed) == script.RESULT.read_text()


def test_sources_of_all_kernels_are_compiled():
    """Those that others run have no kernel of their own."""
    have = {path.stem for path in cuda_ahead.SOURCES.glob("*.cu") if "__global__" in path.read_text()}
    assert have <= {*cuda_ahead.WALKS, *cuda_ahead.OTHERS, *cuda_ahead.LISTS}


@pytest.mark.parametrize(
    ("registers", "threads", "warps"),
    [
        (32, 256, 64),
        (40, 256, 48),
        (64, 256, 32),
        (65, 256, 24),
        (128, 512, 16),
        (255, 256, 8),
        (128, 64, 16),
    ],
)
def test_resident_warps(script, registers, threads, warps):
    """As CUDA's occupancy calculator has them for sm_80."""
    assert script.resident_warps(registers, threads) == warps


def test_names_of_kernels_can_be_read(script):
    name = "void pydelta::(anonymous namespace)::merge<pydelta::bf16, (bool)1, (int)4>(pydelta::Merge<float>)"
    assert script.plain(name) == "merge<bf16, 1, 4>"
    assert script.plain("pydelta::sum_parts(double const*, double*)") == "sum_parts"
