"""Rows of test_bad_arguments.py: what magnitude_threshold, mask_rescale and merge_into refuse."""

import torch
from tensors import KEY

import pydelta
from pydelta import BandMask, DellaMask, MagnitudeMask, RandomMask, WandaMask

X = torch.ones(2, 96)
META = torch.ones(2, 96, device="meta")
OTHER = torch.ones(3, 96)
KINDS = "float32, bfloat16, float16 or float64"
HALF = RandomMask(0.5, KEY)
ARGUMENTS = {
    "magnitude_threshold": {"x": X, "keep": 0.5},
    "mask_rescale": {"delta": X, "mask": HALF},
    "merge_into": {"base": X, "tuned": [X, X], "masks": [HALF, None]},
    "RandomMask": {"keep": 0.5, "key": KEY},
    "MagnitudeMask": {"keep": 0.5},
    "BandMask": {"keep": 0.5, "drop_large": 0.1},
    "WandaMask": {"keep": 0.5, "column_norm": torch.ones(96)},
    "DellaMask": {"keep": 0.5, "epsilon": 0.1, "key": KEY},
}
OPS = ("magnitude_threshold", "mask_rescale", "merge_into")


def rows():
    """(op, the arguments that are wrong, error, message without its [op])."""
    yield from mask_rows()
    yield from tensor_rows()
    yield from threshold_rows()
    yield from merge_rows()
    yield from fitting_rows()
    for op in OPS:
        names = "cpu, cuda, reference, triton"
        yield op, {"backend": "fast"}, ValueError, f"backend must be one of {names}, got 'fast'"
        yield op, {"backend": 3}, TypeError, "backend must be a str, got int"


def mask_rows():
    names = [name for name in ARGUMENTS if name.endswith("Mask")]
    for op in (*names, "magnitude_threshold"):
        for keep in (-0.1, 1.5):
            yield op, {"keep": keep}, ValueError, f"keep must lie in [0, 1], got {keep}"
        yield op, {"keep": "half"}, TypeError, "keep must be a number, got str"
        yield op, {"keep": float("nan")}, ValueError, "keep must be finite, got nan"
    for op in ("RandomMask", "DellaMask"):
        yield op, {"key": 42}, TypeError, "key must be a pydelta.Key, got int"
    for op in ("BandMask", "magnitude_threshold"):
        yield op, {"drop_large": 2}, ValueError, "drop_large must lie in [0, 1], got 2"
    for op in ("BandMask", "MagnitudeMask"):
        yield op, {"group": "model"}, ValueError, "group must be one of tensor, row, got 'model'"
    yield "RandomMask", {"rescale": "q"}, TypeError, "rescale must be a number, got str"
    yield (
        "WandaMask",
        {"column_norm": X},
        ValueError,
        "column_norm must have one dimension, got shape (2, 96)",
    )
    yield "WandaMask", {"column_norm": X.int()}, TypeError, f"column_norm must be {KINDS}, got int32"
    rule = "epsilon must be at most 0.2 so that every probability lies in [0, 1], got 0.3"
    for keep in (0.1, 0.9):
        yield "DellaMask", {"keep": keep, "epsilon": 0.3}, ValueError, rule
    yield "DellaMask", {"epsilon": -1}, ValueError, "epsilon must lie in [0, 1], got -1"


def tensor_rows():
    for op, name in (("magnitude_threshold", "x"), ("mask_rescale", "delta"), ("merge_into", "base")):
        yield op, {name: X.int()}, TypeError, f"{name} must be {KINDS}, got int32"
        yield op, {name: [1.0]}, TypeError, f"{name} must be a tensor, got list"
        yield op, {name: X.to_sparse()}, TypeError, f"{name} must be dense, got torch.sparse_coo"
    for op, name in (("magnitude_threshold", "x"), ("mask_rescale", "delta")):
        yield op, {"base": X.int()}, TypeError, f"base must be {KINDS}, got int32"
        yield op, {"base": OTHER}, ValueError, f"base must have {name}'s shape (2, 96), got (3, 96)"
        yield op, {"base": META}, ValueError, f"base must be on {name}'s device cpu, got meta"
        yield op, {"base": X.half()}, ValueError, "base must be float32, got float16"
    for op in ("mask_rescale", "merge_into"):
        yield op, {"out": [1.0]}, TypeError, "out must be a tensor, got list"
        yield op, {"out": OTHER}, ValueError, "out must have the input's shape (2, 96), got (3, 96)"
        overlap = "out must be an input itself or share no memory with it, got a partial overlap"
        name, buffer = {"mask_rescale": "delta", "merge_into": "base"}[op], torch.ones(3, 96)
        yield op, {name: buffer[:2], "out": buffer[1:]}, ValueError, overlap
    yield "mask_rescale", {"out": X.half()}, ValueError, "out must be float32, got float16"


