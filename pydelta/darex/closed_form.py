"""q of one layer, in closed form."""

from __future__ import annotations

import math

import torch

from pydelta.core import check

_PART = 1 << 18  # elements that are squared at a time: they stay in a second-level cache


def analytic_q(delta: torch.Tensor, *, keep: float, eta: float, mean: torch.Tensor | None = None) -> float:
    """The q that minimises a bound on the error of a layer's outputs.

    With the notation of :mod:`pydelta.darex`, x the mean input and Phi(p) = (1 - 2p) / log((1 - p) / p),
    Phi(1/2) = 1/2, every output (a row of delta) has

        q = clip(eta Phi(p) Q / (2 keep |S|), keep, 1),    and 1 where S = 0;

    the layer's q is the mean over the rows. Rows of zeros are left out: any q is right for them. A delta of
    zeros gets 1.

    This is the minimum over q in [keep, 1] of

        f(q) = |eta (1 - keep/q) S + eta^2 Phi(p) Q / (4 q^2) + log(2 / 0.05)|,

    which the authors' code sweeps, wherever eta S >= 0: there no term is negative and f has one minimum,
    which the confidence 0.05 does not move. Taking |S| is to let eta have the sign of S, so that delta and
    -delta get the same q. The literal sweep with eta > 0 differs where S < 0: there the bias is counted
    against the variance, so f falls until it meets zero, or until q = 1.

    Args:
        delta: (m, n), inputs along the last axis. fp16 and bf16 are upcast before anything is squared.
        keep: the fraction kept, in [0, 1]. At 0 and 1 the result is 1.
        eta: the weight of the variance against the bias, positive. Its unit is that of 1 / (delta x).
        mean: (n,), the mean input; default ones, the data-free form.

    Raises:
        TypeError: delta or mean is no floating tensor, keep or eta no number.
        ValueError: a shape is wrong, keep or eta out of range, or delta or mean holds NaN or Inf.
    """
    p, eta = 1 - _check_keep("analytic_q", keep), check.number("analytic_q", "eta", eta)
    if eta <= 0:
        raise ValueError(f"[analytic_q] eta must be positive, got {eta}")
    sums, squares = _row_sums("analytic_q", delta, "mean", mean)
    if p in (0, 1):
        return 1.0
    q = eta * _phi(p) * squares / (2 * keep * sums.abs())
    rows = torch.where(sums == 0, 1, q).clamp(keep, 1)[squares > 0]
    return float(rows.mean()) if len(rows) else 1.0


def least_squares_q(
    delta: torch.Tensor,
    *,
    keep: float,
    column_norm: torch.Tensor | None = None,
    output_norm2: float | None = None,
) -> float:
    """The q that minimises the expected squared error E||(delta - mask delta / q) X||_F^2; no dial.

    The mean and the variance of :mod:`pydelta.darex`, summed over outputs and over calibration inputs X, give

        q = keep + p (sum_j ||delta_:j||^2 ||X_j||^2) / ||delta X||_F^2,    clipped to [keep, 1].

    Args:
        delta: (m, n), inputs along the last axis.
        keep: the fraction kept, in [0, 1]. At 0 and 1, and for a delta of zeros, the result is 1.
        column_norm: (n,), ||X_j||_2.
        output_norm2: ||delta X||_F^2, of the same delta and X. Both default to the data-free form, where X
            is one input of ones.

    Raises:
        TypeError: delta or column_norm is no floating tensor, keep or output_norm2 no number.
        ValueError: a shape is wrong, keep or output_norm2 out of range, one of column_norm and output_norm2
            is given alone, or delta or column_norm holds NaN or Inf.
    """
    p = 1 - _check_keep("least_squares_q", keep)
    if (column_norm is None) != (output_norm2 is None):
        stated = "output_norm2" if column_norm is None else "column_norm"
        raise ValueError(
            f"[least_squares_q] column_norm and output_norm2 must come together, got {stated} alone"
        )
    sums, squares = _row_sums("least_squares_q", delta, "column_norm", column_norm)
    spread = float(squares.sum())
    if output_norm2 is None:
        output_norm2 = float(sums.square().sum())
    elif check.number("least_squares_q", "output_norm2", output_norm2) < 0:
        raise ValueError(f"[least_squares_q] output_norm2 must not be negative, got {output_norm2}")
    if p in (0, 1) or spread == 0 or output_norm2 == 0:
        return 1.0
    return min(keep + p * spread / output_norm2, 1.0)


def _phi(p: float) -> float:
    """Phi(p) = (1 - 2p) / log((1 - p) / p), for 0 < p < 1."""
    slope = 1 - 2 * p
    # Near 1/2 both are small and their quotient 1/2 - slope^2 / 6.
    return 0.5 if abs(slope) < 1e-6 else slope / math.log((1 - p) / p)


def _check_keep(op: str, keep: object) -> float:
    value = check.number(op, "keep", keep)
    if not 0 <= value <= 1:
        raise ValueError(f"[{op}] keep must lie in [0, 1], got {value}")
    return value


def _row_sums(
    op: str, delta: torch.Tensor, name: str, x: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every row's S and Q: the sums of c_j = delta_j x_j and of c_j^2, (m,) each.

    Formed in fp32 (fp64 deltas: fp64), part by part: in fp16 a c below 1.73e-4 would square to zero.
    """
    check.floating(op, "delta", delta)
    if delta.dim() != 2:
        raise ValueError(f"[{op}] delta must have two dimensions, got shape {tuple(delta.shape)}")
    dtype = check.compute_dtype(delta.dtype)
    if x is not None:
        check.floating(op, name, x)
        if x.shape != delta.shape[1:]:
            raise ValueError(
                f"[{op}] {name} must have delta's {delta.shape[1]} inputs, got shape {tuple(x.shape)}"
            )
        x = x.detach().to(delta.device, dtype)
    sums, squares = [], []
    for part in delta.detach().split(max(1, _PART // max(1, delta.shape[1]))):
        c = part.to(dtype) if x is None else part.to(dtype) * x
        sums.append(c.sum(1))
        squares.append(c.square().sum(1))
    total, total2 = torch.cat(sums).double(), torch.cat(squares).double()
    if not total2.isfinite().all():
        raise ValueError(f"[{op}] delta and {name} must be finite, got NaN or Inf")
    return total, total2
