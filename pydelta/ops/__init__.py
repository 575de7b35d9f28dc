"""The public ops: arguments checked once, then dispatched."""

from pydelta.ops.hadamard import hadamard
from pydelta.ops.magnitude_threshold import magnitude_threshold
from pydelta.ops.mask_rescale import mask_rescale
from pydelta.ops.merge_into import merge_into
from pydelta.ops.quantize import dequantize, quantize
from pydelta.ops.retrieve import retrieve
from pydelta.ops.rotate import rotate
from pydelta.ops.sign_flip import sign_flip
from pydelta.ops.superpose import superpose
from pydelta.ops.superposed_linear import superposed_linear

__all__ = [
    "dequantize",
    "hadamard",
    "magnitude_threshold",
    "mask_rescale",
    "merge_into",
    "quantize",
    "retrieve",
    "rotate",
    "sign_flip",
    "superpose",
    "superposed_linear",
]
