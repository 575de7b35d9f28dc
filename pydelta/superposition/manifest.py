"""``store.json``: what a store holds, written plainly and read with suspicion."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydelta.checkpoint.header import ITEMSIZE, parse_json
from pydelta.superposition.rules import BASE, EXACT, SUPERPOSED, Rule

FORMAT, VERSION = "pydelta-superposition", 1
TRANSFORMS = ("none", "sign", "hadamard")
DTYPES = {"bf16": "BF16", "fp32": "F32"}
STORE, LOG, EXACT_FOLDER = "store.json", "log.jsonl", "exact"

_HEX = re.compile(r"[0-9a-f]{64}")
_NAME_LIMIT = 200


@dataclasses.dataclass(frozen=True)
class Model:
    """One model of a store.

    Attributes:
        seed: of its keys.
        weight: its factor in the sum.
        fingerprint: of its checkpoint, over sampled bytes.
        norm2: squared norm of its delta over the superposed tensors.
    """

    seed: int
    weight: float
    fingerprint: str
    norm2: float


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All of ``store.json``.

    Attributes:
        digests: base tensor -> SHA-256 of its bytes.
        base_path, base_fingerprint: where the base lay, and what it was.
        base_stamps: shard of the base -> what changes when somebody writes to it.
        shards: number of the files ``superposed-00001.safetensors`` and on.
    """

    transform: str
    shuffle_layers: bool
    seed: int
    dtype: str
    lam: float
    base_path: str
    base_fingerprint: str
    base_stamps: dict[str, tuple[int, ...]]
    shards: int
    rules: dict[str, Rule]
    digests: dict[str, str]
    models: dict[str, Model]
    made_by: str

    def dump(self) -> str:
        tensors = {name: {**_plain(rule), "sha256": self.digests[name]} for name, rule in self.rules.items()}
        content = {
            "format": FORMAT,
            "version": VERSION,
            "pydelta": self.made_by,
            "transform": self.transform,
            "shuffle_layers": self.shuffle_layers,
            "seed": self.seed,
            "dtype": self.dtype,
            "lam": self.lam,
            "base": {
                "path": self.base_path,
                "fingerprint": self.base_fingerprint,
                "stamps": {name: list(stamp) for name, stamp in self.base_stamps.items()},
            },
            "shards": self.shards,
            "models": {name: _plain(self.models[name]) for name in sorted(self.models)},
            "tensors": tensors,
        }
        return json.dumps(content, indent=1) + "\n"


def shard_name(index: int) -> str:
    """The name of the superposed tensors' file number ``index``, counted from 1."""
    return f"superposed-{index:05d}.safetensors"


def exact_name(model: str) -> str:
    """The file of a model's exact tensors, below the store; no name leads out of the folder."""
    safe = quote(model, safe="")  # leaves letters, digits, "_.-~"
    safe = safe.replace("~", "%7E")
    return f"{EXACT_FOLDER}/{safe.replace('.', '%2E') if set(safe) == {'.'} else safe}.safetensors"


