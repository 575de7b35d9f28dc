"""Adapters on a module: attached, switched, mixed, merged, taken off again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from pydelta.core import check
from pydelta.core.module_names import plain_name
from pydelta.ops._library import to_int64
from pydelta.ops.vera_linear import MATRICES
from pydelta.vera import trained
from pydelta.vera.layer import Mixture, Setting, VeraLinear, refusal
from pydelta.vera.projections import Projections, Seeded
from pydelta.vera.targets import (
    fresh_heads,
    is_within,
    matching,
    modules_named,
    parts_of,
    replace,
    shared_weight,
    sharers,
    untie,
)


class Adapters:
    """The VeRA adapters of a module.

    Attributes:
        module: what they are attached to.
        layers: name -> :class:`VeraLinear`, in the module's order. Names lack what torch.compile,
            DistributedDataParallel and FSDP put into them.
        trained: name -> part of the module that some adapter trains in full.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.layers = {
            plain_name(name): part for name, part in module.named_modules() if isinstance(part, VeraLinear)
        }
        self.trained = trained.trained_parts(module)

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names, in the order in which they came."""
        return tuple(dict.fromkeys(name for layer in self.layers.values() for name in layer.settings))

    @property
    def active(self) -> str | None:
        """The adapter in use; None: the base alone."""
        return next((layer.active for layer in self.layers.values() if layer.active is not None), None)

    def of(self, name: str | None) -> dict[str, VeraLinear]:
        """The layers that have an adapter; None: the one in use.

        Raises:
            ValueError: there is no such adapter.
        """
        wanted = self.active if name is None else name
        layers = {path: layer for path, layer in self.layers.items() if wanted in layer.settings}
        if not layers:
            raise ValueError(
                f"[vera] adapter must be one of {', '.join(self.names) or 'none'}, got {wanted!r}"
            )
        return layers

    def use(self, name: str | None) -> None:
        """Switches to an adapter; None: to the base alone. Layers without it run as their base.

        Raises:
            ValueError: there is no such adapter.
            RuntimeError: one is merged.
        """
        if name is not None:
            self.of(name)
        check_unmerged(self.layers)
        for layer in self.layers.values():
            layer.active = name if name in layer.settings else None
        for part in self.trained.values():
            part.show(name)

    def trained_by(self, name: str | None) -> dict[str, dict[str, torch.Tensor]]:
        """The parts that an adapter trains in full, and their tensors by their names in the part."""
        name = self.active if name is None else name
        return {
            path: part.tensors(name)
            for path, part in self.trained.items()
            if name is not None and name in part.own
        }

    @contextmanager
    def mixed(self, index: torch.Tensor, names: Sequence[str] | None = None) -> Iterator[None]:
        """Within the block each row of a batch has an adapter of its own.

        One product with A and one with B serve all of them, so they must share their matrices: adapters of
        another seed are refused. Ranks may differ, for a smaller matrix is a part of a larger one.

        Args:
            index: int64, an index into ``names`` for each row, or for each sequence of rows.
            names: adapters; default: all. Each must be on the same layers.

        Raises:
            ValueError: no adapter is named, or one is not there, is on other layers, has other matrices or a
                part of its own (a head).
            RuntimeError: one is merged.
        """
        check_unmerged(self.layers)
        chosen = tuple(self.names if names is None else names)
        if not chosen:
            raise ValueError("[vera] names must hold at least one adapter, got none")
        layers = self.of(chosen[0])
        if heads := [f"{path!r} of {name!r}" for name in chosen for path in self.trained_by(name)]:
            raise ValueError(f"[vera] mixed adapters must have no trained parts, got {', '.join(heads)}")
        for name in chosen[1:]:
            if (there := self.of(name)).keys() != layers.keys():
                raise ValueError(
                    f"[vera] mixed adapters must be on the same layers, got {len(layers)} of {chosen[0]!r} "
                    f"and {len(there)} of {name!r}"
                )
            self._check_same_matrices(chosen[0], name, layers)
        for layer in layers.values():
            layer.mixture = Mixture(chosen, index)
        try:
            yield
        finally:
            for layer in layers.values():
                layer.mixture = None

    def _check_same_matrices(self, first: str, name: str, layers: dict[str, VeraLinear]) -> None:
        one = next(iter(layers.values()))
        a, b = (one.settings[which].projections for which in (first, name))
        if a is not b and a != b:
            raise ValueError(
                "[vera] mixed adapters must share their matrices, that is their seed, for a batch takes one "
                f"product with them; got {_source(a)} of {first!r} and {_source(b)} of {name!r}"
            )

    def parameters(self, name: str | None = None) -> Iterator[nn.Parameter]:
        """d and b of every layer, and the parts that the adapter trains in full, for an optimizer."""
        name = self.active if name is None else name
        for layer in self.of(name).values():
            assert name is not None
            yield layer.d[name]
            yield layer.b[name]
        for tensors in self.trained_by(name).values():
            yield from (x for x in tensors.values() if isinstance(x, nn.Parameter))

    def set_matrices(self, matrices: str | None) -> None:
        """How all layers come to their matrices: "cached", "regenerated", or None for the default.

        Raises:
            ValueError: it is none of them.
        """
        if matrices is not None:
            check.choice("vera", "matrices", matrices, MATRICES)
        for layer in self.layers.values():
            layer.matrices = matrices

    def merge(self, name: str | None = None, *, keep_base: bool = True) -> None:
        """Merges an adapter into every layer; see :meth:`VeraLinear.merge`. What it trains in full stays.

        A weight that several parts hold (an output layer tied to the input embedding) is never changed in
        place: the layer gets one of its own, and ``tie_word_embeddings`` of the module's config becomes False
        until it is unmerged.

        Raises:
            ValueError: there is no such adapter, or a layer is tied in a module that computes otherwise
                without the tie.
            RuntimeError: one is merged already.
        """
        layers, name = self.of(name), self.active if name is None else name
        check_unmerged(self.layers)
        assert name is not None
        held = sharers(self.module)
        shared = {path: paths for path, layer in layers.items() if (paths := shared_weight(layer.base, held))}
        parts = {path: part for path, part in self.trained.items() if name in part.own}
        tied = shared | {path: part.tied for path, part in parts.items() if part.tied}
        for path, paths in tied.items():
            other = next((one for one in paths if not is_within(one, [path])), path)
            next(iter(layers.values())).untied += untie(self.module, path, other)
        for path, layer in layers.items():
            layer.merge(name, keep_base=keep_base, in_place=path not in shared)
        for part in parts.values():
            part.show(name)
            part.merged = True

    def unmerge(self) -> None:
        """Every layer's own weight again, bit for bit.

        Raises:
            RuntimeError: nothing is merged, or the base was not kept.
        """
        merged = [layer for layer in self.layers.values() if layer.merged is not None]
        if not merged:
            raise RuntimeError("[vera] an adapter must be merged before it is unmerged, got none")
        for layer in merged:
            layer.unmerge()
            for config in layer.untied:
                config.tie_word_embeddings = True
            layer.untied = []
        for part in self.trained.values():
            part.merged = False

    def detach(self) -> nn.Module:
        """Takes the adapters off; what is merged stays. Returns the module."""
        replace(self.module, {layer: layer.base for layer in self.layers.values()})
        for part in self.trained.values():
            trained.end(part.part[0])
        self.layers, self.trained = {}, {}
        return self.module

    def state_dict(self, name: str | None = None) -> dict[str, torch.Tensor]:
        """``<layer>.d`` and ``<layer>.b`` of an adapter, the tensors of the parts that it trains in full, and
        ``seed``: the unsigned one's bits as int64.

        Raises:
            ValueError: there is no such adapter, or its matrices come from no seed of ours.
        """
        layers, name = self.of(name), self.active if name is None else name
        state: dict[str, torch.Tensor] = {"seed": torch.tensor(to_int64(self.seed(name)))}
        for path, layer in layers.items():
            assert name is not None
            state[f"{path}.d"], state[f"{path}.b"] = layer.d[name].detach(), layer.b[name].detach()
        for path, tensors in self.trained_by(name).items():
            state |= {f"{path}.{key}": x.detach() for key, x in tensors.items()}
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor], name: str | None = None) -> None:
        """Copies an adapter's vectors from :meth:`state_dict`'s result.

        Raises:
            ValueError: names, shapes or the seed differ.
        """
        mine = self.state_dict(name)
        shapes = {key: tuple(x.shape) for key, x in mine.items()}
        loaded = {key: tuple(x.shape) for key, x in state.items()}
        keys = shapes.keys() | loaded.keys()
        if differ := sorted(key for key in keys if shapes.get(key) != loaded.get(key)):
            raise ValueError(
                f"[vera] state must fit the adapter, got other names or shapes: {', '.join(differ)}"
            )
        if int(state["seed"]) != int(mine["seed"]):
            raise ValueError(
                f"[vera] state must have the adapter's seed {int(mine['seed'])}, got {int(state['seed'])}"
            )
        for key, x in mine.items():
            if key != "seed":
                x.copy_(state[key])

    def seed(self, name: str | None = None) -> int:
        """The seed of an adapter's matrices.

        Raises:
            ValueError: they come from no seed of ours.
        """
        layers, name = self.of(name), self.active if name is None else name
        assert name is not None
        projections = next(iter(layers.values())).settings[name].projections
        if not isinstance(projections, Seeded):
            raise ValueError(
                f"[vera] adapter {name!r} must have matrices of a seed, got PEFT's: save_peft keeps them"
            )
        return projections.seed

    def rank(self, name: str | None = None) -> int:
        layers, name = self.of(name), self.active if name is None else name
        assert name is not None
        return next(iter(layers.values())).settings[name].rank


def attach(
    module: nn.Module,
    *,
    targets: str | Sequence[str],
    rank: int,
    seed: int = 42,
    d_init: float = 0.1,
    dropout: float = 0.0,
    name: str = "default",
    train: Sequence[str] = (),
) -> Adapters:
    """Gives linear layers of a module a VeRA adapter, and freezes all else (arXiv 2310.11454).

    Layers become :class:`VeraLinear`; what trains is d (rank) and b (out) of each. With a second name a
    second adapter joins the first. The learning rate is about ten times LoRA's. A classifier of transformers
    whose head is not in ``train`` is warned of: a fresh head would stay as it was drawn.

    Args:
        module: it is changed in place.
        targets: names of layers: the last parts of their paths ("q_proj", "attn.query"), shell patterns of
            whole paths, or "all-linear": all but output layers over the vocabulary, fresh heads of
            classifiers and what ``train`` names.
        rank: of the matrices, at least 1; 1024 and 256 in the paper.
        seed: of the matrices; the same seed gives every layer and module the same ones.
        d_init: what d starts from; b starts from 0.
        dropout: of the adapter's input, in training.
        name: the adapter's; no dots.
        train: names of parts, as for ``targets``, that the adapter trains in full: heads. Each adapter has
            its own; they are switched, saved, loaded and merged with it.

    Returns:
        The module's adapters, this one in use.

    Raises:
        TypeError: a layer is quantised, or not a plain linear layer.
        ValueError: a rank below 1, a target that no layer matches (near names are shown), a name taken, an
            adapted layer in a part that is trained in full.
        RuntimeError: an adapter is merged.
    """
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise TypeError(f"[vera.attach] rank must be an int, got {type(rank).__name__}")
    if rank < 1:
        raise ValueError(f"[vera.attach] rank must be at least 1, got {rank}")
    if not 0 <= dropout < 1:
        raise ValueError(f"[vera.attach] dropout must lie in [0, 1), got {dropout}")
    check.number("vera.attach", "d_init", d_init)
    whole = modules_named(module, check.sequence("vera.attach", "train", train))
    paths = matching(module, [targets] if isinstance(targets, str) else list(targets), whole)
    setting = Setting(Seeded(seed), rank, float(dropout))
    adapters = attach_to(module, paths, setting, name, d_init=float(d_init), train=whole)
    if left := [path for path in fresh_heads(module) if not is_within(path, whole) and path not in paths]:
        warnings.warn(
            f"[vera.attach] {', '.join(left)} stays as it is: train={left} trains it and keeps it in files",
            stacklevel=2,
        )
    return adapters


def attach_to(
    module: nn.Module,
    paths: Sequence[str],
    setting: Setting,
    name: str,
    *,
    d_init: float = 0.1,
    train: Sequence[str] = (),
) -> Adapters:
    """An adapter on the layers of these paths; nothing is changed unless all of them take it."""
    if not name or "." in name:
        raise ValueError(f"[vera.attach] name must be one word without dots, got {name!r}")
    check_unmerged(Adapters(module).layers)
    known = parts_of(module)
    parts = {path: known[path] for path in paths}
    if inside := [path for path in paths if is_within(path, train)]:
        raise ValueError(
            f"[vera.attach] train must name parts without adapted layers, got {inside[0]!r} in one"
        )
    for path, part in parts.items():
        if isinstance(part, VeraLinear):
            if name in part.settings:
                raise ValueError(f"[vera.attach] name must be new, got {name!r}, which {path!r} has")
        elif reason := refusal(part):
            raise TypeError(f"[vera.attach] {path!r} must be {reason}")
    fresh = not any(isinstance(part, VeraLinear) for part in module.modules())
    if fresh:
        module.requires_grad_(False)
    layers = {}
    for path, part in parts.items():
        layers[path] = part if isinstance(part, VeraLinear) else VeraLinear(part)
        layers[path].train(part.training)
        layers[path].add(name, setting, d_init)
    replace(module, {parts[path]: layer for path, layer in layers.items() if layer is not parts[path]})
    held = sharers(module)
    for path in train:
        ids = {id(p) for p in known[path].parameters()}
        tied = [other for i in ids for other in held[i] if not is_within(other, [path])]
        trained.begin(known[path], name, tied)
    adapters = Adapters(module)
    adapters.use(name)
    return adapters


def check_unmerged(layers: dict[str, VeraLinear]) -> None:
    """A merged weight is one adapter's: nothing else can be used or merged beside it."""
    for path, layer in layers.items():
        if layer.merged is not None:
            raise RuntimeError(
                f"[vera] no adapter may be merged yet: unmerge it first, got {layer.merged!r} in {path!r}"
            )


def _source(projections: Projections) -> str:
    return f"seed {projections.seed}" if isinstance(projections, Seeded) else "PEFT's matrices"
