"""The forward of a served layer: every row through its own model."""

from __future__ import annotations

import abc
import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from pydelta import ops
from pydelta.core.check import compute_dtype
from pydelta.core.quantized import Quantized
from pydelta.superposition.format.rules import SUPERPOSED
from pydelta.superposition.serving.batch import Batch, Current, group
from pydelta.superposition.serving.plan import not_called_before
from pydelta.superposition.serving.residual import Difference, difference
from pydelta.superposition.serving.sources import Sources

FUSED = (torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer, torch.nn.TransformerDecoderLayer)
"""They read their children's weights without calling them, where torch chooses its fast path."""


class Served(abc.ABC):
    """A layer whose tensors differ between models, its forward replaced by one that mixes them.

    Args:
        path: of the layer in the module.
        names: attribute of the layer -> tensor of the store.
    """

    def __init__(
        self,
        path: str,
        layer: torch.nn.Module,
        names: Mapping[str, str],
        sources: Sources,
        current: Current,
    ) -> None:
        self.path, self.layer, self.names, self.sources, self.current = path, layer, names, sources, current
        self.models, self.rules = sources.store.models, sources.manifest.rules
        self.plain: Any = layer
        self.own = layer.forward
        layer.forward = self.forward

    def restore(self) -> None:
        del self.layer.forward

    def forward(self, *args: Any, **options: Any) -> Any:
        current = self.current
        if current.probe is not None:
            return current.probe.run(self.path, self.own, args, options)
        batch = current.batch
        if batch is None or len(batch) == 0:
            return self.own(*args, **options)
        if current.plan is not None and not torch.compiler.is_compiling():
            current.called.add(self.path)
            if self.path not in current.plan.mixing:
                raise not_called_before(self.path)
        return self.mixed(self._rows_of(batch, *args, **options), *args, **options)

    def _rows_of(self, batch: Batch, x: torch.Tensor) -> Batch:
        if self.current.plan is None:  # called by itself
            return batch.repeated(x.shape[0])
        if x.shape[0] != len(batch):
            raise ValueError(
                f"[models] {self.path!r} must get one row for each row of the batch ({len(batch)}), "
                f"got {x.shape[0]}: use activate()"
            )
        return batch

    @abc.abstractmethod
    def mixed(self, batch: Batch, x: torch.Tensor) -> torch.Tensor:
        """The layer's results, row i by the batch's model i."""

    def table(self, attribute: str) -> torch.Tensor | None:
        """(models, ...) the exact tensors of an attribute; None where it has none of its own."""
        name = self.names.get(attribute)
        if name is None:
            return None
        base = self.sources.base(name)
        own = [self.sources.exact(model).get(name, base) for model in self.models]
        # A model with a tensor of another shape is refused before its row is read.
        return torch.stack([x.to(base.dtype) if x.shape == base.shape else base for x in own])


