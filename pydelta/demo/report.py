"""The demo's result as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LABELS = {
    "tuned": ("individually", "tuned"),
    "base": ("base", "network"),
    "task_arithmetic": ("task", "arithmetic"),
    "sign": ("RanDeS", "signs"),
    "hadamard": ("RanDeS", "Hadamard"),
    "one_bit": ("RanDeS", "one bit"),
    "sixteen": ("16 models", "at 1/2 bit"),
}
"""Method -> the two lines of its heading."""

_FIRST, _COLUMN = 28, 13


def table(result: dict[str, Any]) -> str:
    """Plain text: tasks down, methods across; below them the averages and what each method costs.

    Args:
        result: what ``demo.json`` holds, see :func:`pydelta.demo.pipeline.run`.
    """
    methods = [result["methods"][method] for method in LABELS]
    rule = "-" * (_FIRST + _COLUMN * len(LABELS))
    first, second = zip(*LABELS.values(), strict=True)
    lines = [_row("", first), _row("test accuracy, %", second), rule]
    lines += [_row(view, [f"{m['accuracy'][view]:.1f}" for m in methods]) for view in result["views"]]
    lines += [rule]
    lines += [_row("average", [f"{m['average']:.1f}" for m in methods])]
    lines += [_row("kept on disk, MB", [f"{m['bytes'] / 1e6:.1f}" for m in methods])]
    lines += [_row("ms to retrieve, in memory", [_time(m.get("milliseconds")) for m in methods])]
    lines += [_row("ms to retrieve, on disk", [_time(m.get("milliseconds_to_checkpoint")) for m in methods])]
    lines += [rule, *_notes(result)]
    return "\n".join(line.rstrip() for line in lines)


def _notes(result: dict[str, Any]) -> list[str]:
    sixteen = result["sixteen_tuned"]
    merged = f"one merged model (lambda {result['task_arithmetic_lambda']}, by a validation split)"
    return [
        f"kept: {len(result['views'])} models | the base | {merged} | base and store, in the last four",
        "one bit: one superposition in one-bit codes; 16 models: two fine-tunes a task, in eight such of",
        f"two models each; means of a task's two (individually tuned: {sixteen:.1f} on average)",
        "Every model came out of its store in a new process, with the bits that are computed in memory.",
    ]


def _row(first: str, cells: Iterable[str]) -> str:
    return first.ljust(_FIRST) + "".join(cell.rjust(_COLUMN) for cell in cells)


def _time(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
