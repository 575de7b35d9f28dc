"""One tensor of a fine-tune into what a delta file stores of it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pydelta.checkpoint.elements import rice
from pydelta.checkpoint.elements.bits import bits, count, take
from pydelta.core.check import compute_dtype
from pydelta.core.mask_names import RANDOM
from pydelta.core.masks import Mask, RandomMask
from pydelta.deltafile.codes import SCALES, add_codes, quantize_delta
from pydelta.deltafile.manifest import BASE, CODED, QUANTIZED, WHOLE, Coding, Rule
from pydelta.deltafile.selection import changed, kept_deltas, random_mask, rescaled


class Entry(NamedTuple):
    """A rule, and the stored tensors that it asks for."""

    rule: Rule
    stored: tuple[torch.Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in self.stored)


def encode(tuned: torch.Tensor, base: torch.Tensor, mask: Mask | None) -> Entry:
    """What is stored of a tensor that fits its base.

    Args:
        tuned, base: contiguous CPU tensors of one dtype and shape; with a mask float16, bfloat16, float32 or
            float64, finite, and not of one dtype of need.
        mask: None stores all that changed.

    Returns:
        The stored tensors are of the kinds that ``STORED`` lists for the rule.

    Raises:
        ValueError: a rescaled element is beyond the dtype.
    """
    if mask is None:
        return _coded(tuned, base, changed(tuned, base))
    if not isinstance(mask, RandomMask):
        kept = kept_deltas(*alike(tuned, base), mask)
        return _coded(tuned.to(base.dtype), base, kept)
    kept = random_mask(mask, tuned.numel(), tuned.device)
    values = take(tuned, kept)
    if not rescaled(values, take(base, kept), mask.factor).isfinite().all():
        raise ValueError(f"base + {mask.factor} * (tuned - base) overflows {base.dtype}")
    return Entry(Rule(RANDOM), (values,))


def encode_quantized(tuned: torch.Tensor, base: torch.Tensor, coding: Coding) -> Entry:
    """Low-bit codes of what changed, or all that changed where that takes no more bytes.

    Args:
        tuned, base: as in :func:`encode`, of two and more axes.

    Raises:
        ValueError: the group does not divide a row, or a restored element is beyond the dtype.
    """
    q = quantize_delta(*alike(tuned, base), coding)
    entry = Entry(Rule(QUANTIZED), (q.codes, q.scales.to(SCALES)))
    # Codes of places are made only where they can win.
    same = tuned.dtype == base.dtype
    few = same and count(changed(tuned, base)) * tuned.element_size() <= entry.nbytes
    if same and (few or tuned.nbytes <= entry.nbytes):
        exact = encode(tuned, base, None)
        if exact.nbytes <= entry.nbytes:
            return exact
    if not add_codes(base, q, coding).isfinite().all():
        raise ValueError(f"base + the codes of tuned - base overflows {base.dtype}")
    return entry


def alike(tuned: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as they are where they have one dtype, else both in the one that deltas are computed in."""
    if tuned.dtype == base.dtype:
        return tuned, base
    return tuned.to(compute_dtype(base.dtype)), base.to(compute_dtype(base.dtype))


def _coded(tuned: torch.Tensor, base: torch.Tensor, mask: torch.Tensor) -> Entry:
    """The tuned elements where ``mask`` is true and the base's elsewhere, in the fewest bytes."""
    size = count(mask)
    if size == 0:
        return Entry(Rule(BASE))
    parameter, code = rice.encode(mask.numpy())
    if size * tuned.element_size() + code.size < tuned.nbytes:
        return Entry(Rule(CODED, parameter), (take(tuned, mask), torch.from_numpy(code)))
    whole = torch.where(mask, bits(tuned), bits(base)).view(tuned.dtype).view(tuned.shape)
    return Entry(Rule(WHOLE), (whole,))
