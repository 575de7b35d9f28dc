"""From a term's parameters to its mask."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch

from pydelta import ops
from pydelta.calibration import Calibration
from pydelta.checkpoint.tensor_names import crosses_rows
from pydelta.core.check import compute_dtype
from pydelta.core.masks import DellaMask, MagnitudeThreshold, Mask, RandomMask, WandaMask
from pydelta.core.random import key
from pydelta.darex import layer_q
from pydelta.merging.method import MATCH, Method
from pydelta.merging.planning.items import ModelTerm, TensorPlan
from pydelta.merging.running.columns import Columns, choose_columns

Pair = Callable[[], tuple[torch.Tensor, torch.Tensor]]
"""Gives a tuned tensor and its base, if they are needed."""

Chosen = Mask | Columns | None
"""What is kept of one model's tensor; None keeps all."""

ModelCuts = Mapping[tuple[str, str], MagnitudeThreshold]
"""(model, tensor) -> cuts of one order over all tensors."""

_RUN = 1 << 15  # torch sums so many elements on one thread, in one order


class Masker:
    """Makes the masks of a merge.

    Args:
        calibration: for q from the layers' inputs.
        cuts: where ``group`` is "model".
    """

    def __init__(
        self, method: Method, calibration: Calibration | None = None, cuts: ModelCuts | None = None
    ) -> None:
        self.method, self._calibration, self._cuts = method, calibration, cuts or {}

    def mask(self, item: TensorPlan, term: ModelTerm, seed: int, pair: Pair) -> Chosen:
        """The mask of one model's delta; it depends on seed, model and tensor alone."""
        if self.method.mask is None or (term.values["dense_1d"] and len(item.shape) < 2):
            return None
        group = term.values.get("group")
        if group == "model":
            return self._cuts[term.model, item.name]
        stream = key(seed, "mask", term.model, item.name)
        factor = self._factor(item, term, pair)
        match = factor == "l1"
        values = {**term.values, "factor": False if match else factor, "column_norm": self._norm(item)}
        match = match and self.method.random
        if group == "column" and len(item.shape) < 2:
            values["group"] = "tensor"  # a vector has no columns
        elif group == "column":
            delta = as_rows(delta_of(*pair()), item.axis)
            columns = choose_columns(self.method, values, stream, delta)
            return dataclasses.replace(columns, factor=l1_ratio(delta, columns.mask)) if match else columns
        mask = self.method.mask(values, stream)
        if match and isinstance(mask, RandomMask):
            return dataclasses.replace(mask, rescale=l1_ratio(delta_of(*pair()), mask))
        return mask

    def _norm(self, item: TensorPlan) -> torch.Tensor | None:
        layers = {} if self._calibration is None else self._calibration.layers
        return layers[item.name].column_norm if item.name in layers else None

    def _factor(self, item: TensorPlan, term: ModelTerm, pair: Pair) -> bool | float | str:
        q = term.values.get("q")
        if q is None or isinstance(q, float):
            factor: bool | float | str = term.values["factor"]
            return factor if q is None else 1 / q
        calibration = self._calibration
        known = calibration is not None and item.name in calibration.layers
        q_of_layer = layer_q(
            item.name,
            delta_of(*pair()),
            keep=term.values["keep" if self.method.prunes else "density"],
            method=q,
            eta=term.values["eta"],
            calibration=calibration if known else None,
            dim=item.axis if len(item.shape) > 1 else None,
        )
        return 1 / q_of_layer


def matched(method: Method, item: TensorPlan) -> bool:
    """Whether a tensor's deltas are rescaled in a way that its masks cannot express."""
    parameter = method.parameter("rescale")
    if parameter is None or parameter.read is not MATCH.read:
        return False
    return any(term.values["rescale"] != parameter.default for term in item.terms)


def by_rows(mask: Chosen) -> bool:
    """Whether a mask ranks along rows."""
    return isinstance(mask, (DellaMask, WandaMask, Columns)) or getattr(mask, "group", None) == "row"


def as_rows(x: torch.Tensor, axis: int) -> torch.Tensor:
    """A view whose last axis has all inputs of one output."""
    if x.dim() < 2 or axis == x.dim() - 1:
        return x
    return x.movedim(axis, -1) if crosses_rows(tuple(x.shape), axis) else x.flatten(1)


def from_rows(x: torch.Tensor, shape: Sequence[int], axis: int) -> torch.Tensor:
    """:func:`as_rows` undone."""
    return x.movedim(-1, axis) if crosses_rows(tuple(shape), axis) else x.view(tuple(shape))


def common_dtype(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """The dtype of all, or the one that holds them all."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    return torch.float64 if torch.float64 in dtypes else torch.float32


def plain(mask: Chosen) -> Mask | None:
    """The mask itself, without the factor that chosen columns have."""
    return mask.mask if isinstance(mask, Columns) else mask


def delta_of(tuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    compute = compute_dtype(tuned.dtype)
    return tuned.to(compute) - base.to(compute)


def kept_of(delta: torch.Tensor, mask: Mask) -> torch.Tensor:
    """The masked delta without any factor."""
    return torch.where(ops.mask_rescale(delta, mask) != 0, delta, 0)


def l1_ratio(delta: torch.Tensor, mask: Mask) -> float:
    return ratio_of(delta, ops.mask_rescale(delta, mask))


def ratio_of(delta: torch.Tensor, kept: torch.Tensor) -> float:
    """What brings the kept part back to the L1 norm of the whole."""
    norm = _l1(kept)
    return _l1(delta) / norm if norm else 1.0


def _l1(delta: torch.Tensor) -> float:
    parts = delta.abs().reshape(-1).split(_RUN)
    return math.fsum(part.sum(dtype=torch.float64).item() for part in parts)
