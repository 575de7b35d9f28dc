"""``pydelta.merge``: fine-tunes of one base into one model, as state dicts or as files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydelta.checkpoint.folders.locate import name_of
from pydelta.checkpoint.staging import Pathlike

if TYPE_CHECKING:
    import torch

    from pydelta.calibration import Calibration

PerModel = float | str | Mapping[str, float | str] | Sequence[float | str]
"""One value for all models, one for each by name, or one for each in their order."""


def merge(
    base: Any,
    models: Any,
    *,
    method: str,
    weights: PerModel = 1.0,
    density: PerModel | None = None,
    gamma: PerModel | None = None,
    epsilon: PerModel | None = None,
    lam: float | None = None,
    normalize: bool | None = None,
    rescale: bool | float | str | None = None,
    q: PerModel | None = None,
    eta: float | None = None,
    elect: str | None = None,
    group: str | None = None,
    dense_1d: bool | None = None,
    seed: int = 42,
    calibration: Calibration | None = None,
    dtype: str | None = None,
    vocabulary: str = "error",
    allow_missing: Sequence[str] = (),
    input_dims: Mapping[str, int] | None = None,
    mergekit: bool = False,
    dequantize: bool = False,
    out: Pathlike | None = None,
    device: str = "cpu",
    max_shard_bytes: int | None = None,
    force: bool = False,
    progress: bool = False,
) -> dict[str, torch.Tensor] | Path:
    """Merges models: base + lam * sum_k w_k mask_k(model_k - base), by one of the published methods.

    linear, task_arithmetic, ties (arXiv 2306.01708), dare_linear, dare_ties (arXiv 2311.03099), della,
    della_linear (arXiv 2406.11617), breadcrumbs, breadcrumbs_ties (arXiv 2312.06795). None in a dial is the
    method's own default; a dial that the method does not have is an error. Sums run in the order of the
    models' names and a mask depends on seed, model and tensor alone, so the result depends neither on the
    order of the models nor on threads, device or files. Integers, bools and empty tensors are the base's,
    and so are positions (0, 1, 2 and on) of any dtype; integers that differ from the base's and quantised
    weights are refused. Tied weights are merged once.

    Args:
        base: what the models were tuned from: a state dict, or the path of a checkpoint. None for linear.
        models: name -> state dict, or name -> path, or paths, whose last parts are then the names.
        method: one of those above.
        weights: of the deltas, or of the models for linear.
        density: fraction of each delta that is kept.
        gamma: fraction of the largest entries that breadcrumbs drops.
        epsilon: how far DELLA's probabilities reach to either side of the density.
        lam: lambda, the factor of the merged delta.
        normalize: divide by the weights.
        rescale: after a random mask: True divides by the probability, False by nothing, a number multiplies,
            "q" is DAREx-q (arXiv 2410.09344), "l1" restores each delta's L1 norm. After a mask by magnitude:
            False, or True or "l1" for the L1 norm.
        q: for rescale "q": a number that is divided by, "analytic" or "mse".
        eta: for q "analytic".
        elect: whether the elected sign is that of the "weighted" or "unweighted" sum.
        group: what a density by magnitude is of: "tensor", "row" (all inputs of one output) or "model".
        dense_1d: leave tensors of one dimension and none unmasked.
        seed: of random masks, in [0, 2**64).
        calibration: of the tuned models' layers, for q.
        dtype: of the result: "float32", "bfloat16", "float16" or "float64"; default each tensor's own.
        vocabulary: "common" merges the first rows that all models have of a tensor and keeps the base's
            others; "error" refuses.
        allow_missing: shell patterns of tensors that a model may lack, or have alone.
        input_dims: shell patterns of tensor names -> input axis, where it is not the last one.
        mergekit: count as mergekit does where it departs from the papers; ``docs/mergekit.md`` has the list.
        dequantize: for paths: read fp8 weights with scales, and MXFP4, as bf16; see
            :class:`pydelta.checkpoint.quantised.dequantised.Dequantised`.
        out: for paths: one file if it ends in ``.safetensors``, else a folder.
        device: where the arithmetic runs; state dicts stay where they are.
        max_shard_bytes: of the files; default the base's shards.
        force: replace an existing ``out``.
        progress: draw a bar on stderr if that is a terminal.

    Returns:
        A state dict, or the path written.

    Raises:
        TypeError: something is of the wrong kind.
        ValueError: an unknown method or dial, a value out of range, checkpoints that do not fit (all problems
            in one sentence), quantised models, integers that differ, NaN or Inf in a tensor or in the result,
            an existing ``out`` without ``force``.
        OSError: a file cannot be read or written.
    """
    from pydelta.merging.methods import METHODS
    from pydelta.merging.planning.items import VOCABULARIES, Mismatches
    from pydelta.merging.planning.job import check_merge
    from pydelta.merging.recipes.recipe import DTYPES, make_recipe
    from pydelta.merging.running.run import run_merge

    chosen = METHODS.get(method)
    named = _named(models)
    files = not any(isinstance(x, Mapping) for x in [base, *named.values()])
    if files != (out is not None):
        raise TypeError("[merge] out must be given for paths, and for paths alone")
    if (base is not None) != chosen.needs_base:
        rule = "be given" if chosen.needs_base else "be None, the models themselves are averaged,"
        raise ValueError(f"[merge] base must {rule} for {method}, got {type(base).__name__}")
    if vocabulary not in VOCABULARIES:
        raise ValueError(f"[merge] vocabulary must be one of {', '.join(VOCABULARIES)}, got {vocabulary!r}")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"[merge] dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    dials = {
        "weight": weights,
        "density": density,
        "gamma": gamma,
        "epsilon": epsilon,
        "lambda": lam,
        "normalize": normalize,
        "rescale": rescale,
        "q": q,
        "eta": eta,
        "elect": elect,
        "group": group,
        "dense_1d": dense_1d,
    }
    recipe = make_recipe(chosen, base, named, dials, dtype)
    policy = Mismatches(vocabulary, tuple(allow_missing), dict(input_dims or {}), mergekit, dequantize)
    if out is not None:
        job = check_merge(recipe, policy)
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
    from pydelta.merging.running.state_dicts import merge_states

    return merge_states(recipe, base, named, policy, seed, calibration)


def _named(models: Any) -> dict[str, Any]:
    """The models by name, in the order given."""
    if isinstance(models, Mapping):
        return dict(models)
    if not isinstance(models, (list, tuple)) or not all(isinstance(x, (str, os.PathLike)) for x in models):
        raise TypeError("[merge] models must map names to state dicts or paths, or be a list of paths")
    named = {name_of(path): path for path in models}
    if len(named) < len(models):
        raise ValueError(
            f"[merge] models must have names of their own, got {', '.join(map(name_of, models))}"
        )
    return named
