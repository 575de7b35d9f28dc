"""Rows of test_bad_arguments.py: what quantize and dequantize refuse."""

import torch

import pydelta

X = torch.ones(2, 96)
CODED = pydelta.quantize(X, bits=1)
ARGUMENTS = {"quantize": {"x": X, "bits": 1}, "dequantize": {"q": CODED}}


def rows():
    """(op, the arguments that are wrong, error, message without its [op])."""
    op, kinds = "quantize", "float32, bfloat16, float16 or float64"
    yield op, {"x": [1.0]}, TypeError, "x must be a tensor, got list"
    yield op, {"x": X.int()}, TypeError, f"x must be {kinds}, got int32"
    yield op, {"x": torch.tensor(1.0)}, ValueError, "x must have at least one dimension, got shape ()"
    for bits in (3, True, "1"):
        yield op, {"bits": bits}, ValueError, f"bits must be one of 1, 2, 4, 8, got {bits!r}"
    for group in (36, 0):
        yield op, {"group": group}, ValueError, f"group must divide the row length 96, got {group}"
    yield op, {"group": "column"}, TypeError, "group must be 'row' or an int, got 'column'"
    yield op, {"out": X}, TypeError, "out must be a pydelta.Quantized, got Tensor"
    wanted = (2, "row", (2, 96), torch.float32, torch.device("cpu"))
    rule = f"out must have bits, group, shape, dtype and device {wanted}, got {(1, *wanted[1:])}"
    yield op, {"bits": 2, "out": CODED}, ValueError, rule
    op = "dequantize"
    yield op, {"q": X}, TypeError, "q must be a pydelta.Quantized, got Tensor"
    yield op, {"dtype": torch.int8}, TypeError, "dtype must be a floating dtype of torch, got torch.int8"
    yield op, {"out": X.half(), "dtype": X.dtype}, ValueError, "out must be float32, got float16"
    yield op, {"out": X[:1]}, ValueError, "out must have the input's shape (2, 96), got (1, 96)"
    op = "superpose"
    yield op, {"bits": 3}, ValueError, "bits must be one of 1, 2, 4, 8, got 3"
    yield op, {"bits": 1, "group": 36}, ValueError, "group must divide the row length 96, got 36"
    alone = "out and out_dtype must not be given with bits, got bits=1"
    yield op, {"bits": 1, "out_dtype": torch.float32}, ValueError, alone
    other = "superposed must be the codes of shape (3, 96) on cpu, got (2, 96) on cpu"
    yield "retrieve", {"base": torch.ones(3, 96), "superposed": CODED}, ValueError, other
    for op in ARGUMENTS:
        names = "cpu, cuda, reference, triton"
        yield op, {"backend": "fast"}, ValueError, f"backend must be one of {names}, got 'fast'"
