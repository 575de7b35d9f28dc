"""What a serving engine reads of a store: one tensor of one model, as it lies there."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pydelta.core.quantized import Quantized
from pydelta.core.random import Key, key
from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.reading.bucket_reader import BucketReader


class Source(NamedTuple):
    """One tensor of one model: ``pydelta.retrieve(base, superposed, key, lam=lam, transform=, dim=)``.

    Attributes:
        superposed: the bucket's sum, of the base's shape, or its codes, whose rows run along the input axis.
        key: of the model's signs for this tensor.
        lam: lambda times the calibrated factor, over the model's weight.
    """

    superposed: torch.Tensor | Quantized
    key: Key
    lam: float


def source(
    files: StoreFiles, model: str, tensor: str, superposed: torch.Tensor | Quantized | None = None
) -> Source:
    """See :meth:`Superposition.source`. ``superposed``: as another model found it in the same place."""
    manifest = files.manifest
    entry = manifest.models[model]
    if superposed is None:  # to map it again takes longer than to retrieve a small tensor
        superposed = BucketReader(files, manifest.bucket(model)).tensor(files.slots(model)[tensor])
    return Source(superposed, key(entry.seed, "signs", model, tensor), entry.lam(tensor, manifest.lam))
