"""One tensor, merged in one piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pydelta import ops
from pydelta.checkpoint.workspace import finite
from pydelta.core.check import compute_dtype
from pydelta.core.masks import Mask
from pydelta.merging.method import Method
from pydelta.merging.planning.items import TensorPlan
from pydelta.merging.running.columns import Columns
from pydelta.merging.running.masker import (
    Chosen,
    as_rows,
    by_rows,
    delta_of,
    from_rows,
    kept_of,
    matched,
    plain,
    ratio_of,
)


def merge_whole(
    method: Method,
    item: TensorPlan,
    base: torch.Tensor | None,
    tuned: Sequence[torch.Tensor],
    masks: Sequence[Chosen],
    dtype: torch.dtype,
) -> torch.Tensor:
    """One tensor, merged in one piece.

    Args:
        base: None where the models themselves are averaged.
        tuned, masks: in the order of the item's terms.
        dtype: of the result.
    """
    rows = any(by_rows(mask) for mask in masks)
    told = settings(method, item)
    told["weights"] = [
        weight * mask.factor if isinstance(mask, Columns) else weight
        for weight, mask in zip(told["weights"], masks, strict=True)
    ]
    bare = [plain(mask) for mask in masks]

    def view(x: torch.Tensor) -> torch.Tensor:
        return as_rows(x, item.axis) if rows else x

    origin, models = None if base is None else view(base), [view(x) for x in tuned]
    if matched(method, item):
        assert origin is not None  # only deltas are rescaled
        merged = _merge_matched(item, origin, models, bare, told)
    else:
        compute = compute_dtype(models[0].dtype)
        direct = dtype if compute_dtype(dtype) is compute else compute
        merged = ops.merge_into(origin, models, masks=bare, out_dtype=direct, **told)
    return from_rows(merged.to(dtype), item.shape, item.axis) if rows else merged.to(dtype)


def check_result(item: TensorPlan, part: torch.Tensor) -> None:
    """Some elements of a merged tensor, in the dtype of the result.

    Raises:
        ValueError: they overflow it.
    """
    if not finite(part):
        raise ValueError(
            f"[merge] the result must be finite in {item.info.dtype}, got Inf or NaN in tensor {item.name!r}"
        )


def settings(method: Method, item: TensorPlan) -> dict[str, Any]:
    """What ``merge_into`` is told beside tensors and masks."""
    elect = "sum"
    if method.elect:
        elect = "ties" if item.values["elect"] == "weighted" else "ties_unweighted"
    return {
        "weights": [term.values.get("weight", 1.0) for term in item.terms],
        "elect": elect,
        "lam": item.values.get("lambda", 1.0),
        "normalize": item.values.get("normalize", False),
    }


def _merge_matched(
    item: TensorPlan,
    base: torch.Tensor,
    tuned: Sequence[torch.Tensor],
    masks: Sequence[Mask | None],
    told: Mapping[str, Any],
) -> torch.Tensor:
    """With every masked delta brought back to the L1 norm it had, or left as it is where rescale is false."""
    deltas = []
    for x, mask, term in zip(tuned, masks, item.terms, strict=True):
        delta = delta_of(x, base)
        kept = delta if mask is None else kept_of(delta, mask)
        if term.values["rescale"] is not False and mask is not None:
            kept = kept * ratio_of(delta, kept)
        deltas.append(kept)
    return base.to(deltas[0].dtype) + ops.merge_into(None, deltas, **told)
