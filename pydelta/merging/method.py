"""What a method of merging is: its parameters, its masks, its election. No torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydelta.core.masks import Mask
    from pydelta.core.random import Key

Values = Mapping[str, Any]
"""The parameters of one model and one tensor by name, and besides

- "factor": what ``rescale`` has come to, True, False or a number;
- "size": the number of elements of what is merged;
- "column_norm": the norms of the inputs that a calibration saw, or None;
- "mergekit": whether counts follow mergekit where it departs from the papers.
"""

REQUIRED = object()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)  # YAML reads 1e-3 as text
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _fraction(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= 1 else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _rescale(value: object) -> bool | float | str | None:
    return value if isinstance(value, bool) or value in ("l1", "q") else _number(value)


def _match(value: object) -> bool | str | None:
    return value if isinstance(value, bool) or value == "l1" else None


def _q(value: object) -> float | str | None:
    number = value if value in ("analytic", "mse") else _number(value)
    return None if isinstance(number, float) and number <= 0 else number


def _positive(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def _among(*choices: str) -> Callable[[object], str | None]:
    return lambda value: value if value in choices else None


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One dial of a method.

    Attributes:
        name: as recipes spell it.
        rule: what a value must be, in words.
        read: gives the value, or None if it breaks the rule.
        default: ``REQUIRED`` where there is none.
        per_model: every model may have its own.
    """

    name: str
    rule: str
    read: Callable[[object], Any]
    default: Any
    per_model: bool = False

    def but(self, default: object) -> Parameter:
        """The same with another default."""
        return dataclasses.replace(self, default=default)


WEIGHT = Parameter("weight", "be a finite number", _number, REQUIRED, per_model=True)
KEEP = Parameter("keep", "lie in [0, 1]", _fraction, REQUIRED, per_model=True)
DROP_LARGE = Parameter("drop_large", "lie in [0, 1]", _fraction, 0.01, per_model=True)
DENSITY = Parameter("density", "lie in [0, 1]", _fraction, 1.0, per_model=True)
GAMMA = Parameter("gamma", "lie in [0, 1]", _fraction, 0.01, per_model=True)
EPSILON = Parameter("epsilon", "lie in [0, 1]", _fraction, 0.15, per_model=True)
LAMBDA = Parameter("lambda", "be a finite number", _number, 1.0)
NORMALIZE = Parameter("normalize", "be true or false", _flag, False)
RESCALE = Parameter("rescale", "be true, false, a number, l1 or q", _rescale, False)
MATCH = Parameter("rescale", "be true, false or l1", _match, False)
Q = Parameter("q", "be a positive number, analytic or mse", _q, None, per_model=True)
ETA = Parameter("eta", "be a positive number", _positive, None)
ELECT = Parameter("elect", "be weighted or unweighted", _among("weighted", "unweighted"), "weighted")
GROUP = Parameter("group", "be tensor, row or model", _among("tensor", "row", "model"), "tensor")
PRUNE_GROUP = Parameter("group", "be tensor, row or column", _among("tensor", "row", "column"), "tensor")
ROW_GROUP = Parameter("group", "be row or column", _among("row", "column"), "row")
DENSE_1D = Parameter("dense_1d", "be true or false", _flag, False)


@dataclasses.dataclass(frozen=True)
class Method:
    """A published way to merge.

    Attributes:
        name: as recipes spell it.
        parameters: every one that it reads; others are refused.
        mask: the mask of one tensor of one model, from its values and its random stream; None keeps all.
        elect: whether signs are elected, as TIES does.
        needs_base: whether deltas from a base are merged, or the models themselves.
        random: whether a mask depends on the seed.
        fault: says what is wrong with values that are each right by themselves.
        prunes: whether it is for one delta alone.
    """

    name: str
    parameters: tuple[Parameter, ...]
    mask: Callable[[Values, Key], Mask | None] | None = None
    elect: bool = False
    needs_base: bool = True
    random: bool = False
    fault: Callable[[Values], str | None] | None = None
    prunes: bool = False

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)
