"""Hooks on the linear layers of a model, and the sums that they keep."""

from __future__ import annotations

import fnmatch
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from pydelta.calibration.statistics import Calibration, LayerStatistics
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.quantised.kinds import listed
from pydelta.core import check

_ROWS, _PART = 256, 1 << 20  # a batch is summed in parts of 2^20 elements, but of 256 rows at least

Base = Mapping[str, torch.Tensor] | Checkpoint | str | os.PathLike[str]


class Calibrator:
    """Collects a :class:`Calibration` by hooks on every ``torch.nn.Linear`` and transformers ``Conv1D``.

    ::

        with Calibrator(model, base=base) as calibrator:
            for batch in batches:
                model(batch)
        calibrator.save("calibration.safetensors")

    One pass, and nothing of a batch is kept. fp16 and bf16 inputs are upcast before anything is squared; the
    sums over a part of a batch are fp32 (of fp64 inputs fp64), those over parts and batches fp64. Every row
    that reaches a layer counts, padding too. Whether the model is in evaluation mode, and whether gradients
    are on, stays the caller's choice. The hooks go when the block ends, by an exception too; a second block
    adds to the first.

    A weight that several layers share, or a layer with several names, has one set of statistics, over all
    that is seen, under every name. Layers that see nothing are left out, such as the output layer of
    ``torch.nn.MultiheadAttention``, which is never called, or an expert that no token was sent to.

    Args:
        model: the tuned model.
        base: the base's weights, for ``output_norm2``: a state dict, a checkpoint, or the path of one. A
            weight is read again for every batch, so that a checkpoint never lies in memory as a whole.
        layers: shell patterns of weight names, e.g. ``["encoder.*.weight"]``; default all layers.

    Raises:
        TypeError: ``model`` is no module, ``layers`` no list or tuple, or a weight is not floating.
        ValueError: there is no layer, a pattern matches none, or the base lacks a weight or has it in another
            shape (all such weights are listed). While the block runs: an input or a delta's output is not
            finite; the message names the layer.
        OSError: the base cannot be read.
    """

    def __init__(
        self, model: nn.Module, *, base: Base | None = None, layers: Sequence[str] | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"[Calibrator] model must be a torch.nn.Module, got {type(model).__name__}")
        chosen = _chosen(_linear_layers(model), layers)
        sharing: dict[tuple[int, int], list[str]] = {}
        for name, layer in chosen.items():
            check.floating("Calibrator", name, layer.weight)
            sharing.setdefault((id(layer.weight), layer.dim), []).append(name)
        self._sums: dict[str, _Sums] = {}
        for names in sharing.values():
            self._sums |= dict.fromkeys(names, _Sums(names[0], chosen[names[0]]))
        self._modules = {layer.module: self._sums[name] for name, layer in chosen.items()}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        if base is not None:
            _give_base(base, sharing.values(), self._sums)

    def __enter__(self) -> Calibrator:
        if self._hooks:
            raise RuntimeError("[Calibrator] a block must end before the next begins")
        for module, sums in self._modules.items():
            self._hooks.append(module.register_forward_hook(sums.add, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    @property
    def calibration(self) -> Calibration:
        """What was collected so far.

        Layers that saw no data, such as experts that no token was sent to, are left out with a warning.

        Raises:
            ValueError: no layer saw data.
        """
        seen = {name: sums.statistics() for name, sums in self._sums.items() if sums.rows}
        idle = [name for name in self._sums if name not in seen]
        if not seen:
            raise ValueError(f"[Calibrator] a layer must see data, got none for {listed(idle)}")
        if idle:
            warnings.warn(f"[Calibrator] layers that saw no data are left out: {listed(idle)}", stacklevel=2)
        return Calibration(seen)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """As :meth:`Calibration.save`, of what was collected so far."""
        self.calibration.save(path, force=force)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Calibration:
        """As :meth:`Calibration.load`."""
        return Calibration.load(path)


class _Layer(NamedTuple):
    """``dim`` is the input axis of the weight."""

    module: nn.Module
    weight: torch.Tensor
    dim: int


class _Sums:
    """The running sums of one weight; with its base those of the delta's outputs too."""

    def __init__(self, name: str, layer: _Layer) -> None:
        self.name, self.shape, self.dim = name, tuple(layer.weight.shape), layer.dim
        self.base: Callable[[], torch.Tensor] | None = None
        self.rows = 0
        self._totals = self._zeros("cpu")

    def add(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: object) -> None:
        """The forward hook."""
        x: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
        sums = norm2, total, output2 = self._zeros(x.device)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            x = x.reshape(-1, self.shape[self.dim])
            delta = None if self.base is None else self._delta(module.weight, self.base())
            for part in x.split(max(_ROWS, _PART // max(1, *self.shape))):
                part = part.to(check.compute_dtype(x.dtype))
                norm2 += part.square().sum(0)
                total += part.sum(0)
                if delta is not None:
                    output2 += (part.to(delta.dtype) @ delta).square().sum()
        self._check_finite("input", norm2)
        self._check_finite("delta's output", output2)
        for kept, new in zip(self._totals, sums, strict=True):
            kept += new.to("cpu")
        self.rows += len(x)

    def statistics(self) -> LayerStatistics:
        norm2, total, output2 = self._totals
        return LayerStatistics(
            column_norm=norm2.sqrt().float(),
            mean=(total / self.rows).float(),
            rows=self.rows,
            dim=self.dim,
            output_norm2=float(output2) if self.base else None,
        )

    def _zeros(self, device: torch.device | str) -> list[torch.Tensor]:
        """Room for the features' sums of squares, their sums, and ||delta X||_F^2."""
        n = self.shape[self.dim]
        return [torch.zeros(shape, dtype=torch.float64, device=device) for shape in ((n,), (n,), ())]

    def _delta(self, weight: Any, base: torch.Tensor) -> torch.Tensor:
        """weight - base as (in, out)."""
        check.floating("Calibrator", f"the base of {self.name}", base)
        dtype = check.compute_dtype(weight.dtype)
        delta: torch.Tensor = weight.to(dtype) - base.to(weight.device, dtype)
        return delta.T if self.dim == 1 else delta

    def _check_finite(self, what: str, norm2: torch.Tensor) -> None:
        if not norm2.isfinite().all():
            raise ValueError(
                f"[Calibrator] the {what} of {self.name} and its squares must be finite, got NaN or Inf"
            )


def _linear_layers(model: nn.Module) -> dict[str, _Layer]:
    """By the names of their weights, a layer that has several names under every one."""
    layers = {}
    for name, module in model.named_modules(remove_duplicate=False):
        # transformers is no dependency, so its layer is known by name; it keeps its weight as (in, out).
        conv1d = any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)
        if not conv1d and not isinstance(module, nn.Linear):
            continue
        weight = module.weight
        if isinstance(weight, torch.Tensor) and weight.dim() == 2:
            layers[f"{name}.weight".removeprefix(".")] = _Layer(module, weight, 0 if conv1d else 1)
    return layers


def _chosen(known: dict[str, _Layer], layers: object) -> dict[str, _Layer]:
    if not known:
        raise ValueError("[Calibrator] model must have a Linear or Conv1D layer, got none")
    patterns = ["*"] if layers is None else check.sequence("Calibrator", "layers", layers)
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise ValueError(f"[Calibrator] layers must match the model's layers, got {pattern!r}")
    return {
        name: layer
        for name, layer in known.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def _give_base(base: Base, sharing: Iterable[list[str]], sums: Mapping[str, _Sums]) -> None:
    """Every weight learns where its base is; a file may hold a shared weight under one of its names."""
    if isinstance(base, (str, os.PathLike)):
        base = Checkpoint(base)
    read: Callable[[str], torch.Tensor]
    if isinstance(base, Checkpoint):
        shapes, read = {name: info.shape for name, info in base.tensors.items()}, base.tensor
    else:
        shapes, read = {name: tuple(x.shape) for name, x in base.items()}, base.__getitem__
    problems = []
    for names in sharing:
        name = next((name for name in names if name in shapes), None)
        if name is None:
            problems.append(f"it lacks {names[0]}")
        elif shapes[name] != sums[name].shape:
            problems.append(f"{name} has shape {shapes[name]}, in the model {sums[name].shape}")
        else:
            sums[name].base = functools.partial(read, name)
    if problems:
        raise ValueError(f"[Calibrator] base must have the model's layers, got: {'; '.join(problems)}")
