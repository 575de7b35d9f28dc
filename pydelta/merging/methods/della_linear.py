"""DELLA's masks (arXiv 2406.11617), deltas added: larger entries of a row are kept more often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydelta.merging.method import (
    DENSE_1D,
    DENSITY,
    EPSILON,
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
    from pydelta.core.masks import DellaMask

    if values["density"] == 1:
        return None
    # Recipes say how far probabilities reach to either side of the density, the mask how far they spread.
    return DellaMask(values["density"], 2 * values["epsilon"], key)


def fault(values: Values) -> str | None:
    density, epsilon = values["density"], values["epsilon"]
    if density == 1 or epsilon <= min(density, 1 - density) * (1 + 1e-12):
        return None
    return f"density -/+ epsilon must lie in [0, 1], got {density:g} and {epsilon:g}"


METHOD = Method(
    name="della_linear",
    parameters=(WEIGHT, DENSITY, EPSILON, NORMALIZE, LAMBDA, MATCH.but(True), DENSE_1D),
    mask=mask,
    random=True,
    fault=fault,
)
