"""``store.json`` read with suspicion, of this version of the format and of those before."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydelta.checkpoint import TensorInfo
from pydelta.checkpoint.folders.own_files import plain_path
from pydelta.checkpoint.header import parse_json
from pydelta.checkpoint.tensor_names import FLOATS
from pydelta.superposition.format.departures import Departures
from pydelta.superposition.format.form import BITS, DTYPES, StorageForm
from pydelta.superposition.format.manifest import (
    AUTO,
    EXACT_FOLDER,
    FORMAT,
    RESIDUAL_FOLDER,
    STORE,
    TRANSFORMS,
    VERSION,
    Bucket,
    Loss,
    Manifest,
    Model,
    check_model_name,
    exact_name,
    model_files,
)
from pydelta.superposition.format.mask import Masking
from pydelta.superposition.format.rules import BASE, EXACT, SUPERPOSED, TIED, Rule

_HEX = re.compile(r"[0-9a-f]{64}")
_DTYPE = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
_SUMS = re.compile(r"(superposed|open)-[0-9a-f]{16}\.safetensors")


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
    version = reader.get(content, "version", int)
    reader.require(version > 0, "version", "be positive", version)
    return _manifest(reader, content, version)


def _manifest(read: _Reader, content: dict[str, Any], version: int) -> Manifest:
    base = read.get(content, "base", dict)
    tensors = {name: read.entry("tensors", name, value) for name, value in read.items(content, "tensors")}
    entries = {name: read.entry("models", name, value) for name, value in read.items(content, "models")}
    rules = {name: read.rule(name, entry) for name, entry in tensors.items()}
    for name, rule in rules.items():
        first = rules.get(rule.tied or name)
        fits = rule.tied is None or (
            version > 3 and first is not None and (first.rule, first.shape) == (SUPERPOSED, rule.shape)
        )
        read.require(fits, f"tensors.{name}.tied", "be a superposed tensor of its shape", rule.tied)
    transform = read.one_of(content, "transform", TRANSFORMS if version < 3 else (*TRANSFORMS, AUTO))
    if transform == AUTO:
        rules = {
            name: dataclasses.replace(rule, transform=read.one_of(tensors[name], "transform", TRANSFORMS))
            if rule.rule == SUPERPOSED
            else rule
            for name, rule in rules.items()
        }
    summed = [name for name, rule in rules.items() if rule.rule == SUPERPOSED]
    models = {name: read.model(name, entry, summed if version > 1 else []) for name, entry in entries.items()}
    if version > 2:
        models = {
            name: dataclasses.replace(model, lams=read.lams(name, entries[name], summed))
            for name, model in models.items()
        }
    if version > 3:
        models = {
            name: dataclasses.replace(model, departs=read.departures(f"models.{name}", entries[name], rules))
            for name, model in models.items()
        }
    if version == 1:
        form, residual = StorageForm(read.one_of(content, "dtype", tuple(DTYPES))), 0.0
        buckets, files = _first(read, content, list(models))
        exponents = {}
    else:
        form = read.form(content)
        residual = read.fraction(content, "residual") if version > 2 else 0.0
        buckets, files = _buckets(read, content, form, list(models), residual)
        exponents = {name: read.exponent(name, tensors[name]) for name in summed} if form.exact else {}
    return Manifest(
        transform=transform,
        shuffle_layers=read.get(content, "shuffle_layers", bool),
        seed=read.seed(content),
        lam=read.number(content, "lam"),
        form=form,
        base_path=read.get(base, "path", str),
        base_fingerprint=read.sha256(base, "fingerprint"),
        base_stamps={name: read.stamp(name, value) for name, value in read.items(base, "stamps")},
        rules=rules,
        digests={name: read.sha256(entry, "sha256") for name, entry in tensors.items()},
        exponents=exponents,
        buckets=buckets,
        models=models,
        files=files,
        made_by=read.get(content, "pydelta", str),
        masking=read.masking(content) if version > 2 else Masking(),
        residual=residual,
        version=version,
    )


def _first(
    read: _Reader, content: dict[str, Any], models: list[str]
) -> tuple[tuple[Bucket, ...], dict[str, dict[str, str]]]:
    """Version 1: all models in one bucket, files by number, no digests."""
    shards = read.get(content, "shards", int)
    read.require(0 <= shards <= 99999, "shards", "lie in [0, 99999]", shards)
    sums = tuple(f"superposed-{i + 1:05d}.safetensors" for i in range(shards))
    return (Bucket(tuple(sorted(models)), sums),), {
        file: {} for file in (*sums, *(exact_name(model) for model in models))
    }


def _buckets(
    read: _Reader, content: dict[str, Any], form: StorageForm, models: list[str], residual: float
) -> tuple[tuple[Bucket, ...], dict[str, dict[str, str]]]:
    buckets = tuple(read.bucket(i, entry) for i, entry in enumerate(read.get(content, "buckets", list)))
    for i, bucket in enumerate(buckets):
        count, most = len(bucket.models), form.room or len(models)
        read.require(1 <= count <= most, f"buckets[{i}]", f"hold 1 to {most} models, its room", count)
    held = sorted(name for bucket in buckets for name in bucket.models)
    read.require(held == sorted(models), "buckets", "hold every model once", held)
    files = {file: read.digests(file, value) for file, value in read.items(content, "files")}
    wanted = {file for model in models for file in model_files(model, residual)}
    wanted |= {file for bucket in buckets for file in (*bucket.files, *bucket.open)}
    differ = sorted(wanted ^ files.keys())
    read.require(not differ, "files", "be those of the buckets and models", differ)
    return buckets, files


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

    def fraction(self, holder: dict[str, Any], field: str) -> float:
        value = self.number(holder, field)
        self.require(0 <= value < 1, field, "lie in [0, 1)", value)
        return value

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

    def form(self, content: dict[str, Any]) -> StorageForm:
        bits, group, room = content.get("bits"), content.get("group"), content.get("room")
        listed = ", ".join(map(str, BITS))
        self.require(bits is None or (type(bits) is int and bits in BITS), "bits", f"be of {listed}", bits)
        if not isinstance(group, int) or isinstance(group, bool) or group < 1:
            self.require(group == "row", "group", "be 'row' or a number of elements", group)
            group = "row"
        fits = (room is None and bits is None) or (type(room) is int and room > 0)
        self.require(fits, "room", "be a number of models", room)
        exact = self.get(content, "exact", bool)
        fits = not exact or (bits is None and room is not None)
        self.require(fits, "exact", "be false where there are bits or no room", exact)
        return StorageForm(self.one_of(content, "dtype", tuple(DTYPES)), bits, group, exact, room)

    def masking(self, content: dict[str, Any]) -> Masking:
        fields = {name: content.get(name) for name in ("mask", "keep", "drop_large")}
        try:
            return Masking(**fields)
        except (TypeError, ValueError) as error:
            rule = str(error).partition("] ")[2]
            raise ValueError(f"{self._path}: {rule}") from None

    def bucket(self, index: int, value: Any) -> Bucket:
        where = f"buckets[{index}]"
        entry = self.entry("buckets", str(index), value)
        for field in ("models", "files", "open"):
            items = self.get(entry, field, list)
            self.require(all(isinstance(x, str) for x in items), f"{where}.{field}", "be names", items)
        for field, kind in (("files", "superposed"), ("open", "open")):
            fits = all((parts := _SUMS.fullmatch(x)) and parts[1] == kind for x in entry[field])
            self.require(fits, f"{where}.{field}", "be names of files of sums", entry[field])
        return Bucket(tuple(sorted(entry["models"])), tuple(entry["files"]), tuple(entry["open"]))

    def digests(self, file: str, value: Any) -> dict[str, str]:
        safe = _SUMS.fullmatch(file) or file.startswith((f"{EXACT_FOLDER}/", f"{RESIDUAL_FOLDER}/"))
        self.require(bool(safe), "files", "have names of files of a store", file)
        entry = self.entry("files", file, value)
        return {name: self.sha256(entry, name) for name in entry}

    def model(self, name: str, entry: dict[str, Any], summed: Sequence[str]) -> Model:
        try:
            check_model_name(name)
        except ValueError:
            self.require(False, "models", "have printable names that fit a file name", name)
        weight, norm2 = self.number(entry, "weight"), self.number(entry, "norm2")
        self.require(weight > 0, f"models.{name}.weight", "be positive", weight)
        self.require(norm2 >= 0, f"models.{name}.norm2", "not be negative", norm2)
        norms: dict[str, float] = {}
        if summed:
            values = self.get(entry, "norms", list)
            fits = len(values) == len(summed) and all(
                type(x) in (int, float) and 0 <= x <= sys.float_info.max for x in values
            )
            self.require(fits, f"models.{name}.norms", "be one number a superposed tensor", values)
            norms = dict(zip(summed, map(float, values), strict=True))
        seed, print_ = self.seed(entry), self.sha256(entry, "fingerprint")
        return Model(seed, weight, print_, norm2, norms, self.losses(name, entry, summed))

    def losses(self, name: str, entry: dict[str, Any], summed: Sequence[str]) -> dict[str, Loss]:
        if "losses" not in entry:
            return {}
        values = self.get(entry, "losses", list)
        fits = len(values) == len(summed) and all(
            isinstance(row, list)
            and len(row) == 3
            and all(type(x) in (int, float) and 0 <= x <= sys.float_info.max for x in row)
            for row in values
        )
        self.require(fits, f"models.{name}.losses", "be three numbers a superposed tensor", values)
        return {tensor: Loss(*map(float, row)) for tensor, row in zip(summed, values, strict=True)}

    def lams(self, name: str, entry: dict[str, Any], summed: Sequence[str]) -> dict[str, float]:
        """Calibrated factors; null where a tensor has none, no list where the model has none."""
        if "lams" not in entry:
            return {}
        values = self.get(entry, "lams", list)
        fits = len(values) == len(summed) and all(
            x is None or (type(x) in (int, float) and 0 <= x <= 1) for x in values
        )
        self.require(fits, f"models.{name}.lams", "be a factor in [0, 1] or null a superposed tensor", values)
        return {tensor: float(x) for tensor, x in zip(summed, values, strict=True) if x is not None}

    def exponent(self, name: str, entry: dict[str, Any]) -> int:
        value = entry.get("exponent")
        fits = type(value) is int and -200 <= value <= 200
        self.require(fits, f"tensors.{name}.exponent", "be a small integer", value)
        assert isinstance(value, int)
        return value

    def rule(self, name: str, entry: dict[str, Any]) -> Rule:
        where = f"tensors.{name}"
        rule = self.one_of(entry, "rule", (SUPERPOSED, EXACT, BASE, TIED))
        dtype, shape = self.info(where, entry)
        dim = entry.get("dim")
        fits = type(dim) is int and 0 <= dim < len(shape) if rule == SUPERPOSED else dim is None
        self.require(fits, f"{where}.dim", "be the input axis of a superposed tensor", dim)
        tied = self.get(entry, "tied", str) if rule == TIED else None
        return Rule(rule, dtype, shape, dim, tied=tied)

    def info(self, where: str, entry: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
        dtype, shape = self.get(entry, "dtype", str), self.get(entry, "shape", list)
        self.require(bool(_DTYPE.fullmatch(dtype)), f"{where}.dtype", "be a dtype of safetensors", dtype)
        self.require(all(type(n) is int and n >= 0 for n in shape), f"{where}.shape", "be sizes", shape)
        return dtype, tuple(shape)

    def departures(self, where: str, entry: dict[str, Any], rules: Mapping[str, Rule]) -> Departures:
        """What one model has otherwise than its base; a field that is not there is empty."""
        own = {}
        for name, value in self.items({"own": {}, **entry}, "own"):
            own[name] = TensorInfo(name, *self.info(f"{where}.own.{name}", self.entry("own", name, value)))
        lacks = self.get({"lacks": [], **entry}, "lacks", list)
        fits = all(isinstance(name, str) and name in rules and name not in own for name in lacks)
        self.require(fits, f"{where}.lacks", "be tensors of the base", lacks)
        dtypes = dict(self.items({"dtypes": {}, **entry}, "dtypes"))
        rows = dict(self.items({"rows": {}, **entry}, "rows"))
        summed = {name for name, rule in rules.items() if rule.rule == SUPERPOSED} - own.keys() - {*lacks}
        for field, values, fits in (
            ("dtypes", dtypes, all(isinstance(dtype, str) and dtype in FLOATS for dtype in dtypes.values())),
            ("rows", rows, all(type(count) is int and count > 0 for count in rows.values())),
        ):
            fits = fits and values.keys() <= summed
            self.require(fits, f"{where}.{field}", "be of superposed tensors", values)
        bad = [name for name in rows if not rules[name].dim]
        self.require(not bad, f"{where}.rows", "be of tensors with rows of inputs", bad)
        files = {n: self.sha256(entry["files"], n) for n, _ in self.items({"files": {}, **entry}, "files")}
        bad = [name for name in files if not plain_path(name)]
        self.require(not bad, f"{where}.files", "be named by paths below the model's folder", bad)
        return Departures(own, frozenset(lacks), dtypes, rows, files)
