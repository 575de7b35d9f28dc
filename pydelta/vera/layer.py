"""``VeraLinear``: a frozen linear layer and its VeRA adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pydelta.core import check
from pydelta.ops.vera_linear import vera_linear
from pydelta.vera.projections import Given, Projections, Seeded


@dataclasses.dataclass(frozen=True)
class Setting:
    """What an adapter is beside its vectors: where its matrices come from, and its dropout."""

    projections: Projections
    rank: int
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Adapters by name, and which of them each row of a batch has."""

    names: tuple[str, ...]
    index: torch.Tensor


class VeraLinear(nn.Module):
    """A linear layer with VeRA adapters: y = W x + bias + b * (B (d * (A x))) (arXiv 2310.11454, eq. 2).

    The only parameters that an adapter has are ``d.<name>`` (rank) and ``b.<name>`` (out), fp32, or fp64
    where the base is. The matrices are neither parameters nor buffers.

    Args:
        base: an nn.Linear, or transformers' Conv1D, whose weight is (in, out).

    Attributes:
        base: as given.
        active: the adapter in use; None: the base alone.
        merged: the adapter that the base's weight holds, or None.
        matrices: "cached" or "regenerated", as for :func:`pydelta.vera_linear`; None: its default.

    Raises:
        TypeError: another kind of layer, or a quantised one.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        if reason := refusal(base):
            raise TypeError(f"[VeraLinear] base must be {reason}")
        self.base = base
        self.transposed = is_conv1d(base)
        self.d, self.b = nn.ParameterDict(), nn.ParameterDict()
        self.settings: dict[str, Setting] = {}
        self.active: str | None = None
        self.mixture: Mixture | None = None
        self.merged: str | None = None
        self.matrices: str | None = None
        self.untied: list[Any] = []  # configs that a merge has told of a weight of its own
        self._base_weight: nn.Parameter | None = None

    @property
    def weight(self) -> torch.Tensor:
        """(out, in), whatever the base's layout."""
        stored: torch.Tensor = self.base.weight  # type: ignore[assignment]
        return stored.mT if self.transposed else stored

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base.bias  # type: ignore[return-value]

    @property
    def in_features(self) -> int:
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def add(self, name: str, setting: Setting, d_init: float = 0.1) -> None:
        """A new adapter: d filled with ``d_init``, b zero, so that it changes nothing yet.

        Raises:
            ValueError: there is one of that name, or the rank is below 1.
        """
        if name in self.settings:
            raise ValueError(f"[VeraLinear] adapter must have a new name, got {name!r}")
        dtype, device = check.compute_dtype(self.weight.dtype), self.weight.device
        self.settings[name] = setting
        self.d[name] = nn.Parameter(torch.full((setting.rank,), d_init, dtype=dtype, device=device))
        self.b[name] = nn.Parameter(torch.zeros(self.out_features, dtype=dtype, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        mixture = self.mixture
        name = mixture.names[0] if mixture is not None else self.active
        if self.merged is not None or name is None:
            y: torch.Tensor = self.base(x)
            return y
        setting = self.settings[name]
        d, b, index = self.d[name], self.b[name], None
        if mixture is not None:
            d, b = self._stacked(mixture.names)
            index = _of_rows(mixture.index, x)
        projections = setting.projections
        dropped = self.training and setting.dropout > 0
        if isinstance(projections, Seeded) and not dropped and not _is_observed(self.base):
            key, bias = projections.key, self.bias
            return vera_linear(x, self.weight, d, b, key, bias=bias, adapter=index, matrices=self.matrices)
        y = self.base(x)
        x = nn.functional.dropout(x, setting.dropout) if dropped else x
        return y + self._part(x, d, b, index, projections, y.dtype)

    def _part(
        self,
        x: torch.Tensor,
        d: torch.Tensor,
        b: torch.Tensor,
        index: torch.Tensor | None,
        projections: Projections,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        if isinstance(projections, Seeded):
            part = vera_linear(x, None, d, b, projections.key, adapter=index, matrices=self.matrices)
        else:
            d, b = (v if index is None else v[index] for v in (d, b))
            part = projections.product(x, d, b, dtype)
        return part.to(dtype)

    def _stacked(self, names: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """The adapters' vectors as rows. Lower ranks are parts of higher ones, up to the bound of B."""
        ranks = [self.settings[name].rank for name in names]
        most = max(ranks)
        d = [
            nn.functional.pad(self.d[name], (0, most - rank)) for name, rank in zip(names, ranks, strict=True)
        ]
        seeded = isinstance(self.settings[names[0]].projections, Seeded)
        b = [
            self.b[name] * ((most / rank) ** 0.5 if seeded and rank < most else 1)
            for name, rank in zip(names, ranks, strict=True)
        ]
        return torch.stack(d), torch.stack(b)

    def merge(self, name: str, *, keep_base: bool = True, in_place: bool = True) -> None:
        """Puts an adapter into the base's weight.

        Args:
            keep_base: keep the base's weight beside the merged one, for :meth:`unmerge`.
            in_place: without ``keep_base`` the merged weight takes the base's memory. Not where another part
                of a module holds that weight too.

        Raises:
            RuntimeError: an adapter is merged already.
        """
        if self.merged is not None:
            raise RuntimeError(f"[VeraLinear] one adapter can be merged at a time, got {self.merged!r} there")
        setting, stored = self.settings[name], self.base.weight
        assert isinstance(stored, nn.Parameter)
        d, b = self.d[name].detach(), self.b[name].detach()
        with torch.no_grad():
            fresh = keep_base or not in_place
            source, result = stored.detach(), torch.empty_like(stored) if fresh else stored.detach()
            if self.transposed:
                setting.projections.merged(source.mT, d, b, result.mT)
            else:
                setting.projections.merged(source, d, b, result)
        if keep_base:
            self._base_weight = stored
        if fresh:
            self.base.weight = nn.Parameter(result, requires_grad=stored.requires_grad)
        self.merged = name

    def unmerge(self) -> None:
        """The base's own weight again, bit for bit.

        Raises:
            RuntimeError: nothing is merged, or the base was not kept.
        """
        if self.merged is None:
            raise RuntimeError("[VeraLinear] an adapter must be merged before it is unmerged, got none")
        if self._base_weight is None:
            raise RuntimeError("[VeraLinear] the base must have been kept to unmerge, got keep_base=False")
        self.base.weight, self._base_weight, self.merged = self._base_weight, None, None

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: rank {setting.rank}" for name, setting in self.settings.items())


def is_conv1d(module: nn.Module) -> bool:
    """Whether a layer is transformers' Conv1D, whose weight is (in, out)."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def refusal(module: nn.Module) -> str:
    """Why a layer cannot be adapted, to follow "must be"; "" if it can."""
    plain = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    if type(module).__name__ == "NonDynamicallyQuantizableLinear":
        plain = False  # MultiheadAttention reads its weight and never calls it
    if not plain and not is_conv1d(module):
        kind = type(module).__name__
        return f"a plain nn.Linear or Conv1D (quantised layers have no weight to merge into), got {kind}"
    weight = module.weight
    if not isinstance(weight, torch.Tensor) or weight.dtype not in check.FLOATS:
        return f"unquantised, with a weight of 16 bits at least, got {getattr(weight, 'dtype', weight)}"
    if type(weight) not in (torch.Tensor, nn.Parameter) and not hasattr(weight, "to_local"):
        # torchao's weights say bfloat16 of themselves and hold integers.
        return f"unquantised, with a plain tensor as its weight, got {type(weight).__name__}"
    return ""


def _is_observed(module: nn.Module) -> bool:
    """Whether a call of the layer does more than its product: hooks, or a forward of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _of_rows(index: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One adapter for each row of ``x``: given for each row, or for each of the first dimension."""
    if index.shape == x.shape[:-1]:
        return index
    if index.dim() == 1 and x.dim() > 2 and len(index) == len(x):
        return index.view(-1, *[1] * (x.dim() - 2)).expand(x.shape[:-1])
    raise ValueError(
        f"[VeraLinear] index must be of shape {tuple(x.shape[:-1])} or {tuple(x.shape[:1])}, "
        f"got {tuple(index.shape)}"
    )


__all__ = ["Given", "Mixture", "Setting", "VeraLinear"]
