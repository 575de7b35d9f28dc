"""The codes of dtypes, transforms, masks and elections: what compiled kernels, Triton's and the schemas of
operators are given in their place. The enumerations of csrc/core hold the same ones.
"""

DTYPES = {"float32": 0, "bfloat16": 1, "float16": 2, "float64": 3}
"""``Dtype`` in types.h, by the names that torch has."""

TRANSFORMS = {"none": 0, "sign": 1, "hadamard": 2}
"""``Transform`` in transform.h."""

MASKS = {"none": 0, "random": 1, "della": 2, "tensor_cuts": 3, "row_cuts": 4}
"""``MaskKind`` in mask.h: what a mask is to a kernel, for which masks by magnitude have become cuts."""

ELECTIONS = {"sum": 0, "ties": 1, "ties_unweighted": 2}
"""``Election`` in mask.h."""
