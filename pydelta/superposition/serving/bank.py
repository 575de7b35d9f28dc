"""``Superposition.attach``: the models of a store on a live module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from pydelta.checkpoint.staging import Pathlike
from pydelta.superposition.serving.batch import Batch, Current
from pydelta.superposition.serving.binding import bind
from pydelta.superposition.serving.layers import Served, mixing_layers
from pydelta.superposition.serving.router import Router
from pydelta.superposition.serving.sources import Sources
from pydelta.superposition.serving.weights import Weights

if TYPE_CHECKING:
    from pydelta.superposition.reading.contents import Contents


class Bank:
    """The models of a store on one module: one at a time (:meth:`activate`) or all at once (:meth:`serve`).

    Made by :meth:`pydelta.Superposition.attach`. A bank belongs to one module and one thread at a time;
    banks of other modules may work beside it, from the same store.

    Args:
        module: holds the tensors that differ between models, of the base's shapes and dtypes, on one device.
            Their values do not matter.
        base: where the store's base is; by default where it was.
        prefix: what stands before the store's names in the module ("model."); with a leading "-", what stands
            before the module's names in the store ("-bert."). By default it is found.
        rename: text in the store's names -> what stands in its place in the module. Names that transformers
            changes on loading, and experts that it packs, are found without.
        resident: hold base and superposition in memory on the module's device; by default so on a GPU. On the
            CPU they stay mapped from their files, which processes share.

    Raises:
        TypeError: ``module`` is no module.
        ValueError: a module that does not hold the store's tensors, another base than the store's (its bytes
            are compared by SHA-256), or a store that is not sound.
        OSError: a file cannot be read.
    """

    def __init__(
        self,
        store: Contents,
        module: torch.nn.Module,
        *,
        base: Pathlike | None = None,
        prefix: str | None = None,
        resident: bool | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"[attach] module must be a torch.nn.Module, got {type(module).__name__}")
        self.store, self.module = store, module
        self._active: tuple[str, list[int]] | None = None
        bound = bind(module, store.manifest.rules, prefix, rename)
        live = [*bound.direct.values(), *(x for c in bound.conversions for x in c.live.values())]
        device = next((x.device for x in live), torch.device("cpu"))
        on_cpu = device.type == "cpu"
        if resident is False and not on_cpu:
            raise ValueError(f"[attach] resident must be True for a module on {device}, got False")
        self.sources = Sources(store, base, device, not on_cpu if resident is None else resident)
        self.weights = Weights(bound, self.sources)
        self.targets = self.weights.direct
        self._current, self._served = Current(), list[Served]()
        self._router: Router | None = None

    @property
    def active(self) -> str | None:
        """The model whose weights the module holds; None if the bank did not write them all, or something
        else has written since."""
        return self._active[0] if self._active and self._active[1] == self._versions() else None

    def activate(self, name: str) -> None:
        """Writes a model's weights into the module, in place.

        Each tensor is written by one fused :func:`pydelta.retrieve` from base and superposition, never by
        adding to what was there: the bits are those of :meth:`Superposition.retrieve`, after whatever came
        before. Nothing is allocated. Tied weights are written once.

        Raises:
            ValueError: an unknown model, or one with tensors of its own or other shapes than the base's.
                Nothing is written.
            RuntimeError: the bank serves mixed batches.
        """
        self._know(name)
        self._fits("activate", name)
        if self._router is not None:
            raise RuntimeError("[activate] the bank must not serve mixed batches: call unserve() first")
        self._active = None
        self.weights.write(name, self.weights.names)
        self._active = name, self._versions()

    @contextmanager
    def use(self, name: str) -> Iterator[torch.nn.Module]:
        """Within the block the module is the model ``name``; afterwards it holds what it held before.

        What another ``use`` or :meth:`activate` wrote is written again; weights that did not come from the
        bank are copied for the while, which takes their memory.

        Raises:
            ValueError, RuntimeError: as :meth:`activate`.
        """
        before = self.active
        kept = [] if before else [live.detach().clone() for live in self.weights.live]
        self.activate(name)
        try:
            yield self.module
        finally:
            if before is not None:
                self.activate(before)
            else:
                self._active = None
                with torch.no_grad():
                    for live, value in zip(self.weights.live, kept, strict=True):
                        live.copy_(value)

    def serve(self, module: torch.nn.Module | None = None) -> torch.nn.Module:
        """Prepares the module for batches that mix models: see :meth:`models`.

        The module gets the base's weights, and the forward of each layer whose tensors differ between models
        is replaced; names and parameters stay. Linear layers and GPT-2's Conv1D apply each row's signs to the
        activations (:func:`pydelta.superposed_linear`), embeddings sign the rows they look up, norms and
        biases take each row's own; whatever else holds such tensors (convolutions, position parameters) runs
        once for each model of the batch. Outside of :meth:`models` the module is the base.

        Args:
            module: the module that the bank is attached to, if given.

        Returns:
            The module.

        Raises:
            ValueError: another module, one in training mode, or one with a layer that cannot be served.
        """
        if module is not None and module is not self.module:
            raise ValueError("[serve] module must be the one that the bank is attached to, got another")
        if self.module.training:
            raise ValueError("[serve] the module must be in evaluation mode: call its eval(), got training")
        if self._router is None:
            self._active = None
            inner = getattr(
                self.module, "_orig_mod", self.module
            )  # of torch.compile, which compiles it again
            self._served = mixing_layers(inner, self.weights.direct, self.sources, self._current)
            layers = {layer.path: layer.layer for layer in self._served}
            self._router = Router(inner, self.weights, layers, self._current)
            self.weights.write_base(self.weights.names)
        return self.module

    def unserve(self) -> None:
        """Gives the layers their own forward again. The module keeps the base's weights."""
        if self._router is not None:
            self._router.restore()
        for layer in self._served:
            layer.restore()
        self._served, self._router = [], None

    @contextmanager
    def models(self, names: Sequence[str]) -> Iterator[torch.nn.Module]:
        """Within the block row i of a batch runs through the model ``names[i]``, all in one forward.

        Rows are the first dimension of every layer's input. Base weights and superposition are shared: a
        layer costs one product more than the base's (one for each bucket or layer slot among the rows).

        Raises:
            TypeError: ``names`` is no list of names.
            ValueError: an unknown model, or a module in training mode; within the block, a batch with
                another number of rows.
            RuntimeError: :meth:`serve` was not called.
        """
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"[models] names must be a list of models' names, got {names!r}")
        for name in names:
            self._know(name)
            self._fits("models", name)
        if self._router is None:
            raise RuntimeError("[models] the bank must serve mixed batches: call serve() first")
        if self.module.training:
            raise ValueError("[models] the module must be in evaluation mode: call its eval(), got training")
        index = {name: k for k, name in enumerate(self.store.models)}
        with self._current.set(Batch([index[name] for name in names])):
            yield self.module

    def _know(self, name: object) -> None:
        if name not in self.store.manifest.models:
            known = ", ".join(self.store.models)
            raise ValueError(f"{self.store.path}: holds no model {name!r}; it holds {known}")

    def _fits(self, op: str, name: str) -> None:
        """A module of the base's tensors holds no model that has others."""
        others = self.store.unlike_base(name)
        if op == "models":  # what a model lacks is the base's, which no layer that mixes models knows
            others += self.store.manifest.models[name].departs.lacks
        if others:
            raise ValueError(
                f"[{op}] model {name!r} must have the base's tensors, got its own {min(others)!r} "
                f"({len(others)} in all): pydelta.hf.load gives it as a model of its own"
            )

    def _versions(self) -> list[int]:
        """Torch's counts of writes, which inference tensors do not have."""
        return [0 if x.is_inference() else x._version for x in self.weights.live]
