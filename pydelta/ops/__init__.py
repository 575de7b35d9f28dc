"""The public ops: arguments checked once, then dispatched."""

from pydelta.ops.adamr_step_ import adamr_step_
from pydelta.ops.hadamard import hadamard
from pydelta.ops.magnitude_threshold import magnitude_threshold
from pydelta.ops.mask_rescale import mask_rescale
from pydelta.ops.merge_into import merge_into
from pydelta.ops.quantize import dequantize, quantize
from pydelta.ops.retrieve import retrieve
from pydelta.ops.rotate import rotate
from pydelta.ops.sam_perturb_ import sam_perturb_
from pydelta.ops.sam_restore_ import sam_restore_
from pydelta.ops.sign_flip import sign_flip
from pydelta.ops.square_sums import square_sums
from pydelta.ops.superpose import superpose
from pydelta.ops.superposed_linear import superposed_linear
from pydelta.ops.vera_linear import vera_linear
from pydelta.ops.vera_matrix import vera_matrix
from pydelta.ops.vera_merge import vera_merge

__all__ = [
    "adamr_step_",
    "dequantize",
    "hadamard",
    "magnitude_threshold",
    "mask_rescale",
    "merge_into",
    "quantize",
    "retrieve",
    "rotate",
    "sam_perturb_",
    "sam_restore_",
    "sign_flip",
    "square_sums",
    "superpose",
    "superposed_linear",
    "vera_linear",
    "vera_matrix",
    "vera_merge",
]
