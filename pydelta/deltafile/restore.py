"""``patch``: a base and a delta file into a checkpoint."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.digest import tensor_digest
from pydelta.checkpoint.elements.bits import put, take
from pydelta.checkpoint.folders.layout import arranged, output
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.staging import Pathlike, check_output
from pydelta.checkpoint.workers import Workers
from pydelta.core.mask_names import RANDOM
from pydelta.deltafile.codes import add_codes
from pydelta.deltafile.manifest import BASE, QUANTIZED, WHOLE
from pydelta.deltafile.reader import DeltaFile
from pydelta.deltafile.selection import rescaled


def patch(base: Pathlike, file: Pathlike, out: Pathlike, *, force: bool, show: bool) -> Path:
    """See :func:`pydelta.deltafile.patch`."""
    target = check_output(out, force=force, inputs=[base, file])
    delta, origin = DeltaFile(file), Checkpoint(base)
    _check_base(delta, origin)
    own = delta.own_files()
    shards, metadata = arranged(origin, delta.tensors, target)
    with (
        output(target, shards, metadata, force=force, copy_from=origin.folder, own=own) as writer,
        progress("patch", sum(info.nbytes for info in delta.tensors.values()), show) as advance,
        Workers(advance) as workers,
    ):
        digests = {n: workers.submit(functools.partial(tensor_digest, origin, n)) for n in origin.names}
        written = [info.name for tensors in shards.values() for info in tensors]
        for name in dict.fromkeys([*written, *origin.names]):
            if name in digests and digests[name].result() != delta.manifest.base[name].sha256:
                raise ValueError(f"{origin.path}: not the base of {file}: tensor {name!r} differs")
            if name in delta.tensors:
                advance(writer.write(name, _restore(delta, origin, name)))
    return target


def new_values(delta: DeltaFile, name: str, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(count,): what becomes of the elements of the base's ``x`` where ``mask`` is true."""
    rule = delta.manifest.rules[name].rule
    if rule == QUANTIZED:
        return _coded(delta, name, x).view(-1)
    values = delta.values(name).view(-1).to(x.device)
    if rule != RANDOM:
        return values
    return rescaled(values, take(x, mask), delta.manifest.factor)


def _restore(delta: DeltaFile, base: Checkpoint, name: str) -> torch.Tensor:
    rule = delta.manifest.rules[name].rule
    if rule == WHOLE:
        return delta.values(name)
    if rule == QUANTIZED:
        return _coded(delta, name, base.tensor(name))
    x = base.tensor(name)  # private: what is written here is not written to the file
    if rule != BASE:
        mask = delta.mask(name, x.device)
        put(x, mask, new_values(delta, name, x, mask))
    return x


def _coded(delta: DeltaFile, name: str, x: torch.Tensor) -> torch.Tensor:
    coding = delta.manifest.coding_of(name)
    assert coding is not None  # the header was checked
    return add_codes(x, delta.codes(name), coding)


def _check_base(delta: DeltaFile, base: Checkpoint) -> None:
    """Names, shapes and dtypes of the base; its bytes are compared later."""
    present = {info.name: (info.dtype, info.shape) for info in base.tensors.values()}
    wanted = {name: (tensor.dtype, tensor.shape) for name, tensor in delta.manifest.base.items()}
    differ = sorted(n for n in present.keys() | wanted.keys() if present.get(n) != wanted.get(n))
    if differ:
        raise ValueError(
            f"{base.path}: not the base of {delta.path}: {', '.join(differ)} differ in name, shape or dtype"
        )
