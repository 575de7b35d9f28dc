"""Models of a store as transformers models. Needs the package transformers (``pip install pydelta[hf]``)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.tensor_names import config_of
from pydelta.superposition import Superposition
from pydelta.superposition.format.base import open_base

_TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")


def load(
    store: str | os.PathLike[str] | Superposition,
    name: str,
    *,
    base: str | os.PathLike[str] | None = None,
    device: str | None = None,
) -> tuple[Any, Any]:
    """One model of a store, with its tokenizer.

    The architecture is the one that the config names; the base's weights are read once, and the model's are
    written over them in place. The model's own config, generation config, chat template and tokenizer are
    kept, and a model with tensors of its own, or of other shapes than the base's, is retrieved for the while.

    Args:
        store: a store, or its folder.
        name: of the model.
        base: where the store's base is; by default where it was. A folder with a ``config.json``.
        device: of the model; by default the CPU.

    Returns:
        (model in evaluation mode, tokenizer, or None where the base's folder has none).

    Raises:
        ImportError: transformers is not installed.
        ValueError: an unknown model, another base than the store's, a base without a config, a config whose
            architecture transformers does not know, or a store that is not sound.
        OSError: a file cannot be read.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("[hf.load] transformers must be installed: pip install 'pydelta[hf]'") from error

    opened = store if isinstance(store, Superposition) else Superposition.open(store)
    if name not in opened.models:
        known = ", ".join(opened.models)
        raise ValueError(f"{opened.path}: holds no model {name!r}; it holds {known}")
    checkpoint = open_base(opened.path, opened.manifest, base)
    with tempfile.TemporaryDirectory(prefix="pydelta-") as own:
        folder, whole = _folder(opened, name, checkpoint, base, Path(own))
        config = config_of(checkpoint if folder is None else Checkpoint(folder))
        names = config.get("architectures") or [None]
        kind = getattr(transformers, str(names[0]), None)
        if folder is None or kind is None:
            raise ValueError(
                f"{checkpoint.path}: must be a folder whose config.json names an architecture of "
                f"transformers, got {names[0]!r}"
            )
        model = kind.from_pretrained(folder, dtype="auto", local_files_only=True).to(device or "cpu").eval()
        if not whole:
            opened.attach(model, base=base).activate(name)
        has_tokenizer = any((folder / file).is_file() for file in _TOKENIZERS)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder) if has_tokenizer else None
    return model, tokenizer


def _folder(
    store: Superposition,
    name: str,
    base_checkpoint: Checkpoint,
    base: str | os.PathLike[str] | None,
    own: Path,
) -> tuple[Path | None, bool]:
    """What transformers loads: the base's folder, with the model's own small files in their places, or the
    model itself where it has other tensors than the base. And whether it is the model itself."""
    departs, folder = store.manifest.models[name].departs, base_checkpoint.folder
    if folder is None or not departs:
        return folder, False
    if departs.own or departs.rows or departs.lacks:
        return Path(store.retrieve(name, own / "model", base=base)), True
    for path in folder.iterdir():
        (own / path.name).symlink_to(path.absolute())
    for file, path in store.files.own_files(name).items():
        if "/" not in file:  # a folder below is the base's, and nothing is written there
            (own / file).unlink(missing_ok=True)
            (own / file).write_bytes(path.read_bytes())
    return own, False
