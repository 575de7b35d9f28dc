"""What becomes of each tensor, which axis is its input, and which layers may change places.

Decided from headers alone, so everything here runs without torch.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Container, Mapping, Sequence

from pydelta.checkpoint import Checkpoint, TensorInfo
from pydelta.checkpoint.digest import tensor_digest
from pydelta.checkpoint.quantised.kinds import counts_up, is_index, scales_of
from pydelta.checkpoint.tensor_names import (
    FLOATS,
    NARROW,
    group_of,
    input_axis,
    known_axes,
    layer_of,
)

SUPERPOSED, EXACT, BASE, TIED = "superposed", "exact", "base", "tied"

_VOCABULARY = re.compile(r"embed|wte|shared|lm_head|\bemb\b")
_NO_VOCABULARY = re.compile(r"pos|patch|type|time")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of the base.

    Attributes:
        rule: "superposed", "exact" (kept per model) or "base" (the base's own, where a model has
            the same) or "tied" (another tensor under a second name).
        dtype, shape: the base's.
        dim: the input axis of a superposed tensor, counted from the front; else None.
        transform: of a superposed tensor, where a store has chosen one for each; else None.
        tied: the superposed tensor that a tied one is; else None.
    """

    rule: str
    dtype: str
    shape: tuple[int, ...]
    dim: int | None = None
    transform: str | None = None
    tied: str | None = None


def rules_of(base: Checkpoint, input_dims: Mapping[str, int] | None = None) -> dict[str, Rule]:
    """The rule of every tensor of the base.

    Args:
        input_dims: shell patterns of tensor names -> input axis; the first that matches wins over what
            is known about the model's type.

    Raises:
        ValueError: an axis is out of range, or a pattern matches no tensor.
    """
    axes = dict(input_dims or {})
    dims = [*axes.items(), *known_axes(base).items()]
    for pattern in axes:
        if not fnmatch.filter(base.names, pattern):
            raise ValueError(f"[compress] input_dims must match a tensor of {base.path}, got {pattern!r}")
    scales = scales_of(base.tensors)
    rules = {
        name: Rule(BASE, info.dtype, info.shape)
        if is_index(name) or (info.dtype in FLOATS and len(info.shape) > 1 and counts_up(base, name))
        else _rule(info, dims, scales)
        for name, info in base.tensors.items()
    }
    return rules | _tied(base, rules)


def is_vocabulary(name: str) -> bool:
    """Whether the rows of a tensor stand for words, by its name."""
    return bool(_VOCABULARY.search(name)) and not _NO_VOCABULARY.search(name)


def same_numbers(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Whether two tensors of a checkpoint are one under two names: a file holds a tied weight twice."""
    a, b = checkpoint.tensors[one], checkpoint.tensors[other]
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return all(
        tensor_digest(checkpoint, one, sampled=sampled) == tensor_digest(checkpoint, other, sampled=sampled)
        for sampled in (True, False)
    )


def _tied(base: Checkpoint, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules of embeddings that the base holds a second time: to stay equal they are summed once."""
    names = sorted(n for n, rule in rules.items() if rule.rule == SUPERPOSED and is_vocabulary(n))
    names.sort(key=lambda name: "lm_head" in name)
    tied: dict[str, Rule] = {}
    for i, name in enumerate(names):
        first = next((x for x in names[:i] if x not in tied and same_numbers(base, x, name)), None)
        if first is not None and rules[first].dim == rules[name].dim:
            tied[name] = Rule(TIED, rules[name].dtype, rules[name].shape, tied=first)
    return tied


def slots(rules: Mapping[str, Rule], seed: int, model: str, shuffle_layers: bool) -> dict[str, str]:
    """Superposed tensor of a model -> the tensor of the store that holds it: pi_k.

    Without shuffling every tensor has its own place. With it, the tensors of one name up to the layer
    number, one shape, dtype and input axis change places: in the order of their layer numbers, the i-th goes
    to the place of number ``shuffle(key(seed, "shuffle", model, group), n)[i]``.
    """
    names = [name for name, rule in rules.items() if rule.rule == SUPERPOSED]
    if not shuffle_layers:
        return {name: name for name in names}
    from pydelta.core.random import key, shuffle

    table: dict[str, str] = {}
    for group, members in slot_groups(rules):
        order = shuffle(key(seed, "shuffle", model, group), len(members))
        table |= {name: members[index] for name, index in zip(members, order, strict=True)}
    return table


def input_axis_last(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape of a tensor, or of a part of one, with its input axis last, as codes have it."""
    return (*shape[:axis], *shape[axis + 1 :], shape[axis])


def slot_groups(rules: Mapping[str, Rule]) -> list[tuple[str, list[str]]]:
    """The superposed tensors that may change places, by their group and in the order of layers."""
    groups: dict[tuple[str, Rule], list[str]] = {}
    for name, rule in rules.items():
        if rule.rule == SUPERPOSED:
            groups.setdefault((group_of(name), rule), []).append(name)
    return [
        (group, sorted(members, key=lambda name: layer_of(name) or 0))
        for (group, _), members in groups.items()
    ]


def _rule(info: TensorInfo, dims: Sequence[tuple[str, int]], scales: Container[str]) -> Rule:
    """Of a tensor that is no index; ``scales`` mean something beside their quantised weights alone."""
    if info.dtype not in (*FLOATS, *NARROW) or info.nbytes == 0:
        return Rule(BASE, info.dtype, info.shape)
    if len(info.shape) < 2 or info.dtype not in FLOATS or info.name in scales:
        return Rule(EXACT, info.dtype, info.shape)
    rank = len(info.shape)
    axes = (dim for pattern, dim in dims if fnmatch.fnmatchcase(info.name, pattern))
    dim = next(axes, input_axis(info.shape))
    if isinstance(dim, bool) or not isinstance(dim, int) or not -rank <= dim < rank:
        raise ValueError(
            f"[compress] input_dims must lie in [{-rank}, {rank - 1}] for {info.name} of shape {info.shape}, "
            f"got {dim!r}"
        )
    return Rule(SUPERPOSED, info.dtype, info.shape, dim % rank)
