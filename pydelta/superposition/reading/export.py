"""Many models of a store as checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydelta.checkpoint.staging import Pathlike, check_output, staged
from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.format.log import append_log
from pydelta.superposition.format.manifest import file_name
from pydelta.superposition.reading.retrieve import Retrieval


def export(
    store: Path,
    files: StoreFiles,
    out: Pathlike,
    names: Sequence[str],
    *,
    base: Pathlike | None,
    out_dtype: str,
    show: bool,
) -> list[Path]:
    """See :meth:`Superposition.export`."""
    retrievals = [Retrieval(store, files, name, base, None, out_dtype=out_dtype) for name in names]
    inputs = [store, *(retrieval.base.path for retrieval in retrievals)]
    target = check_output(out, force=False, inputs=inputs)
    with staged(target, force=False) as folder:
        folder.mkdir()
        for name, retrieval in zip(names, retrievals, strict=True):
            retrieval.to_files(folder / file_name(name), force=False, show=show, log=False)
    append_log(store, "export", models=list(names), out=str(target), base=str(inputs[-1]))
    return [target / file_name(name) for name in names]
