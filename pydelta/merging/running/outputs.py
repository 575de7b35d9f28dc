"""Where the result of a merge goes: paths, files, config. No torch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.folders.beside import differing
from pydelta.checkpoint.folders.weight_files import SINGLE
from pydelta.checkpoint.quantised.dequantised import Dequantised, unquantised
from pydelta.checkpoint.quantised.kinds import listed
from pydelta.checkpoint.staging import Pathlike
from pydelta.checkpoint.tensor_names import config_of
from pydelta.checkpoint.writer import Shards
from pydelta.merging.planning.items import TensorPlan
from pydelta.merging.planning.job import CheckedMerge
from pydelta.merging.recipes.recipe import DTYPES


def out_paths(out: Pathlike, seed: int, outputs: int) -> dict[int, Path]:
    """seed -> output: OUT itself, or OUT-<seed> for each of several."""
    path = Path(out)
    if outputs == 1:
        return {seed: path}
    suffix = path.suffix if path.suffix == ".safetensors" else ""
    stem = path.name.removesuffix(suffix)
    return {number: path.with_name(f"{stem}-{number}{suffix}") for number in range(seed, seed + outputs)}


def with_dtypes(shards: Shards, items: Sequence[TensorPlan]) -> Shards:
    """The shards with the dtypes that the result has."""
    infos = {item.name: item.info for item in items}
    return {file: [infos[info.name] for info in tensors] for file, tensors in shards.items()}


def resharded(
    shards: Shards, metadata: dict[str, dict[str, str]], limit: int
) -> tuple[Shards, dict[str, dict[str, str]]]:
    """The same tensors in files of at most ``limit`` bytes; a larger tensor has a file of its own."""
    groups: list[list[TensorInfo]] = []
    room = 0
    for info in [info for tensors in shards.values() for info in tensors]:
        if not groups or info.nbytes > room:
            groups.append([])
            room = limit
        groups[-1].append(info)
        room -= info.nbytes
    merged = {key: text for head in metadata.values() for key, text in head.items()}
    names = [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    names = [SINGLE] if len(groups) == 1 else names
    return dict(zip(names, groups, strict=True)), dict.fromkeys(names, merged)


def say_differing(job: CheckedMerge) -> None:
    """Warns, once, of files beside the weights (config, tokenizer, chat template) that are not the same.

    The result has those of its origin: which ones fit a merge, only who made it can know.
    """
    assert job.origin is not None
    sources = {**({} if job.base is None else {"base": job.base}), **job.models}
    models: dict[tuple[str, ...], list[str]] = {}
    for name, model in sources.items():
        if model is not job.origin and (files := differing(job.origin.folder, model.folder)):
            models.setdefault(tuple(files), []).append(name)
    if models:
        texts = [f"{listed(files)} differ from those of {listed(names)}" for files, names in models.items()]
        warnings.warn(f"{'; '.join(texts)}; the result has those of {job.origin.path}", stacklevel=3)


def config_text(origin: Checkpoint, dtype: str | None) -> dict[str, str]:
    """``config.json`` with the dtype that the result has, and no quantisation that it has lost."""
    config = config_of(origin)
    wanted = next((name for name, known in DTYPES.items() if known == dtype), None)
    packed = isinstance(origin, Dequantised) and origin.dequantises
    config = unquantised(config) if packed and config else config
    keys = [key for key in ("dtype", "torch_dtype") if key in config]
    if not keys or (wanted is None and not packed):
        return {}
    dtypes = dict.fromkeys(keys, wanted) if wanted else {}
    return {"config.json": json.dumps(config | dtypes, indent=2) + "\n"}
