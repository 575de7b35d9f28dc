"""DARE's masks (arXiv 2311.03099), then the election of signs of TIES (arXiv 2306.01708)."""

from pydelta.merging.method import (
    DENSE_1D,
    DENSITY,
    ELECT,
    ETA,
    LAMBDA,
    NORMALIZE,
    RESCALE,
    WEIGHT,
    Method,
    Q,
)
from pydelta.merging.methods.dare_linear import mask

METHOD = Method(
    name="dare_ties",
    parameters=(WEIGHT, DENSITY, NORMALIZE, LAMBDA, RESCALE.but(True), Q, ETA, ELECT, DENSE_1D),
    mask=mask,
    elect=True,
    random=True,
)
