"""Tensors that are the base's, and those that can neither be merged nor be the base's. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from pydelta.checkpoint.header import TensorInfo
from pydelta.checkpoint.quantised.kinds import is_index, listed, quantised_tensors
from pydelta.checkpoint.tensor_names import FLOATS
from pydelta.merging.planning.items import Model

M = TypeVar("M", bound=Model)

Same = Callable[[M, M, str], bool]
"""Whether a tensor has the same dtype, shape and bytes in two models."""

CountsUp = Callable[[M, str], bool]
"""Whether a tensor holds 0, 1, 2 and on."""


def kept_tensors(
    origin: M, sources: Mapping[str, M], same: Same[M], counts_up: CountsUp[M], *, prunes: bool
) -> tuple[frozenset[str], list[str]]:
    """(the tensors that the result has from its origin, what is wrong).

    Indices and positions are the origin's, whatever their dtype. What is no float is the origin's where all
    agree; so are quantised weights and the scales beside them, which are one thing: no sum of scales fits
    anybody's weights.

    Args:
        origin: gives the result what is not merged.
        sources: the base, if there is one, and the models, by name.
        prunes: the origin is the tuned model, whose own integers stay.
    """
    others = {name: model for name, model in sources.items() if model is not origin}
    packed = {name: quantised_tensors(model.tensors) for name, model in [("", origin), *others.items()]}
    if faults := [
        _fault(name, model, origin, packed) for name, model in others.items() if packed[name] != packed[""]
    ]:
        return frozenset(), faults
    kept: set[str] = set()
    differ: dict[str, list[str]] = {}
    for info in origin.tensors.values():
        holders = {name: model for name, model in others.items() if info.name in model.tensors}
        if is_index(info.name) or all(counts_up(model, info.name) for model in [origin, *holders.values()]):
            kept.add(info.name)
        elif info.name in packed[""] or (not _is_float(info) and not prunes):
            kept.add(info.name)
            for name, model in holders.items():
                if info.nbytes and not same(origin, model, info.name):
                    differ.setdefault(name, []).append(info.name)
    for name, tensors in differ.items():
        if packed[""].intersection(tensors):
            faults.append(_fault(name, others[name], origin, packed))
        else:
            first = origin.tensors[tensors[0]].dtype
            faults.append(
                f"{name} ({others[name].path}): integers cannot be merged, and those of {listed(tensors)} "
                f"({first}) differ from those of {origin.path}"
            )
    return frozenset(kept), faults


def _is_float(info: TensorInfo) -> bool:
    return info.dtype in FLOATS


def _fault(name: str, model: Model, origin: Model, packed: Mapping[str, set[str]]) -> str:
    holder = model if packed[name] else origin
    label = f"{name} ({model.path})" if packed[name] else f"{origin.path}"
    tensor = next(tensor for tensor in holder.tensors if tensor in (packed[name] or packed[""]))
    return (
        f"{label} is quantised ({tensor} is {holder.tensors[tensor].dtype}): quantised weights and their "
        "scales cannot be merged; merge the checkpoints that they were made from, or read fp8 and MXFP4 as "
        "bf16 with --dequantize (dequantize=True)"
    )
