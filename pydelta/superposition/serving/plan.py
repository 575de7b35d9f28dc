"""Which layers of a forward mix models, and which modules run once for each model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from pydelta.superposition.serving.probe import Event, Probe, grows, same
from pydelta.superposition.serving.rows import starred


class Unit(NamedTuple):
    """A module that runs once for each model, on that model's rows.

    Attributes:
        storages: of the tensors that it uses.
        rows: path of an argument -> whether it has a row for each of the batch's.
    """

    storages: frozenset[int]
    rows: dict[str, bool]


class Plan(NamedTuple):
    """How a call of the outermost module is run.

    Attributes:
        whole: the outermost module itself runs once for each model, for the reason ``why``.
        units: path of a module -> how it runs once for each model.
        mixing: paths of the layers that mix models; those alone are called.
        written: paths of the outermost module's arguments that it writes to.
        axes: path of a result -> its axis of rows (see :func:`rows.result_axes`).
    """

    whole: bool
    units: dict[str, Unit]
    mixing: frozenset[str]
    axes: dict[str, int | None]
    written: frozenset[str]


def not_called_before(path: str) -> ValueError:
    """Of a module that holds what differs between models, and that the plan has not seen."""
    return ValueError(
        f"[models] {path!r} must be called as in the first batch of this kind, where it was not called: "
        "use activate()"
    )


def plan_of(
    outermost: str,
    probes: tuple[Probe, Probe],
    layers: Iterable[str],
    others: Iterable[str],
    axes: dict[str, int | None],
) -> Plan:
    """The plan that two probes of one call, with one row and with two, prove right.

    A layer mixes models only where every call of it, and of the layers of its kind, has the batch's rows
    first; its tensors are used by itself alone. All else runs once for each model, in the innermost module
    that has rows alone as results, and whose arguments are rows or the same for all.

    Args:
        layers: paths of the layers that can mix models.
        others: paths of the other modules that hold tensors of a model.
    """
    maker = _Maker(outermost, probes)
    layers = list(layers)
    mixing = maker.by_rows(layers)
    for path in layers:
        if path not in mixing:
            maker.own(path)
    for path in others:
        maker.own(path, itself=True)
    for _, stack in probes[0].strays | probes[1].strays:
        maker.climb(stack)
    written = frozenset().union(*(event.written for probe in probes for event in probe.calls[outermost]))
    return Plan(maker.whole, maker.units(), maker.outside(mixing), axes, written)


class _Maker:
    def __init__(self, outermost: str, probes: tuple[Probe, Probe]) -> None:
        self.outermost, self.probes = outermost, probes
        self.whole = False
        self._owners: set[str] = set()

    def by_rows(self, layers: list[str]) -> set[str]:
        kinds: dict[str, list[str]] = {}
        for path in layers:
            if any(path in probe.calls for probe in self.probes):
                kinds.setdefault(starred(path), []).append(path)
        wrong = {kind for kind, paths in kinds.items() if not all(self._layer(path) for path in paths)}
        # Experts are called or not as the tokens choose.
        wrong |= {kind for kind in map(starred, self._idle(layers)) if kind in kinds}
        return {path for kind, paths in kinds.items() if kind not in wrong for path in paths}

    def own(self, path: str, *, itself: bool = False) -> None:
        """Puts the calls of a module into modules that run once for each model."""
        for probe in self.probes:
            for event in probe.calls.get(path, ()):
                self.climb((*event.stack, path) if itself else event.stack)

    def climb(self, stack: tuple[str, ...]) -> None:
        for path in reversed(stack):
            if path == self.outermost:
                break
            if self._module(path):
                self._owners.add(path)
                return
        self.whole = True

    def outside(self, layers: set[str]) -> frozenset[str]:
        """The layers with a call that no unit makes."""
        events = ((path, event) for path in layers for event in self.probes[0].calls[path])
        return frozenset(path for path, event in events if not self._owners.intersection(event.stack))

    def units(self) -> dict[str, Unit]:
        made = {}
        for path in self._owners:
            storages = frozenset().union(*(probe.touched.get(path, ()) for probe in self.probes))
            one, two = (probe.calls[path] for probe in self.probes)
            rows = {
                p: grows(x, two[i].taken[p]) for i, event in enumerate(one) for p, x in event.taken.items()
            }
            made[path] = Unit(storages, rows)
        return made

    def _pairs(self, path: str) -> list[tuple[Event, Event]] | None:
        one, two = (probe.calls.get(path, []) for probe in self.probes)
        if not one or len(one) != len(two):
            return None
        pairs = list(zip(one, two, strict=True))
        fit = all(a.taken.keys() == b.taken.keys() and a.made.keys() == b.made.keys() for a, b in pairs)
        return pairs if fit else None

    def _idle(self, layers: list[str]) -> list[str]:
        return [path for path in layers if path not in self.probes[0].calls]

    def _layer(self, path: str) -> bool:
        pairs = self._pairs(path)
        return pairs is not None and all(
            not self._chosen(path, one) and all(grows(x, two.taken[p]) for p, x in one.taken.items())
            for one, two in pairs
        )

    def _chosen(self, path: str, event: Event) -> bool:
        """Whether a layer is, or is part of, one of a list that its owner chooses from by values."""
        calls = (*event.stack, path)
        return any(
            re.search(r"\.\d+$", own) and owner in self.probes[0].choosing | self.probes[1].choosing
            for owner, own in pairwise(calls)
        )

    def _module(self, path: str) -> bool:
        pairs = self._pairs(path)
        return pairs is not None and all(_clean(one, two) for one, two in pairs)


def _clean(one: Event, two: Event) -> bool:
    if one.state or one.written or not one.made:
        return False
    rows = [grows(x, two.taken[p]) for p, x in one.taken.items()]
    shared = [same(x, two.taken[p]) for p, x in one.taken.items()]
    return (
        any(rows)
        and all(a or b for a, b in zip(rows, shared, strict=True))
        and all(grows(x, two.made[p]) for p, x in one.made.items())
    )
