"""q of one tensor of a checkpoint, from what a calibration knows of it."""

from __future__ import annotations

import torch

from pydelta.calibration import Calibration
from pydelta.core import check
from pydelta.darex.closed_form import analytic_q, least_squares_q

METHODS = ("analytic", "mse")


def layer_q(
    name: str,
    delta: torch.Tensor,
    *,
    keep: float,
    method: str = "analytic",
    eta: float | None = None,
    calibration: Calibration | None = None,
    dim: int | None = None,
) -> float:
    """The q of one tensor's delta.

    Matrices take their layer's statistics from the calibration; without one, and for tensors that are no
    matrices, the form is data-free. A vector or scalar (bias, norm) is a column: every element is an output
    of its own with the input 1, so that "mse" gives 1. A tensor of three and more axes has its outputs along
    the first, all others are inputs.

    Args:
        name: the tensor's name, as the calibration has it.
        delta: tuned - base, of any shape; for "mse" with a calibration of the model that was calibrated.
        keep: the fraction kept, in [0, 1].
        method: "analytic" (:func:`analytic_q`) or "mse" (:func:`least_squares_q`).
        eta: needed by "analytic", and by it alone.
        calibration: from a :class:`pydelta.calibration.Calibrator`, for "mse" one that knew the base.
        dim: the input axis, all others are then outputs. Default: the calibration's, else a matrix's last.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of range; the calibration lacks the layer of a matrix, has another
            number of inputs or no output norm; delta holds NaN or Inf. The message names the tensor.
    """
    check.floating("layer_q", name, delta)
    if method not in METHODS:
        raise ValueError(f"[layer_q] method must be one of {', '.join(METHODS)}, got {method!r}")
    if (method == "analytic") != (eta is not None):
        raise ValueError(f"[layer_q] eta must be given for analytic alone, got {eta} for {method}")
    seen = calibration.layer(name) if calibration is not None and delta.dim() == 2 else None
    if dim is None and seen is not None:
        dim = seen.dim
    rows = _as_matrix(delta, dim)
    try:
        if eta is not None:
            return analytic_q(rows, keep=keep, eta=eta, mean=None if seen is None else seen.mean)
        if seen is None:
            return least_squares_q(rows, keep=keep)
        if seen.output_norm2 is None:
            raise ValueError("[layer_q] the calibration must know output norms: give the Calibrator a base")
        return least_squares_q(rows, keep=keep, column_norm=seen.column_norm, output_norm2=seen.output_norm2)
    except ValueError as error:
        raise ValueError(f"{error}, for {name}") from None


def _as_matrix(delta: torch.Tensor, dim: int | None) -> torch.Tensor:
    """(outputs, inputs)."""
    if delta.dim() < 2:
        return delta.reshape(-1, 1)
    if dim is None:
        return delta.flatten(1)
    return delta.movedim(check.dim("layer_q", dim, delta), -1).flatten(0, -2)
