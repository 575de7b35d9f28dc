"""A checked merge of checkpoints, run."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch

from pydelta.calibration import Calibration
from pydelta.checkpoint import Checkpoint
from pydelta.checkpoint.digest import fingerprint, tensor_digest
from pydelta.checkpoint.progress import progress
from pydelta.checkpoint.workers import Workers
from pydelta.checkpoint.writer import Writer
from pydelta.merging.planning.items import TensorPlan
from pydelta.merging.planning.job import CheckedMerge
from pydelta.merging.running.checkpoints import CheckpointMerge
from pydelta.merging.running.masker import Masker
from pydelta.merging.running.model_cuts import model_cuts
from pydelta.merging.running.pieces import load_pair
from pydelta.merging.running.tied import same_in_files, without_copies


def execute(
    job: CheckedMerge,
    writers: Mapping[int, Writer],
    calibration: Calibration | None,
    device: str,
    show: bool,
) -> dict[str, str]:
    """Writes the result of every seed; gives the fingerprints of the checkpoints that were read, by path.

    Raises:
        OSError, ValueError: see :func:`pydelta.merging.planning.job.run_merge`.
    """
    assert job.recipe.method is not None
    assert job.origin is not None
    sources = [*([] if job.base is None else [job.base]), *job.models.values()]
    same = same_in_files(job.items, sources)

    def load(model: str, item: TensorPlan) -> tuple[torch.Tensor, torch.Tensor]:
        assert job.base is not None
        return load_pair(job.models, job.base, item, model)

    masker = Masker(job.recipe.method, calibration, model_cuts(job.recipe.method, job.items, load))
    sinks = {seed: writer.write for seed, writer in writers.items()}
    stream = CheckpointMerge(masker, job.origin, job.base, job.models, sinks, same, torch.device(device))
    prints: dict[str, str] = {}
    with progress("merge", job.nbytes, show) as advance, Workers(advance) as workers:
        for source in {str(model.path): model for model in [job.origin, *sources]}.values():
            workers.submit_slow(functools.partial(_fingerprint, source, prints))
        stream.run(without_copies(job.items, same), workers)
    return prints


def _fingerprint(model: Checkpoint, prints: dict[str, str]) -> int:
    digests = {name: tensor_digest(model, name, sampled=True) for name in model.names}
    prints[str(model.path)] = fingerprint(model, digests)
    return 0
