"""Which fine-tunes collide: cosines and sign conflicts of deltas, and what they will cost each other."""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.header import ITEMSIZE
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.quantised.dequantised import open_checkpoint
from pydelta.checkpoint.quantised.kinds import counts_up, listed, same_bytes
from pydelta.checkpoint.staging import Pathlike
from pydelta.checkpoint.tensor_names import FLOATS, group_of
from pydelta.checkpoint.tensors import TORCH
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.workspace import PART_BYTES, Workspace, check_part
from pydelta.core.check import compute_dtype
from pydelta.merging.planning.kept import kept_tensors


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Cosines of the deltas of models.

    Attributes:
        models: their names, in the order given.
        overall: cosines[i][j] over all tensors; NaN where a delta is zero.
        groups: the same for the tensors of each kind: names that agree up to the layer number.
        norms: group -> every model's delta's L2 norm.
        conflicts: conflicts[i][j] is the fraction, among the elements that are not zero in either delta,
            whose signs differ; over all tensors. 0.5: unrelated. NaN where there are no such elements.
        group_conflicts: the same for the tensors of each kind.
        merged: of each model, ||sum of the other deltas||^2 / ||its own||^2: the relative squared error of
            its delta in a plain sum. NaN for a delta of zeros.
        superposed: sum of ||other delta||^2 / ||its own||^2: the same expected after random signs.
    """

    models: tuple[str, ...]
    overall: list[list[float]]
    groups: dict[str, list[list[float]]]
    norms: dict[str, list[float]]
    conflicts: list[list[float]]
    group_conflicts: dict[str, list[list[float]]]
    merged: list[float]
    superposed: list[float]


def similarity(
    base: Pathlike, models: Mapping[str, Pathlike], *, dequantize: bool = False, show: bool = False
) -> Similarity:
    """Reads base and models once and compares their deltas; floating tensors of all of them count.

    Positions (0, 1, 2 and on) and what else is called an index are left out. Of tensors with other numbers of
    rows the rows that all have are compared; what a model lacks or has alone is left out, with a warning.

    Args:
        dequantize: read fp8 weights with scales, and MXFP4, as bf16.

    Raises:
        ValueError: a model is quantised, the models have nothing in common, or NaN or Inf in a tensor.
        OSError: a file cannot be read.
    """
    origin = open_checkpoint(base, dequantize=dequantize)
    tuned = {name: open_checkpoint(path, dequantize=dequantize) for name, path in models.items()}
    sources = {"base": origin, **tuned}
    kept, problems = kept_tensors(origin, sources, same_bytes, counts_up, prunes=True)
    if problems:
        raise ValueError("; ".join(problems))
    counts, left_out = _comparable(origin, tuned, kept)
    if not counts:
        raise ValueError(f"{origin.path}: no floating tensor that the models have too")
    if left_out:
        warnings.warn(f"left out of the comparison: {listed(left_out)}", stacklevel=2)
    reader = _Reader(origin, tuned)
    sizes = sum(
        count * ITEMSIZE[model.dtype(name)]
        for name, count in counts.items()
        for model in [origin, *tuned.values()]
    )
    with progress("similarity", sizes, show) as advance, Workers(advance) as workers:
        for name, size in counts.items():
            for start, count in reader.parts(size):
                workers.submit_part(functools.partial(reader.read, name, start, count))
    kinds: dict[str, torch.Tensor] = {}
    for name in counts:
        parts = reader.sums[name]
        summed = torch.stack([parts[start] for start in sorted(parts)]).sum(0)
        group = group_of(name)
        kinds[group] = kinds[group] + summed if group in kinds else summed
    whole = sum(kinds.values(), torch.zeros(3, len(tuned), len(tuned), dtype=torch.float64))
    squares = whole[0].diagonal()
    return Similarity(
        models=tuple(tuned),
        overall=_cosines(whole[0]),
        groups={group: _cosines(sums[0]) for group, sums in kinds.items()},
        norms={group: sums[0].diagonal().sqrt().tolist() for group, sums in kinds.items()},
        conflicts=_conflicts(whole),
        group_conflicts={group: _conflicts(sums) for group, sums in kinds.items()},
        merged=((whole[0].sum() - 2 * whole[0].sum(1) + squares).clamp(min=0) / squares).tolist(),
        superposed=((squares.sum() - squares) / squares).tolist(),
    )


def draw(result: Similarity, path: Path) -> None:
    """Heat maps: of the overall cosines, of those for each kind of tensor, and of the overall sign conflicts.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("a heat map needs matplotlib: pip install matplotlib") from None
    panels = {"all tensors": result.overall, **result.groups, "sign conflicts, all tensors": result.conflicts}
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.4 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    ticks = range(len(result.models))
    image: Any = None
    for i, (title, cosines) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        if i < len(panels) - 1:
            image = axes.imshow(cosines, vmin=-1, vmax=1, cmap="RdBu_r")
        else:
            axes.imshow(cosines, vmin=0, vmax=1, cmap="PuOr_r")
        axes.set_title(title if len(title) < 40 else "..." + title[-37:], fontsize=8)
        axes.set_xticks(ticks, result.models, rotation=45, ha="right", fontsize=7)
        axes.set_yticks(ticks, result.models, fontsize=7)
        for row in ticks:
            for column in ticks:
                value = cosines[row][column]
                color = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=color)
    figure.colorbar(image, ax=figure.axes, shrink=0.6, label="cosine of the deltas")
    figure.savefig(path, dpi=150)


