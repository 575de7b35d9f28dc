"""The batch's axis at the outermost module's call, and the rows of what it takes and gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from pydelta.superposition.serving.trees import Originals, mapped, states, tensors

_LEADING = (
    "input_ids",
    "inputs_embeds",
    "decoder_input_ids",
    "decoder_inputs_embeds",
    "pixel_values",
    "input_values",
    "input_features",
)
"""Arguments that have the batch first, in the order in which they are looked at."""
_SHARED = re.compile(r"(cache_position|grid_thw|head_mask|image_sizes_flat|rope_deltas)$")
"""Arguments of transformers that belong to no row."""
Axes = dict[str, int]
"""Path of a tensor -> the axis of the batch; -1: it belongs to no row.

``ITEMS`` stands for a list that has an item for each row."""
ITEMS = -2

Call = tuple[tuple[Any, ...], dict[str, Any]]


def starred(path: str) -> str:
    """A path with its numbers left out: layers of one kind share it."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", path)


def name_of(path: str) -> str:
    """Of an argument or a result, without its place among them."""
    return path.split(".", 2)[-1]


def rows_of(call: Call) -> int | None:
    """How many rows the batch has; None where no tensor tells."""
    args, options = call
    for name in _LEADING:
        if isinstance(x := options.get(name), torch.Tensor) and x.dim():
            return x.shape[0]
    for _, x in tensors((args, {k: v for k, v in options.items() if not states(v)})):
        if x.dim():
            return x.shape[0]
    return None


def argument_axes(call: Call, rows: int, known: Axes) -> Axes:
    """The axis of every tensor in a call.

    Args:
        known: axes of caches' tensors, from an earlier call's results.

    Raises:
        ValueError: a tensor has neither one row nor as many as the batch; the message names it.
    """
    axes: Axes = dict.fromkeys(_lists(call, rows), ITEMS)
    held = {id(x) for state in states(call) for _, x in tensors(state)}
    for path, x in tensors(call):
        if id(x) in held:
            axes[path] = _state_axis(path, x, rows, known)
        elif (own := known.get(starred(name_of(path)), 0)) and x.dim() > own and x.shape[own] == rows:
            axes[path] = own
        elif not x.dim() or x.shape[0] == 1 != rows or _SHARED.search(path) or _positions(path, x):
            axes[path] = -1
        elif x.shape[0] == rows:
            axes[path] = 0
        elif axes.get(path.rpartition(".")[0]) == ITEMS:
            axes[path] = -1
        elif path.endswith("position_ids") and x.dim() == 3 and x.shape[1] in (1, rows):
            axes[path] = 1 if x.shape[1] == rows else -1
        elif x.dim() == 1:
            axes[path] = -1
        else:
            name = name_of(path)
            raise ValueError(
                f"[models] every argument must have one row for each row of the batch ({rows}), "
                f"got {name!r} of shape {tuple(x.shape)}: use activate()"
            )
    return axes


def _lists(call: Call, rows: int) -> set[str]:
    """Lists with a tensor for each row, none of which has a row for each: images of several sizes."""
    members: dict[str, list[torch.Tensor]] = {}
    for path, x in tensors(call):
        parent, _, last = path.rpartition(".")
        if last.isdigit() and parent.count(".") > 1:
            members.setdefault(parent, []).append(x)
    return {
        path
        for path, xs in members.items()
        if len(xs) == rows and all(x.dim() > 1 and x.shape[0] not in (1, rows) for x in xs)
    }


def _state_axis(path: str, x: torch.Tensor, rows: int, known: Axes) -> int:
    axis = known.get(starred(name_of(path)))
    if axis is not None:
        return axis
    return 0 if x.dim() >= 2 and x.shape[0] == rows else -1


def _positions(path: str, x: torch.Tensor) -> bool:
    """Whether a vector counts up from token to token, and is no label of a row."""
    name = name_of(path)
    if not name.isdigit() and "position" not in name:
        return False
    if x.dim() != 1 or x.is_floating_point() or len(x) < 2:
        return False
    return bool((x[1:] - x[:-1] == 1).all())


def select(call: Call, axes: Axes, at: Sequence[int] | torch.Tensor, copies: Originals | None = None) -> Any:
    """Some rows of a call; its caches are copied, so that what is written to them stays apart."""
    index = torch.as_tensor(at, dtype=torch.int64)
    held = {id(x) for state in states(call) for _, x in tensors(state)}

    def leaf(path: str, x: torch.Tensor) -> torch.Tensor:
        if axes.get(path, -1) >= 0:
            return x.index_select(axes[path], index.to(x.device))
        return x.clone() if id(x) in held else x

    items = {path: index.tolist() for path, axis in axes.items() if axis == ITEMS}
    return mapped(leaf, call, copies=copies, items=items)


def result_axes(one: Any, two: Any) -> dict[str, int | None]:
    """From the results of one row and of two: the axis that doubled, -1 where none changed, None else."""
    shapes: dict[str, int | None] = {}
    both = dict(tensors(two))
    for path, x in tensors(one):
        y = both.get(path)
        if y is None or y.dim() != x.dim():
            shapes[path] = None
            continue
        grown = [i for i in range(x.dim()) if x.shape[i] != y.shape[i]]
        doubled = len(grown) == 1 and y.shape[grown[0]] == 2 * x.shape[grown[0]]
        shapes[path] = -1 if not grown else grown[0] if doubled else None
    return shapes


def join(
    parts: Sequence[Any], groups: Sequence[torch.Tensor], axes: dict[str, int | None], originals: Originals
) -> Any:
    """The results of the models in the order of the batch.

    Args:
        groups: the rows of each part.

    Raises:
        ValueError: a result that belongs to no row and differs from model to model.
    """
    order = torch.argsort(torch.cat(list(groups)))

    def leaf(path: str, *own: torch.Tensor) -> torch.Tensor:
        axis = axes.get(path)
        if axis is not None and axis >= 0:
            blocks = [x.unflatten(axis, (len(g), -1)) for x, g in zip(own, groups, strict=True)]
            whole = torch.cat(blocks, axis).index_select(axis, order.to(own[0].device))
            return whole.flatten(axis, axis + 1)
        if len(own) == 1 or all(x.shape == own[0].shape and torch.equal(x, own[0]) for x in own):
            return own[0]
        name = name_of(path)
        raise ValueError(
            f"[models] every result must have one row for each row of the batch, got {name!r} of shape "
            f"{tuple(own[0].shape)}, which is no row's: run it outside of the batch, or use activate()"
        )

    with torch.autocast(order.device.type, enabled=False):
        return mapped(leaf, *parts, originals=originals)
