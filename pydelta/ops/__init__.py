"""The public ops: arguments checked once, then dispatched."""

from pydelta.ops.hadamard import hadamard
from pydelta.ops.retrieve import retrieve
from pydelta.ops.rotate import rotate
from pydelta.ops.sign_flip import sign_flip
from pydelta.ops.superpose import superpose

__all__ = ["hadamard", "retrieve", "rotate", "sign_flip", "superpose"]
