"""The base plus the weighted sum of the deltas (arXiv 2212.04089)."""

from pydelta.merging.method import LAMBDA, NORMALIZE, WEIGHT, Method

METHOD = Method(name="task_arithmetic", parameters=(WEIGHT, NORMALIZE, LAMBDA))
