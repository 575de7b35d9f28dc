"""TIES (arXiv 2306.01708): trim each delta to its largest entries, elect a sign, average those that agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydelta.merging.method import (
    DENSE_1D,
    DENSITY,
    ELECT,
    GROUP,
    LAMBDA,
    MATCH,
    NORMALIZE,
    WEIGHT,
    Method,
    Values,
)

if TYPE_CHECKING:
    from pydelta.core.masks import Mask
    from pydelta.core.random import Key


def mask(values: Values, key: Key) -> Mask | None:
    from pydelta.core.masks import MagnitudeMask

    keep = values["density"]
    if values["mergekit"] and keep > 0:
        keep = min(1.0, max(keep, 1.5 / values["size"]))  # it keeps at least one entry
    return None if keep == 1 else MagnitudeMask(keep, values["group"])


METHOD = Method(
    name="ties",
    parameters=(WEIGHT, DENSITY, NORMALIZE.but(True), LAMBDA, MATCH, GROUP, ELECT, DENSE_1D),
    mask=mask,
    elect=True,
)
