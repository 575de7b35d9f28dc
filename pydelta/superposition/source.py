"""What a serving engine reads of a store: one tensor of one model, as it lies there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydelta.superposition.files import superposed_tensors
from pydelta.superposition.manifest import Manifest
from pydelta.superposition.rules import slots

if TYPE_CHECKING:
    import torch

    from pydelta.quantized import Quantized
    from pydelta.random import Key


class Source(NamedTuple):
    """One tensor of one model: ``pydelta.retrieve(base, superposed, key, lam=lam, transform=, dim=)``.

    Attributes:
        superposed: the bucket's sum, of the base's shape, or its codes, whose rows run along the input axis.
        key: of the model's signs for this tensor.
        lam: lambda over the model's weight.
    """

    superposed: torch.Tensor | Quantized
    key: Key
    lam: float


def source(store: Path, manifest: Manifest, model: str, tensor: str) -> Source:
    from pydelta.random import key

    entry = manifest.models[model]
    place = slots(manifest.rules, entry.seed, model, manifest.shuffle_layers)[tensor]
    superposed = superposed_tensors(store, manifest)[place].tensor(place)
    return Source(superposed, key(entry.seed, "signs", model, tensor), manifest.lam / entry.weight)
