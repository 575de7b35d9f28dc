"""Deltas of fine-tuned models: compress, retrieve, transform, with the same bits on every device.

Names load on first use, so a command that needs no torch never imports it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydelta.core.version import __version__ as __version__

if TYPE_CHECKING:
    from pydelta import compat as compat
    from pydelta import hf as hf
    from pydelta import masks as masks
    from pydelta import random as random
    from pydelta import vera as vera
    from pydelta._dispatch import backends as backends
    from pydelta._dispatch import use_backend as use_backend
    from pydelta.checkpoint import load_checkpoint as load_checkpoint
    from pydelta.checkpoint import save_checkpoint as save_checkpoint
    from pydelta.core.masks import BandMask as BandMask
    from pydelta.core.masks import DellaMask as DellaMask
    from pydelta.core.masks import MagnitudeMask as MagnitudeMask
    from pydelta.core.masks import MagnitudeThreshold as MagnitudeThreshold
    from pydelta.core.masks import RandomMask as RandomMask
    from pydelta.core.masks import WandaMask as WandaMask
    from pydelta.core.quantized import Quantized as Quantized
    from pydelta.core.random import Key as Key
    from pydelta.core.random import key as key
    from pydelta.merging.merge import merge as merge
    from pydelta.merging.prune import prune as prune
    from pydelta.ops.adamr_step_ import adamr_step_ as adamr_step_
    from pydelta.ops.hadamard import hadamard as hadamard
    from pydelta.ops.magnitude_threshold import magnitude_threshold as magnitude_threshold
    from pydelta.ops.mask_rescale import mask_rescale as mask_rescale
    from pydelta.ops.merge_into import merge_into as merge_into
    from pydelta.ops.quantize import dequantize as dequantize
    from pydelta.ops.quantize import quantize as quantize
    from pydelta.ops.retrieve import retrieve as retrieve
    from pydelta.ops.rotate import rotate as rotate
    from pydelta.ops.sam_perturb_ import sam_perturb_ as sam_perturb_
    from pydelta.ops.sam_restore_ import sam_restore_ as sam_restore_
    from pydelta.ops.sign_flip import sign_flip as sign_flip
    from pydelta.ops.superpose import superpose as superpose
    from pydelta.ops.superposed_linear import superposed_linear as superposed_linear
    from pydelta.ops.vera_linear import vera_linear as vera_linear
    from pydelta.ops.vera_matrix import vera_matrix as vera_matrix
    from pydelta.ops.vera_merge import vera_merge as vera_merge
    from pydelta.superposition import Superposition as Superposition

_HOME = {
    "BandMask": "pydelta.core.masks",
    "DellaMask": "pydelta.core.masks",
    "Key": "pydelta.core.random",
    "MagnitudeMask": "pydelta.core.masks",
    "MagnitudeThreshold": "pydelta.core.masks",
    "Quantized": "pydelta.core.quantized",
    "RandomMask": "pydelta.core.masks",
    "Superposition": "pydelta.superposition",
    "WandaMask": "pydelta.core.masks",
    "adamr_step_": "pydelta.ops",
    "backends": "pydelta._dispatch",
    "compat": "pydelta.compat",
    "dequantize": "pydelta.ops",
    "hadamard": "pydelta.ops",
    "hf": "pydelta.hf",
    "key": "pydelta.core.random",
    "load_checkpoint": "pydelta.checkpoint",
    "masks": "pydelta.masks",
    "magnitude_threshold": "pydelta.ops",
    "mask_rescale": "pydelta.ops",
    "merge": "pydelta.merging",
    "merge_into": "pydelta.ops",
    "quantize": "pydelta.ops",
    "prune": "pydelta.merging",
    "random": "pydelta.random",
    "retrieve": "pydelta.ops",
    "rotate": "pydelta.ops",
    "sam_perturb_": "pydelta.ops",
    "sam_restore_": "pydelta.ops",
    "save_checkpoint": "pydelta.checkpoint",
    "sign_flip": "pydelta.ops",
    "superpose": "pydelta.ops",
    "superposed_linear": "pydelta.ops",
    "use_backend": "pydelta._dispatch",
    "vera": "pydelta.vera",
    "vera_linear": "pydelta.ops",
    "vera_matrix": "pydelta.ops",
    "vera_merge": "pydelta.ops",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pydelta' has no attribute {name!r}")
    module = importlib.import_module(_HOME[name])
    value = module if _HOME[name] == f"pydelta.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
