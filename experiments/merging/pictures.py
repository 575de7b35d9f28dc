"""The pictures of ``run.py``: accuracy against keep, and against the number of merged tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from style import COLOURS, MARKERS


def draw(result: Mapping[str, Any], folder: Path) -> None:
    """Writes FAMILY-pruning.png and FAMILY-merging.png, 1100 pixels wide.

    Args:
        result: what ``run.py`` writes as JSON.
    """
    family, tasks = result["family"], len(result["tuned"])
    pruning, merging = result["pruning"], result["merging"]
    untuned = 100 * sum(result["base"][t] / result["tuned"][t] for t in result["tuned"]) / tasks
    _picture(
        pruning["keeps"],
        pruning["curves"],
        untuned,
        folder / f"{family}-pruning.png",
        title=f"{tasks} fine-tunes ({family}): what is left of a delta",
        xlabel="fraction of the delta kept",
        log=True,
    )
    _picture(
        merging["counts"],
        merging["curves"],
        untuned,
        folder / f"{family}-merging.png",
        title=f"Fine-tunes merged into one ({family})",
        xlabel="number of merged tasks",
    )


def _picture(
    places: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    untuned: float,
    path: Path,
    *,
    title: str,
    xlabel: str,
    log: bool = False,
) -> None:
    figure = Figure(figsize=(11, 5.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, (name, values) in enumerate(curves.items()):
        style = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8]}
        axes.plot(places, [100 * value for value in values], linewidth=2, label=name, **style)
    axes.axhline(100, color="#333333", linewidth=1)
    axes.axhline(untuned, color="#999999", linestyle=":", label="base")
    if log:
        axes.set_xscale("log")
        axes.invert_xaxis()
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.minorticks_off()
    axes.set_xlabel(xlabel, fontsize=13)
    axes.set_ylabel("accuracy, % of the tuned models'", fontsize=13)
    axes.set_title(title, fontsize=14, pad=12)
    axes.tick_params(labelsize=12)
    axes.grid(axis="y", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=12, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path)
