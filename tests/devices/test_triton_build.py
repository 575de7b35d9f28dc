"""Every Triton kernel is compiled ahead of time for sm_80 and sm_90, which takes no GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import triton_ahead
from triton_ahead import (
    ARCHITECTURES,
    CASES,
    CODED_CASES,
    LIST_CASES,
    MASKED_CASES,
    PRODUCT_CASES,
    VERA_CASES,
    name_of,
)


@pytest.fixture(scope="module")
def reports() -> dict[int, dict[str, Any]]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("the package triton is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    children = {
        architecture: subprocess.Popen(
            [sys.executable, triton_ahead.__file__, str(architecture)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for architecture in ARCHITECTURES
    }
    outputs = {architecture: child.communicate()[0] for architecture, child in children.items()}
    assert all(child.returncode == 0 for child in children.values())
    return {architecture: json.loads(output) for architecture, output in outputs.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_compiles_without_spills_and_fusion(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    built = reports[architecture][f"{name_of(case)}-walk"]
    assert built["stack"] == 0, built
    assert built["fused"] == built["tensor_cores"] == 0, built
    assert built["wide_loads"] > 0, built


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", MASKED_CASES, ids=name_of)
def test_masked_ops_compile_without_spills_and_fusion(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    found = {name: built for name, built in reports[architecture].items() if name.startswith(name_of(case))}
    names = {name.removeprefix(name_of(case) + "-") for name in found}
    if case[0] != "magnitude_threshold":
        assert names == {"fill_models", "merge"}
    else:
        assert names == ({"select_rows"} if case[1] == "row" else {"count_digits", "count_ties", "find_tie"})
    for name, built in found.items():
        # A scan takes a stack of one byte, rounded up, which nothing uses.
        assert built["stack"] <= (8 if name.endswith("-find_tie") else 0), (name, built)
        assert built["fused"] == built["tensor_cores"] == 0, (name, built)
        assert built["wide_loads"] > 0 or "3x100" in name or name.endswith("-fill_models"), (name, built)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", CODED_CASES, ids=name_of)
def test_low_bit_ops_compile_without_spills_and_fusion(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    found = {name: built for name, built in reports[architecture].items() if name.startswith(name_of(case))}
    names = {name.removeprefix(name_of(case) + "-") for name in found}
    coding = {"scale_groups", "pack_codes"}
    assert names == {"quantize": coding, "superpose_codes": {"fill", "walk", *coding}}.get(case[0], {"walk"})
    for name, built in found.items():
        assert built["stack"] == 0, (name, built)
        assert built["fused"] == built["tensor_cores"] == 0, (name, built)
        reads = not name.endswith(("-fill", "-pack_codes")) and case[0] != "dequantize"
        assert built["wide_loads"] > 0 or not reads, (name, built)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", VERA_CASES, ids=name_of)
def test_vera_compiles_without_spills(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    """The products are on tensor cores; the matrices themselves are exact."""
    found = {name: built for name, built in reports[architecture].items() if name.startswith(name_of(case))}
    names = {name.removeprefix(name_of(case) + "-") for name in found}
    assert names == ({"fill_matrix"} if case[0] == "vera_matrix" else {"into_rank", "onto_outputs"})
    for name, built in found.items():
        assert built["stack"] == 0, (name, built)
        assert (built["tensor_cores"] > 0) == (case[0] == "vera_forward"), (name, built)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", PRODUCT_CASES, ids=name_of)
def test_products_compile_without_spills(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    """Codes are expanded in registers on their way to the tensor cores."""
    built = reports[architecture][f"{name_of(case)}-code_product"]
    assert built["stack"] == 0, built
    assert built["tensor_cores"] > 0, built


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", LIST_CASES, ids=name_of)
def test_lists_compile_without_spills_and_fusion(
    reports: dict[int, dict[str, Any]], case: tuple[Any, ...], architecture: int
) -> None:
    found = {name: built for name, built in reports[architecture].items() if name.startswith(name_of(case))}
    assert len(found) == (2 if case[0] in ("square_sums", "adamr_step_") else 1)
    for name, built in found.items():
        assert built["stack"] == 0, (name, built)
        assert built["fused"] == built["tensor_cores"] == 0, (name, built)
        assert built["wide_loads"] > 0 or case[2] is not torch.float32 or "sum_parts" in name, (name, built)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_of_models_compiles(reports: dict[int, dict[str, Any]], architecture: int) -> None:
    tables = {name: built for name, built in reports[architecture].items() if name.endswith("-fill")}
    assert len(tables) == sum("superpose" in case[0] for case in (*CASES, *CODED_CASES))
    assert all(built["stack"] == 0 for built in tables.values())
