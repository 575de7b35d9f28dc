"""Every error of the ops has a row here: its type, its whole message, and nothing written to ``out``."""

import ast
from pathlib import Path

import bad_lists
import bad_merges
import bad_products
import bad_quantize
import bad_vera
import pytest
import torch
from tensors import KEY, TRANSFORMING, poisoned

import pydelta
from pydelta import ops
from pydelta.core import check, masks

X = torch.ones(2, 96)
META = torch.ones(2, 96, device="meta")
OTHER = torch.ones(3, 96)
NAN, INF = float("nan"), float("inf")
KINDS = "float32, bfloat16, float16 or float64"
ARGUMENTS = {
    "hadamard": {"x": X},
    "sign_flip": {"x": X, "key": KEY},
    "rotate": {"x": X, "key": KEY},
    "superpose": {"base": X, "tuned": [X, X], "keys": [KEY, KEY]},
    "retrieve": {"base": X, "superposed": X, "key": KEY},
    **bad_lists.ARGUMENTS,
    **bad_merges.ARGUMENTS,
    **bad_products.ARGUMENTS,
    **bad_quantize.ARGUMENTS,
    **bad_vera.ARGUMENTS,
}


def rows():
    """(op, the arguments that are wrong, error, message without its [op])."""
    yield from tensor_rows()
    yield from out_rows()
    yield from number_rows()
    yield from key_rows()
    yield from superpose_rows()
    yield from retrieve_rows()
    yield from bad_lists.rows()
    yield from bad_merges.rows()
    yield from bad_products.rows()
    yield from bad_quantize.rows()
    yield from bad_vera.rows()
    for op in TRANSFORMING:
        names = "cpu, cuda, reference, triton"
        yield op, {"backend": "fast"}, ValueError, f"backend must be one of {names}, got 'fast'"
        yield op, {"backend": 3}, TypeError, "backend must be a str, got int"


def tensor_rows():
    for op in TRANSFORMING:
        name = next(iter(ARGUMENTS[op]))
        for value, got in ((X.int(), "int32"), (X.bool(), "bool"), (X.to(torch.complex64), "complex64")):
            yield op, {name: value}, TypeError, f"{name} must be {KINDS}, got {got}"
        yield op, {name: [1.0]}, TypeError, f"{name} must be a tensor, got list"
        yield op, {name: X.to_sparse()}, TypeError, f"{name} must be dense, got torch.sparse_coo"
        scalar = torch.tensor(1.0)
        others = {"superpose": {"tuned": [scalar, scalar]}, "retrieve": {"superposed": scalar}}.get(op, {})
        message = f"{name} must have at least one dimension, got shape ()"
        yield op, {name: scalar, **others}, ValueError, message


def out_rows():
    for op in TRANSFORMING:
        yield op, {"out": [1.0]}, TypeError, "out must be a tensor, got list"
        shape = "out must have the input's shape (2, 96), got (3, 96)"
        yield op, {"out": OTHER}, ValueError, shape
        yield op, {"out": META}, ValueError, "out must be on the input's device cpu, got meta"
        overlap = "out must be an input itself or share no memory with it, got a partial overlap"
        buffer = torch.ones(3, 96)
        name = next(iter(ARGUMENTS[op]))
        yield op, {name: buffer[:2], "out": buffer[1:]}, ValueError, overlap
        yield op, {name: buffer[:2], "out": buffer.as_strided((2, 96), (1, 2))}, ValueError, overlap
        own = "out must have a place of its own for every element, got strides "
        yield op, {"out": torch.ones(1, 96).expand(2, 96)}, ValueError, own + "(0, 1)"
        yield op, {"out": torch.ones(192).as_strided((2, 96), (95, 1))}, ValueError, own + "(95, 1)"
        wide = torch.ones(2, 192)
        yield op, {name: wide[:, ::2], "out": wide[:, 1::2]}, ValueError, overlap
    for op in ("hadamard", "sign_flip", "rotate"):
        yield op, {"out": X.double()}, ValueError, "out must be float32, got float64"
        grad = "out must not be given when an input requires a gradient, got both"
        yield op, {"x": X.clone().requires_grad_(), "out": torch.ones(2, 96)}, ValueError, grad
    for op in ("superpose", "retrieve"):
        options = {"out": X.half(), "out_dtype": torch.float32}
        yield op, options, ValueError, "out must be float32, got float16"
        precision = "out_dtype must be float64 exactly when base is (float32), got float64"
        yield op, {"out": X.double()}, ValueError, precision
        yield op, {"out_dtype": torch.float64}, ValueError, precision
        kind = "out_dtype must be a floating dtype of torch, got "
        yield op, {"out_dtype": torch.int32}, TypeError, kind + "torch.int32"
        yield op, {"out_dtype": "float32"}, TypeError, kind + "'float32'"


