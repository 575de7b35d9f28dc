"""The picture of ``dials.py``: accuracy against bits, one panel for each number of models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from stores.bits_pictures import bits_axis, dress

# Okabe and Ito's palette, which colour-blind readers tell apart; markers differ as well.
STYLE: dict[str, dict[str, Any]] = {
    "as it is": {"color": "#0072B2", "marker": "o", "markersize": 9, "linewidth": 3, "zorder": 5},
    "signs": {"color": "#56B4E9", "marker": "h", "linestyle": "--"},
    "transform auto": {"color": "#000000", "marker": "x", "linestyle": ":", "zorder": 6},
    "lambda": {"color": "#009E73", "marker": "D"},
    "largest 1/2": {"color": "#E69F00", "marker": "v"},
    "largest 1/5": {"color": "#E69F00", "marker": "v", "linestyle": "--", "markerfacecolor": "white"},
    "Breadcrumbs 1/2": {"color": "#B58900", "marker": "P", "linestyle": "--"},
    "DARE 1/2": {"color": "#D55E00", "marker": "^"},
    "residual 1 %": {"color": "#CC79A7", "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
    "residual 5 %": {"color": "#CC79A7", "marker": "s"},
}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """1500 pixels wide.

    Args:
        result: what ``dials.py`` writes as JSON.
    """
    figure = Figure(figsize=(15, 6.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(result["counts"]), sharey=True, squeeze=False)[0]
    for axes, count in zip(panels, result["counts"], strict=True):
        for dial, style in STYLE.items():
            points = [p for p in result["points"] if (p["dial"], p["models"]) == (dial, count)]
            points.sort(key=lambda point: point["bits"])
            codes = [p for p in points if p["level"] != "bf16"]
            _plot(axes, codes, **{"linewidth": 1.8, **style}, label=dial)
            _plot(axes, [p for p in points if p["level"] == "bf16"], **{**style, "linestyle": "none"})
        bits_axis(axes)
        dress(axes, result)
        axes.set_title(f"{count} models", fontsize=13)
    panels[0].set_ylabel("accuracy, % of the tuned models'", fontsize=13)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=12, frameon=False)
    title = f"What a store's dials pay ({result['family']}, {result['tasks']} tasks)"
    figure.suptitle(f"{title}: lines are codes, lone marks one sum in bf16", fontsize=15)
    figure.savefig(path)


def _plot(axes: Any, points: list[Any], **style: Any) -> None:
    axes.plot([point["bits"] for point in points], [100 * point["kept"] for point in points], **style)
