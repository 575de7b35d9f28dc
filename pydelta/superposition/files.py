"""The files of tensors of a store, held against its ``store.json``. No torch."""

from __future__ import annotations

from pathlib import Path

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.staging import Pathlike
from pydelta.superposition.manifest import DTYPES, Manifest, exact_name, shard_name
from pydelta.superposition.rules import EXACT, SUPERPOSED, Rule


def open_base(store: Path, manifest: Manifest, given: Pathlike | None) -> Checkpoint:
    """The base, from where it is said to be or from where it lay.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: names, shapes or dtypes are not those of the store's base.
    """
    path = Path(manifest.base_path if given is None else given)
    if given is None and not path.exists():
        raise FileNotFoundError(
            f"{store}: its base is no longer at {path}; say where it is with --base (base=)"
        )
    base = Checkpoint(path)
    found = {info.name: (info.dtype, info.shape) for info in base.tensors.values()}
    wanted = {name: (rule.dtype, rule.shape) for name, rule in manifest.rules.items()}
    differ = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
    if differ:
        raise ValueError(
            f"{path}: not the base of {store}: {', '.join(differ)} differ in name, shape or dtype"
        )
    return base


def stamps(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shard -> device, inode, size and times: they change whenever somebody writes to the file."""
    return {name: header.stamp for name, header in checkpoint.shards.items()}


def superposed_tensors(store: Path, manifest: Manifest) -> dict[str, Checkpoint]:
    """Superposed tensor -> the file that holds it.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not sound or does not hold what it must.
    """
    files = [Checkpoint(store / shard_name(i + 1)) for i in range(manifest.shards)]
    home = {name: file for file in files for name in file.names}
    wanted = {
        name: (superposed_dtype(rule, manifest.dtype), rule.shape)
        for name, rule in manifest.rules.items()
        if rule.rule == SUPERPOSED
    }
    _compare(store, {name: file.tensors[name] for name, file in home.items()}, wanted)
    return home


def exact_tensors(store: Path, manifest: Manifest, model: str) -> Checkpoint:
    """The file of a model's exact tensors; errors as :func:`superposed_tensors`."""
    file = Checkpoint(store / exact_name(model))
    kept = {name: rule for name, rule in manifest.rules.items() if rule.rule == EXACT}
    _compare(file.path, file.tensors, {name: (rule.dtype, rule.shape) for name, rule in kept.items()})
    return file


def superposed_dtype(rule: Rule, dtype: str) -> str:
    """The dtype of a superposed tensor: as asked for the store, but F64 for an F64 base."""
    return "F64" if rule.dtype == "F64" else DTYPES[dtype]


def _compare(
    path: Path, found: dict[str, TensorInfo], wanted: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    have = {name: (info.dtype, info.shape) for name, info in found.items()}
    differ = sorted(name for name in have.keys() | wanted.keys() if have.get(name) != wanted.get(name))
    if differ:
        raise ValueError(f"{path}: does not hold what store.json says: {', '.join(differ)}")
