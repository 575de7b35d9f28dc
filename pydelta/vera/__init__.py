"""VeRA (arXiv 2310.11454): adapters of two vectors a layer, over random matrices that a seed stands for."""

from pydelta.products.vera import forget, kept_bytes
from pydelta.vera.adapters import Adapters, attach
from pydelta.vera.checkpoint import merge_checkpoint
from pydelta.vera.file import inspect, load, save
from pydelta.vera.layer import VeraLinear
from pydelta.vera.peft import load_peft, save_peft

__all__ = [
    "Adapters",
    "VeraLinear",
    "attach",
    "forget",
    "inspect",
    "kept_bytes",
    "load",
    "load_peft",
    "merge_checkpoint",
    "save",
    "save_peft",
]
