"""What lies beside the weights: config, tokenizer, templates, modules in sub-folders. No torch."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydelta.checkpoint.quantised.kinds import listed

_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".h5",
    ".msgpack",
    ".onnx",
    ".gguf",
    ".distcp",
)
_SMALL = 64 << 20
_MODULES = "modules.json"
_OWN = ("README.md", "training_args.bin", "trainer_state.json", "model_card.md")
_VOLATILE = ("_name_or_path", "transformers_version")


def copy_beside(source: Path, folder: Path) -> None:
    """Copies what lies beside the weights, and warns of sub-folders whose weights are copied or left out.

    Visible files that hold no weights come along from the folder and from those below it. The folders that
    ``modules.json`` names (of sentence-transformers) come along with their weights, as they are.
    """
    copied: list[str] = []
    left: list[str] = []
    for name, file in beside(source).items():
        weights = is_weights(name)
        if weights and name.partition("/")[0] not in modules_of(source):
            left.append(name)
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
        if weights:
            copied.append(name)
    if copied:
        warnings.warn(f"{listed(copied)}: copied as it is from {source}", stacklevel=2)
    if left:
        warnings.warn(f"{listed(left)} of {source}: weights in sub-folders are left out", stacklevel=2)


def beside(source: Path) -> dict[str, Path]:
    """Relative name -> file: what lies beside the weights, and the weights in sub-folders.

    Left out are hidden files, those above 64 MiB, a training's ``checkpoint-*``, and the model's own shards.
    """
    own = _shards(source)
    return {name: file for name, file in _walk(source, source) if name not in own}


def modules_of(source: Path) -> set[str]:
    """The sub-folders that hold parts of the model, as ``modules.json`` has them."""
    modules = _json(source / _MODULES)
    if not isinstance(modules, list):
        return set()
    return {str(module["path"]) for module in modules if isinstance(module, dict) and module.get("path")}


def is_weights(name: str) -> bool:
    """Whether a file holds weights, or says where they are."""
    return name.endswith(_WEIGHTS) or ".index." in name.rpartition("/")[2]


def differing(origin: Path | None, model: Path | None) -> list[str]:
    """The files beside the weights of two folders that differ, or that one of them has alone, by name.

    Configs count as equal where they differ in who wrote them alone.
    """
    if origin is None or model is None:
        return []
    ours, theirs = beside(origin), beside(model)
    names = (ours.keys() | theirs.keys()) - set(_OWN)
    return sorted(name for name in names if not _alike(ours.get(name), theirs.get(name)))


def _walk(folder: Path, top: Path) -> Iterator[tuple[str, Path]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        name = path.relative_to(top).as_posix()
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink() and not entry.name.startswith("checkpoint-"):
                yield from _walk(path, top)
        elif entry.is_file():
            comes = folder != top if is_weights(name) else entry.stat().st_size <= _SMALL
            if comes:
                yield name, path


def _shards(source: Path) -> set[str]:
    """The files in sub-folders that an index of the model names."""
    named: set[str] = set()
    for index in source.glob("*.index*.json"):
        content = _json(index)
        mapped = content.get("weight_map") if isinstance(content, dict) else None
        named |= {str(file) for file in mapped.values()} if isinstance(mapped, dict) else set()
    return named


def _alike(one: Path | None, other: Path | None) -> bool:
    if one is None or other is None:
        return False
    if filecmp.cmp(one, other, shallow=False):
        return True
    ours, theirs = _json(one), _json(other)
    if not one.name.endswith("config.json") or not isinstance(ours, dict) or not isinstance(theirs, dict):
        return False
    return _told(ours) == _told(theirs)


def _told(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _VOLATILE}


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
