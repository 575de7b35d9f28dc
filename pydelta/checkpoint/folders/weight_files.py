"""Which files of a folder hold a checkpoint's tensors. No torch."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from pydelta.checkpoint.folders.locate import not_found
from pydelta.checkpoint.header import parse_json, pickle_error

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)
_VARIANT = re.compile(r"\.(fp16|bf16|fp32|non_ema|ema)(?=[.-])")


def weight_files(path: Path) -> tuple[dict[str, Path], dict[str, str] | None, Path | None]:
    """(the safetensors files by name, tensor -> file as an index says, the index) of a checkpoint.

    A folder has ``model.safetensors``, or an index and its shards, or files of other names that leave no
    doubt: one alone, a complete set of shards, or one beside its variants (``.fp16.``).

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is no checkpoint that is read; the message says what to name or to do instead.
    """
    if path.is_file():
        return {path.name: path}, None, None
    if not path.is_dir():
        raise not_found(path)
    if (path / SINGLE).is_file():
        return {SINGLE: path / SINGLE}, None, None
    indices = sorted(path.glob("*.safetensors.index*.json"), key=lambda file: _rank(file.name))
    if indices:
        mapped = weight_map(indices[0])
        names = sorted(set(mapped.values()))
        absent = [name for name in names if not (path / name).is_file()]
        if absent:
            raise ValueError(f"{path}: shards that the index names are missing: {', '.join(absent)}")
        return {name: path / name for name in names}, mapped, indices[0]
    return {name: path / name for name in _without_index(path)}, None, None


def weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file of an index.

    Raises:
        ValueError: it is not sound, or names a file outside its folder.
    """
    try:
        parsed = parse_json(index.read_bytes())
    except ValueError as error:
        raise ValueError(f"{index}: not sound JSON ({error})") from None
    mapped = parsed.get("weight_map") if isinstance(parsed, dict) else None
    if not isinstance(mapped, dict) or not mapped:
        raise ValueError(f"{index}: weight_map must be an object that maps tensors to files")
    for name, file in mapped.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or not _below(file):
            raise ValueError(
                f"{index}: tensor {name!r} must be in a .safetensors file of this folder, got {file!r}"
            )
    return mapped


def index_name(files: list[str]) -> str:
    """What the index of these shards is called: that of ``model.fp16-00001-of-00002.safetensors``, say, is
    ``model.safetensors.index.fp16.json``."""
    shard = _SHARD.fullmatch(PurePosixPath(files[0]).name) if files else None
    if shard is None:
        return INDEX
    stem, _, variant = shard[1].partition(".")
    return f"{stem}.safetensors.index{'.' if variant else ''}{variant}.json"


def _below(file: str) -> bool:
    parts = PurePosixPath(file).parts
    return bool(parts) and "\0" not in file and "\\" not in file and not {"..", "/"} & set(parts)


def _rank(name: str) -> tuple[bool, bool, str]:
    """``model`` before other stems, no variant before a variant."""
    return not name.startswith("model."), bool(_VARIANT.search(name)), name


def _without_index(path: Path) -> list[str]:
    names = sorted(file.name for file in path.glob("*.safetensors") if file.is_file())
    adapter = (path / "adapter_config.json").is_file()
    names = [name for name in names if not (adapter and name.startswith("adapter_"))]
    plain = [name for name in names if not _VARIANT.search(name)] or names
    shards = [shard for name in plain if (shard := _SHARD.fullmatch(name))]
    if shards and len(shards) == len(plain):
        if len({(shard[1], shard[3]) for shard in shards}) == 1 and int(shards[0][3]) == len(shards):
            return plain
        raise ValueError(f"{path}: shards without an index, and not all of them: {', '.join(plain)}")
    if len(plain) == 1:
        return plain
    if plain:
        raise ValueError(
            f"{path}: several safetensors files and no index; name one of {', '.join(plain)} as the model"
        )
    raise _no_weights(path, adapter)


def _no_weights(path: Path, adapter: bool) -> ValueError:
    """Why a folder without safetensors files is no checkpoint that is read."""
    if (path / "model_index.json").is_file():
        parts = sorted(folder.name for folder in path.iterdir() if any(folder.glob("*.safetensors")))
        return ValueError(f"{path}: a diffusers pipeline; name one of its components: {', '.join(parts)}")
    if (path / ".metadata").is_file() or any(path.glob("*.distcp")):
        return ValueError(
            f"{path}: a checkpoint of torch.distributed; make one file of it: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {path} model.pt, and convert that to "
            "safetensors"
        )
    for pickle in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        if (path / pickle).is_file():
            return pickle_error(path / pickle)
    if adapter:
        return ValueError(f"{path}: an adapter, not a model; merge it into its base first")
    below = [folder.name for folder in sorted(path.iterdir()) if (folder / SINGLE).is_file()]
    hint = f"; did you mean {path / below[0]}?" if below else ""
    return ValueError(f"{path}: neither {SINGLE} nor {INDEX} is in this folder{hint}")