def check_model_name(name: object) -> str:
    """A name that fits into a key and a file name.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(name, str) or not name or "\0" in name or not name.isprintable():
        raise ValueError(f"[compress] a model's name must be printable text, got {name!r}")
    if len(exact_name(name)) > _NAME_LIMIT:
        raise ValueError(f"[compress] a model's name must fit a file name, got {name!r}")
    return name


def read_manifest(store: Path) -> Manifest:
    """Reads and checks ``store.json``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no store, of a newer version, or a field is not what it must be.
    """
    path = store / STORE
    if not path.is_file():
        raise FileNotFoundError(f"{store}: not a store: it has no {STORE}")
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not sound JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: format must be {FORMAT!r}")
    version = content.get("version")
    if type(version) is int and version > VERSION:
        raise ValueError(
            f"{path}: version {version} of the format was written by a newer pydelta, "
            f"{content.get('pydelta')!r}; this one reads versions up to {VERSION}"
        )
    reader = _Reader(path)
    reader.require(version == VERSION, "version", f"be {VERSION}", version)
    return _manifest(reader, content)


def _manifest(read: _Reader, content: dict[str, Any]) -> Manifest:
    base = read.get(content, "base", dict)
    tensors = {name: read.entry("tensors", name, value) for name, value in read.items(content, "tensors")}
    models = {name: read.entry("models", name, value) for name, value in read.items(content, "models")}
    shards = read.get(content, "shards", int)
    read.require(0 <= shards <= 99999, "shards", "lie in [0, 99999]", shards)
    return Manifest(
        transform=read.one_of(content, "transform", TRANSFORMS),
        shuffle_layers=read.get(content, "shuffle_layers", bool),
        seed=read.seed(content),
        dtype=read.one_of(content, "dtype", tuple(DTYPES)),
        lam=read.number(content, "lam"),
        base_path=read.get(base, "path", str),
        base_fingerprint=read.sha256(base, "fingerprint"),
        base_stamps={name: read.stamp(name, value) for name, value in read.items(base, "stamps")},
        shards=shards,
        rules={name: read.rule(name, entry) for name, entry in tensors.items()},
        digests={name: read.sha256(entry, "sha256") for name, entry in tensors.items()},
        models={name: read.model(name, entry) for name, entry in models.items()},
        made_by=read.get(content, "pydelta", str),
    )


class _Reader:
    """Typed access to parsed JSON; every error names the file and the field."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def require(self, condition: bool, field: str, rule: str, got: object) -> None:
        if not condition:
            raise ValueError(f"{self._path}: {field} must {rule}, got {got!r}")

    def get(self, holder: dict[str, Any], field: str, kind: type) -> Any:
        value = holder.get(field)
        self.require(type(value) is kind, field, f"be a JSON value of type {kind.__name__}", value)
        return value

    def items(self, holder: dict[str, Any], field: str) -> list[tuple[str, Any]]:
        return list(self.get(holder, field, dict).items())

    def entry(self, field: str, name: str, value: Any) -> dict[str, Any]:
        self.require(isinstance(value, dict), f"{field}.{name}", "be an object", value)
        entry: dict[str, Any] = value
        return entry

    def one_of(self, holder: dict[str, Any], field: str, allowed: tuple[str, ...]) -> str:
        value = self.get(holder, field, str)
        self.require(value in allowed, field, f"be one of {', '.join(allowed)}", value)
        return str(value)

    def number(self, holder: dict[str, Any], field: str) -> float:
        value: Any = holder.get(field)
        fits = type(value) in (int, float) and abs(value) <= sys.float_info.max
        self.require(fits, field, "be a finite number", value)
        return float(value)

    def seed(self, holder: dict[str, Any]) -> int:
        value = self.get(holder, "seed", int)
        self.require(0 <= value < 1 << 64, "seed", "lie in [0, 2**64)", value)
        return int(value)

    def sha256(self, holder: dict[str, Any], field: str) -> str:
        value = self.get(holder, field, str)
        self.require(_HEX.fullmatch(value) is not None, field, "be a SHA-256 in hex", value)
        return str(value)

    def stamp(self, name: str, value: Any) -> tuple[int, ...]:
        fits = isinstance(value, list) and all(type(number) is int for number in value)
        self.require(fits, f"base.stamps.{name}", "be a list of integers", value)
        return tuple(value)

    def model(self, name: str, entry: dict[str, Any]) -> Model:
        try:
            check_model_name(name)
        except ValueError:
            self.require(False, "models", "have printable names that fit a file name", name)
        weight, norm2 = self.number(entry, "weight"), self.number(entry, "norm2")
        self.require(weight > 0, f"models.{name}.weight", "be positive", weight)
        self.require(norm2 >= 0, f"models.{name}.norm2", "not be negative", norm2)
        return Model(self.seed(entry), weight, self.sha256(entry, "fingerprint"), norm2)

    def rule(self, name: str, entry: dict[str, Any]) -> Rule:
        where = f"tensors.{name}"
        rule = self.one_of(entry, "rule", (SUPERPOSED, EXACT, BASE))
        dtype = self.one_of(entry, "dtype", tuple(ITEMSIZE))
        shape = self.get(entry, "shape", list)
        self.require(all(type(n) is int and n >= 0 for n in shape), f"{where}.shape", "be sizes", shape)
        dim = entry.get("dim")
        fits = type(dim) is int and 0 <= dim < len(shape) if rule == SUPERPOSED else dim is None
        self.require(fits, f"{where}.dim", "be the input axis of a superposed tensor", dim)
        return Rule(rule, dtype, tuple(shape), dim)


def _plain(record: Rule | Model) -> dict[str, Any]:
    return {field: value for field, value in dataclasses.asdict(record).items() if value is not None}
