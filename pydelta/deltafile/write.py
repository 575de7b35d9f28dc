"""``diff``: two checkpoints into one delta file."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path

import torch

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.digest import fingerprint, tensor_digest
from pydelta.checkpoint.folders.own_files import own_files
from pydelta.checkpoint.header import ITEMSIZE
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.quantised.kinds import counts_up, is_index, scales_of
from pydelta.checkpoint.reader import as_checkpoint
from pydelta.checkpoint.spool import Spool
from pydelta.checkpoint.staging import Pathlike, check_output, staged
from pydelta.checkpoint.tensor_names import FLOATS, NARROW
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.workspace import check_finite
from pydelta.checkpoint.writer import writing
from pydelta.core.mask_names import RANDOM
from pydelta.deltafile.encode import Entry, encode, encode_quantized
from pydelta.deltafile.manifest import FILES, STORED, WHOLE, BaseTensor, Manifest, Rule, stored_name
from pydelta.deltafile.options import Options


def write(
    base: Pathlike, tuned: Pathlike, out: Pathlike, options: Options, *, force: bool, show: bool
) -> Path:
    """See :func:`pydelta.deltafile.diff`."""
    target = check_output(out, force=force, inputs=[base, tuned])
    if target.is_dir():
        raise ValueError(f"{target}: a folder is not replaced by a delta file")
    origin, model = Checkpoint(base), as_checkpoint(tuned)
    if not any(_close(origin, info) for info in model.tensors.values()):
        raise ValueError(f"{model.path}: no tensor has name, shape and kind of dtype of one of {origin.path}")
    files, plain = own_files(origin, model), kept_as_they_are(origin, model)
    with (
        staged(target, force=force) as new,
        Spool(new.parent) as waiting,
        progress("diff", model.nbytes, show) as advance,
        Workers(advance) as workers,
    ):
        digests = {n: workers.submit(functools.partial(tensor_digest, origin, n)) for n in origin.names}
        manifest = options.manifest()
        for info in model.tensors.values():
            entry = _encode(origin, model, info, manifest, lossless=info.name in plain)
            manifest.rules[info.name] = entry.rule
            carried = info.dtype not in ITEMSIZE and entry.rule.rule == WHOLE  # as bytes, under its own dtype
            for kind, x in zip(STORED[entry.rule.rule], entry.stored, strict=True):
                waiting.add(stored_name(kind, info.name), x, info if carried else None)
            advance(info.nbytes)
        for name, content in files.items():
            waiting.add(stored_name(FILES, name), torch.frombuffer(bytearray(content), dtype=torch.uint8))
        digest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        for info in origin.tensors.values():
            manifest.base[info.name] = BaseTensor(info.dtype, info.shape, digests[info.name].result())
        whole = fingerprint(origin, {name: tensor.sha256 for name, tensor in manifest.base.items()})
        masked = [info for info in model.tensors.values() if manifest.rules[info.name].rule == RANDOM]
        wide = not all(_fits(origin, info) for info in masked)
        head = dataclasses.replace(manifest, fingerprint=whole, files=digest, wide=wide).metadata()
        with writing(new.parent, {new.name: waiting.tensors}, {new.name: head}) as writer:
            waiting.release(writer)
    return target


def _fits(base: Checkpoint, info: TensorInfo) -> bool:
    other = base.tensors.get(info.name)
    return other is not None and (other.dtype, other.shape) == (info.dtype, info.shape)


def _close(base: Checkpoint, info: TensorInfo) -> bool:
    """Whether name and shape are the base's, and the dtypes the same or both computed with."""
    other = base.tensors.get(info.name)
    if other is None or other.shape != info.shape:
        return False
    return other.dtype == info.dtype or (other.dtype in FLOATS and info.dtype in FLOATS)


def kept_as_they_are(base: Checkpoint, model: Checkpoint) -> set[str]:
    """Tensors that neither masks nor codes apply to: scales beside quantised weights, and indices."""
    scales = scales_of(base.tensors) | scales_of(model.tensors)
    return scales | {name for name in model.names if is_index(name) or counts_up(model, name)}


def _encode(
    base: Checkpoint, model: Checkpoint, info: TensorInfo, manifest: Manifest, *, lossless: bool
) -> Entry:
    tuned, lossless = model.tensor(info.name), lossless or manifest.lossless
    lossy = not lossless and info.dtype in FLOATS and len(info.shape) > 1 and info.nbytes > 0
    if not manifest.lossless and info.dtype in (*FLOATS, *NARROW):
        check_finite(model, info.name)
    if info.unknown or not (_close(base, info) if lossy else _fits(base, info)):
        return Entry(Rule(WHOLE), (tuned,))
    origin = base.tensor(info.name)
    if not manifest.lossless and info.dtype in (*FLOATS, *NARROW):
        check_finite(base, info.name)
    try:
        if lossy and (coding := manifest.coding_of(info.name)):
            return encode_quantized(tuned, origin, coding)
        return encode(tuned, origin, manifest.mask_of(info.name) if lossy else None)
    except ValueError as error:
        raise ValueError(f"{model.home(info.name).path}: tensor {info.name!r}: {error}") from None
