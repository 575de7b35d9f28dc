"""Rows of test_bad_arguments.py: what the ops on lists of tensors refuse."""

import torch

from pydelta import ops

X = torch.ones(2, 96)
OTHER = torch.ones(3, 96)
META = torch.ones(2, 96, device="meta")
ONE = torch.ones((), dtype=torch.float64)
LIST = [X, X]
STEP = {"grads": LIST, "exp_avgs": LIST, "exp_avg_sqs": LIST, "step": 1, "lr": 0.1}
ARGUMENTS = {
    "square_sums": {"xs": LIST},
    "sam_perturb_": {"params": LIST, "grads": LIST, "rho": 0.0, "norm": ONE},
    "sam_restore_": {"params": LIST, "sources": LIST},
    "adamr_step_": {"params": LIST, **STEP},
}
FUNCTIONS = {"square_sums": ops.square_sums}


def rows():
    """(op, the arguments that are wrong, error, message without its [op])."""
    kinds = "float32, bfloat16, float16 or float64"
    beside = {
        "square_sums": "weights",
        "sam_perturb_": "grads",
        "sam_restore_": "sources",
        "adamr_step_": "grads",
    }
    for op, name in beside.items():
        first = "xs" if op == "square_sums" else "params"
        yield op, {first: X}, TypeError, f"{first} must be a list or tuple, got Tensor"
        yield op, {first: [X, 3]}, TypeError, f"{first}[1] must be a tensor, got int"
        yield op, {first: [X, X.int()]}, TypeError, f"{first}[1] must be {kinds}, got int32"
        yield op, {first: [X, META]}, ValueError, f"{first} must be on one device, got cpu and meta"
        yield op, {name: [X]}, ValueError, f"{name} must have as many entries as {first} (2), got 1"
        shape = f"{name}[1] must have {first}[1]'s shape (2, 96), got (3, 96)"
        yield op, {name: [X, OTHER]}, ValueError, shape
        rule = f"{name}[0] must be float32, got float16"
        yield op, {name: [X.half(), X]}, ValueError, rule
        yield (
            op,
            {"backend": "fast"},
            ValueError,
            "backend must be one of cpu, cuda, reference, triton, got 'fast'",
        )
    yield "square_sums", {"eta": -1}, ValueError, "eta must be at least 0, got -1"
    yield "sam_perturb_", {"rho": "1"}, TypeError, "rho must be a number, got str"
    yield "sam_perturb_", {"rho": -0.5}, ValueError, "rho must be at least 0, got -0.5"
    yield "sam_perturb_", {"norm": 1.0}, TypeError, "norm must be a tensor, got float"
    scalar = "norm must be a 0-D float64 tensor on cpu, got float32 of shape (2, 96) on cpu"
    yield "sam_perturb_", {"norm": X}, ValueError, scalar
    half = "masters[0] must be float32, got float16"
    yield "sam_perturb_", {"masters": [X.half(), X]}, ValueError, half
    op = "adamr_step_"
    yield op, {"step": 0}, ValueError, "step must be at least 1, got 0"
    yield op, {"betas": (0.9, 1.0)}, ValueError, "betas must be two numbers in [0, 1), got (0.9, 1.0)"
    yield op, {"betas": (0.9,)}, ValueError, "betas must be two numbers in [0, 1), got (0.9,)"
    yield op, {"lr": -1}, ValueError, "lr must be at least 0, got -1"
    precision = "bases[1] must be float64 exactly when params[1] is (float32), got float64"
    yield op, {"bases": [None, X.double()]}, ValueError, precision
    shape = "bases[1] must have params[1]'s shape (2, 96), got (3, 96)"
    yield op, {"bases": [None, OTHER]}, ValueError, shape
    yield op, {"bases": [X, META]}, ValueError, "bases[1] must be on params[1]'s device cpu, got meta"
    yield op, {"bases": [X, 3]}, TypeError, "bases[1] must be a tensor, got int"
    yield op, {"bases": [X]}, ValueError, "bases must have as many entries as params (2), got 1"
    yield op, {"sums": 1}, TypeError, "sums must be a bool, got int"
