"""Rows of test_bad_arguments.py: what superposed_linear refuses."""

import torch
from tensors import KEY

import pydelta

X, WEIGHT = torch.ones(2, 96), torch.ones(5, 96)
CODED = pydelta.quantize(WEIGHT, bits=1)
ARGUMENTS = {
    "superposed_linear": {"x": X, "weight": WEIGHT, "superposed": WEIGHT, "keys": [KEY, KEY], "model": [0, 1]}
}
KINDS = "float32, bfloat16, float16 or float64"


def rows():
    """(op, the arguments that are wrong, error, message without its [op])."""
    for op, *rest in (*tensor_rows(), *model_rows()):
        yield op, *rest
    names = "cpu, cuda, reference, triton"
    yield "superposed_linear", {"backend": "fast"}, ValueError, f"backend must be one of {names}, got 'fast'"


def tensor_rows():
    op = "superposed_linear"
    yield op, {"x": [1.0]}, TypeError, "x must be a tensor, got list"
    yield op, {"x": X.int()}, TypeError, f"x must be {KINDS}, got int32"
    yield op, {"x": torch.tensor(1.0)}, ValueError, "x must have at least one dimension, got shape ()"
    wanted = "superposed must have shape (m, 96) on cpu, got "
    yield op, {"superposed": WEIGHT[:, :95]}, ValueError, wanted + "(5, 95) on cpu"
    yield op, {"superposed": WEIGHT[0]}, ValueError, wanted + "(96,) on cpu"
    yield op, {"superposed": pydelta.quantize(WEIGHT.T, bits=1)}, ValueError, wanted + "(96, 5) on cpu"
    yield op, {"superposed": WEIGHT.to("meta")}, ValueError, wanted + "(5, 96) on meta"
    mixed = "superposed must be float64 exactly when base is (float32), got float64"
    yield op, {"superposed": WEIGHT.double()}, ValueError, mixed
    wanted = "weight must be float32 of shape (5, 96) on cpu, got "
    yield op, {"weight": WEIGHT[:4]}, ValueError, wanted + "float32 of shape (4, 96) on cpu"
    yield (
        op,
        {"weight": WEIGHT.half(), "superposed": CODED},
        ValueError,
        wanted + "float16 of shape (5, 96) on cpu",
    )
    yield op, {"weight": [1.0]}, TypeError, "weight must be a tensor, got list"
    wanted = "bias must be float32 of shape (5,) on cpu, got "
    yield op, {"bias": torch.ones(4)}, ValueError, wanted + "float32 of shape (4,) on cpu"


def model_rows():
    op = "superposed_linear"
    yield op, {"keys": [KEY, 42]}, TypeError, "keys[1] must be a pydelta.Key, got int"
    yield op, {"keys": KEY}, TypeError, "keys must be a list or tuple, got Key"
    yield op, {"model": 0}, TypeError, "model must be a list or tuple, got int"
    yield op, {"model": [0, 1.0]}, TypeError, "model must hold integers, got [0, 1.0]"
    kind = "model must hold int64 on cpu, got "
    yield op, {"model": torch.zeros(2)}, TypeError, kind + "float32 on cpu"
    rule = "model must have the shape of x's first dimensions, got "
    for model, shape in (
        ([0], (1,)),
        (torch.tensor(0), ()),
        (torch.zeros(2, 96, dtype=torch.int64), (2, 96)),
    ):
        yield op, {"model": model}, ValueError, rule + f"{shape} for x of shape (2, 96)"
    yield op, {"model": [0, 2]}, ValueError, "model must lie in [0, 1], got 0 to 2"
    yield op, {"lam": [1.0]}, ValueError, "lam must have one entry per model (2), got 1"
    yield op, {"lam": [1.0, float("inf")]}, ValueError, "lam[1] must be finite, got inf"
    yield op, {"lam": "1"}, TypeError, "lam must be a number, got str"
    yield (
        op,
        {"transform": "fourier"},
        ValueError,
        "transform must be one of none, sign, hadamard, got 'fourier'",
    )
