"""Delta files: what a fine-tune changed in its base, in one safetensors file.

``diff`` writes one, ``patch`` makes the model from base and file, ``apply`` changes a live state dict, and
``describe`` lists what a file holds, without torch. ``docs/formats.md`` describes the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydelta.core.mask_names import DROP_LARGE, RANDOM

if TYPE_CHECKING:
    import torch

__all__ = ["apply", "describe", "diff", "patch"]

Pathlike = str | os.PathLike[str]


def diff(
    base: Pathlike,
    tuned: Pathlike,
    out: Pathlike,
    *,
    keep: float | None = None,
    mask: str = RANDOM,
    drop_large: float = DROP_LARGE,
    lossless: bool = False,
    bits: int | None = None,
    group: str | int = "row",
    transform: str = "hadamard",
    seed: int = 42,
    name: str | None = None,
    rescale: bool | float = True,
    force: bool = False,
    progress: bool = False,
) -> Path:
    """Writes what ``tuned`` changed in ``base`` to one file, tensor by tensor.

    With ``lossless`` every element whose bits differ is stored, in any dtype, and :func:`patch` gives the
    tuned model bit for bit. Otherwise that holds for tensors of one axis or none, and of dtypes other than
    float16, bfloat16, float32 and float64; the rest is masked: what the mask keeps of tuned - base is stored.
    Or, with ``bits``, it is quantised: the unbiased codes of tuned - base, see :func:`pydelta.quantize`, are
    stored, but where all that changed takes no more bytes.
    Tensors with a name, shape or dtype that the base does not have are stored whole in any case.

    Args:
        base, tuned: a Hugging Face folder or one safetensors file each.
        out: the file to make.
        keep: the fraction of elements kept, in [0, 1]; goes without ``lossless`` and ``bits``, of which one
            must be given else.
        mask: of each tensor "random" (:class:`pydelta.RandomMask` with ``key(seed, "mask", name, tensor)``:
            DARE, arXiv 2311.03099; no positions are stored), "magnitude" (:class:`pydelta.MagnitudeMask`) or
            "breadcrumbs" (:class:`pydelta.BandMask`, arXiv 2312.06795).
        drop_large: the fraction of the largest that "breadcrumbs" drops.
        lossless: store all that changed.
        bits: 1, 2, 4 or 8, of each element's code.
        group: the elements that share a scale: "row" (the last axis; in tensors of three and more axes whose
            last is shorter than 64 all but the first), or a number that divides it.
        transform: of the delta before it is coded: "hadamard" (:func:`pydelta.rotate` with
            ``key(seed, "signs", name, tensor)``) or "none". Rotation makes the error of codes noise, whatever
            pattern the delta has; without it one bit can lose much.
        seed: of the random masks and rotations, in [0, 2**64).
        name: the model's name in their keys; by default the last part of the path ``tuned``.
        rescale: what a random mask multiplies kept deltas by: True 1 / keep, which leaves the expected delta
            as it was, False 1, a number itself (DAREx-q, arXiv 2410.09344: 1 / q).
        force: replace an existing file.
        progress: draw a bar on stderr if that is a terminal.

    Returns:
        The path written.

    Raises:
        TypeError: an argument of a wrong kind.
        ValueError: an argument of a wrong value, an existing ``out`` without ``force``, models that have no
            tensor in common, or, unless ``lossless``, NaN, Inf, a group that does not divide a row, or a
            restored value beyond the dtype; the message names file and tensor. Nothing is left under ``out``.
        OSError: a file cannot be read or written.
    """
    from pydelta.checkpoint.folders.locate import name_of
    from pydelta.deltafile.options import Options
    from pydelta.deltafile.write import write

    label = name_of(tuned) if name is None else name
    options = Options(keep, mask, drop_large, lossless, seed, label, rescale, bits, group, transform)
    return write(base, tuned, out, options, force=force, show=progress)


def patch(
    base: Pathlike, file: Pathlike, out: Pathlike, *, force: bool = False, progress: bool = False
) -> Path:
    """Makes the model of a delta file, tensor by tensor.

    Args:
        base: the checkpoint that the file was made from; its bytes are compared by SHA-256.
        file: made by :func:`diff`.
        out: one file if it ends in ``.safetensors``, else a folder with the base's shards, config and
            tokenizer.
        force: replace an existing ``out``.
        progress: draw a bar on stderr if that is a terminal.

    Returns:
        The path written.

    Raises:
        ValueError: another base, an existing ``out`` without ``force``, or a file that is not sound; the
            message names file and tensor. Nothing is left under ``out``.
        OSError: a file cannot be read or written.
    """
    from pydelta.deltafile.restore import patch

    return patch(base, file, out, force=force, show=progress)


def apply(file: Pathlike, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Turns the tensors of a base into those of a delta file's model, in place and all or none.

    The tensors may be a model's own, on any device and with any strides. Names that the file does not know
    stay as they are, and so do tensors of the base that the tuned model lacks. Tied weights, one tensor under
    two names, are changed once, if the file does the same to both.

    Args:
        file: made by :func:`diff`.
        state_dict: name -> tensor with the base's dtypes, shapes and values, which are compared by SHA-256.

    Raises:
        TypeError: ``state_dict`` is no mapping, or something in it is no tensor.
        ValueError: tensors that change are missing, tensors are of another shape or dtype or not the base's,
            or places are not sound: one sentence lists all problems. No tensor has changed.
        OSError: the file cannot be read.
    """
    from pydelta.deltafile.live import apply

    apply(file, state_dict)


def describe(file: Pathlike) -> dict[str, Any]:
    """What a delta file holds, from its header alone, as plain JSON data.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no delta file, not sound, or of a newer version of the format.
    """
    from pydelta.deltafile.reader import DeltaFile

    return DeltaFile(file).describe()
