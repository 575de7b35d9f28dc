"""The arguments of ``Superposition.create`` that are no paths, checked before any file is opened."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from pydelta.calibration import Calibration
from pydelta.checkpoint.staging import Pathlike
from pydelta.core import check
from pydelta.core.random import Key
from pydelta.superposition.format.form import BITS, DTYPES, EXACT_ROOM, RATES, StorageForm
from pydelta.superposition.format.manifest import (
    AUTO,
    TRANSFORMS,
    check_model_name,
)
from pydelta.superposition.format.mask import Masking
from pydelta.superposition.format.rules import Rule

Calibrations = Mapping[str, Pathlike | Calibration]


@dataclasses.dataclass(frozen=True)
class Options:
    """See :meth:`Superposition.create`; ``weights`` has every model, and there are ``buckets`` sums.

    Calibrations are open, so that whoever sums reads no further file of arguments.

    Raises:
        TypeError: a wrong kind.
        ValueError: a wrong value; the message says which are right.
    """

    transform: str
    shuffle_layers: bool
    seed: int
    lam: float
    form: StorageForm
    buckets: int
    weights: Mapping[str, float]
    masking: Masking
    residual: float
    calibrations: Mapping[str, Calibration]
    input_dims: Mapping[str, int]
    allow_missing: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        models: Iterable[str],
        form_arguments: FormArguments,
        *,
        transform: str | None,
        masking: Masking,
        weights: Mapping[str, float] | None,
        calibrations: Calibrations | None,
        input_dims: Mapping[str, int] | None,
        **settings: Any,
    ) -> Options:
        """The one visit in which all arguments of ``create`` but its paths are checked.

        Args:
            models: their names.
            settings: shuffle_layers, seed, lam, residual and allow_missing.
        """
        complete = weights_of(models, weights)
        form, buckets = form_arguments.resolve(len(complete))
        return cls(
            transform=form.transform if transform is None else transform,
            form=form,
            buckets=buckets,
            weights=complete,
            masking=masking,
            calibrations=calibrations_of(calibrations, complete),
            input_dims=dict(input_dims or {}),
            **settings,
        )

    def __post_init__(self) -> None:
        if not isinstance(self.shuffle_layers, bool):
            kind = type(self.shuffle_layers).__name__
            raise TypeError(f"[compress] shuffle_layers must be a bool, got {kind}")
        if self.transform not in (*TRANSFORMS, AUTO):
            allowed = ", ".join((*TRANSFORMS, AUTO))
            raise ValueError(f"[compress] transform must be one of {allowed}, got {self.transform!r}")
        Key(self.seed)
        for field in ("lam", "residual"):
            object.__setattr__(self, field, check.number("compress", field, getattr(self, field)))
        if not 0 <= self.residual < 1:
            raise ValueError(f"[compress] residual must lie in [0, 1), got {self.residual}")


@dataclasses.dataclass(frozen=True)
class FormArguments:
    """What decides how sums are kept; see :meth:`Superposition.create`.

    Raises:
        TypeError: a wrong kind.
        ValueError: a wrong value, or values that exclude one another; the message says which are right.
    """

    dtype: str = "fp32"
    rate: float | None = None
    bits: int | None = None
    buckets: int | None = None
    group: str | int = "row"
    exact: bool = False
    room: int | None = None

    def __post_init__(self) -> None:
        for field, allowed in (("dtype", tuple(DTYPES)), ("rate", tuple(RATES)), ("bits", BITS)):
            value = getattr(self, field)
            if isinstance(value, bool) or (value not in allowed and not (value is None and field != "dtype")):
                listed = ", ".join(map(str, allowed))
                raise ValueError(f"[compress] {field} must be one of {listed}, got {value!r}")
        for field in ("buckets", "room", "group"):
            value = getattr(self, field)
            if value is None or (field == "group" and value == "row"):
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"[compress] {field} must be an int, got {type(value).__name__}")
            if value < 1:
                raise ValueError(f"[compress] {field} must be at least 1, got {value}")
        if not isinstance(self.exact, bool):
            raise TypeError(f"[compress] exact must be a bool, got {type(self.exact).__name__}")
        self._check_together()

    def _check_together(self) -> None:
        coded = self.bits is not None or self.rate not in (None, 16)
        if self.rate is not None and (self.bits is not None or self.buckets is not None):
            raise ValueError("[compress] rate chooses bits and buckets: it must be given without them")
        if coded and (self.exact or self.dtype != "fp32"):
            raise ValueError(
                "[compress] exact and dtype are of sums in full: they must be given without codes"
            )
        if self.exact and (self.dtype != "fp32" or self.buckets not in (None, 1)):
            raise ValueError(
                "[compress] exact keeps one int32 sum: it must be given without dtype and buckets"
            )
        if not coded and self.group != "row":
            raise ValueError(f"[compress] group is of codes: it must be given with them, got {self.group}")
        if not coded and not self.exact and self.room is not None:
            raise ValueError(f"[compress] room is of codes and exact sums, got {self.room}: others need none")

    def resolve(self, count: int) -> tuple[StorageForm, int]:
        """How ``count`` models are kept, and in how many buckets.

        Raises:
            ValueError: more buckets than models, or more models in a bucket than it has room for.
        """
        bits, buckets, room = self.bits, self.buckets or 1, self.room
        if self.rate is not None and (bits := RATES[self.rate]) is not None:
            share = max(1, round(1 / self.rate))
            buckets, room = -(-count // share), room or share
        if buckets > count:
            raise ValueError(
                f"[compress] buckets must be at most the number of models, {count}, got {buckets}"
            )
        largest = -(-count // buckets)
        if room is None:
            room = largest if bits is not None else max(EXACT_ROOM, count) if self.exact else None
        elif largest > room:
            raise ValueError(f"[compress] room must hold the {largest} models of a bucket, got {room}")
        return StorageForm(self.dtype, bits, self.group, self.exact, room), buckets


def weights_of(models: Iterable[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Every model's name and weight, 1 where none is given.

    Raises:
        TypeError: a weight is no number.
        ValueError: there is no model, a name cannot be used, a weight is not positive or is of no model.
    """
    names = [check_model_name(name) for name in models]
    if not names:
        raise ValueError("[compress] models must hold at least one model, got none")
    rest = dict(weights or {})
    complete = {name: check.number("compress", f"weights[{name!r}]", rest.pop(name, 1.0)) for name in names}
    if rest:
        raise ValueError(
            f"[compress] weights must be of the models {', '.join(names)}, got {', '.join(rest)}"
        )
    for name, weight in complete.items():
        if weight <= 0:
            raise ValueError(f"[compress] weights[{name!r}] must be positive, got {weight}")
    return complete


