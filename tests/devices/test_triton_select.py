"""Triton's selection from groups longer than a program holds, cut into parts that suit its interpreter."""

import importlib

import pytest
import torch
from tensors import SINGLES, assert_same_bits, integers, normal

import pydelta
from pydelta import reference

SHAPES = [((70, 33), "tensor"), ((1, 64), "tensor"), ((3, 200), "row"), ((2, 128), "row")]


@pytest.fixture
def cut_up(monkeypatch):
    module = importlib.import_module("pydelta.triton_kernels.magnitude_threshold")
    for name, value in {"LONGEST": 0, "PART": 128, "BLOCK": 64}.items():
        monkeypatch.setattr(module, name, value)


def values(kind, *shape, dtype):
    if kind == "few":
        return integers(*shape, dtype=dtype, low=-2, high=2)
    x = normal(*shape, dtype=dtype)
    if kind == "nan":
        x.view(-1)[::5] = float("nan")
        x.view(-1)[1] = -float("inf")
    return x


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
@pytest.mark.parametrize("kind", ["normal", "few", "nan"])
@pytest.mark.parametrize("dtype", SINGLES)
@pytest.mark.parametrize(("shape", "group"), SHAPES)
def test_cuts_of_groups_in_parts(backend, device, cut_up, shape, group, dtype, kind):
    x, base = values(kind, *shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    norm = torch.arange(shape[1]) % 5 / 2
    for options in (
        {"keep": 0.3, "drop_large": 0.05},
        {"keep": 1.0, "base": base},
        {"keep": 0.0, "drop_large": 0.5, **({"column_norm": norm} if group == "row" else {})},
    ):
        truth = reference.magnitude_threshold(x, group=group, **options)
        there = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in options.items()}
        actual = pydelta.magnitude_threshold(x.to(device), group=group, backend=backend, **there)
        for field in ("low", "low_index", "high", "high_index"):
            assert_same_bits(getattr(actual, field), getattr(truth, field))