def number_rows():
    for op in ("hadamard", "rotate"):
        for block in (64, 3, 0, -2, 192):
            yield (
                op,
                {"block": block},
                ValueError,
                f"block must be a power of two that divides 96, got {block}",
            )
        yield op, {"block": 2.0}, TypeError, "block must be an int, got float"
        yield op, {"block": True}, TypeError, "block must be an int, got bool"
        huge = torch.ones(1).expand(1 << 25)
        options = {"x": huge, "block": 1 << 25}
        yield op, options, ValueError, "block must be at most 16777216, got 33554432"
    yield "hadamard", {"scale": "1"}, TypeError, "scale must be a number, got str"
    yield "hadamard", {"scale": True}, TypeError, "scale must be a number, got bool"
    for value in (NAN, INF, -INF):
        yield "hadamard", {"scale": value}, ValueError, f"scale must be finite, got {value}"
        yield "retrieve", {"lam": value}, ValueError, f"lam must be finite, got {value}"
        yield "superpose", {"weights": [1, value]}, ValueError, f"weights[1] must be finite, got {value}"
    yield "hadamard", {"scale": 10**400}, ValueError, f"scale must be finite, got {10**400}"
    yield "retrieve", {"lam": None}, TypeError, "lam must be a number, got NoneType"
    yield "rotate", {"inverse": 1}, TypeError, "inverse must be a bool, got int"
    for op in ("sign_flip", "superpose", "retrieve"):
        for dim in (2, -3):
            yield op, {"dim": dim}, ValueError, f"dim must lie in [-2, 1] for shape (2, 96), got {dim}"
        yield op, {"dim": 1.0}, TypeError, "dim must be an int, got float"
        yield op, {"dim": False}, TypeError, "dim must be an int, got bool"


def key_rows():
    for op in ("sign_flip", "rotate", "retrieve"):
        yield op, {"key": 42}, TypeError, "key must be a pydelta.Key, got int"
    yield "superpose", {"keys": [KEY, 42]}, TypeError, "keys[1] must be a pydelta.Key, got int"
    for op in ("superpose", "retrieve"):
        message = "transform must be one of none, sign, hadamard, got 'fourier'"
        yield op, {"transform": "fourier"}, ValueError, message


def superpose_rows():
    op, first = "superpose", "tuned[1] must "
    yield op, {"tuned": [], "keys": []}, ValueError, "tuned must hold at least one tensor, got none"
    yield op, {"tuned": [X, OTHER]}, ValueError, first + "have base's shape (2, 96), got (3, 96)"
    yield op, {"tuned": [X, META]}, ValueError, first + "be on base's device cpu, got meta"
    yield op, {"tuned": [X, X.half()]}, ValueError, first + "be float32, got float16"
    yield op, {"tuned": [X, X.int()]}, TypeError, first + f"be {KINDS}, got int32"
    yield op, {"tuned": [X, None]}, TypeError, first + "be a tensor, got NoneType"
    for name, value in (("keys", [KEY]), ("weights", [1.0, 2.0, 3.0])):
        yield op, {name: value}, ValueError, f"{name} must have one entry per model (2), got {len(value)}"
    for name, value in (("tuned", X), ("keys", KEY), ("weights", 2.0)):
        got = type(value).__name__
        yield op, {name: value}, TypeError, f"{name} must be a list or tuple, got {got}"
    yield op, {"weights": [1.0, "2"]}, TypeError, "weights[1] must be a number, got str"


def retrieve_rows():
    op, name = "retrieve", "superposed"
    yield op, {name: OTHER}, ValueError, f"{name} must have base's shape (2, 96), got (3, 96)"
    yield op, {name: META}, ValueError, f"{name} must be on base's device cpu, got meta"
    yield op, {name: X.int()}, TypeError, f"{name} must be {KINDS}, got int32"
    mixed = f"{name} must be float64 exactly when base is (float32), got float64"
    yield op, {name: X.double()}, ValueError, mixed
    mixed = f"{name} must be float64 exactly when base is (float64), got float32"
    yield op, {"base": X.double()}, ValueError, mixed


ROWS = list(rows())


def raised(row):
    """The error that a row's call raises."""
    op, wrong, error, _ = row
    function = bad_lists.FUNCTIONS.get(op) or getattr(pydelta, op)
    with pytest.raises(error) as caught:
        function(**{**ARGUMENTS[op], **wrong})
    return caught


def takes_out(op):
    return op in TRANSFORMING or op in ("mask_rescale", "merge_into")


def name_of(row):
    return f"{row[0]}: {row[3]}"


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_message(row):
    op, _, error, message = row
    caught = raised(row)
    assert caught.type is error
    assert str(caught.value) == f"[{op}] {message}"


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "out" not in row[1] and takes_out(row[0])], ids=name_of
)
def test_nothing_is_written(row):
    out = poisoned(2, 96)
    op, wrong, error, message = row
    raised((op, {**wrong, "out": out}, (error, ValueError), message))
    assert bool(out.isnan().all())


@pytest.mark.parametrize(
    "row", [row for row in ROWS if isinstance(row[1].get("out"), torch.Tensor)], ids=name_of
)
def test_a_bad_out_is_left_as_it_was(row):
    out = row[1]["out"]
    raised(row)
    assert out.is_meta or bool((out == 1).all())


def test_every_error_has_a_row():
    """Each raise statement of the ops and their checks is reached by some row."""
    files = [Path(check.__file__), Path(masks.__file__), *sorted(Path(ops.__file__).parent.glob("*.py"))]
    statements = {
        (file.name, node.lineno, node.end_lineno)
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Raise)
    }
    reached = set()
    for row in ROWS:
        last = raised(row).traceback[-1]
        name, line = Path(last.path).name, last.lineno + 1
        reached |= {s for s in statements if s[0] == name and s[1] <= line <= s[2]}
    assert statements == reached
