"""The arguments of ``diff`` that are no paths, checked before any file is opened."""

from __future__ import annotations

import dataclasses

from pydelta.core import check
from pydelta.core.mask_names import BREADCRUMBS, MASKS, RANDOM
from pydelta.core.masks import RandomMask
from pydelta.core.random import Key
from pydelta.deltafile.manifest import (
    BITS,
    ROW,
    TRANSFORMS,
    Manifest,
    check_model_name,
)


@dataclasses.dataclass(frozen=True)
class Options:
    """See :func:`pydelta.deltafile.diff`.

    Raises:
        TypeError: a wrong kind.
        ValueError: a wrong value; the message says which are right.
    """

    keep: float | None
    mask: str
    drop_large: float
    lossless: bool
    seed: int
    name: str
    rescale: bool | float
    bits: int | None
    group: str | int
    transform: str

    def __post_init__(self) -> None:
        check.flag("diff", "lossless", self.lossless)
        check.choice("diff", "mask", self.mask, MASKS)
        if (self.keep is not None) + self.lossless + (self.bits is not None) != 1:
            got = f"keep={self.keep}, lossless={self.lossless}, bits={self.bits}"
            raise ValueError(f"[diff] exactly one of keep, lossless and bits must be given, got {got}")
        self._check_codes()
        for field in ("keep", "drop_large") if self.keep is not None else ("drop_large",):
            object.__setattr__(self, field, check.fraction("diff", field, getattr(self, field)))
        check_model_name(self.name)
        RandomMask(1.0, Key(self.seed), self.rescale)

    def _check_codes(self) -> None:
        check.choice("diff", "transform", self.transform, TRANSFORMS)
        if self.bits is not None and (isinstance(self.bits, bool) or self.bits not in BITS):
            raise ValueError(f"[diff] bits must be one of {', '.join(map(str, BITS))}, got {self.bits!r}")
        if self.group == ROW:
            return
        if isinstance(self.group, bool) or not isinstance(self.group, int):
            raise TypeError(f"[diff] group must be 'row' or an int, got {self.group!r}")
        if self.group < 1 or self.bits is None:
            raise ValueError(f"[diff] group must be positive and goes with bits, got {self.group}")

    def manifest(self) -> Manifest:
        """What they say about the file; the tensors are to come."""
        mask = None if self.keep is None else self.mask
        keep = 1.0 if self.keep is None else self.keep
        return Manifest(
            model=self.name,
            seed=self.seed,
            mask=mask,
            keep=keep,
            drop_large=self.drop_large if mask == BREADCRUMBS else 0.0,
            factor=RandomMask(keep, Key(self.seed), self.rescale).factor if mask == RANDOM else 1.0,
            bits=self.bits,
            group=self.group,
            transform=self.transform,
        )
