"""The picture of ``bits.py``: accuracy against bits, and as models are added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers tell apart; markers differ as well.
STYLE: dict[str, dict[str, Any]] = {
    "pydelta, rotated": {"color": "#0072B2", "marker": "o", "markersize": 9, "linewidth": 3, "zorder": 5},
    "pydelta, signs": {"color": "#56B4E9", "marker": "h", "linestyle": "--"},
    "RanDeS bf16": {"color": "#009E73", "marker": "D"},
    "DARE": {"color": "#D55E00", "marker": "^"},
    "magnitude pruning": {"color": "#E69F00", "marker": "v"},
    "round to nearest": {"color": "#CC79A7", "marker": "s"},
    "BitDelta's scale": {"color": "#000000", "marker": "X", "markersize": 10, "linestyle": "none"},
    "individual bf16": {"color": "#777777", "marker": "P", "markersize": 10, "linestyle": "none"},
}
OURS = "pydelta, rotated"
SHADES = {1.0: "#08306B", 0.5: "#2171B5", 0.25: "#6BAED6", 0.125: "#9ECAE1"}
PERCENT = (0, 20, 40, 60, 80, 90, 95, 98, 99, 100)
TICKS = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Two panels, 1400 pixels wide.

    Args:
        result: what ``bits.py`` writes as JSON.
    """
    figure = Figure(figsize=(14, 6.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.35, 1))
    most = max(result["counts"])
    _by_bits(left, result, most)
    _by_number(right, result)
    for axes in (left, right):
        dress(axes, result)
    left.set_ylabel("accuracy, % of the tuned models'", fontsize=13)
    figure.suptitle(_title(result, most), fontsize=15)
    figure.savefig(path)


def _title(result: Mapping[str, Any], most: int) -> str:
    tuned, tasks = result["tuned_models"], result["tasks"]
    if most <= tuned:
        return f"{most} fine-tunes of one base ({result['family']}, {tasks} tasks), kept in few bits"
    return (
        f"{most} models out of {tuned} fine-tunes of one base ({result['family']}, {tasks} tasks): "
        "deltas repeat, under further seeds of the transform"
    )


def dress(axes: Any, result: Mapping[str, Any]) -> None:
    """Per cent of the tuned models' accuracy upwards, the base's as a line."""
    bottom, top = _limits(result)
    axes.axhline(100, color="#333333", linewidth=1, zorder=1)
    axes.axhline(100 * result["no_bits"], color="#999999", linestyle=":", linewidth=2)
    axes.set_yscale("function", functions=_stretched(top + 1.4))
    axes.set_yticks([tick for tick in PERCENT if tick > bottom])
    axes.set_ylim(bottom, top)
    axes.minorticks_off()
    axes.tick_params(labelsize=12)
    axes.grid(axis="y", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)


def bits_axis(axes: Any) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(TICKS, ["1/8", "1/4", "1/2", *(f"{tick:g}" for tick in TICKS[3:])])
    axes.set_xlabel("bits per parameter and model", fontsize=13)


def _limits(result: Mapping[str, Any]) -> tuple[float, float]:
    """Below everything, the base too, and above it."""
    kept = [100 * result["no_bits"], *(100 * point["kept"] for point in result["points"])]
    return min(kept) - 5, max(100.6, *(percent + 0.3 for percent in kept))


def _stretched(end: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """A scale and its inverse: half a per cent near the top takes the room that several take below."""
    return lambda percent: -np.sqrt(np.maximum(end - percent, 0)), lambda place: end - place**2


def _by_bits(axes: Any, result: Mapping[str, Any], most: int) -> None:
    for method, style in STYLE.items():
        points = [point for point in result["points"] if point["method"] == method]
        if method != "RanDeS bf16":
            points = [point for point in points if point["models"] in (None, most)]
        points.sort(key=lambda point: point["bits"])
        axes.plot(
            [point["bits"] for point in points],
            [100 * point["kept"] for point in points],
            **{"linewidth": 2, **style},
            label=method,
        )
    bits_axis(axes)
    axes.set_xlim(0.11, 19)
    axes.text(18, 100 * result["no_bits"], "base", fontsize=12, color="#777777", va="bottom", ha="right")
    axes.set_title(f"{most} models (RanDeS: 1 to {most})", fontsize=13)
    _legend(axes, columns=3)


def _by_number(axes: Any, result: Mapping[str, Any]) -> None:
    counts = result["counts"]
    shared = {count: 100 * point["kept"] for count, point in _points(result, "RanDeS bf16", None).items()}
    axes.plot(
        shared.keys(),
        shared.values(),
        label="RanDeS bf16: 16 bits for all",
        linewidth=2,
        **STYLE["RanDeS bf16"],
    )
    for rate, shade in SHADES.items():
        found = _points(result, OURS, max(1, round(1 / rate)), code=1)
        # A bucket of one does not know how many others there are.
        kept = [(n, found.get(n, found.get(None))) for n in counts]
        line = [(n, 100 * point["kept"]) for n, point in kept if point is not None]
        label = f"pydelta, {rate:g} bit{'s' * (rate != 1)} a model"
        axes.plot(*zip(*line, strict=True), color=shade, marker="o", linewidth=2.5, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("models", fontsize=13)
    axes.set_title("as models are added", fontsize=13)
    _legend(axes, columns=2)


def _legend(axes: Any, columns: int) -> None:
    """Below the panel, where it hides nothing."""
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    axes.legend(fontsize=11.5, frameon=False, ncols=columns, columnspacing=1.2, handletextpad=0.5, **place)


def _points(
    result: Mapping[str, Any], method: str, bucket: int | None, code: int | None = None
) -> dict[int | None, Any]:
    """Number of models -> point, of one method and, if given, size of bucket."""
    return {
        point["models"]: point
        for point in result["points"]
        if point["method"] == method
        and (bucket is None or (point["bucket"], point["code"]) == (bucket, code))
    }
