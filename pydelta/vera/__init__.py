"""VeRA (arXiv 2310.11454): adapters of two vectors a layer, over random matrices that a seed stands for.

Names load on first use, as those of the package do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydelta.products.vera import forget as forget
    from pydelta.products.vera import kept_bytes as kept_bytes
    from pydelta.vera.adapters import Adapters as Adapters
    from pydelta.vera.adapters import attach as attach
    from pydelta.vera.checkpoint import merge_checkpoint as merge_checkpoint
    from pydelta.vera.file import inspect as inspect
    from pydelta.vera.file import load as load
    from pydelta.vera.file import save as save
    from pydelta.vera.layer import VeraLinear as VeraLinear
    from pydelta.vera.peft import load_peft as load_peft
    from pydelta.vera.peft import save_peft as save_peft

_HOME = {
    "Adapters": "pydelta.vera.adapters",
    "VeraLinear": "pydelta.vera.layer",
    "attach": "pydelta.vera.adapters",
    "forget": "pydelta.products.vera",
    "inspect": "pydelta.vera.file",
    "kept_bytes": "pydelta.products.vera",
    "load": "pydelta.vera.file",
    "load_peft": "pydelta.vera.peft",
    "merge_checkpoint": "pydelta.vera.checkpoint",
    "save": "pydelta.vera.file",
    "save_peft": "pydelta.vera.peft",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pydelta.vera' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
