"""The ops in Triton, for CUDA tensors; on the CPU under Triton's interpreter.

Same bits as every other backend: fp32 inside, each step rounded by itself, nothing fused. Only matrix
products are held to a tolerance.
"""

from pydelta.triton_kernels.hadamard import hadamard
from pydelta.triton_kernels.magnitude_threshold import magnitude_threshold
from pydelta.triton_kernels.mask_rescale import mask_rescale
from pydelta.triton_kernels.merge_into import merge_into
from pydelta.triton_kernels.retrieve import retrieve
from pydelta.triton_kernels.rotate import rotate
from pydelta.triton_kernels.sign_flip import sign_flip
from pydelta.triton_kernels.superpose import superpose
from pydelta.triton_kernels.superposed_linear import superposed_linear

__all__ = [
    "hadamard",
    "magnitude_threshold",
    "mask_rescale",
    "merge_into",
    "retrieve",
    "rotate",
    "sign_flip",
    "superpose",
    "superposed_linear",
]
