"""What a store holds, as plain JSON data. No torch."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydelta.checkpoint import TensorInfo
from pydelta.checkpoint.quantised.kinds import listed
from pydelta.superposition.format.departures import ROWS
from pydelta.superposition.format.files import StoreFiles
from pydelta.superposition.format.form import CODES, PLACES, SCALES, VALUES
from pydelta.superposition.format.manifest import AUTO, Manifest
from pydelta.superposition.reading.errors import cosine, relative_error, tensor_errors


def describe(path: Path, files: StoreFiles) -> dict[str, Any]:
    """See :meth:`Superposition.describe`."""
    manifest = files.manifest
    form = manifest.form
    return {
        "kind": "store",
        "path": str(path),
        "version": manifest.version,
        "transform": manifest.transform,
        "shuffle_layers": manifest.shuffle_layers,
        "seed": manifest.seed,
        "lam": manifest.lam,
        "dtype": form.dtype,
        "bits": form.bits,
        "group": form.group,
        "exact": form.exact,
        "room": form.room,
        **dataclasses.asdict(manifest.masking),
        "residual": manifest.residual,
        "base": {"path": manifest.base_path, "fingerprint": manifest.base_fingerprint},
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "sizes": _sizes(path, files),
        "buckets": [{"models": list(b.models), "open": bool(b.open)} for b in manifest.buckets],
        "models": {name: _model(manifest, name) for name in sorted(manifest.models)},
        "tensors": _tensors(files),
    }


def _sizes(path: Path, files: StoreFiles) -> dict[str, Any]:
    """Bytes by kind, of the base and of the store; heads are the files' headers, store.json and the log."""
    # Buckets with the same content share a file.
    sums = {id(file): file for by_tensor in files.sums for file in by_tensor.values()}.values()
    totals = {id(file): file for by_tensor in files.totals for file in by_tensor.values()}.values()
    infos = [info for file in sums for info in file.tensors.values()]
    form = files.manifest.form
    base = (TensorInfo(name, rule.dtype, rule.shape) for name, rule in files.manifest.rules.items())
    sizes: dict[str, Any] = {
        "base": _bytes(base),
        "sums": 0 if form.bits else _bytes(infos),
        "codes": _bytes(info for info in infos if form.bits and info.name.startswith(CODES)),
        "scales": _bytes(info for info in infos if form.bits and info.name.startswith(SCALES)),
        "open": _bytes(info for file in totals for info in file.tensors.values()) if form.bits else 0,
        "exact": sum(_bytes(_exact(files, name).values()) for name in files.manifest.models),
        "residual": sum(file.nbytes for file in files.residual.values()),
    }
    stored = sum(sizes.values()) - sizes["base"]
    sizes["heads"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) - stored
    sizes["per_model"] = (stored + sizes["heads"]) / max(1, len(files.manifest.models))
    return sizes


def _exact(files: StoreFiles, name: str) -> dict[str, TensorInfo]:
    """What the file of a model's exact tensors holds, from the manifest alone."""
    rules = files.manifest.rules
    return {info.name: info for info in files.manifest.models[name].departs.exact_file(rules)}


def _bytes(infos: Iterable[TensorInfo]) -> int:
    return sum(info.nbytes for info in infos)


def _model(manifest: Manifest, name: str) -> dict[str, Any]:
    model, error = manifest.models[name], relative_error(manifest, name)
    return {
        "bucket": manifest.bucket(name),
        "weight": model.weight,
        "norm": math.sqrt(model.norm2),
        "expected_error": _finite(error),
        "expected_cosine": cosine(model, error),
        "fingerprint": model.fingerprint,
        "tensors": {tensor: _finite(e) for tensor, e in tensor_errors(manifest, name).items()},
        "departs": summary(manifest, name),
        "calibrated": _spread(list(model.lams.values())),
    }


def summary(manifest: Manifest, name: str) -> str:
    """What a model has otherwise than its base, in words; empty if nothing."""
    departs, rules = manifest.models[name].departs, manifest.rules
    groups = (
        ("its own tensors are kept exactly", [tensor for tensor in departs.own if tensor not in rules]),
        ("kept exactly, not superposed", [tensor for tensor in departs.own if tensor in rules]),
        ("it lacks", sorted(departs.lacks)),
        ("of another dtype", [f"{tensor} ({dtype})" for tensor, dtype in departs.dtypes.items()]),
        ("of other numbers of rows", [f"{tensor} ({count})" for tensor, count in departs.rows.items()]),
        ("its own files", list(departs.files)),
    )
    return "; ".join(f"{what}: {listed(names)}" for what, names in groups if names)


def _spread(lams: list[float]) -> dict[str, float] | None:
    """Of calibrated factors."""
    return {"min": min(lams), "median": statistics.median(lams), "max": max(lams)} if lams else None


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _tensors(files: StoreFiles) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    form = files.manifest.form
    exact = [_exact(files, model) for model in files.manifest.models]
    for name, rule in files.manifest.rules.items():
        stored = 0
        for held in exact:
            stored += _bytes(held[kept] for kept in (name, ROWS + name) if kept in held)
        if rule.dim is not None:
            kept = _bytes(form.kept(name, rule)) * len(files.sums)
            opened = sum(bool(bucket.open) for bucket in files.manifest.buckets)
            stored += kept + opened * form.total(name, rule).nbytes
            for file in files.residual.values():
                stored += _bytes(file.tensors[k + name] for k in (VALUES, PLACES) if k + name in file.tensors)
        row = {
            "name": name,
            "rule": rule.rule,
            "dtype": rule.dtype,
            "shape": list(rule.shape),
            "bytes": stored,
        }
        rows.append(row | ({"transform": rule.transform or ""} if files.manifest.transform == AUTO else {}))
    return rows
