"""The ground truth: each op in plain torch, slow and obvious, on any device.

Same names and arguments as the public ops, less ``out`` and ``backend``; inputs are taken as
checked. All arithmetic is fp32 (fp64 for fp64 inputs), rounded to the output's dtype once.
"""

from pydelta.reference.codes import retrieve_codes, superpose_codes
from pydelta.reference.hadamard import hadamard
from pydelta.reference.magnitude_threshold import magnitude_threshold
from pydelta.reference.mask_rescale import mask_rescale
from pydelta.reference.merge_into import merge_into
from pydelta.reference.quantize import dequantize, quantize
from pydelta.reference.retrieve import retrieve
from pydelta.reference.rotate import rotate
from pydelta.reference.sign_flip import sign_flip
from pydelta.reference.superpose import superpose
from pydelta.reference.superposed_linear import superposed_linear

__all__ = [
    "dequantize",
    "hadamard",
    "magnitude_threshold",
    "mask_rescale",
    "merge_into",
    "quantize",
    "retrieve",
    "retrieve_codes",
    "rotate",
    "sign_flip",
    "superpose",
    "superpose_codes",
    "superposed_linear",
]
