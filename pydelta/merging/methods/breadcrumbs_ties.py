"""Model Breadcrumbs' masks (arXiv 2312.06795), then the election of signs of TIES (arXiv 2306.01708)."""

from pydelta.merging.method import (
    DENSE_1D,
    DENSITY,
    ELECT,
    GAMMA,
    GROUP,
    LAMBDA,
    MATCH,
    NORMALIZE,
    WEIGHT,
    Method,
)
from pydelta.merging.methods.breadcrumbs import mask

METHOD = Method(
    name="breadcrumbs_ties",
    parameters=(WEIGHT, DENSITY, GAMMA, NORMALIZE, LAMBDA, MATCH, GROUP, ELECT, DENSE_1D),
    mask=mask,
    elect=True,
)
