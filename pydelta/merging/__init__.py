"""Fine-tunes of one base, sparsified and merged. Checking a merge needs no torch."""

from pydelta.merging.merge import merge
from pydelta.merging.prune import prune

__all__ = ["merge", "prune"]
