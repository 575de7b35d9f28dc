"""Models of a store as transformers models. Needs the package transformers (``pip install pydelta[hf]``)."""

from __future__ import annotations

import os
from typing import Any

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

    The architecture is the one that the base's config names; the base's weights are read once, and the
    model's are written over them in place.

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
    folder, names = checkpoint.folder, config_of(checkpoint).get("architectures") or [None]
    kind = getattr(transformers, str(names[0]), None)
    if folder is None or kind is None:
        raise ValueError(
            f"{checkpoint.path}: must be a folder whose config.json names an architecture of transformers, "
            f"got {names[0]!r}"
        )
    model = kind.from_pretrained(folder, dtype="auto", local_files_only=True).to(device or "cpu").eval()
    opened.attach(model, base=base).activate(name)
    has_tokenizer = any((folder / file).is_file() for file in _TOKENIZERS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder) if has_tokenizer else None
    return model, tokenizer
