"""The ops in Triton, for CUDA tensors; on the CPU under Triton's interpreter.

Same bits as every other backend: fp32 inside, each step rounded by itself, nothing fused. Only matrix
products are held to a tolerance.
"""

from pydelta.triton_kernels.adamr_step_ import adamr_step_
from pydelta.triton_kernels.dequantize import dequantize
from pydelta.triton_kernels.hadamard import hadamard
from pydelta.triton_kernels.magnitude_threshold import magnitude_threshold
from pydelta.triton_kernels.mask_rescale import mask_rescale
from pydelta.triton_kernels.merge_into import merge_into
from pydelta.triton_kernels.quantize import quantize
from pydelta.triton_kernels.retrieve import retrieve
from pydelta.triton_kernels.retrieve_codes import retrieve_codes
from pydelta.triton_kernels.rotate import rotate
from pydelta.triton_kernels.sam_perturb_ import sam_perturb_
from pydelta.triton_kernels.sam_restore_ import sam_restore_
from pydelta.triton_kernels.sign_flip import sign_flip
from pydelta.triton_kernels.square_sums import square_sums
from pydelta.triton_kernels.superpose import superpose
from pydelta.triton_kernels.superpose_codes import superpose_codes
from pydelta.triton_kernels.superposed_linear import superposed_linear
from pydelta.triton_kernels.vera_linear import vera_backward, vera_forward, vera_merge
from pydelta.triton_kernels.vera_matrix import vera_matrix

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
    "vera_matrix",
    "vera_merge",
]
