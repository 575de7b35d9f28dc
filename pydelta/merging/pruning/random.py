"""DARE (arXiv 2311.03099): entries dropped at random, the others divided by their probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydelta.merging.method import DENSE_1D, ETA, KEEP, PRUNE_GROUP, RESCALE, Method, Q, Values

if TYPE_CHECKING:
    from pydelta.core.masks import Mask
    from pydelta.core.random import Key


def mask(values: Values, key: Key) -> Mask | None:
    from pydelta.core.masks import RandomMask

    return RandomMask(values["keep"], key, values["factor"])


METHOD = Method(
    name="random",
    parameters=(KEEP, PRUNE_GROUP, RESCALE.but(True), Q, ETA, DENSE_1D),
    mask=mask,
    random=True,
    prunes=True,
)
