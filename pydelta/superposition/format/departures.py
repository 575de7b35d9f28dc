"""In what a model departs from its base beside the deltas of its weights. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pydelta.checkpoint import TensorInfo
from pydelta.checkpoint.tensor_names import FLOATS
from pydelta.superposition.format.rules import EXACT, SUPERPOSED, Rule

ROWS = "rows/"


@dataclasses.dataclass(frozen=True)
class Departures:
    """What one model has otherwise than its base.

    Attributes:
        own: tensors that are kept exactly for it alone: what the base lacks or has in another shape, integers
            whose bytes differ, and tensors whose rule is "exact" in another dtype.
        lacks: tensors of the base that it lacks.
        dtypes: superposed tensor -> the model's own floating dtype.
        rows: superposed tensor -> the model's number of rows. Rows that the base lacks are kept exactly.
        files: file of the model's own, relative to its folder -> SHA-256.
    """

    own: Mapping[str, TensorInfo] = dataclasses.field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.in_tensors or bool(self.files)

    @property
    def in_tensors(self) -> bool:
        """Whether the model has other tensors, dtypes or shapes than the base."""
        return bool(self.own or self.lacks or self.dtypes or self.rows)

    def superposes(self, name: str, rule: Rule) -> bool:
        """Whether the model has a delta of this tensor of the base."""
        return rule.rule == SUPERPOSED and name not in self.own and name not in self.lacks

    def exact_file(self, rules: Mapping[str, Rule]) -> Iterator[TensorInfo]:
        """What the model's file of exact tensors holds."""
        for name, rule in rules.items():
            if rule.rule == EXACT and name not in self.own and name not in self.lacks:
                yield TensorInfo(name, rule.dtype, rule.shape)
        yield from self.own.values()
        for name, count in self.rows.items():
            rule = rules[name]
            if count > rule.shape[0]:
                shape = (count - rule.shape[0], *rule.shape[1:])
                yield TensorInfo(ROWS + name, self.dtypes.get(name, rule.dtype), shape)

    def tensors(self, rules: Mapping[str, Rule], *, own_dtypes: bool = False) -> dict[str, TensorInfo]:
        """The model's tensors as they come back, the base's first.

        Args:
            own_dtypes: in the model's own floating dtypes, not the base's.
        """
        tensors = {}
        for name, rule in rules.items():
            if name in self.lacks:
                continue
            shape, dtype = rule.shape, rule.dtype
            if name in self.own:
                shape = self.own[name].shape
                if own_dtypes or dtype not in FLOATS or self.own[name].dtype not in FLOATS:
                    dtype = self.own[name].dtype
            elif name in self.rows:
                shape = (self.rows[name], *shape[1:])
            if own_dtypes:
                dtype = self.dtypes.get(name, dtype)
            unchanged = (shape, dtype) == (rule.shape, rule.dtype)
            tensors[name] = TensorInfo(name, dtype, shape) if unchanged else self._info(name, dtype, shape)
        for name, rule in rules.items():
            if rule.tied is not None and name in tensors and name not in self.own:
                tensors[name] = dataclasses.replace(tensors[rule.tied], name=name)
        return tensors | {name: info for name, info in self.own.items() if name not in rules}

    def _info(self, name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
        own = self.own.get(name)
        return own if own is not None and own.dtype == dtype else TensorInfo(name, dtype, shape)

    def dump(self) -> dict[str, Any]:
        """For ``store.json``: nothing where the model is in everything like its base."""
        content = {
            "own": {n: {"dtype": info.dtype, "shape": list(info.shape)} for n, info in self.own.items()},
            "lacks": sorted(self.lacks),
            "dtypes": dict(self.dtypes),
            "rows": dict(self.rows),
            "files": dict(self.files),
        }
        return {field: value for field, value in content.items() if value}
