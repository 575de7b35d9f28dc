"""Checkpoints as safetensors: read tensor by tensor, written whole or not at all.

Opening one needs no torch; reading a tensor does.
"""

from pydelta.checkpoint.header import TensorInfo
from pydelta.checkpoint.load_save import load_checkpoint, save_checkpoint
from pydelta.checkpoint.reader import Checkpoint

__all__ = ["Checkpoint", "TensorInfo", "load_checkpoint", "save_checkpoint"]
