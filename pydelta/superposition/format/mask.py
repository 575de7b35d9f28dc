"""What of every delta goes into the sums: all, or what a mask keeps. No torch until a mask is made."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pydelta.core.mask_names import BREADCRUMBS, DROP_LARGE, MASKS, RANDOM

if TYPE_CHECKING:
    from pydelta.checkpoint import Checkpoint
    from pydelta.checkpoint.workspace import Readable
    from pydelta.core.masks import MagnitudeThreshold, RandomMask


def fraction(field: str, value: object) -> float:
    """A number, also where torch is not loaded; its range is the caller's.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"[compress] {field} must be a number, got {type(value).__name__}")
    return float(value)


@dataclasses.dataclass(frozen=True)
class Masking:
    """The mask of every superposed tensor's delta; fractions are of the whole tensor.

    Attributes:
        mask: "magnitude" (the largest stay; arXiv 2306.01708), "breadcrumbs" (arXiv 2312.06795), "random"
            (DARE, arXiv 2311.03099: what stays is divided by ``keep``) or None.
        keep: the fraction that stays.
        drop_large: of the largest, the fraction that breadcrumbs drop.

    Raises:
        TypeError, ValueError: a wrong kind or value, or a fraction without the mask that it is of.
    """

    mask: str | None = None
    keep: float | None = None
    drop_large: float | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and self.mask not in MASKS:
            raise ValueError(f"[compress] mask must be one of {', '.join(MASKS)}, got {self.mask!r}")
        if (self.mask is None) != (self.keep is None):
            raise ValueError(
                f"[compress] mask and keep must be given together, got mask={self.mask}, keep={self.keep}"
            )
        if self.drop_large is not None and self.mask != BREADCRUMBS:
            raise ValueError(f"[compress] drop_large must go with breadcrumbs, got mask={self.mask}")
        if self.keep is not None:
            keep = fraction("keep", self.keep)
            if not 0 < keep <= 1:
                raise ValueError(f"[compress] keep must lie in (0, 1], got {keep}")
            object.__setattr__(self, "keep", keep)
        if self.mask == BREADCRUMBS:
            drop = fraction("drop_large", DROP_LARGE if self.drop_large is None else self.drop_large)
            if not 0 <= drop < 1:
                raise ValueError(f"[compress] drop_large must lie in [0, 1), got {drop}")
            object.__setattr__(self, "drop_large", drop)

    def of(
        self, base: Checkpoint, tuned: Readable, seed: int, model: str, tensor: str
    ) -> RandomMask | MagnitudeThreshold:
        """The mask of one delta, ready for parts of it; it depends on seed, model and tensor alone.

        Raises:
            ValueError: base or model hold NaN or Inf, which a mask might hide.
        """
        from pydelta.checkpoint.workspace import check_finite
        from pydelta.core.masks import RandomMask
        from pydelta.core.random import key
        from pydelta.ops import magnitude_threshold

        assert self.keep is not None
        origin, theirs = check_finite(base, tensor), check_finite(tuned, tensor)
        if self.mask == RANDOM:
            return RandomMask(self.keep, key(seed, "mask", model, tensor))
        # A model of another dtype is read in a wide one.
        origin = origin if origin.dtype == theirs.dtype else origin.to(theirs.dtype)
        return magnitude_threshold(theirs, keep=self.keep, drop_large=self.drop_large or 0.0, base=origin)
