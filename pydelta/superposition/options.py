"""The arguments of ``Superposition.create`` that are no paths, checked before any file is opened."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from pydelta import _check
from pydelta.random import Key
from pydelta.superposition.manifest import DTYPES, TRANSFORMS, check_model_name


@dataclasses.dataclass(frozen=True)
class Options:
    """See :meth:`Superposition.create`; ``weights`` has every model.

    Raises:
        TypeError: a wrong kind.
        ValueError: a wrong value; the message says which are right.
    """

    transform: str
    shuffle_layers: bool
    seed: int
    dtype: str
    lam: float
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.shuffle_layers, bool):
            kind = type(self.shuffle_layers).__name__
            raise TypeError(f"[compress] shuffle_layers must be a bool, got {kind}")
        for field, allowed in (("transform", TRANSFORMS), ("dtype", tuple(DTYPES))):
            if (value := getattr(self, field)) not in allowed:
                raise ValueError(f"[compress] {field} must be one of {', '.join(allowed)}, got {value!r}")
        Key(self.seed)
        object.__setattr__(self, "lam", _check.number("compress", "lam", self.lam))


def weights_of(models: Iterable[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Every model's name and weight, 1 where none is given.

    Raises:
        TypeError: a weight is no number.
        ValueError: there is no model, a name cannot be used, a weight is not positive or is of no model.
    """
    names = [check_model_name(name) for name in models]
    if not names:
        raise ValueError("[compress] models must hold at least one model, got none")
    given = dict(weights or {})
    found = {name: _check.number("compress", f"weights[{name!r}]", given.pop(name, 1.0)) for name in names}
    if given:
        raise ValueError(
            f"[compress] weights must be of the models {', '.join(names)}, got {', '.join(given)}"
        )
    for name, weight in found.items():
        if weight <= 0:
            raise ValueError(f"[compress] weights[{name!r}] must be positive, got {weight}")
    return found