class _Reader:
    """Inner products of deltas, of their signs, and of where they are not zero, part by part."""

    def __init__(self, base: Checkpoint, models: Mapping[str, Checkpoint]) -> None:
        self._base, self._models = base, models
        self._work = Workspace()
        self._lock = threading.Lock()
        self.sums: dict[str, dict[int, torch.Tensor]] = {}

    def parts(self, total: int) -> Sequence[tuple[int, int]]:
        """(start, count) of the parts of so many elements."""
        step = PART_BYTES // (4 * (2 * len(self._models) + 1))
        return [(start, min(step, total - start)) for start in range(0, total, step)]

    def read(self, name: str, start: int, count: int) -> int:
        base = self._part(self._base, name, start, count)
        compute = compute_dtype(base.dtype)
        deltas = self._work.get("deltas", (len(self._models), count), compute)
        origin = self._work.get("origin", (count,), compute).copy_(base)
        for row, model in zip(deltas, self._models.values(), strict=True):
            row.copy_(self._part(model, name, start, count)).sub_(origin)
        products = [(deltas @ deltas.T).double()]
        signs = torch.sign(deltas, out=self._work.get("signs", deltas.shape, compute))
        products.append((signs @ signs.T).double())
        signs.abs_()
        products.append((signs @ signs.T).double())
        with self._lock:
            self.sums.setdefault(name, {})[start] = torch.stack(products)
        return count * sum(ITEMSIZE[m.dtype(name)] for m in [self._base, *self._models.values()])

    def _part(self, model: Checkpoint, name: str, start: int, count: int) -> torch.Tensor:
        out = self._work.get("read", (count,), TORCH[model.dtype(name)])
        model.read(name, out, start)
        check_part(model, name, out)
        return out


def _comparable(
    base: Checkpoint, models: Mapping[str, Checkpoint], kept: Collection[str]
) -> tuple[dict[str, int], list[str]]:
    """(floating tensor -> how many of its first elements all have, what cannot be compared)."""
    counts: dict[str, int] = {}
    left_out: list[str] = []
    for info in base.tensors.values():
        if info.dtype not in FLOATS or not info.nbytes or info.name in kept:
            continue
        shapes = {base.path.name: info.shape}
        for name, model in models.items():
            other = model.tensors.get(info.name)
            shapes |= {} if other is None or other.dtype not in FLOATS else {name: other.shape}
        rows = (len(info.shape), info.shape[1:])
        odd = [f"{name} has {list(x)}" for name, x in shapes.items() if (len(x), x[1:]) != rows]
        odd += [f"{name} lacks it" for name in models if name not in shapes]
        if odd:
            left_out.append(f"{info.name} ({'; '.join(odd)})")
        else:
            counts[info.name] = min(math.prod(shape) for shape in shapes.values())
    for name, model in models.items():
        extra = [tensor for tensor in model.names if tensor not in base.tensors]
        left_out += [f"{tensor} ({name} alone has it)" for tensor in extra]
    return counts, left_out


def _cosines(gram: torch.Tensor) -> list[list[float]]:
    norms = gram.diagonal().sqrt()
    cosines: list[list[float]] = (gram / torch.outer(norms, norms)).tolist()
    return cosines


def _conflicts(sums: torch.Tensor) -> list[list[float]]:
    """From the signs' inner products, agreements less conflicts, and the number of both."""
    _, signs, present = sums
    conflicts: list[list[float]] = ((present - signs) / 2 / present).tolist()
    return conflicts
