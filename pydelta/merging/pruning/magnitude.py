"""The largest entries of the delta stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydelta.merging.method import DENSE_1D, KEEP, MATCH, PRUNE_GROUP, Method, Values

if TYPE_CHECKING:
    from pydelta.core.masks import Mask
    from pydelta.core.random import Key


def mask(values: Values, key: Key) -> Mask | None:
    from pydelta.core.masks import MagnitudeMask

    return MagnitudeMask(values["keep"], values["group"])


METHOD = Method(name="magnitude", parameters=(KEEP, PRUNE_GROUP, MATCH, DENSE_1D), mask=mask, prunes=True)