def calibrations_of(calibrations: Calibrations | None, models: Iterable[str]) -> dict[str, Calibration]:
    """Model -> its calibration, read from its file if it is given as a path.

    Raises:
        TypeError: one is neither a path nor a Calibration.
        ValueError: one is of no model, or a file is no sound calibration.
        OSError: a file cannot be read.
    """
    names = list(models)
    unknown = [repr(name) for name in calibrations or {} if name not in names]
    if unknown:
        raise ValueError(
            f"[compress] calibration must be of the models {', '.join(names)}, got {', '.join(unknown)}"
        )
    opened = {}
    for name, value in (calibrations or {}).items():
        if not isinstance(value, (Calibration, str, os.PathLike)):
            kind = type(value).__name__
            raise TypeError(f"[compress] calibration[{name!r}] must be a path or a Calibration, got {kind}")
        opened[name] = value if isinstance(value, Calibration) else Calibration.load(value)
    return opened


def check_group(rules: Mapping[str, Rule], group: str | int) -> None:
    """A group divides every row that is coded.

    Raises:
        ValueError: it does not; the message lists the tensors.
    """
    if group == "row":
        return
    bad = [
        f"{name} ({rule.shape[rule.dim]})"
        for name, rule in rules.items()
        if rule.dim is not None and rule.shape[rule.dim] % int(group)
    ]
    if bad:
        raise ValueError(f"[compress] group must divide every row, got {group} for {', '.join(bad)}")
