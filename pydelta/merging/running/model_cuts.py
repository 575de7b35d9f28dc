"""Masks by magnitude over a whole model: one order for all its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from pydelta.core.masks import BandMask, MagnitudeMask, MagnitudeThreshold
from pydelta.core.random import Key
from pydelta.merging.method import Method
from pydelta.merging.planning.items import ModelTerm, TensorPlan
from pydelta.ops._model_threshold import model_threshold

Load = Callable[[str, TensorPlan], tuple[torch.Tensor, torch.Tensor]]
"""Gives a model's tensor and the base's."""


def model_cuts(
    method: Method, items: Sequence[TensorPlan], load: Load
) -> dict[tuple[str, str], MagnitudeThreshold]:
    """(model, tensor) -> cuts, where ``group`` is "model"; the tensors in the order of their names.

    The tensors are gone through several times, one in memory at a time.
    """
    chosen: dict[str, list[tuple[TensorPlan, ModelTerm]]] = {}
    for item in sorted(items, key=lambda item: item.name):
        if item.values.get("group") != "model" or (item.values["dense_1d"] and len(item.shape) < 2):
            continue
        for term in item.terms:
            chosen.setdefault(term.model, []).append((item, term))
    by_tensor: dict[tuple[str, str], MagnitudeThreshold] = {}
    for model, members in chosen.items():
        keep, large = _fractions(method, members)

        def pairs(
            model: str = model, members: Sequence[tuple[TensorPlan, ModelTerm]] = members
        ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            return (load(model, item) for item, _ in members)

        cuts = model_threshold(pairs, keep=keep, drop_large=large)
        by_tensor |= {(model, item.name): cut for (item, _), cut in zip(members, cuts, strict=True)}
    return by_tensor


def _fractions(method: Method, members: Sequence[tuple[TensorPlan, ModelTerm]]) -> tuple[float, float]:
    """What the method's mask keeps, and what it drops of the largest, of all tensors together."""
    assert method.mask is not None
    values = dict(members[0][1].values)
    values |= {"group": "tensor", "size": sum(term.values["size"] for _, term in members)}
    mask = method.mask(values, Key(0))
    if mask is None:
        return 1.0, 0.0
    assert isinstance(mask, (MagnitudeMask, BandMask))
    return mask.keep, mask.drop_large if isinstance(mask, BandMask) else 0.0
