"""``pydelta.magnitude_threshold``: where the largest magnitudes end, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch

from pydelta import _dispatch
from pydelta.core import check
from pydelta.core.masks import GROUPS, MagnitudeThreshold
from pydelta.ops._library import register_tuple, without_grad
from pydelta.ops._model_threshold import model_threshold

Cuts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _empty(
    x: torch.Tensor,
    base: torch.Tensor | None,
    column_norm: torch.Tensor | None,
    keep: float,
    drop_large: float,
    group: str,
    backend: str,
) -> Cuts:
    rows = 1
    if group == "row":
        for size in x.shape[:-1]:
            rows *= size
    values = [torch.empty(rows, dtype=check.compute_dtype(x.dtype), device=x.device) for _ in range(2)]
    index = [torch.empty(rows, dtype=torch.int64, device=x.device) for _ in range(2)]
    return values[0], index[0], values[1], index[1]


def _run(
    out: Cuts,
    x: torch.Tensor,
    base: torch.Tensor | None,
    column_norm: torch.Tensor | None,
    keep: float,
    drop_large: float,
    group: str,
    backend: str,
) -> None:
    _dispatch.kernel("magnitude_threshold", x, backend)(
        x.contiguous(),
        keep=keep,
        drop_large=drop_large,
        group=group,
        base=None if base is None else base.contiguous(),
        column_norm=column_norm,
        out=MagnitudeThreshold(*out, group, column_norm),
    )


_cuts = register_tuple(
    "magnitude_threshold",
    "Tensor x, Tensor? base, Tensor? column_norm, float keep, float drop_large, str group, str backend",
    "(Tensor, Tensor, Tensor, Tensor)",
    _run,
    _empty,
)


@overload
def magnitude_threshold(
    x: torch.Tensor,
    *,
    keep: float,
    drop_large: float = ...,
    group: str = ...,
    base: torch.Tensor | None = ...,
    column_norm: torch.Tensor | None = ...,
    backend: str | None = ...,
) -> MagnitudeThreshold: ...


@overload
def magnitude_threshold(
    x: Sequence[torch.Tensor],
    *,
    keep: float,
    drop_large: float = ...,
    group: str = ...,
    base: Sequence[torch.Tensor] | None = ...,
    column_norm: None = ...,
    backend: str | None = ...,
) -> list[MagnitudeThreshold]: ...


def magnitude_threshold(
    x: torch.Tensor | Sequence[torch.Tensor],
    *,
    keep: float,
    drop_large: float = 0.0,
    group: str = "tensor",
    base: torch.Tensor | Sequence[torch.Tensor] | None = None,
    column_norm: torch.Tensor | None = None,
    backend: str | None = None,
) -> MagnitudeThreshold | list[MagnitudeThreshold]:
    """Exact order statistics of |x|, or of |x - base| formed on the fly in fp32 (fp64 for fp64).

    Of every group of N elements, ordered by magnitude (larger first) and index (lower first), the first
    floor(drop_large N) are dropped, and of the rest the first floor(keep N) are kept, or all if there are
    fewer. Equivalent to a stable sort of each group; the same bits on every backend. Not differentiable.

    NaN ranks first and takes a place of the count; the masks that the cuts are leave it NaN.

    Args:
        x: float32, bfloat16, float16 or float64, any shape and strides; for ``group="model"`` a list of them.
        keep: in [0, 1].
        drop_large: in [0, 1].
        group: "tensor"; "row", along the last dimension; or "model", all tensors of the list as one, in its
            order (TIES, arXiv 2306.01708, trims like that).
        base: a tensor of x's shape, dtype and device; for "model" a list of them.
        column_norm: (n,) norms that magnitudes along rows of n are multiplied by, in fp32 (WANDA, arXiv
            2306.11695); with group "row" alone.
        backend: "reference", "cpu", "cuda" or "triton" instead of the dispatcher's choice; "model" is counted
            in torch.

    Returns:
        The cuts, themselves a mask for :func:`pydelta.mask_rescale` and :func:`pydelta.merge_into`; for
        "model" a list, one per tensor.

    Raises:
        TypeError: something is no real floating tensor.
        ValueError: a number out of range, an unknown group, shapes, dtypes or devices that differ, or norms
            without rows.
        RuntimeError: ``backend`` is not there.
    """
    op = "magnitude_threshold"
    keep, drop_large = check.fraction(op, "keep", keep), check.fraction(op, "drop_large", drop_large)
    check.choice(op, "group", group, (*GROUPS, "model"))
    if column_norm is not None and group != "row":
        raise ValueError(f"[{op}] group must be 'row' where column_norm is given, got {group!r}")
    chosen = check.backend(op, backend)
    if group == "model":
        models = check.sequence(op, "x", x)
        bases = [None] * len(models) if base is None else check.sequence(op, "base", base)
        if len(bases) != len(models):
            raise ValueError(
                f"[{op}] base must have one tensor for each of x ({len(models)}), got {len(bases)}"
            )
        pairs = [_pair(op, f"[{i}]", *pair) for i, pair in enumerate(zip(models, bases, strict=True))]
        kinds = {check.name_of(tensor.dtype) for tensor, _ in pairs}
        if "float64" in kinds and len(kinds) > 1:
            raise ValueError(f"[{op}] x must be all float64 or none, got {' and '.join(sorted(kinds))}")
        return model_threshold(lambda: iter(pairs), keep=keep, drop_large=drop_large)
    tensor, origin = _pair(op, "", x, base)
    if column_norm is not None:
        column_norm = check.column_norm(op, "column_norm", column_norm, tensor)
    low, low_index, high, high_index = _cuts(tensor, origin, column_norm, keep, drop_large, group, chosen)
    return MagnitudeThreshold(low, low_index, high, high_index, group, column_norm)


def _pair(op: str, label: str, x: object, base: object) -> tuple[torch.Tensor, torch.Tensor | None]:
    check.floating(op, f"x{label}", x)
    assert isinstance(x, torch.Tensor)
    if base is None:
        return without_grad(x), None
    check.floating(op, f"base{label}", base)
    assert isinstance(base, torch.Tensor)
    check.alike(op, f"base{label}", base, f"x{label}", x)
    check.dtype_of(op, f"base{label}", base, x.dtype)
    return without_grad(x), without_grad(base)
