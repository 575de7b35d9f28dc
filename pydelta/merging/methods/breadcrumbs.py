"""Model Breadcrumbs (arXiv 2312.06795): drop a delta's largest and smallest entries, add the deltas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydelta.merging.method import (
    DENSE_1D,
    DENSITY,
    GAMMA,
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
    from pydelta.core.masks import BandMask

    keep, large, size = values["density"], values["gamma"], values["size"]
    if values["mergekit"]:
        # There the density wins: as many large ones stay as are needed to reach it.
        dropped = min(math.floor(large * size), size - math.floor(keep * size))
        large = min(1.0, (dropped + 0.5) / size)
    return BandMask(keep, large, values["group"])


METHOD = Method(
    name="breadcrumbs",
    parameters=(WEIGHT, DENSITY, GAMMA, NORMALIZE, LAMBDA, MATCH, GROUP, DENSE_1D),
    mask=mask,
)
