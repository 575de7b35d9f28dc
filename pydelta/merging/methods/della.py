"""DELLA (arXiv 2406.11617): masks by the ranks of magnitudes, then TIES's election and disjoint mean."""

from pydelta.merging.method import (
    DENSE_1D,
    DENSITY,
    ELECT,
    EPSILON,
    LAMBDA,
    MATCH,
    NORMALIZE,
    WEIGHT,
    Method,
)
from pydelta.merging.methods.della_linear import fault, mask

METHOD = Method(
    name="della",
    parameters=(
        WEIGHT,
        DENSITY,
        EPSILON,
        NORMALIZE.but(True),
        LAMBDA,
        MATCH.but(True),
        ELECT,
        DENSE_1D,
    ),
    mask=mask,
    elect=True,
    random=True,
    fault=fault,
)
