"""The ground truth: each op in plain torch, slow and obvious, on any device.

Same names and arguments as the public ops, less ``out`` and ``backend``; inputs are taken as checked. The ops
on lists of tensors, whose names end in ``_``, write in place and have a kernel's arguments. All arithmetic is
fp32 (fp64 for fp64 inputs), rounded to the output's dtype once.
"""

from pydelta.reference.adamr_step_ import adamr_step_
from pydelta.reference.codes import retrieve_codes, superpose_codes
from pydelta.reference.hadamard import hadamard
from pydelta.reference.magnitude_threshold import magnitude_threshold
from pydelta.reference.mask_rescale import mask_rescale
from pydelta.reference.merge_into import merge_into
from pydelta.reference.quantize import dequantize, quantize
from pydelta.reference.retrieve import retrieve
from pydelta.reference.rotate import rotate
from pydelta.reference.sam_perturb_ import sam_perturb_
from pydelta.reference.sam_restore_ import sam_restore_
from pydelta.reference.sign_flip import sign_flip
from pydelta.reference.square_sums import square_sums
from pydelta.reference.superpose import superpose
from pydelta.reference.superposed_linear import superposed_linear
from pydelta.reference.vera_linear import vera_backward, vera_forward, vera_linear
from pydelta.reference.vera_matrix import vera_matrix
from pydelta.reference.vera_merge import vera_merge

__all__ = [
    "adamr_step_",
    "dequantize",
    "hadamard",
    "magnitude_threshold",
    "mask_rescale",
    "merge_into",
    "quantize",
    "retrieve",
    "retrieve_codes",
    "rotate",
    "sam_perturb_",
    "sam_restore_",
    "sign_flip",
    "square_sums",
    "superpose",
    "superpose_codes",
    "superposed_linear",
    "vera_backward",
    "vera_forward",
    "vera_linear",
    "vera_matrix",
    "vera_merge",
]
