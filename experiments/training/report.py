"""The table and the picture of ``run.py``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from style import COLOURS, MARKERS

Cells = dict[str, dict[str, list[float]]]


def write(result: Mapping[str, Any], out: Path) -> None:
    """Writes OUT/results/saft-FAMILY.json and .png, and the family's tables in OUT/results/training.md."""
    family = result["family"]
    path = out / "results" / f"saft-{family}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw(cells_of(result), path.with_suffix(".png"), family)
    page = out / "results" / "training.md"
    text = page.read_text() if page.exists() else "# Which training makes deltas that merge\n"
    page.write_text(with_tables(text, result))


def with_tables(text: str, result: Mapping[str, Any]) -> str:
    """The page with a family's tables between their marks, or after all else."""
    start, end = (f"<!-- {word} of {result['family']} -->\n" for word in ("tables", "end"))
    if start not in text:
        text += "\n" + start + end
    before, rest = text.split(start)
    lines = [*table(cells_of(result)), "", *costs(result)]
    return before + start + "\n".join(lines) + "\n" + end + rest.split(end)[1]


def cells_of(result: Mapping[str, Any]) -> Cells:
    """method -> optimizer -> accuracy of each seed, per cent."""
    cells: Cells = {}
    for run in result["runs"]:
        for method, value in run["accuracy"].items():
            cells.setdefault(method, {}).setdefault(run["optimizer"], []).append(100 * value)
    return cells


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(cells: Cells) -> list[str]:
    """Mean and, of several seeds, standard deviation over them; the best mean of a row in bold."""
    optimizers = list(next(iter(cells.values())))
    lines = [f"| accuracy, % | {' | '.join(optimizers)} |", "|---" * (len(optimizers) + 1) + "|"]
    for method, row in cells.items():
        best = max(round(statistics.fmean(values), 1) for values in row.values())
        texts = []
        for optimizer in optimizers:
            mean = round(statistics.fmean(row[optimizer]), 1)
            text = f"{mean:.1f}" if mean < best else f"**{mean:.1f}**"
            several = len(row[optimizer]) > 1
            texts.append(f"{text} ± {spread(row[optimizer]):.1f}" if several else text)
        lines.append(f"| {method} | {' | '.join(texts)} |")
    return lines


def costs(result: Mapping[str, Any]) -> list[str]:
    """Step time over the first optimizer's, and memory over the weights'."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for run in result["runs"]:
        rows.setdefault(run["optimizer"], []).append(run)
    seconds = {name: statistics.median(run["step_seconds"] for run in runs) for name, runs in rows.items()}
    first = next(iter(seconds.values()))
    lines = ["| optimizer | time of a step, over AdamW's | state, in weights |", "|---|---|---|"]
    for name, runs in rows.items():
        lines.append(f"| {name} | {seconds[name] / first:.2f} | {runs[0]['memory']:.2f} |")
    return lines


def draw(cells: Cells, path: Path, family: str) -> None:
    """A group of points for each method, one colour and marker for each optimizer."""
    figure = Figure(figsize=(13, 5.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, optimizer in enumerate(next(iter(cells.values()))):
        means = [statistics.fmean(row[optimizer]) for row in cells.values()]
        errors = [spread(row[optimizer]) for row in cells.values()]
        places = [x + 0.13 * (i - 2) for x in range(len(cells))]
        style = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8], "linestyle": "none", "markersize": 7}
        axes.errorbar(places, means, errors, capsize=2, label=optimizer, **style)
    axes.set_xticks(range(len(cells)), list(cells), rotation=40, ha="right", fontsize=11)
    axes.set_ylabel("test accuracy, mean over the tasks, %", fontsize=13)
    axes.set_title(f"Fine-tunes ({family}) by optimizer, before and after merging", fontsize=14, pad=12)
    axes.grid(axis="y", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=12, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.savefig(path)
