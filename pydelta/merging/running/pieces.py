"""Pieces of tensors and of their masks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch

from pydelta import ops
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.tensors import TORCH
from pydelta.core.masks import BandMask, MagnitudeMask, MagnitudeThreshold, Mask, WandaMask
from pydelta.merging.planning.items import TensorPlan
from pydelta.merging.running.columns import Columns
from pydelta.merging.running.masker import Chosen, Pair, as_rows, by_rows, common_dtype, plain


def load_pair(
    models: Mapping[str, Checkpoint], base: Checkpoint, item: TensorPlan, model: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is merged of a model's tensor and of the base's, mapped into memory, in the dtype of the merge."""
    sources = [base, *(models[term.model] for term in item.terms)]
    dtype = common_dtype([TORCH[source.dtype(item.name)] for source in sources])
    return map_tensor(models[model], item).to(dtype), map_tensor(base, item).to(dtype)


def map_tensor(model: Checkpoint, item: TensorPlan) -> torch.Tensor:
    x = model.tensor(item.name)
    return x if tuple(x.shape) == item.shape else x[: item.shape[0]]


def row_length(item: TensorPlan) -> int:
    """The length of a row of the tensor as it lies in the file."""
    last = item.axis == len(item.shape) - 1
    return item.shape[-1] if last else math.prod(item.shape[1:])


def ready(mask: Chosen, item: TensorPlan, pair: Pair) -> Chosen:
    """A mask by magnitude as cuts, which parts of a tensor can be masked by."""
    if isinstance(mask, (MagnitudeMask, BandMask, WandaMask)):
        tuned, base = pair()
        rows = by_rows(mask)
        if rows:
            tuned, base = as_rows(tuned, item.axis), as_rows(base, item.axis)
        return ops.magnitude_threshold(
            tuned,
            keep=mask.keep,
            drop_large=mask.drop_large if isinstance(mask, BandMask) else 0.0,
            group="row" if rows else "tensor",
            base=base,
            column_norm=mask.column_norm if isinstance(mask, WandaMask) else None,
        )
    return mask


def of_part(mask: Chosen, start: int, shape: tuple[int, ...]) -> Mask | None:
    """The mask of one part."""
    if isinstance(mask, MagnitudeThreshold) and mask.group == "row":
        return mask.rows(start // shape[-1], shape[0])
    return plain(mask)


def on_device(mask: Chosen, device: torch.device) -> Chosen:
    """The mask with its tensors on a device."""
    if isinstance(mask, Columns):
        return dataclasses.replace(mask, mask=_cuts_on(mask.mask, device))
    if isinstance(mask, WandaMask):
        return WandaMask(mask.keep, mask.column_norm.to(device))
    return _cuts_on(mask, device) if isinstance(mask, MagnitudeThreshold) else mask


def _cuts_on(cuts: MagnitudeThreshold, device: torch.device) -> MagnitudeThreshold:
    return dataclasses.replace(
        cuts,
        low=cuts.low.to(device),
        low_index=cuts.low_index.to(device),
        high=cuts.high.to(device),
        high_index=cuts.high_index.to(device),
        column_norm=None if cuts.column_norm is None else cuts.column_norm.to(device),
    )
