"""A merge of checkpoints, run: from checked inputs to whole outputs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from pydelta.checkpoint.folders.layout import layout_of, output
from pydelta.checkpoint.staging import Pathlike, check_output
from pydelta.merging.planning.job import CheckedMerge
from pydelta.merging.running.model_card import card
from pydelta.merging.running.outputs import config_text, out_paths, resharded, say_differing, with_dtypes

if TYPE_CHECKING:
    from pydelta.calibration import Calibration


def run_merge(
    job: CheckedMerge,
    out: Pathlike,
    *,
    seed: int,
    outputs: int = 1,
    calibration: Calibration | None = None,
    device: str = "cpu",
    max_shard_bytes: int | None = None,
    force: bool = False,
    show: bool = False,
) -> list[Path]:
    """Writes the merged checkpoint, or one for each of several seeds; gives their paths.

    Raises:
        ValueError: the job has problems (all are listed), NaN or Inf in a tensor or in the result, an
            existing output without ``force``. Nothing is left under an output's name.
        OSError: a file cannot be read or written.
    """
    if job.problems:
        raise ValueError("; ".join(job.problems))
    assert job.origin is not None
    paths = {
        number: check_output(path, force=force, inputs=job.inputs)
        for number, path in out_paths(out, seed, outputs).items()
    }
    if not job.recipe.prunes and any(path.suffix != ".safetensors" for path in paths.values()):
        say_differing(job)
    from pydelta.merging.running.execute import execute

    with contextlib.ExitStack() as stack:
        writers, texts = {}, {}
        for number, path in paths.items():
            shards, metadata = layout_of(job.origin, path)
            shards = with_dtypes(shards, job.items)
            if max_shard_bytes is not None and path.suffix != ".safetensors":
                shards, metadata = resharded(shards, metadata, max_shard_bytes)
            texts[number] = config_text(job.origin, job.recipe.dtype)
            writers[number] = stack.enter_context(
                output(path, shards, metadata, force=force, copy_from=job.origin.folder, texts=texts[number])
            )
        prints = execute(job, writers, calibration, device, show)
        for number, written in texts.items():
            written["README.md"] = card(job, number, prints)
    return list(paths.values())
