"""Rows of test_bad_arguments.py: what the ops of VeRA refuse."""

import torch

import pydelta

KEY = pydelta.key(42, "vera")
R, N, M = 6, 40, 24
X, WEIGHT, D, B = torch.ones(2, N), torch.ones(M, N), torch.ones(R), torch.ones(M)
ARGUMENTS = {
    "vera_matrix": {"key": KEY, "which": "A", "shape": (2, 3)},
    "vera_linear": {"x": X, "weight": WEIGHT, "d": D, "b": B, "key": KEY},
    "vera_merge": {"weight": WEIGHT, "d": D, "b": B, "key": KEY},
}
KINDS = "float32, bfloat16, float16 or float64"
RANK = "d must be (r) with r at least 1, got"


def rows():
    """(op, the arguments that are wrong, error, message without its [op])."""
    yield from of_matrix()
    yield from of_linear()
    yield from of_adapters()
    yield from of_merge()
    for op in ARGUMENTS:
        names = "cpu, cuda, reference, triton"
        yield op, {"backend": "fast"}, ValueError, f"backend must be one of {names}, got 'fast'"
        yield op, {"key": 3}, TypeError, "key must be a pydelta.Key, got int"


def of_matrix():
    op = "vera_matrix"
    yield op, {"which": "C"}, ValueError, "which must be one of A, B, got 'C'"
    yield op, {"shape": (2, 3, 4)}, ValueError, "shape must be two integers, got (2, 3, 4)"
    yield op, {"shape": (2, -1)}, ValueError, "shape must lie in [0, 2**62), got -1"
    yield op, {"shape": 4}, TypeError, "shape must be a list or tuple, got int"
    yield op, {"start": (0, 1.0)}, TypeError, "start must be an int, got float"
    end = f"the rectangle must end at 2**31 at most, got (2, {2**31 + 3})"
    yield op, {"start": (0, 2**31)}, ValueError, end
    yield op, {"dtype": torch.int8}, TypeError, f"dtype must be {KINDS}, got torch.int8"


def of_linear():
    op = "vera_linear"
    yield op, {"x": 3}, TypeError, "x must be a tensor, got int"
    yield op, {"x": X.long()}, TypeError, f"x must be {KINDS}, got int64"
    yield op, {"x": torch.tensor(1.0)}, ValueError, "x must have at least one dimension, got shape ()"
    yield op, {"weight": torch.ones(M, 41)}, ValueError, "weight must be (m, 40), got (24, 41)"
    yield op, {"weight": WEIGHT.half()}, ValueError, "weight must be float32, got float16"
    yield op, {"weight": WEIGHT.to("meta")}, ValueError, "weight must be on x's device cpu, got meta"
    yield op, {"d": torch.ones(0)}, ValueError, f"{RANK} (0,)"
    yield op, {"d": torch.ones(2, R)}, ValueError, f"{RANK} (2, 6)"
    yield op, {"d": D.double()}, ValueError, "d must be float64 exactly when x is (float32), got float64"
    yield op, {"b": torch.ones(25)}, ValueError, "b must be of shape (24,), got (25,)"
    bias = "bias must be float32 of shape (24,) on cpu, got float32 of shape (24, 1) on cpu"
    yield op, {"bias": torch.ones(M, 1)}, ValueError, bias
    alone = "bias must not be given without a weight, got both"
    yield op, {"weight": None, "bias": B}, ValueError, alone
    yield op, {"matrices": "both"}, ValueError, "matrices must be one of cached, regenerated, got 'both'"


def of_adapters():
    op, several = "vera_linear", {"d": torch.ones(3, R), "b": torch.ones(3, M)}
    yield op, {**several, "adapter": [0, 1]}, TypeError, "adapter must be a tensor, got list"
    shape = "adapter must be int64 of shape (2,) on cpu, got int64 of shape (3,) on cpu"
    yield op, {**several, "adapter": torch.tensor([0, 1, 2])}, ValueError, shape
    none = {"d": torch.ones(0, R), "b": torch.ones(0, M), "adapter": torch.tensor([0, 0])}
    yield op, none, ValueError, "d must be (adapters, r), neither 0, got (0, 6)"
    for index, got in (([0, 3], 3), ([-1, 0], -1)):
        given = {**several, "adapter": torch.tensor(index)}
        yield op, given, ValueError, f"adapter must lie in [0, 2], got {got}"


def of_merge():
    op = "vera_merge"
    yield op, {"weight": torch.ones(3)}, ValueError, "weight must be (m, n), got (3,)"
    yield op, {"d": torch.ones(0)}, ValueError, f"{RANK} (0,)"
    yield op, {"b": torch.ones(5)}, ValueError, "b must be of shape (24,), got (5,)"
    mixed = "b must be float64 exactly when weight is (float32), got float64"
    yield op, {"b": B.double()}, ValueError, mixed
    yield op, {"b": "b"}, TypeError, "b must be a tensor, got str"
    yield op, {"d": D.to("meta")}, ValueError, "d must be on weight's device cpu, got meta"
    yield op, {"out": torch.ones(5, 6)}, ValueError, "out must have the input's shape (24, 40), got (5, 6)"
    memory = torch.ones(M + 1, N)
    overlap = "out must be an input itself or share no memory with it, got a partial overlap"
    yield op, {"weight": memory[:M], "out": memory[1:]}, ValueError, overlap
