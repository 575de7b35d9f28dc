"""Model Breadcrumbs (arXiv 2312.06795): the largest entries go, and the smallest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydelta.merging.method import DENSE_1D, DROP_LARGE, KEEP, MATCH, PRUNE_GROUP, Method, Values

if TYPE_CHECKING:
    from pydelta.core.masks import Mask
    from pydelta.core.random import Key


def mask(values: Values, key: Key) -> Mask | None:
    from pydelta.core.masks import BandMask

    return BandMask(values["keep"], values["drop_large"], values["group"])


METHOD = Method(
    name="breadcrumbs",
    parameters=(KEEP, DROP_LARGE, PRUNE_GROUP, MATCH, DENSE_1D),
    mask=mask,
    prunes=True,
)
