"""``store.json``: what a store holds, written plainly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pydelta.superposition.format.departures import Departures
from pydelta.superposition.format.form import StorageForm
from pydelta.superposition.format.mask import Masking
from pydelta.superposition.format.rules import SUPERPOSED, Rule

FORMAT, VERSION = "pydelta-superposition", 4
PLAIN_VERSION = 3
"""Of a store whose models depart from the base in nothing but the values of its floating tensors."""
TRANSFORMS = ("none", "sign", "hadamard")
AUTO = "auto"
STORE, LOG = "store.json", "log.jsonl"
EXACT_FOLDER, RESIDUAL_FOLDER, FILES_FOLDER = "exact", "residual", "files"
_NAME_LIMIT = 200  # of the file that a model's exact tensors lie in; file systems take 255


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a store leaves out of one delta, or makes good.

    Attributes:
        delta: its squared norm.
        lost: the squared norm of what the mask changes in it.
        left: the share of the retrieved delta's squared error that is left beside the exact residual.
    """

    delta: float
    lost: float
    left: float = 1.0


@dataclasses.dataclass(frozen=True)
class Model:
    """One model of a store.

    Attributes:
        seed: of its keys.
        weight: its factor in the sum.
        fingerprint: of its checkpoint, over sampled bytes, or all where sums are exact.
        norm2: squared norm of its delta over the superposed tensors, of what the mask leaves of it.
        norms: the same by tensor; a store of version 1 has none.
        losses: superposed tensor -> what its delta loses beside others; none without mask and residual.
        lams: superposed tensor -> its calibrated factor of lambda; a tensor that is not there has 1.
        departs: what it has otherwise than its base.
    """

    seed: int
    weight: float
    fingerprint: str
    norm2: float
    norms: Mapping[str, float]
    losses: Mapping[str, Loss] = dataclasses.field(default_factory=dict)
    lams: Mapping[str, float] = dataclasses.field(default_factory=dict)
    departs: Departures = dataclasses.field(default_factory=Departures)

    def power(self, tensor: str | None = None) -> float:
        """The squared norm of what it adds to a sum, over all superposed tensors or one."""
        return self.weight**2 * (self.norm2 if tensor is None else self.norms[tensor])

    def loss(self, tensor: str) -> Loss:
        """Of one delta; nothing is lost where there is neither mask nor residual."""
        return self.losses[tensor] if self.losses else Loss(self.norms[tensor], 0.0)

    def lam(self, tensor: str, lam: float) -> float:
        """The factor of its retrieved delta of a tensor, from the store's lambda or another."""
        return lam * self.lams.get(tensor, 1.0) / self.weight


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Models that share one sum.

    Attributes:
        models: their names, sorted.
        files: of the sums, or of their codes.
        open: of the sums in full that lie beside codes until the bucket is sealed.
    """

    models: tuple[str, ...]
    files: tuple[str, ...]
    open: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All of ``store.json``.

    Attributes:
        transform: of all tensors; "auto" where each has its own, in its rule.
        form: how sums are kept.
        base_path, base_fingerprint: where the base lay, and what it was.
        base_stamps: shard of the base -> what changes when somebody writes to it.
        rules: tensor of the base -> what becomes of it.
        digests: tensor of the base -> SHA-256 of its bytes.
        exponents: superposed tensor -> e, its sum being counted in units of 2^-e, where sums are exact.
        buckets: in the order in which they were begun.
        files: file -> stored tensor -> SHA-256 of its bytes; a store of version 1 has no digests.
        masking: what of every delta is summed.
        residual: the fraction of every superposed tensor's elements that is kept exactly, per model.
    """

    transform: str
    shuffle_layers: bool
    seed: int
    lam: float
    form: StorageForm
    base_path: str
    base_fingerprint: str
    base_stamps: Mapping[str, tuple[int, ...]]
    rules: Mapping[str, Rule]
    digests: Mapping[str, str]
    exponents: Mapping[str, int]
    buckets: tuple[Bucket, ...]
    models: Mapping[str, Model]
    files: Mapping[str, Mapping[str, str]]
    made_by: str
    masking: Masking = dataclasses.field(default_factory=Masking)
    residual: float = 0.0
    version: int = VERSION

    def bucket(self, model: str) -> int:
        """The number of the bucket that holds a model."""
        return next(i for i, bucket in enumerate(self.buckets) if model in bucket.models)

    def transform_of(self, tensor: str) -> str:
        """The transform of a superposed tensor."""
        return self.rules[tensor].transform or self.transform

    @property
    def _departs(self) -> bool:
        """Whether models have anything otherwise than the base, or the base has a weight under two names."""
        tied = any(rule.tied for rule in self.rules.values())
        return tied or any(model.departs for model in self.models.values())

    def dump(self) -> str:
        content = {
            "format": FORMAT,
            "version": VERSION if self._departs else PLAIN_VERSION,
            "pydelta": self.made_by,
            "transform": self.transform,
            "shuffle_layers": self.shuffle_layers,
            "seed": self.seed,
            "lam": self.lam,
            **dataclasses.asdict(self.form),
            **dataclasses.asdict(self.masking),
            "residual": self.residual,
            "base": {
                "path": self.base_path,
                "fingerprint": self.base_fingerprint,
                "stamps": {name: list(stamp) for name, stamp in self.base_stamps.items()},
            },
            "buckets": [dataclasses.asdict(bucket) for bucket in self.buckets],
            "models": {name: self._model(self.models[name]) for name in sorted(self.models)},
            "tensors": {name: self._tensor(name, rule) for name, rule in self.rules.items()},
            "files": {file: dict(self.files[file]) for file in sorted(self.files)},
        }
        return json.dumps(content, separators=(",", ":")) + "\n"

    def _model(self, model: Model) -> dict[str, Any]:
        summed = [name for name, rule in self.rules.items() if rule.rule == SUPERPOSED]
        entry: dict[str, Any] = {"seed": model.seed, "weight": model.weight, "fingerprint": model.fingerprint}
        entry |= {"norm2": model.norm2, "norms": [model.norms[name] for name in summed]}
        if model.losses:
            entry["losses"] = [dataclasses.astuple(model.losses[name]) for name in summed]
        if model.lams:
            entry["lams"] = [model.lams.get(name) for name in summed]
        return entry | model.departs.dump()

    def _tensor(self, name: str, rule: Rule) -> dict[str, Any]:
        plain = {**dataclasses.asdict(rule), "exponent": self.exponents.get(name)}
        return {k: v for k, v in plain.items() if v is not None} | {"sha256": self.digests[name]}


def exact_name(model: str) -> str:
    """The file of a model's exact tensors, below the store."""
    return f"{EXACT_FOLDER}/{file_name(model)}.safetensors"


def residual_name(model: str) -> str:
    """The file of the elements of a model that are kept exactly, below the store."""
    return f"{RESIDUAL_FOLDER}/{file_name(model)}.safetensors"


def model_files(model: str, residual: float) -> list[str]:
    """All files of a model's own."""
    return [exact_name(model), *([residual_name(model)] if residual else [])]


def own_folder(model: str) -> str:
    """The folder of the small files of a model's own, below the store."""
    return f"{FILES_FOLDER}/{file_name(model)}"


def file_name(model: str) -> str:
    """A model's name as that of a file, which no name leads out of its folder."""
    safe = quote(model, safe="")  # leaves letters, digits, "_.-~"
    safe = safe.replace("~", "%7E")
    return safe.replace(".", "%2E") if set(safe) == {"."} else safe


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