def threshold_rows():
    op = "magnitude_threshold"
    yield op, {"group": "head"}, ValueError, "group must be one of tensor, row, model, got 'head'"
    norm = torch.ones(96)
    yield (
        op,
        {"column_norm": norm},
        ValueError,
        "group must be 'row' where column_norm is given, got 'tensor'",
    )
    rows = {"group": "row"}
    wrong = "column_norm must be float32 of shape (96,) on cpu, got float32 of shape (3,) on cpu"
    yield op, {"column_norm": norm[:3], **rows}, ValueError, wrong
    wrong = "column_norm must be float32 of shape (96,) on cpu, got float32 of shape (96,) on meta"
    yield op, {"column_norm": norm.to("meta"), **rows}, ValueError, wrong
    yield op, {"column_norm": norm.int(), **rows}, TypeError, f"column_norm must be {KINDS}, got int32"
    model = {"group": "model"}
    yield op, model, TypeError, "x must be a list or tuple, got Tensor"
    yield op, {"x": [X, None], **model}, TypeError, "x[1] must be a tensor, got NoneType"
    yield op, {"x": [X, X], "base": X, **model}, TypeError, "base must be a list or tuple, got Tensor"
    count = "base must have one tensor for each of x (2), got 1"
    yield op, {"x": [X, X], "base": [X], **model}, ValueError, count
    shape = "base[1] must have x[1]'s shape (3, 96), got (2, 96)"
    yield op, {"x": [X, OTHER], "base": [X, X], **model}, ValueError, shape
    mixed = "x must be all float64 or none, got float32 and float64"
    yield op, {"x": [X, X.double()], **model}, ValueError, mixed


def merge_rows():
    op, first = "merge_into", "tuned[1] must "
    yield op, {"tuned": [], "masks": []}, ValueError, "tuned must hold at least one tensor, got none"
    yield op, {"tuned": [X, OTHER]}, ValueError, first + "have base's shape (2, 96), got (3, 96)"
    yield (
        op,
        {"tuned": [X, OTHER], "base": None},
        ValueError,
        first + "have tuned[0]'s shape (2, 96), got (3, 96)",
    )
    yield op, {"tuned": [X, META]}, ValueError, first + "be on base's device cpu, got meta"
    yield op, {"tuned": [X, X.half()]}, ValueError, first + "be float32, got float16"
    yield op, {"tuned": [X, None]}, TypeError, first + "be a tensor, got NoneType"
    yield op, {"tuned": X}, TypeError, "tuned must be a list or tuple, got Tensor"
    for name, value in (("masks", [HALF]), ("weights", [1.0, 2.0, 3.0])):
        yield op, {name: value}, ValueError, f"{name} must have one entry per model (2), got {len(value)}"
    for name, value in (("masks", HALF), ("weights", 2.0)):
        got = type(value).__name__
        yield op, {name: value}, TypeError, f"{name} must be a list or tuple, got {got}"
    yield op, {"weights": [1.0, "2"]}, TypeError, "weights[1] must be a number, got str"
    zero = "weights must not add up to 0 where normalize is true, got [1.0, -1.0]"
    yield op, {"weights": [1, -1], "normalize": True}, ValueError, zero
    yield op, {"lam": float("inf")}, ValueError, "lam must be finite, got inf"
    yield op, {"normalize": 1}, TypeError, "normalize must be a bool, got int"
    yield op, {"elect": "vote"}, ValueError, "elect must be one of sum, ties, ties_unweighted, got 'vote'"
    yield op, {"start": -1}, ValueError, "start must lie in [0, 2**62), got -1"
    yield op, {"start": 1.0}, TypeError, "start must be an int, got float"
    yield op, {"out": X.half(), "out_dtype": torch.float32}, ValueError, "out must be float32, got float16"
    precision = "out_dtype must be float64 exactly when base is (float32), got float64"
    yield op, {"out_dtype": torch.float64}, ValueError, precision
    yield op, {"out_dtype": int}, TypeError, f"out_dtype must be a floating dtype of torch, got {int!r}"


def fitting_rows():
    """Masks that are none, or do not fit the tensor."""
    kinds = "RandomMask, MagnitudeMask, BandMask, WandaMask, DellaMask, a MagnitudeThreshold or None"
    yield "merge_into", {"masks": [None, 0.5]}, TypeError, f"masks[1] must be {kinds}, got float"
    yield "mask_rescale", {"mask": 0.5}, TypeError, f"mask must be {kinds}, got float"
    yield "mask_rescale", {"mask": None}, TypeError, "mask must be a mask, got NoneType"
    whole = "masks[0] must be a RandomMask, a DellaMask or a MagnitudeThreshold where start is not 0, got "
    for mask in (MagnitudeMask(0.5), BandMask(0.5, 0.1), WandaMask(0.5, torch.ones(96))):
        wrong = {"masks": [mask, None], "start": 96}
        yield "merge_into", wrong, ValueError, f"{whole}{type(mask).__name__}"
    by_rows = "start must be a multiple of 96, for masks[0] goes by rows, got 95"
    cuts = pydelta.magnitude_threshold(X, keep=0.5, group="row")
    for mask in (DellaMask(0.5, 0.1, KEY), cuts):
        yield "merge_into", {"masks": [mask, None], "start": 95}, ValueError, by_rows
    got = "got float32 of shape (2,) on cpu"
    wrong = f"mask.low must be float32 of shape (3,) on cpu, {got}"
    yield "mask_rescale", {"delta": OTHER, "mask": cuts}, ValueError, wrong
    wrong = f"mask.low must be float64 of shape (2,) on cpu, {got}"
    yield "mask_rescale", {"delta": X.double(), "mask": cuts}, ValueError, wrong
    normed = pydelta.magnitude_threshold(X, keep=0.5, group="row", column_norm=torch.ones(96))
    wrong = "mask.column_norm must be float32 of shape (48,) on cpu, got float32 of shape (96,) on cpu"
    yield "mask_rescale", {"delta": X[:, :48], "mask": normed}, ValueError, wrong
    wrong = "mask.column_norm must be float32 of shape (96,) on cpu, got float32 of shape (95,) on cpu"
    short = WandaMask(0.5, torch.ones(95))
    yield "mask_rescale", {"mask": short}, ValueError, wrong
