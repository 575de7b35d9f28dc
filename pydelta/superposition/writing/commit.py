"""A change of a store: prepared beside it, then there all at once.

Files are never written to under their names: sums are named by their content, and what is new waits in a
hidden folder. ``store.json`` is replaced by one renaming: before it the store is the old one, after it the
new one. What the new one does not name is removed then, or at the next change if we are killed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydelta.checkpoint.folders.own_files import write_synced
from pydelta.checkpoint.staging import remove, sync_folder
from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.format.log import locked, write_log, writing_alone
from pydelta.superposition.format.manifest import (
    EXACT_FOLDER,
    FILES_FOLDER,
    RESIDUAL_FOLDER,
    STORE,
    Manifest,
    file_name,
)
from pydelta.superposition.format.manifest_reader import read_manifest

_FOLDERS = (EXACT_FOLDER, RESIDUAL_FOLDER)
_SUMS = ("superposed-*.safetensors", "open-*.safetensors")
_OURS = (".new-*.tmp", *_SUMS, *(f"{folder}/*.safetensors" for folder in _FOLDERS))


class Change:
    """What :func:`changing` gives.

    Attributes:
        store: the folder.
        files, manifest: of the store as it is.
        folder: where new files go.
    """

    def __init__(self, store: Path, files: StoreFiles, folder: Path) -> None:
        self.store, self.files, self.folder = store, files, folder
        self.manifest = files.manifest

    def commit(self, manifest: Manifest, event: str, new: Collection[str] = (), **details: Any) -> None:
        """The store becomes what ``manifest`` says.

        Args:
            event, details: for the log.
            new: files of ``folder`` that the manifest names.
        """
        write_text(self.folder / STORE, manifest.dump())
        with locked(self.store):
            for name in new:
                (self.store / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(self.folder / name, self.store / name)
            for name in sorted({os.path.dirname(name) for name in new} - {""}):
                sync_folder(self.store / name)
            sync_folder(self.store)
            os.replace(self.folder / STORE, self.store / STORE)
            sync_folder(self.store)
            write_log(self.store, event, **details)
            _sweep(self.store, manifest)


@contextmanager
def changing(store: Path) -> Iterator[Change]:
    """Alone among those who change the store; readers go on with what they opened.

    Raises:
        OSError: the store cannot be read or written to.
        ValueError: it is not sound, or of the first version of the format.
    """
    if not (store / STORE).is_file():
        raise FileNotFoundError(f"{store}: not a store: it has no {STORE}")
    with writing_alone(store):
        files = StoreFiles(store, read_manifest(store))
        if files.manifest.version == 1:
            raise ValueError(
                f"{store}: a store of version 1 is only read: compress its models anew to change it"
            )
        with locked(store):
            _sweep(store, files.manifest)
        folder = store / f".new-{secrets.token_hex(4)}.tmp"
        folder.mkdir()
        try:
            yield Change(store, files, folder)
        finally:
            remove(folder)


def write_text(path: Path, text: str) -> None:
    """Writes a small file to the disk."""
    write_synced(path, text.encode())


def _sweep(store: Path, manifest: Manifest) -> None:
    """Removes what a change has left over, or one that was killed."""
    for pattern in _OURS:
        for path in store.glob(pattern):
            if path.relative_to(store).as_posix() not in manifest.files:
                remove(path)
    with_files = {file_name(name) for name, model in manifest.models.items() if model.departs.files}
    for path in store.glob(f"{FILES_FOLDER}/*"):
        if path.name not in with_files:
            remove(path)
