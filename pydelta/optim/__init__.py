"""Optimizers whose deltas merge well: SAM and ASAM, AdamR, and a perturbation of the size of a merge."""

from pydelta.optim.adamr import AdamR
from pydelta.optim.merge_perturbation import MergePerturbation
from pydelta.optim.sam import SAM
from pydelta.optim.trainer import attach

__all__ = ["SAM", "AdamR", "MergePerturbation", "attach"]
