"""DARE (arXiv 2311.03099): drop entries at random, divide the others by their probability, add the deltas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydelta.merging.method import (
    DENSE_1D,
    DENSITY,
    ETA,
    LAMBDA,
    NORMALIZE,
    RESCALE,
    WEIGHT,
    Method,
    Q,
    Values,
)

if TYPE_CHECKING:
    from pydelta.core.masks import Mask
    from pydelta.core.random import Key


def mask(values: Values, key: Key) -> Mask | None:
    from pydelta.core.masks import RandomMask

    if values["density"] == 1 and values["factor"] is True:
        return None
    return RandomMask(values["density"], key, values["factor"])


METHOD = Method(
    name="dare_linear",
    parameters=(WEIGHT, DENSITY, NORMALIZE, LAMBDA, RESCALE.but(True), Q, ETA, DENSE_1D),
    mask=mask,
    random=True,
)