def _spread(table: torch.Tensor, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Each row's own vector, to be broadcast over an x of (B, ..., n)."""
    own = table[rows.to(table.device)]
    return own.view(len(rows), *[1] * (x.dim() - 2), own.shape[-1])


class Linear(Served):
    """nn.Linear, and Conv1D with its (in, out) weights: signs go to the activations."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        name = self.names["weight"]
        located = [self.sources.find(model, name) for model in self.models]
        slots = list(dict.fromkeys(slot for slot, _ in located))
        self.slot = [slots.index(slot) for slot, _ in located]
        self.superposed = [self._rows(located[self.slot.index(i)][1].superposed) for i in range(len(slots))]
        self.keys, self.lams = [s.key for _, s in located], [s.lam for _, s in located]
        self.bias = self.table("bias")
        self.input_first, self.transform = self.rules[name].dim == 0, self.sources.manifest.transform_of(name)
        self.residuals = [self._residual(model, name) for model in self.models]

    def _residual(self, model: str, name: str) -> Difference | None:
        own = self.sources.patch(model, name)
        if own is None:
            return None
        s, key, lam = self.sources.find(model, name)[1]
        base, dim = self.sources.base(name), self.rules[name].dim or 0
        wide = base.to(compute_dtype(base.dtype))
        return difference(
            own,
            ops.retrieve(wide, s, key, lam=lam, transform=self.transform, dim=dim),
            input_first=self.input_first,
        )

    def _rows(self, superposed: torch.Tensor | Quantized) -> torch.Tensor | Quantized:
        """(out, in), as codes always are."""
        if isinstance(superposed, Quantized) or self.rules[self.names["weight"]].dim:
            return superposed
        return superposed.T

    def mixed(self, batch: Batch, x: torch.Tensor) -> torch.Tensor:
        """Under autocast in its dtype, as torch's linear layers are."""
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return self._product(batch, x, lambda t: t)
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return self._product(batch, x.to(dtype), lambda t: None if t is None else t.to(dtype))

    def _product(
        self,
        batch: Batch,
        x: torch.Tensor,
        cast: Callable[[torch.Tensor | None], torch.Tensor | None],
    ) -> torch.Tensor:
        weight = cast(self.plain.weight.T if self.input_first else self.plain.weight)
        bias = None if self.bias is not None else cast(getattr(self.plain, "bias", None))
        assert weight is not None
        product = functools.partial(ops.superposed_linear, lam=self.lams, transform=self.transform)
        if len(self.superposed) == 1:
            y = product(x, weight, self.superposed[0], self.keys, batch.rows, bias=bias)
        else:
            y = functional.linear(x, weight, bias)
            for slot, rows in group([self.slot[k] for k in batch.models]).items():
                s, own, at = self.superposed[slot], batch.rows[rows], rows.to(x.device)
                y = y.index_add(0, at, product(x[at], None, s, self.keys, own))
        if any(self.residuals):
            for k, rows in batch.groups.items():
                if (sparse := self.residuals[k]) is not None:
                    at = rows.to(x.device)
                    y = y.index_add(0, at, sparse.product(x[at]).to(y.dtype))
        return y if self.bias is None else y + _spread(self.bias, batch.rows, y).to(y.dtype)


class Embedding(Served):
    """The rows that are looked up become their model's."""

    def mixed(self, batch: Batch, ids: torch.Tensor) -> torch.Tensor:
        name, weight = self.names["weight"], self.plain.weight
        transform = self.sources.manifest.transform_of(name)

        def look_up(k: int, rows: torch.Tensor) -> torch.Tensor:
            own = ids[rows.to(ids.device)]
            flat = own.reshape(-1)
            s, key, lam = self.sources.find(self.models[k], name)[1]
            if isinstance(s, Quantized):
                shape = (len(flat), weight.shape[1])
                s = Quantized(s.codes[flat], s.scales[flat], s.bits, s.group, shape, s.dtype)
            else:
                s = s[flat]
            vectors = ops.retrieve(weight[flat], s, key, lam=lam, transform=transform)
            if (patch := self.sources.patch(self.models[k], name)) is not None:
                patch.put_rows(vectors, flat)
            return vectors.view(*own.shape, -1)

        vectors: torch.Tensor = batch.each(look_up)
        return vectors


class LayerNorm(Served):
    """One normalisation; each row its own weight and bias."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.weight, self.bias = self.table("weight"), self.table("bias")

    def mixed(self, batch: Batch, x: torch.Tensor) -> torch.Tensor:
        plain = self.plain
        y = functional.layer_norm(x, plain.normalized_shape, None, None, plain.eps)
        if plain.weight is not None:
            y = y * (plain.weight if self.weight is None else _spread(self.weight, batch.rows, y))
        if plain.bias is None:
            return y
        return y + (plain.bias if self.bias is None else _spread(self.bias, batch.rows, y))


class RMSNorm(Served):
    """The kinds that multiply by their weight elementwise: a weight for each row broadcasts just as well."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.plain = copy.copy(self.layer)  # with the layer's own forward, and without its hooks
        for name, value in vars(torch.nn.Module()).items():
            if "hooks" in name:
                self.plain.__dict__[name] = value
        del self.plain.__dict__["forward"]
        self.weight = self.table("weight")

    def mixed(self, batch: Batch, x: torch.Tensor) -> Any:
        assert self.weight is not None
        own = {"weight": _spread(self.weight, batch.rows, x)}
        return torch.func.functional_call(self.plain, own, (x,))


def mixing_layers(
    module: torch.nn.Module, targets: Mapping[str, torch.Tensor], sources: Sources, current: Current
) -> list[Served]:
    """Replaces the forward of every layer that can mix models; all or none.

    Raises:
        ValueError: a layer cannot be served.
    """
    stores = {id(x): name for name, x in targets.items()}
    chosen, fused = [], []
    for path, layer in module.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise ValueError(
                f"[serve] {path!r} must be a module of Python's, got a compiled {type(layer).__name__}"
            )
        if isinstance(layer, torch.nn.Embedding) and layer.max_norm:
            raise ValueError(
                f"[serve] {path!r} must leave its weights alone, got one with max_norm: use activate()"
            )
        if isinstance(layer, FUSED):
            fused.append(f"{path}." if path else "")
        own = {a: x for a, x in {**layer._parameters, **layer._buffers}.items() if x is not None}
        names = {a: stores[id(x)] for a, x in own.items() if id(x) in stores}
        if names and path and not path.startswith(tuple(fused)) and "forward" not in vars(layer):
            kind = kind_of(layer, names, sources)
            if kind is not None and not layer._modules:
                chosen.append((kind, path, layer, names))
    return [kind(path, layer, names, sources, current) for kind, path, layer, names in chosen]


def kind_of(layer: torch.nn.Module, names: Mapping[str, str], sources: Sources) -> type[Served] | None:
    """How a layer mixes models; None: it cannot, and runs once for each."""
    rules, kind = sources.manifest.rules, type(layer)
    exact = {attribute for attribute, name in names.items() if rules[name].rule != SUPERPOSED}
    weight = rules[names["weight"]] if "weight" in names else None
    if weight and "weight" not in exact and len(weight.shape) == 2 and exact <= {"bias"}:
        if isinstance(layer, torch.nn.Linear) and kind.forward is torch.nn.Linear.forward and weight.dim == 1:
            return Linear
        if kind.__name__ == "Conv1D" and weight.dim == 0:
            return Linear
        if kind is torch.nn.Embedding and weight.dim == 1:
            return Embedding
    if kind is torch.nn.LayerNorm and exact == set(names) and len(layer.normalized_shape) == 1:  # type: ignore[arg-type]
        return LayerNorm
    if kind.__name__.endswith("RMSNorm") and kind is not torch.nn.RMSNorm and exact == {"weight"}:
        return RMSNorm
    return None
