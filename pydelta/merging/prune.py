"""``pydelta.prune``: a fine-tune with less of its delta, as a state dict or as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydelta.checkpoint.folders.locate import name_of
from pydelta.checkpoint.staging import Pathlike

if TYPE_CHECKING:
    import torch

    from pydelta.calibration import Calibration
    from pydelta.merging.planning.items import TensorPlan


def prune(
    base: Any,
    tuned: Any,
    *,
    method: str,
    keep: float,
    drop_large: float | None = None,
    group: str | None = None,
    rescale: bool | float | str | None = None,
    q: float | str | None = None,
    eta: float | None = None,
    dense_1d: bool | None = None,
    name: str | None = None,
    seed: int = 42,
    calibration: Calibration | None = None,
    vocabulary: str = "error",
    allow_missing: Sequence[str] = (),
    input_dims: Mapping[str, int] | None = None,
    dequantize: bool = False,
    out: Pathlike | None = None,
    device: str = "cpu",
    max_shard_bytes: int | None = None,
    force: bool = False,
    progress: bool = False,
) -> dict[str, torch.Tensor] | Path:
    """Prunes a delta: base + mask(tuned - base). What is not pruned is the tuned model's.

    Args:
        base, tuned: two state dicts, or the paths of two checkpoints.
        method: "random" (DARE, arXiv 2311.03099), "magnitude", "wanda" (arXiv 2306.11695) or "breadcrumbs"
            (arXiv 2312.06795).
        keep: fraction of the delta that stays.
        drop_large: fraction of the largest entries that breadcrumbs drops.
        group: what fractions are of: "tensor"; "row", all inputs of one output (wanda: default); or "column":
            whole input columns stay or go, by the L2 norm of their delta.
        rescale, q, eta, dense_1d, seed: as in :func:`pydelta.merge`.
        name: of the tuned model, which random masks depend on; default the last part of its path, and for a
            state dict "tuned".
        calibration: of the tuned model's layers, for wanda, and for q.
        vocabulary: "common" prunes the first rows that both have and keeps the tuned model's others.
        allow_missing: shell patterns of tensors that the base may lack, or have alone.
        input_dims, dequantize, out, device, max_shard_bytes, force, progress: as in :func:`pydelta.merge`.

    Returns:
        A state dict, or the path written.

    Raises:
        TypeError, ValueError, OSError: as :func:`pydelta.merge`; wanda without a calibration, or with one of
            another model.
    """
    from pydelta.merging.planning.items import VOCABULARIES, Mismatches
    from pydelta.merging.planning.job import check_merge
    from pydelta.merging.pruning import PRUNINGS
    from pydelta.merging.recipes.recipe import make_recipe
    from pydelta.merging.running.run import run_merge

    pruning = PRUNINGS.get(method)
    files = not (isinstance(base, Mapping) or isinstance(tuned, Mapping))
    if files != (out is not None):
        raise TypeError("[prune] out must be given for paths, and for paths alone")
    if vocabulary not in VOCABULARIES:
        raise ValueError(f"[prune] vocabulary must be one of {', '.join(VOCABULARIES)}, got {vocabulary!r}")
    if method == "wanda" and calibration is None:
        raise ValueError("[prune] calibration must be given for wanda, got none")
    dials = {
        "keep": keep,
        "drop_large": drop_large,
        "group": group,
        "rescale": rescale,
        "q": q,
        "eta": eta,
        "dense_1d": dense_1d,
    }
    called = name or (name_of(tuned) if files else "tuned")
    recipe = make_recipe(pruning, base, {called: tuned}, dials, None)
    policy = Mismatches(vocabulary, tuple(allow_missing), dict(input_dims or {}), dequantize=dequantize)
    if out is None:
        from pydelta.merging.running.state_dicts import merge_states

        return merge_states(recipe, base, {called: tuned}, policy, seed, calibration)
    job = check_merge(recipe, policy)
    job.problems.extend(_unlike(job.items, calibration))
    return run_merge(
        job,
        out,
        seed=seed,
        calibration=calibration,
        device=device,
        max_shard_bytes=max_shard_bytes,
        force=force,
        show=progress,
    )[0]


def _unlike(items: Sequence[TensorPlan], calibration: Calibration | None) -> list[str]:
    """Layers of a calibration that are not of these shapes."""
    if calibration is None:
        return []
    problems = []
    for item in items:
        layer = calibration.layers.get(item.name)
        if layer is not None and item.terms and len(layer.column_norm) != item.shape[item.axis]:
            problems.append(
                f"{item.name} has {item.shape[item.axis]} inputs, the calibration {len(layer.column_norm)}"
            )
    return problems
