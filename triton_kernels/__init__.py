"""The ops in Triton, for CUDA tensors; on the CPU under Triton's interpreter.

Same bits as every other backend: fp32 inside, each step rounded by itself, nothing fused.
"""

from pydelta.triton_kernels.hadamard import hadamard
from pydelta.triton_kernels.retrieve import retrieve
from pydelta.triton_kernels.rotate import rotate
from pydelta.triton_kernels.sign_flip import sign_flip
from pydelta.triton_kernels.superpose import superpose

__all__ = ["hadamard", "retrieve", "rotate", "sign_flip", "superpose"]
