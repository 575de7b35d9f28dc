"""Fine-tunes of one base, sparsified and merged. Checking a merge needs no torch."""

from pydelta.merging.merge_models import merge
from pydelta.merging.prune_delta import prune

__all__ = ["merge", "prune"]
