"""From tensors to the pointers that the compiled extensions take, for cpu and cuda alike.

Both extensions have the same functions. The last argument says where to run: a thread count on the
CPU, a stream on a GPU.
"""

from pydelta.native.call import extension
from pydelta.native.codes import dequantize, quantize, retrieve_codes, superpose_codes
from pydelta.native.lists import adamr_step_, sam_perturb_, sam_restore_, square_sums
from pydelta.native.masked import magnitude_threshold, mask_rescale, merge_into
from pydelta.native.superposed_linear import superposed_linear
from pydelta.native.transforms import hadamard, retrieve, rotate, sign_flip, superpose
from pydelta.native.vera import vera_backward, vera_forward, vera_matrix, vera_merge

__all__ = [
    "adamr_step_",
    "dequantize",
    "extension",
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
