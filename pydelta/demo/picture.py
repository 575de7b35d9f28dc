"""The demo's result as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydelta.demo.report import LABELS

# Okabe and Ito's palette, which colour-blind readers tell apart; lines and markers differ as well.
_STYLE: dict[str, dict[str, Any]] = {
    "tuned": {"color": "#000000", "marker": "s"},
    "base": {"color": "#999999"},
    "task_arithmetic": {"color": "#D55E00", "marker": "^"},
    "sign": {"color": "#0072B2", "marker": "o", "markersize": 9},
    "hadamard": {"color": "#009E73", "marker": "D", "linestyle": "--"},
    "one_bit": {"color": "#CC79A7"},
    "sixteen": {"color": "#56B4E9"},
}


def draw(result: dict[str, Any], path: Path) -> None:
    """Two panels: accuracy by method, and accuracy against the number of models in the store.

    Args:
        result: what ``demo.json`` holds, see :func:`pydelta.demo.pipeline.run`.
        path: the PNG file to write, 1400 pixels wide.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    _by_method(left, result)
    _by_number(right, result)
    for axes in (left, right):
        axes.set_ylim(0, 108)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel("test accuracy, %", fontsize=13)
        axes.tick_params(labelsize=12)
        axes.grid(axis="y", color="#dddddd")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _by_method(axes: Any, result: dict[str, Any]) -> None:
    views = len(result["views"])
    for x, method in enumerate(LABELS):
        row = result["methods"][method]
        axes.bar(x, row["average"], width=0.62, color=_STYLE[method]["color"], alpha=0.85)
        tasks = [x + 0.5 * (i + 0.5) / views - 0.25 for i in range(views)]
        points = list(row["accuracy"].values())
        axes.scatter(tasks, points, s=26, color="white", edgecolor="#333333", linewidth=0.9, zorder=3)
        axes.text(x, 101.5, f"{row['average']:.1f} %", ha="center", fontsize=13, fontweight="bold")
    names = [
        "\n".join((*label, f"{result['methods'][method]['bytes'] / 1e6:.1f} MB"))
        for method, label in LABELS.items()
    ]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("and the bytes that must be kept", fontsize=13)
    axes.set_title(
        f"{views} fine-tunes (last: 16), by what is kept of them (dots: the single tasks)",
        fontsize=14,
        pad=12,
    )


def _by_number(axes: Any, result: dict[str, Any]) -> None:
    for method, scores in result["curve"].items():
        label = " ".join(LABELS[method])
        axes.plot(range(1, len(scores) + 1), scores, linewidth=2, label=label, **_STYLE[method])
    axes.set_xlabel("models in the store", fontsize=13)
    axes.set_xticks(range(1, len(result["views"]) + 1))
    axes.legend(loc="lower left", fontsize=13, frameon=False)
    axes.set_title("Average accuracy as models are added", fontsize=14, pad=12)
