"""The base of a store: where it is, and whether it is the one that the store was made with."""

from __future__ import annotations

import functools
from pathlib import Path

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.digest import tensor_digest
from pydelta.checkpoint.staging import Pathlike
from pydelta.checkpoint.workers import Workers
from pydelta.superposition.format.manifest import Manifest


def check_base(store: Path, base: Checkpoint, manifest: Manifest, workers: Workers) -> None:
    """A base has the bytes of the store's, unless its files bear the stamps that they had when it was made.

    Raises:
        ValueError: it has others; the message says in which tensors, and how much of it they are.
    """
    if stamps(base) == manifest.base_stamps:
        return
    digests = {name: workers.submit(functools.partial(tensor_digest, base, name)) for name in base.names}
    differ = [name for name, digest in digests.items() if digest.result() != manifest.digests[name]]
    if differ:
        share = sum(base.tensors[name].nbytes for name in differ) / base.nbytes
        raise ValueError(
            f"{base.path}: not the base of {store}: {len(differ)} of {len(digests)} tensors differ, "
            f"{share:.1%} of the bytes: {', '.join(differ)}"
        )


def open_base(store: Path, manifest: Manifest, override: Pathlike | None) -> Checkpoint:
    """The base, from where it is said to be or from where it lay.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: names, shapes or dtypes are not those of the store's base.
    """
    path = Path(manifest.base_path if override is None else override)
    if override is None and not path.exists():
        raise FileNotFoundError(
            f"{store}: its base is no longer at {path}; say where it is with --base (base=)"
        )
    base = Checkpoint(path)
    present = {info.name: (info.dtype, info.shape) for info in base.tensors.values()}
    wanted = {name: (rule.dtype, rule.shape) for name, rule in manifest.rules.items()}
    differ = sorted(n for n in present.keys() | wanted.keys() if present.get(n) != wanted.get(n))
    if differ:
        raise ValueError(
            f"{path}: not the base of {store}: {', '.join(differ)} differ in name, shape or dtype"
        )
    return base


def stamps(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shard -> device, inode, size and times: they change whenever somebody writes to the file."""
    return {name: header.stamp for name, header in checkpoint.shards.items()}
