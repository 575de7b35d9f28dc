"""WANDA on deltas (arXiv 2306.11695): magnitudes weigh as much as the inputs that they meet.

Tensors that the calibration did not see, such as embeddings and norms, go by magnitude alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydelta.merging.method import DENSE_1D, KEEP, MATCH, ROW_GROUP, Method, Values

if TYPE_CHECKING:
    from pydelta.core.masks import Mask
    from pydelta.core.random import Key


def mask(values: Values, key: Key) -> Mask | None:
    from pydelta.core.masks import MagnitudeMask, WandaMask

    if values["column_norm"] is None or values["group"] != "row":
        return MagnitudeMask(values["keep"], values["group"])
    return WandaMask(values["keep"], values["column_norm"])


METHOD = Method(name="wanda", parameters=(KEEP, ROW_GROUP, MATCH, DENSE_1D), mask=mask, prunes=True)
