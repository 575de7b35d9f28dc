"""Which elements of a delta stay: small frozen values that ``mask_rescale`` and ``merge_into`` read.

Magnitudes stand in one total order, on every backend: larger |delta| first, among equals the lower index
first. A cut (m, i) of that order has before it the elements with |delta| > m, and those with |delta| = m
and an index below i; so a mask keeps an exact number of elements.

NaN ranks first and takes a place of that number, and lies before no cut. No mask hides it: what is dropped is
multiplied by 0, so NaN stays NaN and a dropped infinity becomes NaN.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch

from pydelta.core import check
from pydelta.core.random import Key

GROUPS = ("tensor", "row")


@dataclass(frozen=True)
class RandomMask:
    """DARE (arXiv 2311.03099): element i stays iff ``u32(key, i) < floor(keep * 2**32)``.

    Args:
        keep: in [0, 1]; 1 keeps all.
        key: the random stream, see :func:`pydelta.key`.
        rescale: True multiplies what stays by 1 / keep (unbiased), False by 1, a number by itself
            (DAREx-q, arXiv 2410.09344: 1 / q).

    Raises:
        TypeError, ValueError: an argument is of the wrong kind, out of range or not finite.
    """

    keep: float
    key: Key
    rescale: bool | float = True

    def __post_init__(self) -> None:
        op = "RandomMask"
        object.__setattr__(self, "keep", check.fraction(op, "keep", self.keep))
        check.key(op, "key", self.key)
        if not isinstance(self.rescale, bool):
            object.__setattr__(self, "rescale", check.number(op, "rescale", self.rescale))

    @property
    def factor(self) -> float:
        """What a kept element is multiplied by."""
        if not isinstance(self.rescale, bool):
            return self.rescale
        return 1 / self.keep if self.rescale and self.keep > 0 else 1.0

    @property
    def below(self) -> int:
        """An element stays iff its draw is below this."""
        return math.floor(self.keep * 2**32)


@dataclass(frozen=True)
class MagnitudeMask:
    """Keeps the floor(keep N) largest of |delta|, as TIES trims (arXiv 2306.01708).

    Args:
        keep: in [0, 1].
        group: "tensor" or "row" (along the last dimension): what the N elements are.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.
    """

    keep: float
    group: str = "tensor"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", check.fraction("MagnitudeMask", "keep", self.keep))
        check.choice("MagnitudeMask", "group", self.group, GROUPS)


@dataclass(frozen=True)
class BandMask:
    """Model Breadcrumbs (arXiv 2312.06795): drops the largest of |delta|, and the smallest.

    The floor(drop_large N) largest always go; of the rest the largest floor(keep N) stay, or all if there are
    fewer.

    Args:
        keep: in [0, 1].
        drop_large: in [0, 1].
        group: "tensor" or "row" (along the last dimension): what the N elements are.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.
    """

    keep: float
    drop_large: float
    group: str = "tensor"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", check.fraction("BandMask", "keep", self.keep))
        object.__setattr__(self, "drop_large", check.fraction("BandMask", "drop_large", self.drop_large))
        check.choice("BandMask", "group", self.group, GROUPS)


@dataclass(frozen=True, eq=False)
class WandaMask:
    """Keeps, in every row, the floor(keep n) largest of |delta_ij| * ||X_j||_2 (WANDA, arXiv 2306.11695).

    Args:
        keep: in [0, 1].
        column_norm: (n,) norms of the inputs of each column, not negative; n is the last dimension.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.
    """

    keep: float
    column_norm: torch.Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", check.fraction("WandaMask", "keep", self.keep))
        check.floating("WandaMask", "column_norm", self.column_norm)
        if self.column_norm.dim() != 1:
            shape = tuple(self.column_norm.shape)
            raise ValueError(f"[WandaMask] column_norm must have one dimension, got shape {shape}")


@dataclass(frozen=True)
class DellaMask:
    """DELLA (arXiv 2406.11617): in a row of n, the element of rank r (0: largest) stays with probability
    keep + (1/2 - r/n) epsilon, and is divided by that.

    Args:
        keep: the mean probability.
        epsilon: how far probabilities spread: keep - epsilon / 2 and keep + epsilon / 2 lie in [0, 1].
        key: the random stream; element i stays iff its draw is below the probability times 2**32.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.
    """

    keep: float
    epsilon: float
    key: Key

    def __post_init__(self) -> None:
        op = "DellaMask"
        object.__setattr__(self, "keep", check.fraction(op, "keep", self.keep))
        object.__setattr__(self, "epsilon", check.fraction(op, "epsilon", self.epsilon))
        check.key(op, "key", self.key)
        room = 2 * min(self.keep, 1 - self.keep)
        if self.epsilon > room * (1 + 1e-12):
            raise ValueError(
                f"[{op}] epsilon must be at most {room:g} so that every probability lies in [0, 1], "
                f"got {self.epsilon}"
            )


@dataclass(frozen=True, eq=False)
class MagnitudeThreshold:
    """Cuts of the order of magnitudes: what lies before ``low`` and not before ``high`` stays.

    :func:`pydelta.magnitude_threshold` makes it; it is itself a mask.

    Args:
        low, high: (groups,) magnitudes, float32 (float64 for float64 tensors).
        low_index, high_index: (groups,) int64, indices within the group.
        group: "tensor" or "row".
        column_norm: (n,) norms that magnitudes are multiplied by, in float32 (float64), or None.
    """

    low: torch.Tensor
    low_index: torch.Tensor
    high: torch.Tensor
    high_index: torch.Tensor
    group: str = "tensor"
    column_norm: torch.Tensor | None = None

    def rows(self, first: int, count: int) -> MagnitudeThreshold:
        """The cuts of some rows of a tensor; those of a whole tensor are as they were."""
        if self.group == "tensor":
            return self
        names = ("low", "low_index", "high", "high_index")
        return replace(self, **{name: getattr(self, name)[first : first + count] for name in names})


Mask = RandomMask | MagnitudeMask | BandMask | WandaMask | DellaMask | MagnitudeThreshold
"""What may stand in ``masks=``; None there keeps everything."""

KernelMask = RandomMask | DellaMask | MagnitudeThreshold
"""What kernels read: masks by magnitude have become cuts."""


def ranks(keep: float, drop_large: float, size: int) -> tuple[int, int]:
    """(low, high) of a group of ``size``: its elements of ranks high .. low - 1 stay, 0 being the largest."""
    high = math.floor(drop_large * size)
    return high + min(math.floor(keep * size), size - high), high


@functools.lru_cache(maxsize=64)
def della_tables(keep: float, epsilon: float, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """By rank in a row of ``n``: (n,) int64, a draw below it stays; (n,) float64, the factor then."""
    rank = torch.arange(n, dtype=torch.float64)
    probability = (keep + (0.5 - rank / max(n, 1)) * epsilon).clamp(0, 1)
    factor = torch.where(probability > 0, 1 / probability, 0.0)
    return (probability * 2**32).floor().to(torch.int64), factor


def ranks_in_rows(x: torch.Tensor, base: torch.Tensor | None) -> torch.Tensor:
    """The rank of every |x - base| in its row, 0 for the largest: (numel,) int32."""
    value = x.to(check.compute_dtype(x.dtype))
    if base is not None:
        value = value - base.to(value.dtype)
    order = torch.atleast_1d(value.abs()).argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], dtype=torch.int32, device=x.device).expand_as(order)
    return torch.empty_like(order, dtype=torch.int32).scatter_(-1, order, places).view(-1)
