"""The manifest out of a header: nothing there is trusted. No torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydelta.checkpoint.folders.own_files import plain_path
from pydelta.checkpoint.header import parse_json
from pydelta.core.mask_names import MASKS
from pydelta.deltafile.manifest import (
    BITS,
    CODE_SETTINGS,
    CODED,
    CODES_VERSION,
    FORMAT,
    ROW,
    SETTINGS,
    STORED,
    TRANSFORMS,
    VERSION,
    BaseTensor,
    Manifest,
    Rule,
)

_HEX = re.compile(r"[0-9a-f]{64}")
_DTYPE = re.compile(r"[A-Z][A-Z0-9_]{0,31}")


def read_manifest(path: Path, metadata: Mapping[str, str]) -> Manifest:
    """The manifest of a file with these metadata.

    Raises:
        ValueError: it is no delta file, of a newer version, or a field is not what it must be.
    """
    if FORMAT not in metadata:
        raise ValueError(f"{path}: not a delta file: its metadata have no {FORMAT!r}")
    try:
        content = parse_json(metadata[FORMAT].encode())
    except ValueError as error:
        raise ValueError(f"{path}: {FORMAT} is not sound JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT!r}")
    version = content.get("version")
    if type(version) is int and version > VERSION:
        raise ValueError(
            f"{path}: version {version} of the format was written by a newer pydelta, "
            f"{content.get('pydelta')!r}; this one reads versions up to {VERSION}"
        )
    return _manifest(path, content)


Check = tuple[Callable[[Any], bool], str]
"""Whether a value fits, and the rule in words."""


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


_TEXT: Check = (lambda value: isinstance(value, str), "be text")
_FRACTION: Check = (lambda value: _number(value) and 0 <= value <= 1, "lie in [0, 1]")
_OBJECT: Check = (lambda value: isinstance(value, dict), "be an object")
_SHA256: Check = (lambda value: isinstance(value, str) and bool(_HEX.fullmatch(value)), "be a SHA-256 in hex")
_NAME: Check = (
    lambda value: isinstance(value, str) and value != "" and value.isprintable(),
    "be printable text",
)
_FILES: Check = (
    lambda value: (
        isinstance(value, dict)
        and all(plain_path(name) and isinstance(x, str) and _HEX.fullmatch(x) for name, x in value.items())
    ),
    "map paths below a folder to SHA-256 in hex",
)
_FIELDS: dict[str, Check] = {
    "version": (lambda value: type(value) is int and 1 <= value <= VERSION, f"lie in [1, {VERSION}]"),
    "pydelta": _TEXT,
    "model": _NAME,
    "seed": (lambda value: _natural(value) and value < 1 << 64, "lie in [0, 2**64)"),
    "mask": (lambda value: value is None or value in MASKS, f"be null or one of {', '.join(MASKS)}"),
    "keep": _FRACTION,
    "drop_large": _FRACTION,
    "factor": (lambda value: _number(value), "be a finite number"),
    "base": _OBJECT,
    "tensors": _OBJECT,
}
_CODE_FIELDS: dict[str, Check] = {
    "mask": (lambda value: value is None, "be null in a file of codes"),
    "bits": (lambda value: type(value) is int and value in BITS, f"be one of {', '.join(map(str, BITS))}"),
    "group": (
        lambda value: value == ROW or (_natural(value) and value > 0),
        "be 'row' or a positive number",
    ),
    "transform": (lambda value: value in TRANSFORMS, f"be one of {', '.join(TRANSFORMS)}"),
}
_BASE_TENSOR: dict[str, Check] = {
    "dtype": (
        lambda value: isinstance(value, str) and bool(_DTYPE.fullmatch(value)),
        "be a dtype of safetensors",
    ),
    "shape": (lambda value: isinstance(value, list) and all(map(_natural, value)), "be a list of sizes"),
    "sha256": _SHA256,
}
_RULE: dict[str, Check] = {
    "rule": (lambda value: value in tuple(STORED), f"be one of {', '.join(STORED)}")  # a list has no hash
}


def _manifest(path: Path, content: dict[str, Any]) -> Manifest:
    _check(path, "", content, _FIELDS)
    files = content.get("files") if content["version"] == VERSION else {}
    _check(path, "", {"files": files}, {"files": _FILES})
    coded = content["version"] == CODES_VERSION or (content["version"] == VERSION and "bits" in content)
    if coded:
        _check(path, "", content, _CODE_FIELDS)
    base, tensors = content["base"], content["tensors"]
    _check(path, "base.", base, {"fingerprint": _SHA256, "tensors": _OBJECT})
    for name, entry in base["tensors"].items():
        _check(path, f"base.tensors.{name}.", entry, _BASE_TENSOR)
    for name, entry in tensors.items():
        _check(path, f"tensors.{name}.", entry, _RULE)
        _check(path, f"tensors.{name}.", entry, {"rice": _rice(entry["rule"])})
    settings: dict[str, Any] = {field: content[field] for field in SETTINGS + CODE_SETTINGS * coded}
    return Manifest(
        **settings,
        fingerprint=base["fingerprint"],
        base={
            name: BaseTensor(entry["dtype"], tuple(entry["shape"]), entry["sha256"])
            for name, entry in base["tensors"].items()
        },
        rules={name: Rule(entry["rule"], entry.get("rice")) for name, entry in tensors.items()},
        files=dict(files or {}),
        wide=content["version"] == VERSION,
        made_by=content["pydelta"],
    )


def _rice(rule: str) -> Check:
    if rule == CODED:
        return _natural, "be a natural number"
    return lambda value: value is None, f"be absent with the rule {rule}"


def _check(path: Path, where: str, holder: Any, fields: Mapping[str, Check]) -> None:
    if not isinstance(holder, dict):
        raise ValueError(f"{path}: {where.removesuffix('.')} must be an object, got {holder!r}")
    for field, (fits, rule) in fields.items():
        if not fits(value := holder.get(field)):
            raise ValueError(f"{path}: {where}{field} must {rule}, got {value!r}")
