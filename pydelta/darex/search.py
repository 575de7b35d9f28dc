"""q or eta by a metric: a coarse grid, then finer steps around the best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch

from pydelta.core import check

Evaluate = Callable[[float], float]
Tried = tuple[tuple[float, float], ...]

_FINER = 10
"""Each round of the search has a step that is so many times shorter."""


@dataclasses.dataclass(frozen=True)
class QSearch:
    """What :func:`search_q` gives: the best q, its score, and every (q, score) in the order of the search."""

    q: float
    score: float
    tried: Tried


@dataclasses.dataclass(frozen=True)
class EtaSearch:
    """What :func:`search_eta` gives: the best eta, its score, and every (eta, score) in their order."""

    eta: float
    score: float
    tried: Tried


def search_q(
    evaluate: Evaluate, *, keep: float, points: int = 10, refinements: int = 2, patience: int = 4
) -> QSearch:
    """One q for a whole model, by the score that ``evaluate`` gives it.

    With labels, ``evaluate`` prunes with 1/q and returns the validation metric. Without, it returns minus the
    distance to the tuned model's outputs::

        search_q(lambda q: -output_distance(outputs(pruned(q)), tuned_outputs), keep=0.01)

    First come ``points`` equal steps from keep to 1. Then ``refinements`` times the step becomes a tenth, and
    the search walks from the best point up and down, nine steps each way, but not beyond ``patience`` points
    in a row that are not better than the best. Of equal scores the first tried wins; NaN never wins.

    Args:
        evaluate: q -> score, larger is better; called some 30 times, at most points + 1 + 18 refinements.
        keep: the fraction kept, in (0, 1).

    Raises:
        TypeError: evaluate cannot be called, a count is no int, or keep no number.
        ValueError: keep or a count is out of range, or every score is NaN.
    """
    low = check.number("search_q", "keep", keep)
    if not 0 < low < 1:
        raise ValueError(f"[search_q] keep must lie in (0, 1), got {low}")
    best, tried = _search("search_q", evaluate, (low, 1.0), points, refinements, patience)
    return QSearch(*best, tried)


def search_eta(
    evaluate: Evaluate,
    *,
    low: float = 1e-3,
    high: float = 1e4,
    points: int = 7,
    refinements: int = 2,
    patience: int = 4,
) -> EtaSearch:
    """One eta for :func:`analytic_q` of every layer, as :func:`search_q` but on the logarithm of eta.

    Args:
        evaluate: eta -> score, larger is better.
        low, high: the interval. Eta's unit is that of 1 / (delta x), so it depends on the model; by default
            the first points are the powers of ten from 1e-3 to 1e4.

    Raises:
        TypeError: evaluate cannot be called, a count is no int, or a bound no number.
        ValueError: the bounds are not 0 < low < high, a count is out of range, or every score is NaN.
    """
    first, last = check.number("search_eta", "low", low), check.number("search_eta", "high", high)
    if not 0 < first < last:
        raise ValueError(f"[search_eta] low and high must be 0 < low < high, got {first} and {last}")
    ends = math.log10(first), math.log10(last)
    best, tried = _search("search_eta", evaluate, ends, points, refinements, patience, lambda x: 10.0**x)
    return EtaSearch(*best, tried)


def output_distance(
    model_outputs: torch.Tensor | Sequence[torch.Tensor], tuned_outputs: torch.Tensor | Sequence[torch.Tensor]
) -> float:
    """The mean over inputs of the L2 distance between two models' last-layer outputs.

    Args:
        model_outputs, tuned_outputs: (..., features), one tensor or one for every batch; the shapes of both
            are the same, the dtypes and devices need not be. Differences are formed in fp64.

    Returns:
        The distance; NaN where an output is NaN, which no search takes for the best.

    Raises:
        TypeError: something is no floating tensor.
        ValueError: the shapes or numbers of batches differ, or there is no output.
    """
    op, name = "output_distance", "model_outputs"
    batches, others = (
        [x] if isinstance(x, torch.Tensor) else check.sequence(op, what, x)
        for what, x in ((name, model_outputs), ("tuned_outputs", tuned_outputs))
    )
    if len(batches) != len(others):
        raise ValueError(f"[{op}] {name} must have {len(others)} batches, got {len(batches)}")
    total, count = 0.0, 0
    for x, y in zip(batches, others, strict=True):
        check.floating(op, name, x)
        check.floating(op, "tuned_outputs", y)
        if x.shape != y.shape or x.dim() == 0:
            raise ValueError(f"[{op}] {name} must have shape {tuple(y.shape)}, got {tuple(x.shape)}")
        distances = torch.linalg.vector_norm(x.detach().cpu().double() - y.detach().cpu().double(), dim=-1)
        total, count = total + float(distances.sum()), count + distances.numel()
    if not count:
        raise ValueError(f"[{op}] {name} must have at least one row, got none")
    return total / count


def _search(
    op: str,
    evaluate: Evaluate,
    ends: tuple[float, float],
    points: int,
    refinements: int,
    patience: int,
    value_at: Callable[[float], float] = float,
) -> tuple[tuple[float, float], Tried]:
    """The best (value, score) and all that were tried, ``value_at`` of places between the ends."""
    if not callable(evaluate):
        raise TypeError(f"[{op}] evaluate must be a function, got {type(evaluate).__name__}")
    for name, count, least in (
        ("points", points, 1),
        ("refinements", refinements, 0),
        ("patience", patience, 1),
    ):
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"[{op}] {name} must be an int, got {type(count).__name__}")
        if count < least:
            raise ValueError(f"[{op}] {name} must be at least {least}, got {count}")
    tried: list[tuple[float, float]] = []
    best: tuple[float, float, float] | None = None  # position, value, score

    def better(position: float) -> bool:
        nonlocal best
        value = value_at(position)
        score = float(evaluate(value))
        tried.append((value, score))
        if math.isnan(score) or (best is not None and score <= best[2]):
            return False
        best = position, value, score
        return True

    low, high = ends
    step = (high - low) / points
    for i in range(points):
        better(low + i * step)
    better(high)
    if best is None:
        raise ValueError(f"[{op}] evaluate must give a number, got NaN at every point")
    for _ in range(refinements):
        step, centre = step / _FINER, best[0]
        for direction in (step, -step):
            misses = 0
            for i in range(1, _FINER):
                position = centre + i * direction
                if misses == patience or not low <= position <= high:
                    break
                misses = 0 if better(position) else misses + 1
    return best[1:], tuple(tried)
