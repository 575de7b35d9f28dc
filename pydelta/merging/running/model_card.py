"""The model card of a merge. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydelta.core.version import __version__

if TYPE_CHECKING:
    from pydelta.merging.planning.job import CheckedMerge

_FENCE = "```"


def card(job: CheckedMerge, seed: int, prints: Mapping[str, str]) -> str:
    """README.md: what was merged, how, and how to do it again.

    Args:
        prints: path of a checkpoint -> its fingerprint.
    """
    recipe = job.recipe
    rows = [("base", recipe.base)] if recipe.base else []
    rows += [("model", entry) for entry in recipe.models if entry is not recipe.base]
    table = [f"| {role} | {_cell(e.name)} | `{prints[str(Path(e.path))]}` |" for role, e in rows]
    lines = [
        "---",
        "tags:",
        "- merge",
        "- pydelta",
        "---",
        f"# {recipe.title}",
        "",
        f"Made by pydelta {__version__} with seed {seed} from:",
        "",
        "| | name | fingerprint |",
        "|---|---|---|",
        *table,
        "",
        "A fingerprint is the SHA-256 over names, dtypes, shapes and sampled bytes of the tensors of a",
        "checkpoint. The same inputs, recipe and seed give the same bytes.",
        "",
        f"{_FENCE}yaml",
        recipe.text.strip(),
        _FENCE,
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
